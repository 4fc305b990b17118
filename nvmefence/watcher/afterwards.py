"""What is done after a fence, as the watcher sees it: handed on, and told when it is heard of again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from nvmefence.after.actions import Fence
from nvmefence.inventory.hostmap import Host
from nvmefence.watcher.answers import Answer, precise
from nvmefence.watcher.journal import Journal

if TYPE_CHECKING:
    from nvmefence.after.actions import Done
    from nvmefence.after.helper import Helper

_REMEMBERED: Final = 1000
"""Standing reports that are not said again."""
_AT_ONCE: Final = 100
"""Reports that are taken in before the loop turns."""


class Afterwards:
    """Hands successful fences to the process beside. Never waits, and changes no answer."""

    def __init__(
        self,
        helper: Helper,
        journal: Journal,
        note: Callable[..., None],
        responses: str,
        wall: Callable[[], float],
        simulated: bool,
    ) -> None:
        """`note` puts an event and its fields into the audit some time. Needs a running loop."""
        self._helper = helper
        self._journal = journal
        self._note = note
        self._responses = responses
        self._wall = wall
        self._simulated = simulated
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[int, Fence] = {}
        self._said: set[tuple[str, str]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.trouble = ""
        """Why nothing is done after a fence any more; empty: it is."""
        self._loop.add_reader(helper.fileno(), self._hear)

    def fenced(self, answer: Answer, host: Host) -> None:
        """Have done what is to be done after a fence; its response, which says success, is visible."""
        try:
            fence = self._fence(answer, host)
            job = 0 if self.trouble else self._helper.post(fence)
        except Exception as error:  # a defect here must not hold up the answers that are not delivered yet
            self._journal.error(f"after the fence of {host.name}: defect: {type(error).__name__}: {error}")
            return
        if not job:
            why = self.trouble or "too much waits already"
            self._journal.error(f"after the fence of {host.name}: nothing is done: {why}")
            return
        self._jobs[job] = fence
        self._idle.clear()

    def _fence(self, answer: Answer, host: Host) -> Fence:
        names = dict.fromkeys((host.name, *host.aliases, answer.target))
        return Fence(
            host=host.name,
            names=tuple(names),
            target_node=answer.target,
            action=answer.known.action,
            message=answer.message,
            time=precise(self._wall()),
            simulated=self._simulated,
            request_id=answer.known.request_id,
            recorder_node=answer.known.recorder_node,
            filesystems=() if answer.request is None else answer.request.filesystems,
            response=os.path.join(self._responses, answer.outgoing.name),
        )

    def _hear(self) -> None:
        for _report in range(_AT_ONCE):
            try:
                report = self._helper.receive()
            except EOFError:
                self._lose()
                return
            if report is None:
                return
            fence = self._jobs.get(report.job)
            if fence is None:
                continue
            if report.done is not None:
                self._tell(fence, report.done)
                continue
            del self._jobs[report.job]
            if not self._jobs:
                self._idle.set()

    def _tell(self, fence: Fence, done: Done) -> None:
        if done.standing:
            if (done.what, done.text) in self._said:
                return
            if len(self._said) < _REMEMBERED:
                self._said.add((done.what, done.text))
        say = self._journal.info if done.good else self._journal.warning
        say(
            f"after the fence of {fence.host}: {done.what}: {done.text}",
            host=fence.host,
            what=done.what,
            exit=done.exit,
            seconds=done.seconds,
        )
        about = {"host": fence.host, "target_node": fence.target_node, "request_id": fence.request_id}
        self._note("after", **about, **done.to_json())

    def _lose(self) -> None:
        self._loop.remove_reader(self._helper.fileno())
        self.trouble = "the process that does it has ended; restart the watcher"
        self._jobs.clear()
        self._idle.set()

    async def finish(self, within: float) -> None:
        """Wait a little for what is being done, and say what is left to end, or not, without us."""
        try:
            async with asyncio.timeout(within):
                await self._idle.wait()
        except TimeoutError:
            hosts = ", ".join(sorted({fence.host for fence in self._jobs.values()}))
            self._journal.warning(
                f"after the fence of {hosts}: not all is done, and it is not waited for any longer"
            )
        if not self.trouble:
            self._loop.remove_reader(self._helper.fileno())
        self._helper.close()

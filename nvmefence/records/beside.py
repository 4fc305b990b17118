"""What goes beside a fence, whoever fences: a lock that keeps restores away, and the record of what is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from nvmefence.fencing.evidence import DriveEvidence, FenceReport
from nvmefence.fencing.options import Options
from nvmefence.nvme.transport import NO_ANSWER
from nvmefence.records.hostlock import UNANSWERED_S, HostLocks
from nvmefence.records.recorder import Keeper

_LOOK_S: Final = 0.5
"""Seconds between two looks whether the kernel still holds a command."""


class Beside:
    """The lock and the record of one fence. Belongs to one event loop.

    `finish` ends both; who must keep restores away for longer, calls `record` and, later, `end`, or `leave`.
    """

    def __init__(
        self,
        keeper: Keeper,
        locks: HostLocks,
        asked: Mapping[str, Sequence[tuple[str, str]]],
        quiesce: str,
        in_flight: Callable[[], int] | None = None,
    ) -> None:
        """`asked` has the hosts, each with (request id, by whom); `quiesce` is the rule's name; `in_flight` is
        that of `Site`.
        """
        self._in_flight = in_flight
        self._lock = locks.fence()
        self._recorder = keeper.recorder(asked, quiesce)
        self._drives: dict[tuple[str, str], DriveEvidence] = {}

    def enter(self, hosts: Iterable[str]) -> None:
        """Keep restores away from these hosts from now on, which the fence does as well when it begins."""
        for host in hosts:
            self._lock.enter(host)

    def leave_out(self, hosts: Collection[str]) -> None:
        """Put nothing on record about these hosts, which are not fenced after all. Before the fence begins."""
        for host in hosts:
            self._recorder.leave_out(host)

    def options(self, options: Options) -> Options:
        """Return the fence's options with what it needs of these two."""
        return replace(options, guard=self._lock, resources=self._recorder.resources, before=self._recorder.before)

    def heard(self, drive: DriveEvidence, phase: str) -> None:
        """Take note of what the fence says of its progress (`fence.Progress`)."""
        self._drives[drive.nqn, drive.serial] = drive
        self._recorder.heard(drive, phase)

    async def finish(self, report: FenceReport | None, within: float, most: float) -> dict[str, str]:
        """Do what `record` does, then `end`."""
        try:
            return await self.record(report, within, most)
        finally:
            self.end()

    async def record(self, report: FenceReport | None, within: float, most: float) -> dict[str, str]:
        """Put the fence's end on record; return what went wrong with that, by host.

        It takes at most `most` seconds, and for no host more than `within`. None: the fence did not come to an end.
        """
        return await self._recorder.finish(report, within, most)

    def end(self) -> None:
        """Keep restores away no longer, unless the fence has left commands without an answer: they could cut a host
        that has its storage again. Then it does so later. Again is harmless.
        """
        if _unanswered(self._drives.values()):
            self._lock.note(True)  # this process may be gone before that
            loop = asyncio.get_running_loop()
            self._end_later(loop, loop.time() + UNANSWERED_S)
        else:
            self._lock.end()

    def leave(self) -> None:
        """Keep restores away for as long as this process lives, and, where a command has no answer, for longer."""
        if _unanswered(self._drives.values()):
            self._lock.note(True)

    def _end_later(self, loop: asyncio.AbstractEventLoop, until: float) -> None:
        """Do it when the kernel holds no command any more: then none is carried out later. `until` at the latest.

        A command that was given up is over for the kernel when the drive has answered, or when its controller was
        disabled or is gone (nvme_timeout, nvme_dev_disable): either way the drive does nothing about it later.
        """
        left = until - loop.time()
        if left <= 0 or (self._in_flight is not None and self._in_flight() == 0):
            self._lock.note(False)
            self._lock.end()
        else:
            loop.call_later(left if self._in_flight is None else min(_LOOK_S, left), self._end_later, loop, until)


def _unanswered(drives: Iterable[DriveEvidence]) -> bool:
    return any(
        drive.cutting
        or any(sent.status == NO_ANSWER for sent in drive.sent)
        or any(managed.status == NO_ANSWER for managed in drive.managed)
        for drive in drives
    )

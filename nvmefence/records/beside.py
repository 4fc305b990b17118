"""What goes beside a fence, whoever fences: a lock that keeps restores away, and the record of what is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from nvmefence.fencing.evidence import DriveEvidence, FenceReport
from nvmefence.fencing.options import Options
from nvmefence.nvme.transport import NO_ANSWER
from nvmefence.records.hostlock import HostLocks
from nvmefence.records.recorder import Keeper

UNANSWERED_S: Final = 150.0
"""Seconds for which a command without an answer may still be carried out: Linux aborts it after 60, and resets the
controller after as many again."""


class Beside:
    """The lock and the record of one fence. Belongs to one event loop.

    `finish` ends both; who must keep restores away for longer, calls `record` and, later, `end`.
    """

    def __init__(
        self, keeper: Keeper, locks: HostLocks, asked: Mapping[str, Sequence[tuple[str, str]]], quiesce: str
    ) -> None:
        """`asked` has the hosts, each with (request id, by whom); `quiesce` is the rule's name."""
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
        return replace(options, guard=self._lock, resources=self._recorder.resources)

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
        that has its storage again. Again is harmless.
        """
        if _unanswered(self._drives.values()):
            asyncio.get_running_loop().call_later(UNANSWERED_S, self._lock.end)
        else:
            self._lock.end()


def _unanswered(drives: Iterable[DriveEvidence]) -> bool:
    return any(
        drive.cutting
        or any(sent.status == NO_ANSWER for sent in drive.sent)
        or any(managed.status == NO_ANSWER for managed in drive.managed)
        for drive in drives
    )

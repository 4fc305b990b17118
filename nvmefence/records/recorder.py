"""Has written down what a fence takes, beside the cut and never before it, by a thread that may hang."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from nvmefence.fencing.evidence import DriveEvidence, FenceReport
from nvmefence.fencing.options import Before
from nvmefence.fencing.quiesce import suffices
from nvmefence.records import merge
from nvmefence.records.merge import FenceSoFar
from nvmefence.records.record import Asked, Record
from nvmefence.records.store import RecordError, Store

_BESIDE_S: Final = 0.1
"""Seconds from the first cut to the first writing: a quick fence ends before that, undisturbed, and is written down
once."""
_CUTS: Final = ("offline", "cut")
"""Phases in which something is taken."""


class Writer(Protocol):
    """Does work in a thread of its own; `watcher.worker.Worker` is one."""

    def post(self, work: Callable[[], object]) -> bool:
        """Have work done some time; returns whether it was taken. Never waits."""
        ...


class Keeper:
    """The records as one process keeps them."""

    def __init__(self, store: Store, writer: Writer, wall: Callable[[], float]) -> None:
        """`wall` is the clock for seconds since 1970."""
        self.store = store
        self.writer = writer
        self.wall = wall
        self.troubles: dict[str, str] = {}
        """Why a host's last fence is not on record, by host."""
        self.late = 0
        """Pieces of work that were not done in their time, and are not done yet."""

    def now(self) -> str:
        """Return the time as records have it: RFC 3339, UTC, to the millisecond."""
        moment = datetime.datetime.fromtimestamp(self.wall(), datetime.UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def recorder(self, asked: Mapping[str, Sequence[tuple[str, str]]], quiesce: str) -> Recorder:
        """Return what writes down one fence: of these hosts, each asked for by (request id, by whom)."""
        return Recorder(self, asked, quiesce)

    async def done(self, work: Callable[[], None], within: float, most: float, progress: Callable[[], int]) -> bool:
        """Have work done; returns whether it was, in `most` seconds and never `within` seconds without `progress`.

        Where earlier work hangs, it returns at once.
        """
        loop = asyncio.get_running_loop()
        finished = asyncio.Event()
        waiting = True

        def settle() -> None:
            finished.set()
            if not waiting:
                self.late -= 1

        def run() -> None:
            try:
                work()
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(settle)

        if not self.writer.post(run):
            return False
        until = loop.time() + most
        while not self.late and not finished.is_set() and loop.time() < until:
            before = progress()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(within, until - loop.time())):
                    await finished.wait()
            if progress() == before:
                break
        waiting = False
        if not finished.is_set():
            self.late += 1
        return finished.is_set()


class Recorder:
    """Writes one fence into the records of its hosts. Belongs to one event loop."""

    def __init__(self, keeper: Keeper, asked: Mapping[str, Sequence[tuple[str, str]]], quiesce: str) -> None:
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._when = keeper.now()
        self._begun = {
            host: FenceSoFar(
                host, keeper.store.simulated, self._when, tuple(Asked(self._when, *one) for one in those), quiesce
            )
            for host, those in asked.items()
        }
        self._cut: dict[tuple[str, str], DriveEvidence] = {}
        """The evidence of drives on which something is being taken; the fence goes on filling it."""
        self._seen: list[DriveEvidence] = []
        """What of it is to be written."""
        self._timer: asyncio.TimerHandle | None = None
        self._posted = False
        self._ended = False
        self._troubles: dict[str, str] = {}
        self._done: set[str] = set()
        """Hosts for which the end of the fence is on record, or cannot be."""
        self._writings = 0
        self.resources: dict[tuple[str, str, int], tuple[int, int]] = {}
        """What controllers had that an earlier fence left offline, once that has been read from the records. For
        `fence.Options.resources`."""
        self.before = Before()
        """What the records said of these hosts when the fence began, once that has been read. For
        `fence.Options.before`."""
        keeper.writer.post(self._read)

    def leave_out(self, host: str) -> None:
        """Write nothing about a host, which is not fenced after all. Before the fence begins."""
        self._begun.pop(host, None)

    def heard(self, drive: DriveEvidence, phase: str) -> None:
        """Take note of what a fence says of its progress (`fence.Progress`)."""
        key = drive.nqn, drive.serial
        if phase in _CUTS:
            self._cut[key] = drive
        if key in self._cut and self._timer is None and not self._ended:
            self._timer = self._loop.call_later(_BESIDE_S, self._write_now)

    def _write_now(self) -> None:
        self._timer = None
        self._seen = [_copy(drive) for drive in self._cut.values()]
        if not self._posted:
            self._posted = self._keeper.writer.post(self._write_so_far)

    def _read(self) -> None:
        """In the writer's thread."""
        for host in list(self._begun):
            with contextlib.suppress(RecordError):
                self._remember(host, self._keeper.store.load(host))
        self.before.read = True

    def _remember(self, host: str, found: Record | None) -> None:
        if found is not None and found.confirmed and suffices(found.quiesce, self._begun[host].quiesce):
            self.before.quiet.add(host)
        for one in () if found is None else found.offline:
            if one.queues and one.interrupts:
                self.resources[(*one.drive, one.cntlid)] = one.queues, one.interrupts

    def _write_so_far(self) -> None:
        """In the writer's thread."""
        self._posted = False  # what is heard from now on is written again
        self._write(self._seen, {}, last=False)

    def _write(self, drives: Sequence[DriveEvidence], ends: Mapping[str, FenceSoFar], *, last: bool) -> None:
        for host, begun in self._begun.items():
            if self._ended and not last:
                return  # what waits behind this has all of it, and the end
            now = ends.get(host, begun)
            ended = now.ended_at is not None
            taken = [one for drive in drives for one in merge.taken_on(drive, host, *now.key)]
            offline = [one for drive in drives for one in merge.offline_on(drive, host, self._when, ended)]
            online = [one for drive in drives for one in merge.online_on(drive, host)]
            so_far = replace(now, taken=tuple(taken), offline=tuple(offline), online=frozenset(online))
            try:
                self._keeper.store.update(host, _merging(so_far), keep=not ended)
                self._troubles.pop(host, None)
            except RecordError as error:
                self._troubles[host] = error.reason
            except Exception as error:
                self._troubles[host] = f"defect in nvmefence: {type(error).__name__}: {error}"
            self._writings += 1
            if last:
                self._done.add(host)

    async def finish(self, report: FenceReport | None, within: float, most: float) -> dict[str, str]:
        """Write the end of the fence down; return what went wrong, by host.

        It takes at most `most` seconds, and for no host more than `within`. Without a report the fence is on record
        as one that did not end. What did not go well changes nothing about the fence: the report has all that the
        record would have.
        """
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        drives = tuple(self._cut.values() if report is None else report.drives)
        ends = {} if report is None else self._ends(report)

        def last() -> None:
            self._write(drives, ends, last=True)
            self._loop.call_soon_threadsafe(self._settle)

        if not await self._keeper.done(last, within, most, lambda: self._writings):
            late = f"the record in {self._keeper.store.path} was not written within {within:g} s"
            troubles = dict(self._troubles) | dict.fromkeys(self._begun.keys() - self._done, late)
            self._keeper.troubles.update(troubles)
            return troubles
        self._settle()
        return dict(self._troubles)

    def _settle(self) -> None:
        """Tell how it went, which may be after `finish` gave up waiting."""
        for host in self._begun:
            self._keeper.troubles.pop(host, None)
        self._keeper.troubles.update(self._troubles)

    def _ends(self, report: FenceReport) -> dict[str, FenceSoFar]:
        now = self._keeper.now()
        return {
            host: replace(begun, ended_at=now, confirmed=report.confirmed(host), message=report.message(host))
            for host, begun in self._begun.items()
        }


def _merging(fence: FenceSoFar) -> Callable[[Record | None], Record | None]:
    return lambda before: merge.merged(before, fence)


def _copy(drive: DriveEvidence) -> DriveEvidence:
    """Return what a record needs of a drive's evidence, as it is now."""
    return replace(
        drive,
        targets=dict(drive.targets),
        sent=list(drive.sent),
        identities=dict(drive.identities),
        unidentified={nsid: set(ids) for nsid, ids in drive.unidentified.items()},
        secondaries={cntlid: copy.copy(entry) for cntlid, entry in drive.secondaries.items()},
        managed=list(drive.managed),
    )

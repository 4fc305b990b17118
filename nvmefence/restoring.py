"""A restore from the record to its end: the one place where `nvmefence restore` and the watcher give storage back.

The order of its steps makes it harmless to end at any of them and to begin anew: first the host counts as fenced no
longer, by its responses and on record, then it is given what it had; what it has again goes from the record only
when a drive has shown it, and the record itself goes last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from nvmefence.errors import UnderWayError, UnknownHostError
from nvmefence.fencing.restore import Progress, restore
from nvmefence.fencing.restored import Left, RestoreReport
from nvmefence.fencing.terms import Terms, Unanswered, Wanted
from nvmefence.inventory.drives import Drive
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.nvme.transport import Transport
from nvmefence.records import merge
from nvmefence.records.hostlock import RestoreLock
from nvmefence.records.places import Places
from nvmefence.records.record import Record
from nvmefence.records.store import RecordError
from nvmefence.spool.errors import SpoolError
from nvmefence.watcher.worker import Stuck, Worker

FILES_S: Final = 10.0
"""Seconds that an operation on records or responses may take before it counts as hanging."""
PATIENCE_S: Final = 0.5
"""Seconds that are enough for a fence whose response is visible to let go of its host: milliseconds, as a rule."""
_AGAIN_S: Final = 0.01
T = TypeVar("T")
Of = Callable[[str], bool]
"""Whether a node's name in a response means the host."""


@dataclass(slots=True)
class Ended:
    """How a restore ended."""

    host: str
    record: Record | None
    """What was on record before it."""
    marked: Record | None = None
    """The same, from the moment on at which something could be given."""
    report: RestoreReport | None = None
    """None: there was nothing to give back."""
    archived: list[str] = field(default_factory=list)
    """Responses that said the host is fenced."""
    away: bool = False
    """No response says so any more."""
    cleared: bool = False
    """Nothing says any more that the host is fenced."""
    troubles: list[str] = field(default_factory=list)
    """What went wrong with the files, in words."""
    simulated: bool = False

    @property
    def complete(self) -> bool:
        """Whether the host has everything again, and is fenced no longer."""
        return (self.report is None or self.report.complete) and not self.troubles

    @property
    def left(self) -> list[Left]:
        """What the host does not have again."""
        return [] if self.report is None else self.report.left

    def message(self) -> str:
        """Say in one line what happened."""
        mark = "SIMULATED: " if self.simulated else ""
        if self.record is None:
            told = f"{mark}Nothing is on record as taken from {self.host}: nothing was given back"
        elif self.report is None:
            told = f"{mark}The fence of {self.host} on record took nothing from it: nothing was given back"
        else:
            told = self.report.message()
        return "; ".join([told, *self.troubles])


class Restoring:
    """Gives hosts back what is on record. Its files are in the hands of two workers, which may hang."""

    def __init__(
        self,
        transport: Transport,
        find: Callable[[float], Awaitable[Sequence[Drive]]],
        places: Places,
        record: Worker,
        spool: Worker,
        archive: Callable[[Of], list[str]],
        *,
        simulated: bool,
    ) -> None:
        """`find` finds the drives within so many seconds. `archive` puts away the responses that say a host is
        fenced, and returns their names; in `spool`.
        """
        self._transport = transport
        self._find = find
        self._places = places
        self._record = record
        self._spool = spool
        self._archive = archive
        self._simulated = simulated

    async def restore(
        self, hostmap: HostMap, host: Host, until: float, progress: Progress | None = None, *, patience: float = 0.0
    ) -> Ended:
        """Give a host back what is on record, and clear its fenced state when that is complete.

        `until`: loop time. `patience`: seconds until a fence that has the host counts as under way.
        Raises UnderWayError if the host is being fenced, RecordError if what is on record
        cannot be read (nothing was done then), Stuck, OSError if the drives cannot be found.
        """
        lock = await self._locked(host.name, patience)
        unanswered = Unanswered(lambda there: self._note_sent(lock, there))
        try:
            before = await self._on_record(host.name)
            ended = Ended(host.name, before, simulated=self._simulated)
            if before is None:
                return ended
            if not before.empty:
                drives = await self._find(_left(until))
                wanted = Wanted(before.taken, before.offline)
                terms = Terms(_left(until), lock.wanted, lambda: self._prepare(ended, hostmap), unanswered)
                ended.report = await restore(self._transport, hostmap, drives, host, wanted, terms, progress)
            await self._conclude(ended, hostmap, lock)
            return ended
        finally:
            unanswered.when_none(lock.end)

    def _note_sent(self, lock: RestoreLock, there: bool) -> None:
        """Note for fences what may outlast this process: nothing where a process waits for its commands to end."""
        if not there or self._transport.backend not in ("ioctl", "simulated"):
            lock.note(there)

    async def _locked(self, host: str, patience: float) -> RestoreLock:
        """Return the lock, in a moment if a fence is about to let go of it. Raises UnderWayError."""
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        while True:
            try:
                return self._places.locks.restore(host)
            except UnderWayError:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(_AGAIN_S)

    async def mend(self, hostmap: HostMap, host: Host, until: float) -> Ended:
        """Bring online what a fence that did not end left offline, if nothing is attached to it; see `restore`."""
        lock = self._places.locks.restore(host.name, "mending")
        unanswered = Unanswered()
        try:
            before = await self._on_record(host.name)
            ended = Ended(host.name, before, simulated=self._simulated)
            loose = () if before is None else tuple(one for one in before.offline if not one.stays)
            if loose:
                drives = await self._find(_left(until))
                terms = Terms(_left(until), lock.wanted, unanswered=unanswered, only_loose=True)
                ended.report = await restore(self._transport, hostmap, drives, host, Wanted((), loose), terms)
                await self._note(ended, clear=False)
            return ended
        finally:
            unanswered.when_none(lock.end)

    def _mark(self, host: str) -> Record | None:
        """Put on record, before anything is given, that the host counts as fenced no longer; in `record`."""

        def change(now: Record | None) -> Record | None:
            return None if now is None else replace(now, fenced_at=None, confirmed=False)

        return self._places.store.update(host, change)

    async def _on_record(self, host: str) -> Record | None:
        return await self._record.do(lambda: self._places.store.load(host), FILES_S)

    async def _conclude(self, ended: Ended, hostmap: HostMap, lock: RestoreLock) -> None:
        """Put responses and record away; where something is left, only take off the record what is not."""
        if not ended.complete:
            await self._note(ended, clear=False)
            return
        wanted = lock.wanted()
        if wanted:
            ended.troubles.append(f"{wanted}, so its {'record stays' if ended.away else 'responses stay'}")
            return
        if ended.away or not await self._put_away(ended, hostmap):
            await self._note(ended, clear=True)
            ended.cleared = not ended.troubles

    async def _prepare(self, ended: Ended, hostmap: HostMap) -> str:
        """Have nothing say any more that the host is fenced; return why nothing may be given, if that failed.

        The responses go first. A restore may be killed: who counts as fenced by the record alone is looked after,
        and nobody would be who counts as fenced by responses alone.
        """
        why = await self._put_away(ended, hostmap)
        if why:
            return why
        ended.marked = await self._tried(ended, self._record, lambda: self._mark(ended.host))
        return "" if ended.marked else f"that {ended.host} counts as fenced no longer cannot be put on record"

    async def _put_away(self, ended: Ended, hostmap: HostMap) -> str:
        """Put the responses away that say the host is fenced, before it is given anything: a restore may be killed.

        Returns why nothing may be given, if that failed. While the restore has the lock, no other becomes visible.
        """
        of = belongs(hostmap, ended.host)
        archived = await self._tried(ended, self._spool, lambda: self._archive(of))
        if archived is None:
            return f"the responses that say {ended.host} is fenced could not be put away"
        ended.archived, ended.away = archived, True
        return ""

    async def _note(self, ended: Ended, *, clear: bool) -> None:
        """Take what the host has again off the record; with `clear`, put the record away if nothing is left.

        A fence that has begun meanwhile has something on record as soon as it has taken anything. Where nothing at
        all was given, the host counts as fenced as before.
        """
        report, before, marked = ended.report, ended.record, ended.marked
        given, online = ([], []) if report is None else (report.given(), report.online())
        idle = report is not None and not report.touched and not given and not online

        def change(now: Record | None) -> Record | None:
            if idle and not clear and marked is not None and now == marked:
                return before
            rest = None if now is None else merge.without(now, given, online)
            return None if rest is None or (clear and rest.empty) else rest

        await self._tried(ended, self._record, lambda: self._places.store.update(ended.host, change))

    async def _tried(self, ended: Ended, worker: Worker, work: Callable[[], T]) -> T | None:
        """Have file work done; what goes wrong is among the troubles."""
        try:
            return await worker.do(work, FILES_S)
        except (RecordError, SpoolError) as error:
            ended.troubles.append(error.reason)
        except OSError as error:
            ended.troubles.append(error.strerror or str(error))
        except Stuck as error:
            ended.troubles.append(f"record or responses: {error}")
        return None


def belongs(hostmap: HostMap, host: str) -> Of:
    """Return what tells whether a node's name means this host of the map."""

    def of(target: str) -> bool:
        try:
            return hostmap.find(target).name == host
        except UnknownHostError:
            return target.lower() == host.lower()

    return of


def _left(until: float) -> float:
    return max(until - asyncio.get_running_loop().time(), 0.0)

"""Restores that agents ask for, and what a fence left half done that did not end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from nvmefence.errors import UnderWayError
from nvmefence.fencing.survey import Survey
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.records.record import Record
from nvmefence.records.store import RecordError, Store
from nvmefence.restoring import PATIENCE_S, Ended, Restoring
from nvmefence.spool.request import Request
from nvmefence.watcher import answers
from nvmefence.watcher.answers import Answer, Result
from nvmefence.watcher.journal import Journal
from nvmefence.watcher.passes import ANSWERING_S
from nvmefence.watcher.worker import Stuck, Worker

_NAMED: Final = 6
"""Controllers, at most, that are named in a line."""
_READ_S: Final = 10.0
"""Seconds that the reading of all records may take."""


@dataclass(frozen=True, slots=True)
class Plea:
    """An `on`, from its reading to its answer."""

    request: Request
    host: Host
    read_at: float
    """Loop time."""
    until: float
    """Loop time after which nobody waits for the answer any more."""


class Givebacks:
    """Gives hosts storage back, one restore for each at a time. Belongs to one event loop."""

    def __init__(
        self,
        restoring: Restoring,
        deadline: float,
        wall: Callable[[], float],
        mark: str,
        done: Callable[[list[Answer]], None],
    ) -> None:
        """`done` is called with the answers to each restore; `mark` goes before what has no report to say it."""
        self._restoring = restoring
        self._deadline = deadline
        self._wall = wall
        self._mark = mark
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._by_host: dict[str, list[Plea]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that are given something back."""
        return tuple(self._by_host)

    def take(self, plea: Plea, hostmap: HostMap) -> None:
        """Give a host back what is on record; who asks while that goes on gets the same answer."""
        running = self._by_host.get(plea.host.name)
        if running is not None:
            running.append(plea)
            return
        self._by_host[plea.host.name] = [plea]
        task = asyncio.create_task(self._run(plea, hostmap))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, plea: Plea, hostmap: HostMap) -> None:
        host, start = plea.host, self._loop.time()
        until = min(start + self._deadline, plea.until - min(ANSWERING_S, (plea.until - start) / 10))
        ended: Ended | None = None
        result, why = Result.NOT_RESTORED, ""
        try:
            ended = await self._restoring.restore(hostmap, host, until, patience=PATIENCE_S)
        except UnderWayError as error:
            result, why = Result.REFUSED, f"{self._mark}Nothing was done: {error.what}"
        except RecordError as error:
            why = f"{self._mark}Nothing was done: {error.reason}"
        except (Stuck, OSError) as error:
            why = f"{self._mark}NOT restored {host.name}: {error}"
        except Exception as error:
            why = f"{self._mark}NOT restored {host.name}: defect in nvmefence: {type(error).__name__}: {error}"
        seconds = self._loop.time() - start
        batch = []
        for one in self._by_host.pop(host.name):
            times = {"restore": seconds, "total": self._loop.time() - one.read_at}
            if ended is None:
                batch.append(answers.to_request(one.request, result, why, self._wall(), times=times))
            else:
                batch.append(answers.restored_or_not(one.request, ended, self._wall(), times))
        self._done(batch)

    async def finish(self) -> None:
        """Wait until the restores in hand have ended; each has a deadline."""
        while self._tasks:
            await asyncio.wait(self._tasks)


class Mending:
    """Brings back online, at the start, what a fence that was killed took offline."""

    def __init__(
        self,
        restoring: Restoring,
        look: Callable[[HostMap], Awaitable[Survey]],
        store: Store,
        record: Worker,
        journal: Journal,
        deadline: float,
        mark: str,
    ) -> None:
        """`look` reads the drives, and their secondary controllers."""
        self._restoring = restoring
        self._look = look
        self._store = store
        self._record = record
        self._journal = journal
        self._deadline = deadline
        self._mark = mark

    async def run(self, hostmap: HostMap) -> None:
        """Read the records, and mend what is to be mended; says what it finds, and raises nothing."""
        try:
            records, troubles = await self._record.do(self._store.load_all, _READ_S)
        except Stuck as error:
            records, troubles = [], [f"{self._store.path}: {error}"]
        for trouble in troubles:
            self._journal.error(f"a record is not believed: {trouble}")
        for record in records:
            if any(not one.stays for one in record.offline):
                try:
                    await self._mend(record, hostmap)
                except Exception as error:
                    self._journal.error(f"{self._unmended(record)}: {type(error).__name__}: {error}")
        with contextlib.suppress(Exception):  # what is wrong with the drives is said by who looks at them first
            self._tell_unknown(await self._look(hostmap), records)

    def _tell_unknown(self, seen: Survey, records: Sequence[Record]) -> None:
        """Say which controllers are offline and on no record: a fence may have been killed before it had one."""
        known = {(one.serial, one.cntlid) for record in records for one in record.offline}
        found = [
            f"{drive.serial}: controller {cntlid} of {name}"
            for drive in seen.drives
            for name, host in drive.hosts.items()
            for cntlid in host.controllers
            if host.online is not None and cntlid not in host.online and (drive.serial, cntlid) not in known
        ]
        if found:
            shown = ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" if len(found) > _NAMED else "")
            self._journal.warning(
                f"{self._mark}offline, and on record nowhere: {shown}; if a fence was killed, fence the host again"
            )

    def _unmended(self, record: Record) -> str:
        loose = [f"{one.serial}: controller {one.cntlid}" for one in record.offline if not one.stays]
        return f"{self._mark}a fence of {record.host} did not end and left offline {', '.join(loose)}"

    async def _mend(self, record: Record, hostmap: HostMap) -> None:
        host = hostmap.hosts.get(record.host)
        if host is None:
            self._journal.error(f"{self._unmended(record)}; the host is not in the map")
            return
        until = asyncio.get_running_loop().time() + self._deadline
        try:
            ended = await self._restoring.mend(hostmap, host, until)
        except UnderWayError as error:
            self._journal.info(f"{self._unmended(record)}; that is left to others: {error.what}")
            return
        except RecordError as error:
            self._journal.error(f"{self._unmended(record)}: {error.reason}")
            return
        self._tell(record, ended)

    def _tell(self, record: Record, ended: Ended) -> None:
        report = ended.report
        if report is None:
            return  # it was settled meanwhile
        back = [f"{one.serial}: controller {one.cntlid}" for one in report.online()]
        if back:
            self._journal.notice(
                f"{self._mark}back online, left offline by a fence of {record.host}: {', '.join(back)}"
            )
        for one in report.left:
            self._journal.error(
                f"{self._mark}left offline by a fence of {record.host} that did not end: {one}; "
                f"fence it again, or: nvmefence restore --host {record.host}"
            )
        for trouble in ended.troubles:
            self._journal.error(trouble)

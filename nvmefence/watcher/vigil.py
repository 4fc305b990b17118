"""Looks whether hosts that count as fenced stay so, and raises the alarm where one is attached or online again.

The records say who counts as fenced, the drives who is attached; nothing else is believed. A look that finds a host
back counts only if its record is the same after it, and no restore is giving it anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from nvmefence.fencing.survey import Survey, survey
from nvmefence.inventory.drives import Drive
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.records.fenced import Fenced, FencedHosts
from nvmefence.records.places import Places
from nvmefence.records.record import Record
from nvmefence.records.store import RecordError
from nvmefence.site import Site
from nvmefence.spool.names import SUFFIX
from nvmefence.watcher.enforcing import Enforcing
from nvmefence.watcher.hints import Hints
from nvmefence.watcher.journal import Journal
from nvmefence.watcher.kernel import Inotify
from nvmefence.watcher.metrics import Figures
from nvmefence.watcher.passes import Passes
from nvmefence.watcher.returned import Key, OnDrive, Returned, seen
from nvmefence.watcher.worker import Stuck, Worker

LEAST_S: Final = 0.5
"""Seconds from the begin of one look to that of the next, whatever is heard meanwhile."""
QUIET_S: Final = 1.0
"""Seconds after the end of a fence in which no look begins: its answer comes first, and it has just read back."""
REST_S: Final = 60.0
"""Seconds between two looks at the records while no host counts as fenced, and changes to them are told."""
LOOK_S: Final = 5.0
"""Seconds that a look at the drives may take."""
LONGEST_S: Final = 120.0
"""Seconds, at most, for which a drive that could not be read is left alone."""
_FILES_S: Final = 10.0


class _Watched(NamedTuple):
    record: Record
    host: Host


class _Pace:
    """When to look again at drives that could not be read: each time after twice as long."""

    def __init__(self, seconds: float) -> None:
        self._first = seconds
        self._failed: dict[Key, tuple[float, float, str]] = {}
        """Pause, the loop time of its end, and why a drive could not be read when that began."""

    def due(self, key: Key, now: float) -> bool:
        return key not in self._failed or now >= self._failed[key][1]

    def why(self, key: Key) -> str:
        return self._failed[key][2] if key in self._failed else ""

    def read(self, key: Key, problem: str, now: float) -> None:
        if not problem:
            self._failed.pop(key, None)
            return
        before, _, why = self._failed.get(key, (self._first / 2, 0.0, problem))
        pause = min(2 * before, LONGEST_S)
        self._failed[key] = pause, now + pause, why


class Vigil:
    """One look at a time, every so many seconds and at once after a hint. Belongs to one event loop."""

    def __init__(
        self,
        site: Site,
        hostmap: Callable[[], HostMap],
        there: Places,
        worker: Worker,
        passes: Passes,
        journal: Journal,
        note: Callable[..., None],
        told: Callable[[], None],
        *,
        seconds: float,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`note` puts an event and its fields into the audit some time; `told` hears of alarms that begin or end.

        `enforcing` may be set before `run`.
        """
        self._site = site
        self._hostmap = hostmap
        self._places = there
        self._worker = worker
        self._passes = passes
        self._journal = journal
        self._note = note
        self._told = told
        self._seconds = seconds
        self._wall = wall
        self._mark = "SIMULATED: " if site.simulated else ""
        self._loop = asyncio.get_running_loop()
        self._inotify: Inotify | None = None
        self._fenced = FencedHosts(there.store, self._follow)
        self._hints = Hints(site.events, self.hint)
        self._pace = _Pace(max(seconds, LOOK_S))
        self._wake = asyncio.Event()
        self._began = self._pass_ended = float("-inf")
        self._returned: dict[str, Returned] = {}
        self._task: asyncio.Task[None] | None = None
        self._told_deaf = ""
        self._found: dict[str, str] = {}
        """As `troubles`, while a look goes on."""
        self.figures = Figures()
        self.enforcing: Enforcing | None = None
        """Cuts again who is back; None: nobody does."""
        self.troubles: dict[str, str] = {}
        """What is wrong with the look-out itself, by what it concerns."""

    @property
    def status(self) -> str:
        """Who is back, in a few words; empty: nobody."""
        return f"RETURNED: {', '.join(self._returned)}" if self._returned else ""

    def hint(self) -> None:
        """Look soon."""
        self._wake.set()

    def pass_ended(self) -> None:
        """Take note that a fence has ended just now."""
        self._pass_ended = self._loop.time()
        self._wake.set()

    def begin(self) -> None:
        """Go on looking until `finish`."""
        with contextlib.suppress(OSError):
            self._inotify = Inotify()
            self._loop.add_reader(self._inotify.fd, self._heard_of_records)
        self._task = self._loop.create_task(self._run())

    async def finish(self) -> None:
        """Look no more, and cut nobody again; what is being cut is cut to the end."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._hints.close()
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fd)
            self._worker.post(self._inotify.close)  # in the thread that may be using it now
        if self.enforcing is not None:
            await self.enforcing.finish()

    def _follow(self, directory: int) -> None:
        """In the worker's thread."""
        if self._inotify is None:
            raise OSError(0, "no inotify")
        self._inotify.follow(directory)

    def _heard_of_records(self) -> None:
        if self._inotify is not None and self._inotify.concerns(SUFFIX.encode()):
            self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            self._began = self._loop.time()
            self._found = {}
            try:
                seconds = await self._once()
            except Exception as error:  # a defect here must not end the look-out
                self._found["vigil"] = f"defect in nvmefence: {type(error).__name__}: {error}"
                seconds = self._seconds
            self.troubles = self._found
            await self._rest(seconds)

    async def _rest(self, seconds: float) -> None:
        """Wait so many seconds from the begin of the last look on, or less where something was heard meanwhile.

        Fences come first: while one is under way a look waits until it is due in any case.
        """
        due = self._began + seconds
        heard = await self._woken(due - self._loop.time())
        while heard:
            now = self._loop.time()
            fit = max(self._began + LEAST_S, self._pass_ended + QUIET_S)
            next_look = due if self._passes.hosts else min(fit, due)
            if now >= next_look:
                return
            self._wake.clear()
            await self._woken(next_look - now)

    async def _woken(self, within: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(within, 0.0)):
                await self._wake.wait()
        return self._wake.is_set()

    async def _once(self) -> float:
        """Read the records, and look at the drives if some host counts as fenced; return when to come again."""
        try:
            fenced = await self._worker.do(self._fenced.read, _FILES_S)
        except Stuck as error:
            self._found["vigil"] = f"{self._places.store.path}: {error}: nobody looks whether hosts stay fenced"
            return self._seconds
        if fenced.troubles:
            self._found["vigil records"] = "; ".join(fenced.troubles)
        watched = self._watched(fenced)
        self._forget_others(watched)
        if not watched:
            self._hints.close()
            return REST_S if fenced.followed else self._seconds
        self._hints.open()
        self._say_deaf()
        await self._look(watched)
        pause = self._seconds if self.enforcing is None else min(self._seconds, self.enforcing.due_in())
        return max(pause, LEAST_S)

    def _watched(self, fenced: Fenced) -> list[_Watched]:
        hosts = self._hostmap().hosts
        strangers = [record.host for record in fenced.records if record.host not in hosts]
        if strangers:
            self._found["vigil map"] = (
                f"fenced on record and not in the host map, so nobody looks for them: {', '.join(strangers)}"
            )
        return [_Watched(record, hosts[record.host]) for record in fenced.records if record.host in hosts]

    def _forget_others(self, watched: Sequence[_Watched]) -> None:
        """End the alarm about hosts that count as fenced no longer."""
        names = {one.host.name for one in watched}
        self.figures.returned = {name: name in self._returned for name in sorted(names)}
        for name in [name for name in self._returned if name not in names]:
            self._end(name, "it counts as fenced no longer")

    def _say_deaf(self) -> None:
        if self._hints.trouble != self._told_deaf:
            self._told_deaf = self._hints.trouble
            if self._told_deaf:
                self._journal.warning(
                    f"no kernel events ({self._told_deaf}): looking every {self._seconds:g} s only"
                )

    # The look

    async def _look(self, watched: Sequence[_Watched]) -> None:
        """Look for these hosts on all drives."""
        if self.enforcing is not None:
            self.enforcing.look_begins()
        hostmap = self._hostmap()
        todo = [one for one in watched if not self._passes.fencing(one.host)]
        if not todo:
            return
        try:
            found = await self._worker.do(self._site.discover, LOOK_S)
        except (Stuck, OSError) as error:
            self._found["vigil"] = f"the drives cannot be found: {error}"
            return
        now = self._loop.time()
        due = [drive for drive in found if self._pace.due(drive.key, now)]
        offline = any(one.stays for watch in todo for one in watch.record.offline)
        hosts = [one.host for one in todo]
        result = await survey(self._site.transport, hostmap, due, hosts, LOOK_S, secondaries=offline)
        for drive in result.drives:
            self._pace.read((drive.nqn, drive.serial), drive.problem, self._loop.time())
        unread = self._unread(hostmap, found, result)
        if unread:
            self._found["vigil drives"] = "not looked at for fenced hosts: " + "; ".join(unread)
        self.figures.looks += 1
        self.figures.last_look = self._wall()
        self.figures.unread = len(unread)
        await self._judge(todo, hostmap, {one.host.name: seen(result, one.record) for one in todo})

    def _unread(self, hostmap: HostMap, found: Sequence[Drive], result: Survey) -> list[str]:
        """Say which expected drives the look did not show, or not for every host, and why."""
        selection = hostmap.select(found)
        unread = list(selection.missing)
        reasons = {
            (drive.nqn, drive.serial): next((host.reason for host in drive.hosts.values() if host.reason), "")
            for drive in result.drives
        }
        for drive in selection.drives:
            why = self._pace.why(drive.key) or reasons.get(drive.key, "")
            if why:
                unread.append(f"{drive.serial}: {why}")
        return unread

    async def _judge(
        self, todo: Sequence[_Watched], hostmap: HostMap, found: Mapping[str, Mapping[Key, OnDrive | None]]
    ) -> None:
        """Raise, change or end alarms by what a look showed."""
        back = [one for one in todo if any(there is not None for there in found[one.host.name].values())]
        sure = await self._sure(back) if back else set()
        for one in todo:
            name = one.host.name
            if one in back and name not in sure:
                continue
            known = self._returned.get(name)
            returned = known or Returned(name, one.record.fenced_at or "")
            returned.fenced_at = one.record.fenced_at or ""
            changed = returned.take(found[name])
            if not returned.drives:
                if known is not None:
                    self._end(name, "it is cut")
                continue
            if changed:
                self._alarm(returned, new=known is None)
            if name in sure and self.enforcing is not None:
                self.enforcing.consider(returned, one.host, hostmap)

    async def _sure(self, back: Sequence[_Watched]) -> set[str]:
        """Return which of these hosts still count as fenced as they did before the look, and are not restored."""
        idle = [one for one in back if not self._passes.fencing(one.host)]
        try:
            return await self._worker.do(lambda: {one.host.name for one in idle if self._is_sure(one)}, _FILES_S)
        except Stuck as error:
            self._found["vigil"] = f"{self._places.store.path}: {error}"
            return set()

    def _is_sure(self, one: _Watched) -> bool:
        """In the worker's thread. The lock is looked at first: a restore changes the record before it lets go."""
        if self._places.locks.restoring(one.host.name):
            return False
        try:
            same = self._places.store.load(one.host.name) == one.record
        except RecordError:
            return False
        if not same:
            self._loop.call_soon_threadsafe(self._wake.set)
        return same

    # The alarm

    def _alarm(self, returned: Returned, *, new: bool) -> None:
        self._returned[returned.host] = returned
        self.figures.returned[returned.host] = True
        self.figures.returns += new
        message = f"{self._mark}RETURNED: {returned.words()}"
        advice = "" if self.enforcing is not None else f"; to cut it: nvmefence detach --host {returned.host}"
        self._journal.error(
            f"{message}{advice}",
            host=returned.host,
            returned=True,
            drives=[drive.to_json() for drive in returned.ordered()],
        )
        self._audit(returned.host, "returned", message, returned.ordered())
        self._told()

    def _end(self, host: str, why: str) -> None:
        self._returned.pop(host, None)
        if host in self.figures.returned:
            self.figures.returned[host] = False
        message = f"{self._mark}{host} is no longer back: {why}"
        self._journal.notice(message, host=host, returned=False)
        self._audit(host, "returned-no-longer", message, [])
        self._told()

    def _audit(self, host: str, result: str, message: str, drives: Sequence[OnDrive]) -> None:
        fields: dict[str, Any] = {"target_node": host, "host": host, "result": result, "message": message}
        shown = [drive.to_json() for drive in drives]
        self._note("returned", **fields, drives=shown, enforced=self.enforcing is not None)

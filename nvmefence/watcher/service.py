"""The watcher's loop: requests in, fences, audit, responses out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from nvmefence.errors import BusyError, NvmefenceError, UnknownHostError
from nvmefence.fencing.fence import Options
from nvmefence.fencing.survey import Survey, survey
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive
from nvmefence.inventory.hostmap import HostMap
from nvmefence.plain import counted
from nvmefence.records.places import Places, places
from nvmefence.records.recorder import Keeper
from nvmefence.restoring import Restoring
from nvmefence.settings import Settings
from nvmefence.site import Site
from nvmefence.spool.names import SUFFIX
from nvmefence.spool.request import Request
from nvmefence.watcher import answers, timing
from nvmefence.watcher.answers import Result
from nvmefence.watcher.delivery import SPOOL_S, Delivery
from nvmefence.watcher.desk import Desk, Incoming, Look
from nvmefence.watcher.givebacks import Givebacks, Mending, Plea
from nvmefence.watcher.guard import Guard
from nvmefence.watcher.journal import Journal
from nvmefence.watcher.kernel import Inotify
from nvmefence.watcher.lookout import Lookout
from nvmefence.watcher.passes import Pass, Passes, Ticket
from nvmefence.watcher.publishing import Publishing
from nvmefence.watcher.systemd import Notifier
from nvmefence.watcher.timing import Wakeup
from nvmefence.watcher.unfenced import UNFENCED_FOR_S
from nvmefence.watcher.worker import Stuck, Workers

if TYPE_CHECKING:
    from nvmefence.after.helper import Helper
    from nvmefence.watcher.afterwards import Afterwards

RESCAN_S: Final = 1.0
"""Seconds between two looks where no hint came."""
_YOUNG_S: Final = 0.25
"""Seconds until a file that was not finished is looked at again."""
_AT_ONCE: Final = 256
"""Files taken in at one look, so that a fence among thousands of stale requests begins soon."""
_LONG_LOOK_S: Final = 0.02
_REST_S: Final = 0.5
"""Seconds. After a look that took long, as it does among thousands of files, the next waits for twice as long, yet
for no longer than this: the answers that are to be delivered want the same thread."""
_TURN_S: Final = 4 * SPOOL_S + RESCAN_S
"""Seconds within which a look begins after the one before: whatever the directories do, each wait is bounded."""
_LOCK_S: Final = 5.0
"""Seconds that a predecessor is given to let go of the request directory."""
_AFTER_S: Final = 15.0
"""Seconds, at the end of the service, for what is being done after a fence."""


class Watcher:
    """Serves a request directory until it is told to stop. Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        site: Site,
        hostmap: HostMap,
        workers: Workers,
        journal: Journal,
        notifier: Notifier,
        wall: Callable[[], float] = time.time,
        helper: Helper | None = None,
    ) -> None:
        """`wall` is the clock for seconds since 1970. `helper` does what is to be done after a fence.

        Needs a running loop.
        """
        self._settings = settings
        self._site = site
        self._mark = "SIMULATED: " if site.simulated else ""
        self._hostmap = hostmap
        self._workers = workers
        self._journal = journal
        self._notifier = notifier
        self._wall = wall
        self._loop = asyncio.get_running_loop()
        limit = settings.max_request_age_s
        self._desk = Desk(
            settings.request_dir, settings.response_dir, limit, wall, self._loop.time, simulated=site.simulated
        )
        self._delivery = Delivery(self._desk, workers, journal, settings.audit, settings.log_dir, limit, wall)
        options = Options(settings.deadline, settings.quiesce, settings.escalate)
        there = places(settings)
        self._keeper = Keeper(there.store, workers.record, wall)
        told = self._pass_ended, self._gone
        self._passes = Passes(site, workers.discovery, options, self._keeper, there.locks, *told)
        self._join_restores(there)
        self._join_lookout(there)
        self._afterwards = None if helper is None else self._join_helper(helper)
        self._wake = asyncio.Event()
        self._stopping = False
        self._turned = self._loop.time()
        """Loop time at which the last look began."""
        self._wakeup = Wakeup()
        self._inotify: Inotify | None = None
        self._followed = 0
        self._map_trouble = ""
        self._unfenced_until = float("inf")
        """Loop time until which successful responses to an `on` may stand; at the start that is not known."""
        self._last = "no fence yet"

    def _join_restores(self, there: Places) -> None:
        settings, workers, site = self._settings, self._workers, self._site
        restoring = Restoring(
            site.transport, self._find, there, workers.record, workers.spool, self._desk.archive_fences,
            simulated=site.simulated,
        )  # fmt: skip
        self._givebacks = Givebacks(restoring, settings.deadline, self._wall, self._mark, self._given_back)
        self._mending = Mending(
            restoring, self._survey, there.store, workers.record, self._journal, settings.deadline, self._mark
        )  # fmt: skip

    def _join_lookout(self, there: Places) -> None:
        settings, site, journal, wall = self._settings, self._site, self._journal, self._wall
        workers, fences = self._workers, self._desk.fences
        self._guard = Guard(settings, journal, self._note, self._loop.time)
        self._lookout = Lookout(
            settings, site, lambda: self._hostmap, there, workers, self._passes, fences, self._guard,
            journal, self._note, self._alarm_changed, wall,
        )  # fmt: skip
        self._publishing = Publishing(
            settings.metrics, site, lambda: self._hostmap, lambda: self._lookout.figures, self._passes,
            lambda: journal.troubles, lambda: self._desk.beaten_at, wall,
        )  # fmt: skip
        self._delivery.reported = self._publishing.answered

    def _join_helper(self, helper: Helper) -> Afterwards:
        from nvmefence.watcher.afterwards import Afterwards

        responses, simulated = self._settings.response_dir, self._site.simulated
        return Afterwards(helper, self._journal, self._note, responses, self._wall, simulated)

    def stop(self) -> None:
        """Take no more requests; `run` returns when the fences in hand are answered."""
        self._stopping = True
        self._wake.set()

    async def reload(self) -> None:
        """Read the host map anew; keep the one in force if the new one is bad."""
        self._notifier.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        path = self._settings.hosts
        try:
            fresh = await self._workers.log.do(lambda: hostfile.load(path), SPOOL_S)
        except Exception as error:  # whatever it is, the service goes on with the map that it has
            known = isinstance(error, NvmefenceError | Stuck)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            self._map_trouble = f"kept as it was, for the new one is refused: {reason}"
        else:
            self._hostmap, self._map_trouble = fresh, ""
            self._journal.notice(f"host map read anew from {path}: {counted(len(fresh.hosts), 'host')}")
        finally:  # else the service manager would wait for the end of the reload, and end the service
            self._lookout.hint()
            self._wake.set()
            self._notifier.tell(READY=1, STATUS=self._status())

    async def run(self) -> None:
        """Serve. Raises BusyError if another watcher serves the request directory and goes on doing so."""
        troubles = await self._open()
        if self._guard.holds:
            with contextlib.suppress(Stuck):
                await self._workers.spool.do(self._guard.load, SPOOL_S)
        self._listen()
        self._journal.conditions(troubles)
        hosts = counted(len(self._hostmap.hosts), "host")
        self._journal.notice(f"serving {self._settings.request_dir} for {hosts}, pid {answers.watcher()['pid']}")
        self._notifier.tell(READY=1, STATUS=self._status())
        beside = [asyncio.create_task(self._pulse()), asyncio.create_task(self._first_look())]
        try:
            while not self._stopping:
                self._turned = self._loop.time()
                pause = await self._round()
                if len(beside) == 2:  # after the first round: a fence that waits goes first
                    beside.append(asyncio.create_task(self._mending.run(self._hostmap)))
                    self._lookout.begin()
                    self._publishing.begin()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                self._wake.clear()
            await self._finish()
        finally:
            for task in beside:
                task.cancel()
            self._unlisten()

    async def _open(self) -> dict[str, str]:
        until = self._loop.time() + _LOCK_S
        while True:
            try:
                return await self._workers.spool.do(self._desk.open, SPOOL_S)
            except BusyError:
                if self._loop.time() >= until:
                    raise
            except Stuck as error:
                return {"spool": str(error)}
            await asyncio.sleep(0.2)

    async def _finish(self) -> None:
        """End what is in hand, then let go of the directories."""
        hosts = ", ".join(self._passes.hosts)
        self._journal.notice(f"stopping after the fence of {hosts}" if hosts else "stopping")
        self._notifier.tell(STOPPING=1, STATUS=f"finishing the fence of {hosts}" if hosts else "stopping")
        await self._lookout.finish()
        await self._passes.finish()
        await self._givebacks.finish()
        await self._delivery.finish()
        with contextlib.suppress(Stuck, OSError):  # NFS tells only here what it could not do before
            await self._workers.spool.do(self._desk.close, SPOOL_S)
        await self._publishing.finish()
        if self._afterwards is not None:
            await self._afterwards.finish(_AFTER_S)
        self._journal.notice("stopped")

    async def _round(self) -> float:
        """Look once, and begin what is to be done; return the seconds until the next look."""
        self._delivery.handled.difference_update(self._guard.due())
        handled = frozenset(self._delivery.handled)
        self._wakeup.begin(self._loop.time())
        try:
            look = await self._workers.spool.do(lambda: self._look(handled), SPOOL_S)
        except (Stuck, OSError) as error:
            self._tell_conditions({"spool": f"the directories do not answer: {error}"})
            return RESCAN_S
        self._follow()
        self._tell_conditions(look.troubles)
        if self._stopping:
            return 0.0
        self._take(look.incoming)
        if self._guard.changed and self._guard.holds:
            self._guard.changed = False
            state = self._guard.state()
            self._workers.spool.post(lambda: self._guard.save(state))
        self._tell_conditions(look.troubles)
        now = self._wall()
        self._delivery.answer([answers.to_bad(bad, now, self._mark) for bad in look.bad])
        self._delivery.dispose(look.repeats)
        await self._archive_unfenced()
        if look.more:
            return 0.0
        if look.seconds >= _LONG_LOOK_S:
            await asyncio.sleep(min(2 * look.seconds, _REST_S))
        return _YOUNG_S if look.young else RESCAN_S

    def _look(self, handled: frozenset[str]) -> Look:
        """Look at the directories; not in the loop's thread."""
        self._guard.look()
        return self._desk.look(handled, _AT_ONCE, self._to_be_fenced)

    def _to_be_fenced(self, request: Request) -> bool:
        """Whether a request asks for the fence of a host that is known; not in the loop's thread."""
        try:
            return request.action.fences and bool(self._hostmap.find(request.target_node))
        except UnknownHostError:
            return False

    def _take(self, incoming: Sequence[Incoming]) -> None:
        """Begin or join fences, and answer what is none."""
        tickets: list[Ticket] = []
        others = []
        for item in sorted(incoming, key=lambda one: not one.request.action.fences):
            made = self._sort(item, {ticket.host.name for ticket in tickets})
            if isinstance(made, Ticket):
                tickets.append(made)
            elif made is not None:
                others.append(made)
        sorted_out = self._guard.sort(tickets, self._passes.hosts.__contains__)
        if sorted_out.held:
            self._delivery.handled.update(ticket.request.name for ticket in sorted_out.held)
            self._wake.set()  # perhaps a person has allowed it already
        for ticket in sorted_out.too_late:
            why = self._mark + self._guard.why(ticket)
            others.append(answers.to_request(ticket.request, Result.NOT_FENCED, why, self._wall()))
            self._publishing.held()
        if sorted_out.begin:
            self._begin(sorted_out.begin)
        self._delivery.answer(others)

    def _sort(self, item: Incoming, fenced_now: set[str]) -> Ticket | answers.Answer | None:
        """Return what is to be done about a request: a fence, or an answer at once; None: a restore has begun."""
        request, now, read_at = item.request, self._wall(), item.read_at
        try:
            host = self._hostmap.find(request.target_node)
        except UnknownHostError as error:
            return answers.to_request(request, Result.UNKNOWN_HOST, f"{self._mark}Nothing was done: {error}", now)
        remaining = item.age.remaining - (self._loop.time() - read_at)
        if item.age.expired or remaining <= 0:
            why = item.age.expired or "expired while it was read"
            return answers.to_request(request, Result.EXPIRED, f"{self._mark}Nothing was done: {why}", now)
        if request.action.fences:
            waited = max(now - max(request.dated, request.written), 0.0)
            woken, hint = self._wakeup.last
            return Ticket(request, host, read_at, read_at + item.age.remaining, waited, woken, hint)
        if self._passes.fencing(host) or host.name in fenced_now or self._guard.holding(host.name):
            why = f"{self._mark}Nothing was done: a fence of {host.name} is under way"
            return answers.to_request(request, Result.REFUSED, why, now)
        if self._settings.agents_may_restore:
            self._give_back(Plea(request, host, read_at, read_at + item.age.remaining))
            return None
        self._unfenced_until = self._loop.time() + UNFENCED_FOR_S + RESCAN_S
        return answers.unchanged(request, now, self._mark)

    def _give_back(self, plea: Plea) -> None:
        self._delivery.handled.add(plea.request.name)
        self._journal.notice(f"restoring {plea.host.name}: {plea.request}", request_id=plea.request.request_id)
        self._givebacks.take(plea, self._hostmap)
        self._notifier.tell(STATUS=self._status())

    def _given_back(self, batch: list[answers.Answer]) -> None:
        """Answer everyone who asked for a restore."""
        self._unfenced_until = self._loop.time() + UNFENCED_FOR_S + RESCAN_S
        self._delivery.answer(batch, urgent=True)
        self._last = f"last: {batch[-1].message}"
        self._wake.set()
        self._notifier.tell(STATUS=self._status())

    def _begin(self, tickets: Sequence[Ticket]) -> None:
        self._delivery.handled.update(ticket.request.name for ticket in tickets)
        started = self._passes.take(tickets, self._hostmap)
        for ticket in tickets:
            self._journal.info(str(ticket.request), request_id=ticket.request.request_id)
        for one in started:
            hosts = [host.name for host in one.hosts]
            self._journal.notice(
                f"fencing {', '.join(hosts)}, within {one.until - self._loop.time():.1f} s", hosts=hosts
            )
            # Beside the cut: it says that a cut was begun, should we not live to say how it ended.
            self._note(
                "begun",
                hosts=[ticket.host.name for ticket in one.tickets],
                files=[ticket.request.name for ticket in one.tickets],
            )
        self._notifier.tell(STATUS=self._status())

    def _note(self, event: str, **fields: Any) -> None:
        """Put an event into the audit some time."""
        time_and_event = {"time": answers.precise(self._wall()), "event": event}
        self._delivery.note({**time_and_event, **fields, "watcher": answers.watcher()})

    def _once_visible(self, made: Pass) -> Callable[[answers.Answer], None] | None:
        """Return what is to be told of each answer of a pass as soon as its response is visible."""
        afterwards = self._afterwards
        if afterwards is None:
            return None
        hosts = {ticket.request.name: ticket.host for ticket in made.tickets}
        told: set[str] = set()

        def visible(answer: answers.Answer) -> None:
            host = hosts[answer.outgoing.name]
            if answer.result is Result.FENCED and host.name not in told:
                told.add(host.name)
                afterwards.fenced(answer, host)

        return visible

    def _pass_ended(self, made: Pass, again: list[Ticket]) -> None:
        """Answer everyone of a pass; those who joined it in vain and have time are looked at again."""
        now = self._loop.time()
        batch = []
        for ticket in made.tickets:
            times = {**made.times, "waited": ticket.waited, "total": now - ticket.read_at}
            host = ticket.host.name
            none = made.why_no_report(host)
            batch.append(
                answers.fenced_or_not(
                    ticket.request,
                    host,
                    None if none else made.report,
                    none,
                    self._wall(),
                    times,
                    self._mark,
                    made.unrecorded.get(host, ""),
                    timing.before(ticket, made, now, self._wall()),
                ).until(ticket.until)
            )
        if any(answer.result is Result.FENCED for answer in batch):
            # Until these are visible no restore may begin: they would say that a host is cut which has all again.
            self._delivery.answer(batch, urgent=True, visible=self._once_visible(made), settled=made.release)
        else:
            made.release()
            self._delivery.answer(batch, urgent=True)
        if batch:
            self._last = f"last: {batch[-1].message}"
        self._delivery.handled.difference_update(ticket.request.name for ticket in again)
        self._lookout.pass_ended()
        self._publishing.ended(made)
        self._wake.set()
        self._notifier.tell(STATUS=self._status())

    async def _archive_unfenced(self) -> None:
        """Put away responses to an `on` that were read by now; the NNF node manager would take them for fences."""
        if self._loop.time() > self._unfenced_until:
            return
        with contextlib.suppress(Stuck, OSError):
            standing = await self._workers.spool.do(self._desk.archive_unfenced, SPOOL_S)
            if self._unfenced_until == float("inf") and self._desk.descriptor >= 0:
                self._unfenced_until = self._loop.time() + (UNFENCED_FOR_S + RESCAN_S if standing else 0.0)

    async def _gone(self, names: Collection[str]) -> frozenset[str]:
        """Return which of these requests were withdrawn. Raises Stuck, and SpoolError where it cannot be told."""
        return await self._workers.spool.do(lambda: self._desk.gone(names), SPOOL_S)

    async def _find(self, within: float) -> Sequence[Drive]:
        return await self._workers.discovery.do(self._site.discover, within)

    async def _survey(self, hostmap: HostMap) -> Survey:
        deadline = self._settings.deadline
        found, hosts = await self._find(deadline), list(hostmap.hosts.values())
        return await survey(self._site.transport, hostmap, found, hosts, deadline, secondaries=True)

    async def _first_look(self) -> None:
        """Look at the drives once, so that the log says at the start what a fence would meet."""
        try:
            seen = await self._survey(self._hostmap)
        except Exception as error:
            self._journal.error(f"the drives cannot be looked at: {type(error).__name__}: {error}")
            return
        simulated = "SIMULATED " if self._site.simulated else ""
        self._journal.info(f"{counted(len(seen.drives), simulated + 'drive')} through {seen.backend}")
        for trouble in [
            *seen.missing,
            *(f"{drive.serial}: {drive.problem}" for drive in seen.drives if drive.problem),
        ]:
            self._journal.error(f"{trouble}: no fence will be confirmed")

    async def _pulse(self) -> None:
        """Ping the service manager's watchdog for as long as looks at the directory go on, or the service ends."""
        interval = self._notifier.watchdog_s / 3
        while interval:
            if self._stopping or self._loop.time() - self._turned < _TURN_S:
                self._notifier.tell(WATCHDOG=1)
            await asyncio.sleep(interval)

    def _listen(self) -> None:
        try:
            self._inotify = Inotify()
        except OSError as error:
            self._journal.warning(f"no inotify ({error.strerror}): looking every {RESCAN_S:g} s only")
            return
        self._loop.add_reader(self._inotify.fd, self._hinted)
        self._follow()

    def _unlisten(self) -> None:
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None

    def _follow(self) -> None:
        """Have inotify look at the directory that is open now."""
        if self._inotify is None or self._desk.opened == self._followed or self._desk.descriptor < 0:
            return
        self._followed = self._desk.opened
        try:
            self._inotify.follow(self._desk.descriptor)
        except OSError as error:
            self._journal.warning(f"no inotify here ({error.strerror}): looking every {RESCAN_S:g} s only")

    def _hinted(self) -> None:
        if self._inotify is not None and self._inotify.concerns(SUFFIX.encode()):
            self._wakeup.hinted(self._loop.time())
            self._wake.set()

    def _tell_conditions(self, troubles: dict[str, str]) -> None:
        found = {**troubles, **self._delivery.troubles, **self._guard.troubles(), **self._lookout.troubles}
        found |= self._publishing.troubles
        if self._afterwards is not None and self._afterwards.trouble:
            found["after a fence"] = self._afterwards.trouble
        if self._map_trouble:
            found["host map"] = self._map_trouble
        found |= {f"record of {host}": trouble for host, trouble in self._keeper.troubles.items()}
        if self._journal.conditions(found):
            self._notifier.tell(STATUS=self._status())

    def _alarm_changed(self) -> None:
        self._notifier.tell(STATUS=self._status())
        self._publishing.soon()

    def _status(self) -> str:
        hosts = ", ".join(self._passes.hosts)
        restored = ", ".join(self._givebacks.hosts)
        doing = f"fencing {hosts}" if hosts else f"restoring {restored}" if restored else "serving"
        trouble = f"; TROUBLE: {self._journal.trouble}" if self._journal.trouble else ""
        returned = f"{self._lookout.status}; " if self._lookout.status else ""
        return f"{returned}{doing}; {self._last}{trouble}"

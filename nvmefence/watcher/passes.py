"""Fences in hand: which requests they are for, who joins, and when each must end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from nvmefence.fencing.evidence import FenceReport
from nvmefence.fencing.fence import Options, fence
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.records.beside import Beside
from nvmefence.records.hostlock import HostLocks
from nvmefence.records.recorder import Keeper
from nvmefence.site import Site
from nvmefence.spool.request import Request
from nvmefence.watcher.worker import Stuck, Worker

ANSWERING_S = 0.5
"""Seconds, at most, that are kept of a request's time for audit and response."""
_RECORD_S = 0.2
"""Seconds, at most, that an answer waits for the record of what was taken from one host."""
_RECORDS_S = 2.0
"""The same for all hosts of a pass."""
_WANTED_S = 0.05
"""Seconds, at most, that a cut waits for the word that its requests are still there, if all were read just now. The
drives are found meanwhile, so it waits at all only where the directory is busy or hangs."""
_STALE_WANTED_S = 2.0
"""The same where a request was read earlier: without the word its host is not cut."""
_FRESH_S = 0.25
"""Seconds from the reading of a request to the lock that keeps restores away, in which nobody withdraws it and
gives its host back as well: it counts as wanted without the word."""
_STILL_S = 5.0
"""Seconds from that lock on for which it does: who gives a host back without the lock has to start it anew."""
_WITHDRAWN = "the request was withdrawn before anything was cut"
_UNHEARD = "whether the request, read {age:.1f} s before, was withdrawn meanwhile cannot be told: nothing was cut"


@dataclass(slots=True)
class Ticket:
    """A request for a fence, from its reading to its answer."""

    request: Request
    host: Host
    read_at: float
    """Loop time."""
    until: float
    """Loop time after which nobody waits for the answer any more."""
    waited: float
    """Seconds from the request's date to its reading."""
    woken: float = 0.0
    """Loop time of what had the watcher look when it found the request."""
    hint: str = ""
    """What that was: `Wakeup`'s word."""


@dataclass(slots=True)
class Pass:
    """One fence of one or more hosts, for everyone who asked for it."""

    hosts: tuple[Host, ...]
    tickets: list[Ticket]
    until: float
    """Loop time."""
    report: FenceReport | None = None
    defect: str = ""
    """Why there is no report."""
    times: dict[str, float] = field(default_factory=dict)
    moments: dict[str, float] = field(default_factory=dict)
    """Loop times: begun, found (the drives; the fence begins), ended, recorded."""
    unrecorded: dict[str, str] = field(default_factory=dict)
    """Why what was taken is not on record, by host."""
    enforcing: tuple[str, str] | None = None
    """Of a fence that no request asked for: what goes on record as its id, and as who wanted it."""
    withdrawn: frozenset[str] = frozenset()
    """Hosts that are not fenced, for nobody waits for it any more."""
    unheard: dict[str, str] = field(default_factory=dict)
    """Hosts that are not fenced, for it cannot be told whether anybody waits for it: why, in words."""
    release: Callable[[], None] = lambda: None
    """Lets restores of the hosts begin; to be called when no answer can be visible later that says they are cut."""
    task: asyncio.Task[None] | None = None
    """Runs it."""

    def why_no_report(self, host: str) -> str:
        """Say why there is no report about a host; empty: there is one."""
        return _WITHDRAWN if host in self.withdrawn else self.unheard.get(host, self.defect)


class Passes:
    """Runs fences side by side: none waits for another that has met a drive which does not answer."""

    def __init__(
        self,
        site: Site,
        discovery: Worker,
        options: Options,
        keeper: Keeper,
        locks: HostLocks,
        done: Callable[[Pass, list[Ticket]], None],
        gone: Callable[[Collection[str]], Awaitable[frozenset[str]]] | None = None,
    ) -> None:
        """`done` is called with each pass at its end, and with those who joined it and may try again; it sees to it
        that the pass's `release` is called. `gone` tells which of some requests were withdrawn, by their names.
        """
        self._site = site
        self._discovery = discovery
        self._options = options
        self._deadline = options.deadline
        self._keeper = keeper
        self._locks = locks
        self._done = done
        self._gone = gone
        self._by_host: dict[str, Pass] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that are being fenced."""
        return tuple(self._by_host)

    def fencing(self, host: Host) -> bool:
        """Whether this host is being fenced."""
        return host.name in self._by_host

    def take(self, tickets: Sequence[Ticket], hostmap: HostMap) -> list[Pass]:
        """Fence for all of them in as few passes as their times allow; return the new passes.

        A host that is being given something has one of its own, for it is confirmed only when that has ended. Whose
        request was read long ago is apart: it may have to wait for the request directory (`_stale`).
        """
        fresh: dict[str, list[Ticket]] = {}
        for ticket in tickets:
            running = self._by_host.get(ticket.host.name)
            if running is not None:
                running.tickets.append(ticket)
            else:
                fresh.setdefault(ticket.host.name, []).append(ticket)
        now = asyncio.get_running_loop().time()
        together: dict[bool, list[Ticket]] = {False: [], True: []}
        started = []
        for group in fresh.values():
            latest = max(ticket.until for ticket in group)
            end = latest - min(ANSWERING_S, (latest - now) / 10)
            if end >= now + self._deadline and not self._locks.hindered(group[0].host.name):
                together[now - max(ticket.read_at for ticket in group) > _FRESH_S] += group
            else:  # nobody shall wait with it
                started.append(self._start(group, min(end, now + self._deadline), hostmap))
        started += [self._start(part, now + self._deadline, hostmap) for part in together.values() if part]
        return started

    def _start(self, tickets: list[Ticket], until: float, hostmap: HostMap) -> Pass:
        hosts = tuple({ticket.host.name: ticket.host for ticket in tickets}.values())
        return self._begin(Pass(hosts, tickets, until), hostmap)

    def enforce(self, host: Host, known_as: tuple[str, str], hostmap: HostMap) -> Pass | None:
        """Fence a host that no request is there for; None: it is being fenced. Who asks meanwhile joins.

        `known_as` goes on record as the fence's id, and as who wanted it.
        """
        if self.fencing(host):
            return None
        until = asyncio.get_running_loop().time() + self._deadline
        return self._begin(Pass((host,), [], until, enforcing=known_as), hostmap)

    def _begin(self, made: Pass, hostmap: HostMap) -> Pass:
        for host in made.hosts:
            self._by_host[host.name] = made
        task = made.task = asyncio.create_task(self._run(made, hostmap, len(made.tickets)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return made

    async def _run(self, made: Pass, hostmap: HostMap, originators: int) -> None:
        loop = asyncio.get_running_loop()
        itself = [] if made.enforcing is None else [made.enforcing]
        asked: dict[str, list[tuple[str, str]]] = {host.name: list(itself) for host in made.hosts}
        for ticket in made.tickets:
            asked[ticket.host.name].append((ticket.request.request_id, "watcher"))
        beside = Beside(self._keeper, self._locks, asked, self._options.quiesce.name, self._site.in_flight)
        made.release = beside.end
        beside.enter(asked)
        await self._fence(made, hostmap, beside)
        ended = loop.time()
        left = max((ticket.until for ticket in made.tickets), default=made.until + ANSWERING_S) - ended
        most = max(left, 0.0) / 3
        try:
            made.unrecorded = await beside.record(made.report, min(_RECORD_S, most), min(_RECORDS_S, most))
        except Exception as error:  # it keeps nobody from being answered
            why = f"defect in nvmefence: {type(error).__name__}: {error}"
            made.unrecorded = dict.fromkeys((host.name for host in made.hosts), why)
        made.moments["recorded"] = recorded = loop.time()
        made.times["record"] = recorded - ended
        for host in made.hosts:
            self._by_host.pop(host.name, None)
        again = self._may_try_again(made, made.tickets[originators:], loop.time())
        if again:
            made.tickets = [ticket for ticket in made.tickets if ticket not in again]
        self._done(made, again)

    async def _fence(self, made: Pass, hostmap: HostMap, beside: Beside) -> None:
        loop = asyncio.get_running_loop()
        start = made.moments["begun"] = loop.time()
        wanted = loop.create_task(self._wanted(made))
        try:
            found = await self._discovery.do(self._site.discover, made.until - start)
            made.moments["found"] = loop.time()
            made.times["discovery"] = made.moments["found"] - start
            stale = self._stale(made, start)
            await asyncio.wait({wanted}, timeout=_STALE_WANTED_S if stale else _WANTED_S)
            heard = wanted.result() if wanted.done() else None
            if heard is None:
                made.unheard = self._stale(made, start)
                hosts = tuple(host for host in made.hosts if host.name not in made.unheard)
            else:
                hosts = heard
                made.withdrawn = frozenset(host.name for host in made.hosts) - {host.name for host in hosts}
            beside.leave_out(made.withdrawn | made.unheard.keys())
            if hosts:
                options = beside.options(replace(self._options, until=made.until))
                made.report = await fence(self._site.transport, hostmap, found, hosts, options, beside.heard)
        except Stuck as error:
            made.defect = f"the drives were not found in time: {error}"
        except OSError as error:
            made.defect = f"the drives cannot be found: {error}"
        except Exception as error:
            made.defect = f"defect in nvmefence: {type(error).__name__}: {error}"
        made.moments["ended"] = loop.time()
        made.times["fence"] = made.moments["ended"] - start

    def _stale(self, made: Pass, begun: float) -> dict[str, str]:
        """Return the hosts whose requests were all read so long ago that they may have been given back since."""
        if self._gone is None or made.enforcing is not None:
            return {}
        now = asyncio.get_running_loop().time()
        read: dict[str, float] = {}
        for ticket in made.tickets:
            read[ticket.host.name] = max(ticket.read_at, read.get(ticket.host.name, 0.0))
        return {
            name: _UNHEARD.format(age=now - at)
            for name, at in read.items()
            if begun - at > _FRESH_S or now - begun > _STILL_S
        }

    async def _wanted(self, made: Pass) -> tuple[Host, ...] | None:
        """Return the hosts that somebody still wants fenced, now that nobody can restore them unseen.

        A request may have been withdrawn since it was read, and its host given back since. None: it cannot be told.
        """
        if self._gone is None or made.enforcing is not None:
            return made.hosts
        tickets = list(made.tickets)
        try:
            gone = await self._gone([ticket.request.name for ticket in tickets])
        except Exception:  # whatever it is, it keeps nobody from being fenced whose request was read just now
            return None
        wanted = {ticket.host.name for ticket in tickets if ticket.request.name not in gone}
        return tuple(host for host in made.hosts if host.name in wanted)

    def _may_try_again(self, made: Pass, joined: Sequence[Ticket], now: float) -> list[Ticket]:
        """Return who joined a pass and needs one of its own.

        That is who came when the drives had been read for the last time, and, where the pass was not confirmed, who
        has time left for another.
        """
        ended = made.moments["ended"]
        return [
            ticket
            for ticket in joined
            if ticket.read_at > ended
            or (
                not (made.report and made.report.confirmed(ticket.host.name))
                and ticket.until - now > self._options.quiesce.least + ANSWERING_S
            )
        ]

    async def finish(self) -> None:
        """Wait until the fences in hand have ended; each has a deadline."""
        while self._tasks:
            await asyncio.wait(self._tasks)

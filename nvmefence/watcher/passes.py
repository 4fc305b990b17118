"""Fences in hand: which requests they are for, who joins, and when each must end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from nvmefence.fencing.evidence import FenceReport
from nvmefence.fencing.fence import Options, fence
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.site import Site
from nvmefence.spool.request import Request
from nvmefence.watcher.worker import Stuck, Worker

_ANSWERING_S = 0.5
"""Seconds, at most, that are kept of a request's time for audit and response."""


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


class Passes:
    """Runs fences side by side: none waits for another that has met a drive which does not answer."""

    def __init__(
        self,
        site: Site,
        discovery: Worker,
        options: Options,
        done: Callable[[Pass, list[Ticket]], None],
    ) -> None:
        """`done` is called with each pass at its end, and with those who joined it and may try again."""
        self._site = site
        self._discovery = discovery
        self._options = options
        self._deadline = options.deadline
        self._done = done
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
        """Fence for all of them in as few passes as their times allow; return the new passes."""
        fresh: dict[str, list[Ticket]] = {}
        for ticket in tickets:
            running = self._by_host.get(ticket.host.name)
            if running is not None:
                running.tickets.append(ticket)
            else:
                fresh.setdefault(ticket.host.name, []).append(ticket)
        now = asyncio.get_running_loop().time()
        together: list[Ticket] = []
        started = []
        for group in fresh.values():
            latest = max(ticket.until for ticket in group)
            end = latest - min(_ANSWERING_S, (latest - now) / 10)
            if end >= now + self._deadline:
                together += group
            else:
                started.append(self._start(group, end, hostmap))
        if together:
            started.append(self._start(together, now + self._deadline, hostmap))
        return started

    def _start(self, tickets: list[Ticket], until: float, hostmap: HostMap) -> Pass:
        hosts = tuple({ticket.host.name: ticket.host for ticket in tickets}.values())
        made = Pass(hosts, tickets, until)
        for host in hosts:
            self._by_host[host.name] = made
        task = asyncio.create_task(self._run(made, hostmap, len(tickets)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return made

    async def _run(self, made: Pass, hostmap: HostMap, originators: int) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            found = await self._discovery.do(self._site.discover, made.until - start)
            made.times["discovery"] = loop.time() - start
            options = replace(self._options, deadline=made.until - loop.time())
            made.report = await fence(self._site.transport, hostmap, found, made.hosts, options)
        except Stuck as error:
            made.defect = f"the drives were not found in time: {error}"
        except OSError as error:
            made.defect = f"the drives cannot be found: {error}"
        except Exception as error:
            made.defect = f"defect in nvmefence: {type(error).__name__}: {error}"
        made.times["fence"] = loop.time() - start
        for host in made.hosts:
            self._by_host.pop(host.name, None)
        again = self._may_try_again(made, made.tickets[originators:], loop.time())
        if again:
            made.tickets = [ticket for ticket in made.tickets if ticket not in again]
        self._done(made, again)

    def _may_try_again(self, made: Pass, joined: Sequence[Ticket], now: float) -> list[Ticket]:
        """Return who joined a pass that was not confirmed and has time left for one of its own."""
        return [
            ticket
            for ticket in joined
            if not (made.report and made.report.confirmed(ticket.host.name))
            and ticket.until - now > self._options.quiesce.least + _ANSWERING_S
        ]

    async def finish(self) -> None:
        """Wait until the fences in hand have ended; each has a deadline."""
        while self._tasks:
            await asyncio.wait(self._tasks)

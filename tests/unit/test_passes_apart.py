"""Who fences one host does not wait for what keeps another from being confirmed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from nvmefence.inventory.hostmap import HostMap
from nvmefence.records.hostlock import UNANSWERED_S, HostLocks
from nvmefence.watcher.passes import Passes, Ticket


class Bare(Passes):
    """Passes that are counted and not run."""

    def _start(self, tickets: list[Ticket], until: float, hostmap: Any) -> Any:
        return sorted(ticket.host.name for ticket in tickets), until


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


def ticket(name: str, now: float) -> Any:
    nothing: Any = None
    host: Any = Named(name)
    return Ticket(nothing, host, now, now + 120.0, 0.0)


@pytest.mark.parametrize("how", ["a restore", "what one left"])
def test_a_host_that_is_being_given_something_has_a_pass_of_its_own(tmp_path: Path, how: str) -> None:
    moment = [1000.0]
    locks = HostLocks(str(tmp_path), lambda: moment[0])
    lock = locks.restore("c2")
    if how == "what one left":
        lock.note(True)
        lock.end()

    async def passes() -> list[Any]:
        made = Bare.__new__(Bare)
        made._by_host, made._deadline, made._locks = {}, 30.0, locks
        now = asyncio.get_running_loop().time()
        started: Any = made.take([ticket(name, now) for name in ("c1", "c2", "c3")], cast(HostMap, None))
        return sorted(names for names, _until in started)

    assert asyncio.run(passes()) == [["c1", "c3"], ["c2"]]
    lock.end()
    moment[0] += UNANSWERED_S
    assert asyncio.run(passes()) == [["c1", "c2", "c3"]]

"""Whatever happens to hosts, records and drives: an alarm means that a fenced host is back, and no other is cut."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvmefence.nvme.emulated import delay, fail, hang
from nvmefence.watcher.enforcing import LONGEST_S, REQUESTED
from nvmefence.watcher.vigil import LONGEST_S as LONGEST_LOOK_S
from nvmefence.watcher.vigil import LOOK_S
from tests.property.test_watcher import MEMORY
from tests.property.vigil_world import DEADLINE_S, HOSTS, NSIDS, World, judged
from tests.property.virtual_time import run

VIGIL_S = 5.0
SETTLED_S = LONGEST_LOOK_S + VIGIL_S + LOOK_S + 2
"""Seconds after which, with good drives, everything has been looked at."""


class Step(NamedTuple):
    """Something happens after a pause."""

    pause: float
    what: str
    host: str
    detail: Any


def steps() -> st.SearchStrategy[list[Step]]:
    place = st.tuples(st.sampled_from([0, 1]), st.sampled_from(NSIDS))
    fault = st.sampled_from([hang(), delay(0.7), delay(9.0), fail(0x006), fail(0x006 | 0x4000), fail(0x370)])
    step = st.one_of(
        st.tuples(st.just("fence"), st.sampled_from([REQUESTED, "command line"])),
        st.tuples(st.just("fence"), st.sampled_from([REQUESTED, "command line"])),
        st.tuples(st.just("attach"), place),
        st.tuples(st.just("attach"), place),
        st.tuples(st.just("detach"), place),
        st.tuples(st.just("online"), st.tuples(st.booleans(), st.sampled_from([0, 1]))),
        st.tuples(st.just("restore"), st.none()),
        st.tuples(st.just("restored"), st.booleans()),
        st.tuples(st.just("unfence"), st.none()),
        st.tuples(st.just("readmit by hand"), st.none()),
        st.tuples(st.just("fault"), st.tuples(st.sampled_from([0, 1]), fault)),
        st.tuples(st.just("mend"), st.sampled_from([0, 1])),
        st.tuples(st.just("hint"), st.none()),
        st.tuples(st.just("new watcher"), st.none()),
    )
    pause = st.sampled_from([0.0, 0.001, 0.0025, 0.3, 0.9, 2.0, 5.5, 5.5, 30.0])
    host = st.sampled_from([*HOSTS[:1] * 5, *HOSTS])  # much happens to one
    return st.lists(
        st.tuples(pause, step, host).map(lambda one: Step(one[0], one[1][0], one[2], one[1][1])),
        min_size=1,
        max_size=24,
    )


class Director:
    """Makes the steps happen."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fences: set[asyncio.Task[bool]] = set()

    async def play(self, wanted: list[Step]) -> None:
        for step in wanted:
            await asyncio.sleep(step.pause)
            await self.happen(step)
        if self.fences:
            await asyncio.wait(self.fences)

    async def happen(self, step: Step) -> None:
        world, host = self.world, step.host
        if step.what == "fence":
            # Nobody fences a host that somebody restores; and here, one fence of a host at a time.
            if host not in world.fencing and host not in world.locks:
                self.fences.add(asyncio.create_task(world.fence(host, step.detail)))
                await asyncio.sleep(0)
        elif step.what == "attach":
            world.attach(host, *step.detail)
        elif step.what == "detach":
            world.detach(host, *step.detail)
        elif step.what == "online":
            world.set_online(host, *step.detail)
        elif step.what == "restore":
            world.begin_restore(host)
        elif step.what == "restored":
            world.end_restore(host, whole=step.detail)
        elif step.what == "unfence":
            world.unfence(host)
        elif step.what == "readmit by hand":
            world.standing.pop(host, None)
        else:
            await self.happen_to_all(step)

    async def happen_to_all(self, step: Step) -> None:
        world = self.world
        assert world.lookout is not None
        if step.what == "fault":
            world.fault(*step.detail)
        elif step.what == "mend":
            world.fault(step.detail, None)
        elif step.what == "hint":
            world.lookout.hint()
        elif step.what == "new watcher":
            await world.stop()
            world.start()

    async def settle(self) -> None:
        """Mend everything, let nobody do anything any more, and wait until all must have been seen."""
        for drive in range(len(self.world.drives)):
            self.world.fault(drive, None)
        for host in HOSTS:
            self.world.end_restore(host)
        await asyncio.sleep(SETTLED_S)


def expected(world: World) -> set[str]:
    return {host for host in HOSTS if world.fenced(host) and world.back(host)}


def whatever_happens(story: Callable[[Director], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Have hypothesis think of things that happen while a look-out runs, then tell the end of the story."""

    @given(
        wanted=steps(),
        rule=st.sampled_from(["none", "drain", "offline", "offline"]),
        latency=st.sampled_from([0.001, 0.2]),
        by=st.sampled_from([REQUESTED, "command line"]),
    )
    @settings(
        max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
    )
    def check(wanted: list[Step], rule: str, latency: float, by: str) -> None:
        async def whole(world: World) -> None:
            async with world.looking():
                director = Director(world)
                await world.fence(HOSTS[0], by)
                world.transport.latency = latency
                await director.play(wanted)
                await director.settle()
                await story(director)

        with (
            tempfile.TemporaryDirectory(dir=MEMORY) as place,
            judged(Path(place), quiesce=rule, **options) as world,
        ):
            run(whole(world), world.clock)

    check()


def test_the_alarm_is_on_exactly_for_fenced_hosts_that_are_back() -> None:
    async def story(director: Director) -> None:
        world = director.world
        assert world.alarms() == expected(world)
        assert not world.heard("cutting")

    whatever_happens(story)


def test_only_a_host_that_counts_as_fenced_is_ever_cut_again() -> None:
    async def story(director: Director) -> None:
        world = director.world
        await asyncio.sleep(2 * (LONGEST_S + DEADLINE_S))
        assert world.alarms() == expected(world)
        for host in expected(world):
            assert not world.attached(host) or by_hand(world, host), f"{host} is left attached"

    whatever_happens(story, enforce=True)


def by_hand(world: World, host: str) -> bool:
    """Whether somebody took the host's responses away."""
    record = world.record(host)
    assert record is not None
    return any(one.by == REQUESTED for one in record.asked) and not world.standing.get(host)


def test_the_judges_notice_a_cut_of_a_host_that_is_not_fenced(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        async with world.looking():
            host = world.hostmap.hosts["c1"]
            made = world.passes.enforce(host, ("x", "x"), world.hostmap)
            assert made is not None
            assert made.task is not None
            await asyncio.wait([made.task])

    world = World(tmp_path)
    run(story(world), world.clock)
    assert world.wrong == ["c1 is cut and counts as fenced no longer"] * len(world.drives) * len(NSIDS)

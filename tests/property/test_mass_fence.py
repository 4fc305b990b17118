"""Whatever is asked for, the guard lets through no more than it may, and leaves nobody without an answer."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvmefence.nvme.emulated import delay
from nvmefence.watcher import permit
from nvmefence.watcher.massfence import MassFence
from tests.property.test_watcher import MEMORY, judge_the_end
from tests.property.virtual_time import Clock, run
from tests.property.watcher_world import DEADLINE_S, HOSTS, MAX_AGE_S, World, build, sabotage

SECONDS = 60.0


class Ask(NamedTuple):
    """Hosts are asked for, some time after the ask before."""

    pause: float
    hosts: list[str]
    wait: float
    allowed: bool


ASKS = st.lists(
    st.builds(
        Ask,
        st.sampled_from([0.0, 1.0, 20.0, 59.0, 60.0, 61.0, 200.0]),
        st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5, unique=True),
        st.sampled_from([0.0, 5.0, 60.0, 300.0]),
        st.sampled_from([False, False, False, True]),
    ),
    max_size=25,
)


@given(asks=ASKS, limit=st.integers(1, 4), restart=st.booleans())
@settings(max_examples=300, deadline=None)
def test_within_any_time_no_more_hosts_begin_than_the_limit_unless_a_person_said_so(
    asks: list[Ask], limit: int, restart: bool
) -> None:
    guard = MassFence(limit, SECONDS, hold=True)
    now = 1000.0
    begun: dict[str, float] = {}
    waited_for = float("-inf")
    for ask in asks:
        now += ask.pause
        if restart:
            successor = MassFence(limit, SECONDS, hold=True)
            successor.restore(guard.to_json(), now)
            guard = successor
        counted = {host for host, at in begun.items() if now - at < SECONDS}
        said = guard.ask(dict.fromkeys(ask.hosts, now + ask.wait), now, ask.allowed)
        assert said.admitted | said.held == set(ask.hosts)
        assert not said.admitted & said.held
        fresh = said.admitted - counted
        if ask.allowed:
            assert not said.held
            waited_for = float("-inf")
        else:
            assert not fresh or len(counted | fresh) <= limit
            assert not fresh or now - waited_for >= SECONDS, "time alone let it through"
            assert not said.held & counted
            assert not said.held or len(counted | set(ask.hosts)) > limit or now - waited_for < SECONDS
        if said.held:
            waited_for = max(waited_for, now + ask.wait)
        begun.update(dict.fromkeys(said.admitted, now))
        over = len({host for host, at in begun.items() if now - at < SECONDS} | said.held) > limit
        assert bool(guard.trouble(now)) >= over


@given(asks=ASKS, limit=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_an_alarm_holds_nobody_and_is_never_missed(asks: list[Ask], limit: int) -> None:
    guard = MassFence(limit, SECONDS, hold=False)
    now = 1000.0
    begun: dict[str, float] = {}
    for ask in asks:
        now += ask.pause
        before = {host for host, at in begun.items() if now - at < SECONDS}
        said = guard.ask(dict.fromkeys(ask.hosts, now + ask.wait), now, ask.allowed)
        begun.update(dict.fromkeys(ask.hosts, now))
        after = before | set(ask.hosts)
        assert said.admitted == set(ask.hosts)
        assert said.alarm == (len(after) > limit and after != before)
        assert bool(guard.trouble(now)) == (len(after) > limit)


class Step(NamedTuple):
    """Something happens in the world after a pause."""

    pause: float
    what: str
    host: str
    timeout: float | None


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from([0.0, 0.0, 0.001, 0.4, 3.0, 12.0, 25.0]),
        st.sampled_from(["ask", "ask", "ask", "ask", "restart", "restart", "withdraw", "readmit", "allow"]),
        st.sampled_from(HOSTS),
        st.sampled_from([None, 0.9, 8.0, 60.0]),
    ),
    min_size=1,
    max_size=12,
)
WINDOW_S = 20.0
ALLOWED_S = 15.0


class Spell(NamedTuple):
    """A time in which a person has allowed everything, with what a pass that began in it takes."""

    first: float
    last: float


@given(steps=STEPS, limit=st.integers(1, 2))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_the_watcher_cuts_no_more_than_the_guard_lets_through_and_answers_everyone(
    steps: list[Step], limit: int
) -> None:
    allowed: list[Spell] = []

    async def story(world: World) -> None:
        world.start()
        await asyncio.sleep(0.01)
        for step in steps:
            await asyncio.sleep(step.pause)
            await happen(world, step, allowed)
        await asyncio.sleep(MAX_AGE_S + 2 * DEADLINE_S + 10)
        await world.stop()

    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        world = guarded(place, limit)
        run(story(world), world.clock)
        judge_the_end(world)
        judge_begun(world.begun, limit, allowed)


async def happen(world: World, step: Step, allowed: list[Spell]) -> None:
    run_dir, now = world.settings.run_dir, world.clock.now
    if step.what == "ask":
        world.ask(len(world.asked), step.host, "off", step.timeout, "ours")
    elif step.what == "allow":
        permit.give(run_dir, permit.Permit(now + ALLOWED_S, "somebody"), now)
        allowed.append(Spell(now, now + ALLOWED_S))
    elif step.what == "withdraw":
        for asked in world.asked.values():
            if asked.host == step.host and asked.withdrawn == float("inf"):
                world.withdraw(asked)
    elif step.what == "readmit":
        world.readmit(step.host)
    else:
        await world.stop()
        world.start()


def guarded(place: str, limit: int) -> World:
    world = build(Path(place), Clock())
    world.settings = replace(
        world.settings,
        mass_fence_hosts=limit,
        mass_fence_s=WINDOW_S,
        mass_fence_action="hold",
        run_dir=f"{place}/run",
    )
    return world


def judge_begun(begun: Iterable[tuple[float, tuple[str, ...]]], limit: int, allowed: list[Spell]) -> None:
    """No fence began beyond the limit but while it was allowed."""
    last: dict[str, float] = {}
    for at, hosts in begun:
        counted = {host for host, moment in last.items() if at - moment < WINDOW_S}
        fresh = set(hosts) - counted
        if fresh and not any(spell.first <= at <= spell.last for spell in allowed):
            assert len(counted | fresh) <= limit, (at, hosts, counted)
        last.update(dict.fromkeys(hosts, at))


def test_held_hosts_are_fenced_after_a_persons_word_and_not_before() -> None:
    async def story(world: World) -> None:
        world.start()
        await asyncio.sleep(0.01)
        for number, host in enumerate(HOSTS):
            world.ask(number, host, "off", 30.0, "ours")
        await asyncio.sleep(5.0)
        assert [host for host in HOSTS if world.attached(host)] == ["c2", "c3"]
        assert len(world.responses) == 1
        permit.give(world.settings.run_dir, permit.Permit(world.clock.now + 60, "somebody"), world.clock.now)
        await asyncio.sleep(3.0)
        assert [host for host in HOSTS if world.attached(host)] == []
        await world.stop()

    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        world = guarded(place, 1)
        run(story(world), world.clock)
        judge_the_end(world)
        assert [answer["success"] for answer in world.responses.values()] == [True] * 3


def test_held_hosts_that_nobody_allows_are_refused_while_somebody_still_listens() -> None:
    async def story(world: World) -> None:
        world.start()
        await asyncio.sleep(0.01)
        asked = [world.ask(number, host, "off", 30.0, "ours") for number, host in enumerate(HOSTS)]
        await asyncio.sleep(asked[0].at + 30.0 - world.clock.now)
        assert len(world.responses) == 3
        await world.stop()

    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        world = guarded(place, 1)
        run(story(world), world.clock)
        judge_the_end(world)
        assert [host for host in HOSTS if world.attached(host)] == ["c2", "c3"]
        messages = [answer["message"] for answer in world.responses.values() if not answer["success"]]
        assert len(messages) == 2
        assert all("held by the mass-fence guard (more than 1 host in 20 s)" in text for text in messages)
        assert all("to allow it: nvmefence allow-mass-fence" in text for text in messages)


def test_a_successor_counts_what_its_predecessor_fenced() -> None:
    steps = [Step(0.0, "ask", "c1", 60.0), Step(3.0, "restart", "c1", None), Step(0.4, "ask", "c2", 60.0)]

    async def story(world: World) -> None:
        world.start()
        await asyncio.sleep(0.01)
        for step in steps:
            await asyncio.sleep(step.pause)
            await happen(world, step, [])
        await asyncio.sleep(MAX_AGE_S + 10)
        await world.stop()

    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        world = guarded(place, 1)
        run(story(world), world.clock)
        judge_the_end(world)
        assert [hosts for _, hosts in world.begun] == [("c1",)]


def test_a_fence_that_is_under_way_is_joined_however_many_others_began_since() -> None:
    async def story(world: World) -> None:
        world.start()
        await asyncio.sleep(0.01)
        for number in range(len(world.drives)):
            sabotage(world, number, delay(0.4), world.clock.now + 0.3)
        world.ask(0, "c1", "off", 30.0, "ours")
        await asyncio.sleep(0.3)
        world.ask(1, "c2", "off", 30.0, "ours")
        await asyncio.sleep(0.01)
        world.ask(2, "c1", "off", 30.0, "ours")
        await asyncio.sleep(5.0)
        await world.stop()

    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        world = guarded(place, 1)
        world.settings = replace(world.settings, mass_fence_s=0.2)
        run(story(world), world.clock)
        judge_the_end(world)
        assert [hosts for _, hosts in world.begun] == [("c1",), ("c2",)]
        assert [answer["success"] for answer in world.responses.values()] == [True] * 3

"""Whatever comes in and whatever breaks: no false success, no unwanted cut, one answer for each request."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvmefence.nvme.emulated import delay, fail, hang
from tests.property.virtual_time import Clock, run
from tests.property.watcher_world import DEADLINE_S, HOSTS, MAX_AGE_S, World, build, sabotage

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


_SPOOL_STEPS = ("lose requests", "lose responses", "replace requests", "break audit", "mend", "restart")


class Step(NamedTuple):
    """Something happens after a pause."""

    pause: float
    what: str
    detail: Any


def _steps() -> st.SearchStrategy[list[Step]]:
    ask = st.tuples(
        st.sampled_from(HOSTS),
        st.sampled_from(["off", "off", "reboot", "on"]),
        st.sampled_from([None, 0.9, 3.0, 8.0, 60.0]),
        st.sampled_from(["ours", "target", "in-place"]),
    )
    fault = st.tuples(
        st.integers(0, 1),
        st.sampled_from([hang(), hang(applied=True), delay(0.7), delay(9.0), fail(0x006), fail(0x370)]),
        st.floats(0.1, 12.0),
    )
    asking = st.tuples(st.just("ask"), ask)
    others = st.one_of(
        st.tuples(st.just("withdraw"), st.integers(0, 20)),
        st.tuples(st.just("readmit"), st.sampled_from(HOSTS)),
        st.tuples(st.just("drive"), fault),
        st.tuples(
            st.sampled_from(["lose requests", "lose responses", "break audit", "mend", "restart"]), st.none()
        ),
        st.tuples(st.just("replace requests"), st.none()),
        st.tuples(st.just("repeat"), st.integers(0, 20)),
        st.tuples(st.just("reload"), st.booleans()),
    )
    pause = st.sampled_from([0.0, 0.0, 0.0005, 0.002, 0.3, 1.1, 6.0, 20.0, 45.0])
    step = st.tuples(pause, st.one_of(asking, others)).map(lambda pair: Step(pair[0], *pair[1]))
    return st.lists(step, min_size=1, max_size=14)


class Director:
    """Makes the steps happen."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.texts: dict[str, bytes] = {}

    async def play(self, steps: list[Step]) -> None:
        for step in steps:
            await asyncio.sleep(step.pause)
            await self.happen(step.what, step.detail)

    async def happen(self, what: str, detail: Any) -> None:
        world = self.world
        if what == "ask":
            with contextlib.suppress(FileNotFoundError):  # the directory is away: the agent fails
                asked = world.ask(len(world.asked), *detail)
                self.texts[asked.name] = (world.requests / asked.name).read_bytes()
        elif what == "withdraw" and world.asked:
            world.withdraw(list(world.asked.values())[detail % len(world.asked)])
        elif what == "readmit":
            world.readmit(detail)
        elif what == "drive":
            number, fault, seconds = detail
            sabotage(world, number, fault, world.clock.now + seconds)
        elif what == "repeat" and self.texts:
            self.repeat(sorted(self.texts)[detail % len(self.texts)])
        elif what == "restart":
            await world.stop()
            world.start()
        elif what == "reload":
            await self.reload(detail)
        else:
            self.spool(what)

    def repeat(self, name: str) -> None:
        """Put the file of an answered request there once more."""
        if name in self.world.responses and self.world.requests.is_dir():
            self.world.put(self.world.requests / name, self.texts[name])

    async def reload(self, good: bool) -> None:
        assert self.world.watcher is not None
        with self.world.host_map("" if good else "[hosts"):
            await self.world.watcher.reload()

    def spool(self, what: str) -> None:
        world = self.world
        away = {path: path.with_name(path.name + "-away") for path in (world.requests, world.answers)}
        audit = Path(world.settings.audit)
        if what == "lose requests" and world.requests.is_dir():
            world.requests.rename(away[world.requests])
        elif what == "lose responses" and world.answers.is_dir():
            world.answers.rename(away[world.answers])
        elif what == "replace requests" and world.requests.is_dir() and not away[world.requests].exists():
            shutil.copytree(world.requests, away[world.requests])
            shutil.rmtree(world.requests)
            away[world.requests].rename(world.requests)
        elif what == "break audit" and not audit.is_dir():
            if audit.exists():
                audit.rename(audit.with_suffix(".kept"))
            audit.mkdir()
        elif what == "mend":
            self.mend()

    def mend(self) -> None:
        world = self.world
        for path in (world.requests, world.answers):
            away = path.with_name(path.name + "-away")
            if away.exists() and not path.exists():
                away.rename(path)
        audit = Path(world.settings.audit)
        if audit.is_dir():
            audit.rmdir()
            kept = audit.with_suffix(".kept")
            if kept.exists():
                kept.rename(audit)


@contextlib.contextmanager
def fresh(quiesce: float, **settings: Any) -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        yield build(Path(place), Clock(), quiesce=quiesce, **settings)


def judge_the_end(world: World) -> None:
    world.look_on()
    world.judge_cuts()
    assert world.wrong == []
    answered = [document["request_id"] for document in world.responses.values()]
    assert len(answered) == len(set(answered))
    unanswered = {a.request_id for a in world.asked.values() if a.withdrawn == float("inf")} - set(answered)
    assert unanswered == set()
    assert sorted(p.name for p in world.requests.glob("*.json")) == []


@given(steps=_steps(), quiesce=st.sampled_from([0.0, 0.5]), agents_may_restore=st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_no_false_success_no_unwanted_cut_and_one_answer_each(
    steps: list[Step], quiesce: float, agents_may_restore: bool
) -> None:
    async def story(world: World) -> None:
        director = Director(world)
        world.start()
        await asyncio.sleep(0.01)
        await director.play(steps)
        director.mend()
        world.transport.faults.clear()
        await asyncio.sleep(MAX_AGE_S + 2 * DEADLINE_S + 10)
        await world.stop()

    with fresh(quiesce, agents_may_restore=agents_may_restore) as world:
        run(story(world), world.clock)
        judge_the_end(world)


@given(hosts=st.lists(st.sampled_from(HOSTS), min_size=1, max_size=8), pause=st.sampled_from([0.0, 0.0003, 0.3]))
@settings(max_examples=30, deadline=None)
def test_every_request_to_good_drives_succeeds_however_many_ask(hosts: list[str], pause: float) -> None:
    async def story(world: World) -> None:
        world.start()
        await asyncio.sleep(0.01)
        for number, host in enumerate(hosts):
            world.ask(number, host, "off", 30.0, "ours")
            await asyncio.sleep(pause)
        await asyncio.sleep(3.0)
        await world.stop()

    with fresh(0.5) as world:
        run(story(world), world.clock)
        judge_the_end(world)
        assert [d["success"] for d in world.responses.values()] == [True] * len(hosts)
        assert {host for host in HOSTS if not world.attached(host)} == set(hosts)

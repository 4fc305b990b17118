"""Invariants 5, 6, 9: killed at each turn of a fence or a restore, the next start ends it as if it had not been."""

from __future__ import annotations

import asyncio
import errno
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest

from nvmefence.fencing.quiesce import Method, Quiesce, parse
from nvmefence.records.record import Record
from nvmefence.records.store import Store
from nvmefence.watcher import service, vigil
from tests.property.killed_time import live
from tests.property.virtual_time import Clock
from tests.property.watcher_world import build

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
RULES: Final = [parse("drain"), parse("offline"), Quiesce(0.5)]
DEADLINE_S: Final = 30.0
"""Who ends a fence after one that was killed at its cut waits ten seconds for writes under way."""
DEAF: Final = OSError(errno.EMFILE, "no inotify here")
"""These watchers look for themselves: the kernel takes ten milliseconds to close an inotify instance, and there
would be two for each of two thousand lives."""
Pair = tuple[str, int, int]


class Lives:
    """One host that is fenced and restored by watchers that die."""

    def __init__(self, place: Path, rule: Quiesce) -> None:
        self.rule = rule
        self.world = build(place, Clock(), quiesce=rule, secondaries=True, agents_may_restore=True)
        self.world.settings = replace(self.world.settings, deadline=DEADLINE_S)
        self.place = place
        self.store = Store(self.world.settings.records)
        self.before = self.attached()
        self.states = self.secondaries()
        self.number = 0

    def attached(self) -> set[Pair]:
        """What c1 has now."""
        mine = self.world.controllers("c1")
        return {
            (drive.serial, nsid, n)
            for drive in self.world.drives
            for nsid, ids in drive.truth().items()
            for n in mine.intersection(ids)
        }

    def secondaries(self) -> list[dict[str, Any]]:
        return [drive.snapshot()["secondaries"] for drive in self.world.drives]

    def record(self) -> Record | None:
        records, troubles = self.store.load_all()
        assert troubles == []
        return records[0] if records else None

    def recorded(self) -> set[Pair]:
        record = self.record()
        return {(t.serial, t.nsid, n) for t in (record.taken if record else ()) for n in t.controllers}

    def ask(self, action: str) -> str:
        self.number += 1
        return self.world.ask(self.number, "c1", action, 60.0, "ours").name

    def life(self, *names: str, last: int = 0, seconds: float = 1.5) -> int:
        """Have a watcher live until these are answered and some time more, or until it is killed."""
        world = self.world

        async def story() -> None:
            world.start()
            for _look in range(6000):
                if all(map(self.response, names)):
                    break
                await asyncio.sleep(0.01)
            await asyncio.sleep(seconds)
            await world.stop()

        def leave() -> Any:
            return (
                [drive.snapshot() for drive in world.drives],
                world.clock.now,
                world.wrong,
                world.begun,
                world.said,
            )

        turns, left = live(story, world.clock, leave, last, self.place)
        states, world.clock.now, world.wrong, world.begun, world.said = left
        for drive, state in zip(world.drives, states, strict=True):
            drive.restore(state)
        world.look_on()
        assert world.wrong == []
        return turns

    def answer(self, name: str) -> Any:
        path = self.response(name)
        assert path is not None, f"{name} is not answered"
        return json.loads(path.read_bytes())

    def response(self, name: str) -> Path | None:
        """A response to an `on` is archived at once: its file is of another time than the watcher's clock."""
        places = (self.world.answers / name, self.world.answers / "archive" / name)
        return next((path for path in places if path.exists()), None)

    def standing(self) -> list[str]:
        """The responses that say that c1 is fenced."""
        found = [json.loads(path.read_bytes()) for path in self.world.answers.glob("*.json")]
        return [one["request_id"] for one in found if one["success"] and one["action"] != "on"]


@contextmanager
def lives(rule: Quiesce) -> Iterator[Lives]:
    with (
        tempfile.TemporaryDirectory(dir=MEMORY) as place,
        mock.patch.object(service, "Inotify", side_effect=DEAF),
        mock.patch.object(vigil, "Inotify", side_effect=DEAF),
    ):
        yield Lives(Path(place), rule)


def deaths(turns: int) -> range:
    """Every turn of the loop from a start to an answer: each await ends in one, and at most a few in the same."""
    assert turns > 30, "a fence and a restore have more"
    return range(1, turns + 1)


def judge_fenced(one: Lives, name: str) -> None:
    """The end of a fence, whatever happened on the way."""
    answer = one.answer(name)
    assert answer["success"] is True, answer["message"]
    assert not one.attached()
    record = one.record()
    assert record is not None
    assert record.confirmed
    offline = {(o.serial, o.cntlid) for o in record.offline}
    mine = one.world.controllers("c1")
    for drive, had in zip(one.world.drives, one.states, strict=True):
        for text, state in drive.snapshot()["secondaries"].items():
            stays = one.rule.method is Method.OFFLINE and int(text) in mine
            assert state == ([False, 0, 0] if stays else had[text])
            assert ((drive.serial, int(text)) in offline) == stays
    assert all(o.stays for o in record.offline)


def judge_restored(one: Lives, name: str, had: set[Pair]) -> None:
    answer = one.answer(name)
    assert answer["success"] is True, answer["message"]
    assert one.attached() == had
    assert one.secondaries() == one.states
    assert one.record() is None
    assert one.standing() == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_killed_in_a_fence_the_next_start_ends_it_and_gives_back_what_was_on_record(rule: Quiesce) -> None:
    with lives(rule) as whole:
        turns = whole.life(whole.ask("off"), seconds=0.0)
        judge_fenced(whole, "id-1.json")
        assert whole.recorded() == whole.before
    lost = 0
    for last in deaths(turns):
        with lives(rule) as one:
            off = one.ask("off")
            one.life(off, last=last)
            at_death = one.recorded()
            taken = one.before - one.attached()
            assert at_death <= one.before
            one.life(off)
            judge_fenced(one, off)
            recorded = one.recorded()
            assert recorded >= at_death
            assert recorded | (taken - at_death) == one.before, "only what was not on record yet can be missing"
            lost += recorded != one.before
            on = one.ask("on")
            one.life(on)
            judge_restored(one, on, recorded)
    assert lost <= len(deaths(turns)) // 3, "what is taken is on record almost at once"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_killed_in_a_restore_the_next_start_ends_it(rule: Quiesce) -> None:
    with lives(rule) as whole:
        whole.life(whole.ask("off"))
        turns = whole.life(whole.ask("on"), seconds=0.0)
        judge_restored(whole, "id-2.json", whole.before)
    for last in deaths(turns):
        with lives(rule) as one:
            one.life(one.ask("off"))
            on = one.ask("on")
            one.life(on, last=last)
            assert one.attached() | one.recorded() >= one.before, "nothing is lost"
            assert one.attached() <= one.before, "it has nothing that it did not have"
            one.life(on)
            judge_restored(one, on, one.before)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_killed_in_a_restore_a_fence_that_waits_wins_and_loses_nothing(rule: Quiesce) -> None:
    with lives(rule) as whole:
        whole.life(whole.ask("off"))
        turns = whole.life(whole.ask("on"), seconds=0.0)
    for last in deaths(turns):
        with lives(rule) as one:
            one.life(one.ask("off"))
            one.life(one.ask("on"), last=last)
            again = one.ask("off")
            one.life(again)
            judge_fenced(one, again)
            assert one.recorded() == one.before
            on = one.ask("on")
            one.life(on)
            judge_restored(one, on, one.before)


def test_a_request_that_expired_while_nobody_served_cuts_nobody_who_was_readmitted() -> None:
    with lives(parse("drain")) as one:
        off = one.ask("off")
        one.life(off, last=3)
        assert one.attached() == one.before
        one.world.clock.now += 61.0
        one.life(off)
        assert one.answer(off)["success"] is False
        assert one.attached() == one.before
        assert one.record() is None

"""Thousands of files at once: what is taken in stays bounded, and a fence among them is taken in at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvmefence.spool.request import Request
from nvmefence.spool.response import Response
from nvmefence.watcher import answers
from nvmefence.watcher.answers import Result
from nvmefence.watcher.desk import IN_HAND, Desk, Look, Outgoing

NOW = 1_800_000_000.0
MOST = 256


class Room:
    """Two directories with a desk, and a clock that stands."""

    def __init__(self, path: Path) -> None:
        self.requests, self.responses = path / "requests", path / "responses"
        for directory in (self.requests, self.responses):
            directory.mkdir()
        self.now = 100.0
        self.handled: set[str] = set()
        self.desk = Desk(str(self.requests), str(self.responses), 300.0, lambda: NOW, lambda: self.now)

    def put(self, name: str, text: str, age: float = 0.0) -> None:
        path = self.requests / name
        path.write_text(text)
        path.chmod(0o600)
        os.utime(path, (NOW - age, NOW - age))

    def ask(self, name: str, node: str = "c1", **more: object) -> None:
        self.put(name, json.dumps({"request_id": name, "action": "off", "target_node": node, **more}))

    def look(self) -> Look:
        """Look, and have in hand what is taken in."""
        self.now += 0.01
        look = self.desk.look(frozenset(self.handled), MOST, lambda request: request.target_node == "c1")
        taken = [one.request.name for one in look.incoming] + [one.name for one in look.bad] + list(look.repeats)
        assert len(taken) <= MOST
        assert self.handled.isdisjoint(taken)
        self.handled.update(taken)
        return look

    def fences(self, look: Look) -> list[str]:
        return [one.request.name for one in look.incoming if one.request.target_node == "c1"]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    room = Room(tmp_path)
    yield room
    room.desk.close()


def stale(room: Room, kind: str, count: int) -> None:
    for number in range(count):
        if kind == "bad":
            room.put(f"{number:05}.json", "{", age=60)
        elif kind == "unfinished":
            room.put(f"{number:05}.json", "{")
        elif kind == "stranger":
            room.ask(f"{number:05}.json", "nobody", pad="x" * 100)
        else:
            room.ask(f"{number:05}.json", timestamp="2020-01-01T00:00:00Z")


@pytest.mark.parametrize("kind", ["bad", "stranger", "expired", "unfinished"])
def test_a_fence_that_comes_to_a_backlog_is_taken_in_at_the_next_look(room: Room, kind: str) -> None:
    stale(room, kind, 1200)
    for _ in range(6):
        room.look()
    assert len(room.handled) <= IN_HAND
    room.ask("zzzzz.json")
    assert room.fences(room.look()) == ["zzzzz.json"]


@pytest.mark.parametrize("kind", ["bad", "stranger", "expired"])
def test_a_backlog_is_worked_off_whole_and_nothing_twice(room: Room, kind: str) -> None:
    stale(room, kind, 1000)
    seen: set[str] = set()
    looks = 0
    while len(seen) < 1000:
        look = room.look()
        assert look.more or look.young or room.handled, "nothing says that there is more"
        seen |= room.handled
        for name in list(room.handled)[:200]:  # so many were delivered meanwhile
            room.handled.discard(name)
            (room.requests / name).unlink()
        looks += 1
        assert looks < 50
    assert len(room.handled) <= IN_HAND


def test_fences_are_taken_in_however_much_is_in_hand_and_yet_not_without_end(room: Room) -> None:
    for number in range(2300):
        room.ask(f"{number:05}.json")
    for _ in range(20):
        room.look()
    assert IN_HAND < len(room.handled) <= 4 * IN_HAND


def test_a_file_that_becomes_whole_is_taken_in_though_thousands_are_left(room: Room) -> None:
    stale(room, "bad", 1200)
    room.put("in-place.json", '{"request_id": ')
    for _ in range(6):
        room.look()
    room.ask("in-place.json")
    assert room.fences(room.look()) == ["in-place.json"]


def test_what_waits_for_its_delivery_does_not_keep_what_only_the_audit_needs(room: Room) -> None:
    room.ask("r.json", pad=["x" * 50] * 500, gfs2_filesystems=["fs"] * 5000)
    (incoming,) = room.look().incoming
    made = answers.to_request(incoming.request, Result.NOT_FENCED, "m", NOW, evidence={"drives": [1]})
    light = made.light()
    assert len(made.audit_line(NOW)) > 30_000
    assert isinstance(light.request, Request)
    assert (dict(light.request.unknown), light.evidence) == ({}, None)
    assert light.event().lines()[2] == made.event().lines()[2]
    assert len(light.event().filesystems) == 64
    assert light.outgoing.response is made.outgoing.response


def test_a_replay_is_no_fence(room: Room) -> None:
    room.ask("r.json")
    room.look()
    response = Response(
        request_id="r.json", success=True, action_performed="off", target_node="c1", message="m", timestamp="t"
    )
    assert room.desk.deliver([Outgoing("r.json", response)]) == {}
    room.handled.clear()
    room.ask("r.json")
    assert room.look().repeats == ("r.json",)

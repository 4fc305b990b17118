"""Successful responses to an `on` are put away in time, and nothing else is, nor read again and again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvmefence.spool.directory import ResponseDirectory
from nvmefence.spool.response import Response
from nvmefence.watcher.unfenced import UNFENCED_FOR_S, Unfenced

NOW = 1_800_000_000.0


def answer(action: str, *, success: bool = True) -> Response:
    return Response(
        request_id="r", success=success, action_performed=action, target_node="c1", message="m", timestamp="t"
    )


class Room:
    """A response directory with a clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = NOW
        self.responses = ResponseDirectory(str(path))
        self.unfenced = Unfenced(self.responses, lambda: self.now)

    def publish(self, name: str, made: Response, *, noted: bool = True) -> None:
        if noted:
            self.unfenced.note(name, made)
        self.responses.publish(name, made)
        os.utime(self.path / name, (self.now, self.now))

    def standing(self) -> set[str]:
        return {path.name for path in self.path.glob("*.json")}


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    room = Room(tmp_path)
    yield room
    room.responses.close()


def test_a_successful_on_stands_for_a_while_and_is_archived(room: Room) -> None:
    assert room.unfenced.archive() == 0
    for name, made in (("on", answer("on")), ("off", answer("off")), ("no", answer("on", success=False))):
        room.publish(f"{name}.json", made)
    room.now += UNFENCED_FOR_S - 0.1
    assert room.unfenced.archive() == 1
    room.now += 0.2
    assert room.unfenced.archive() == 0
    assert room.standing() == {"off.json", "no.json"}
    assert (room.path / "archive" / "on.json").exists()


def test_what_a_predecessor_left_is_found_once(room: Room) -> None:
    for name, made in (("on", answer("on")), ("off", answer("off"))):
        room.publish(f"{name}.json", made, noted=False)
    (room.path / "bad.json").write_text("{")
    (room.path / "folder.json").mkdir()
    assert room.unfenced.archive() == 1
    room.now += UNFENCED_FOR_S
    assert room.unfenced.archive() == 0
    assert room.standing() == {"off.json", "bad.json", "folder.json"}


def test_thousands_of_fences_on_record_are_not_read_again(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        room.publish(f"{number}.json", answer("off"))
    room.unfenced.archive()
    room.publish("on.json", answer("on"))
    read: list[str] = []
    real = ResponseDirectory.read

    def counted(self: ResponseDirectory, name: str) -> Response:
        read.append(name)
        return real(self, name)

    monkeypatch.setattr(ResponseDirectory, "read", counted)
    for _ in range(3):
        assert room.unfenced.archive() == 1
    assert read == ["on.json"] * 3


def test_a_clock_that_was_set_back_makes_none_stand_for_ever(room: Room) -> None:
    room.unfenced.archive()
    room.publish("on.json", answer("on"))
    room.now -= 3600
    assert room.unfenced.archive() == 0
    assert room.standing() == set()

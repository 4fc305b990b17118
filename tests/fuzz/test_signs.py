"""What lies in place of the watcher's own files: it says so, touches nothing that is not its own, and serves."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Final

import pytest

from nvmefence.spool import heartbeat
from nvmefence.watcher import lock
from tests.fuzz.entries import End, Entry, Surroundings, make
from tests.fuzz.siege import HOST, MEMORY, Besieged
from tests.property.virtual_time import Clock, run
from tests.property.watcher_world import EPOCH, World, build

KINDS: Final = {
    "a link": ("link", "../outside/canary"),
    "a link to itself": ("link", "SELF"),
    "a link to nowhere": ("link", "../outside/new"),
    "another name of a file": ("hard link", "canary"),
    "a pipe": ("pipe", ""),
    "a socket": ("socket", ""),
    "a directory": ("folder", ""),
}


def served(name: str, kind: str) -> tuple[World, bool]:
    """Have a watcher begin with something under a name; return its world, and whether it serves."""
    made_as, detail = KINDS[kind]
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        world = build(Path(directory), Clock(), quiesce=0.0)
        world = Besieged(**{f.name: getattr(world, f.name) for f in dataclasses.fields(World)})
        around = Surroundings(Path(directory), b"{}", EPOCH)
        make(Entry(name.encode(), made_as, b"", End.STAYS, detail=detail), world.requests, EPOCH)
        before = os.lstat(world.requests / name)

        async def story() -> None:
            world.start()
            world.ask(0, HOST, "off", 20.0, "ours")
            await asyncio.sleep(15.0)
            await world.stop()

        run(story(), world.clock)
        around.hold()
        after = os.lstat(world.requests / name)
        assert (before.st_ino, before.st_mode, before.st_mtime_ns) == (
            after.st_ino,
            after.st_mode,
            after.st_mtime_ns,
        )
        return world, "id-0.json" in world.responses


@pytest.mark.parametrize("kind", KINDS)
def test_a_sign_of_life_that_cannot_be_given_is_said_and_costs_no_fence(kind: str) -> None:
    world, answered = served(heartbeat.NAME, kind)
    assert answered
    assert world.responses["id-0.json"]["success"] is True
    assert [line for line in world.said if line.get("condition") == "heartbeat"]


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_lock_a_watcher_serves_nobody_and_says_why(kind: str) -> None:
    world, answered = served(lock.NAME, kind)
    assert not answered
    assert [line for line in world.said if "cannot be locked" in line["message"]]
    assert world.attached(HOST)

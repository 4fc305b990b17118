"""What goes wrong after a cut costs neither the answer nor, for longer than it must, a restore."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest import mock

from nvmefence.errors import UnderWayError
from nvmefence.records.recorder import Recorder
from nvmefence.spool.directory import ResponseDirectory
from nvmefence.spool.errors import WriteFailed
from tests.property.virtual_time import Clock, run
from tests.property.watcher_world import World, build


def is_held(world: World, host: str) -> bool:
    """Whether a fence keeps restores of the host away."""
    assert world.watcher is not None
    try:
        world.watcher._passes._locks.restore(host).end()
    except UnderWayError:
        return True
    return False


def test_a_defect_in_the_record_keeps_nobody_from_being_answered_or_fenced_again(tmp_path: Path) -> None:
    world = build(tmp_path, Clock(), quiesce=0.0)

    async def story() -> None:
        world.start()
        await asyncio.sleep(0.01)
        with mock.patch.object(Recorder, "finish", side_effect=ZeroDivisionError("oh")):
            world.ask(1, "c1", "off", 30.0, "ours")
            await asyncio.sleep(2.0)
        assert not is_held(world, "c1")
        world.ask(2, "c1", "off", 30.0, "ours")
        await asyncio.sleep(2.0)
        await world.stop()

    run(story(), world.clock)
    assert [world.responses[f"id-{number}.json"]["success"] for number in (1, 2)] == [True, True]
    assert "not on record" in world.responses["id-1.json"]["message"]
    assert not world.attached("c1")


def test_a_success_that_can_no_longer_be_said_keeps_no_restore_away(tmp_path: Path) -> None:
    """Until then it does: it could become visible when the host has its storage again."""
    world = build(tmp_path, Clock(), quiesce=0.0)
    held: dict[int, bool] = {}

    async def story() -> None:
        world.start()
        await asyncio.sleep(0.01)
        with mock.patch.object(ResponseDirectory, "publish", side_effect=WriteFailed("no space")):
            world.ask(1, "c1", "off", 8.0, "ours")
            for second in (4, 24):
                await asyncio.sleep(second - sum(held))
                held[second] = is_held(world, "c1")
            assert world.responses == {}
        await world.stop()

    run(story(), world.clock)
    assert held == {4: True, 24: False}

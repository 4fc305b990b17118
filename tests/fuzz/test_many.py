"""Good requests, a hundred at once: all are answered, and none of them holds up the directories for long."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from collections.abc import Collection
from pathlib import Path

import pytest

from nvmefence.watcher.desk import Desk, Outgoing
from tests.fuzz.siege import HOST, MEMORY, Besieged
from tests.property.virtual_time import Clock, run
from tests.property.watcher_world import World, build

MOST_AT_ONCE = 16


@pytest.mark.parametrize("quiesce", [0.0, 2.0])
def test_a_hundred_requests_for_one_host_are_answered_a_few_at_a_time(
    quiesce: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    real = Desk.deliver

    def deliver(self: Desk, batch: Collection[Outgoing]) -> dict[str, str]:
        batches.append(len(batch))
        return real(self, batch)

    monkeypatch.setattr(Desk, "deliver", deliver)

    async def story(world: World) -> None:
        world.start()
        await asyncio.sleep(0.01)
        for number in range(120):
            world.ask(number, HOST, "off", 30.0, "ours")
        await asyncio.sleep(10.0)
        await world.stop()

    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        world = build(Path(directory), Clock(), quiesce=quiesce)
        world = Besieged(**{f.name: getattr(world, f.name) for f in dataclasses.fields(World)})
        run(story(world), world.clock)
    assert world.wrong == []
    assert [one["success"] for one in world.responses.values()] == [True] * 120
    assert sum(batches) == 120
    assert max(batches) <= MOST_AT_ONCE

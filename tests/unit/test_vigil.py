"""The look-out for fenced hosts: when it looks, what it takes for an alarm, and what it leaves alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from nvmefence.inventory import hostfile
from nvmefence.nvme.commands import IDENTIFY
from nvmefence.nvme.emulated import fail, hang
from nvmefence.watcher.vigil import LEAST_S, LOOK_S, QUIET_S, REST_S
from tests.property.vigil_world import World, judged
from tests.property.virtual_time import run

Story = Callable[[World], Coroutine[Any, Any, None]]
VIGIL_S = 5.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with judged(tmp_path) as made:
        yield made


def play(world: World, story: Story) -> None:
    async def whole() -> None:
        async with world.looking():
            await story(world)

    run(whole(), world.clock)


def since(world: World, text: str, moment: float) -> float:
    """Seconds from a moment until something was said."""
    return world.times(text)[0] - moment


def test_a_host_that_is_attached_again_is_found_within_vigil_s_and_said_once(world: World) -> None:
    async def story(world: World) -> None:
        assert await world.fence("c1")
        await asyncio.sleep(12)
        world.attach("c1", drive=1, nsid=2)
        moment = world.clock.now
        await asyncio.sleep(30)
        assert since(world, "RETURNED: c1", moment) <= VIGIL_S + 0.1
        (said,) = world.heard("RETURNED: c1 is attached again, fenced as it is since ")
        assert said["level"] == "error"
        assert "S1: attached to namespace 2 (controller 11)" in said["message"]
        assert said["drives"] == [{"serial": "S1", "nqn": "nqn.example:1", "attached": {"2": [11]}, "online": []}]
        assert "to cut it: nvmefence detach --host c1" in said["message"]
        assert world.lookout is not None
        assert world.lookout.status == "RETURNED: c1"
        (line,) = world.audit
        assert (line["event"], line["host"], line["enforced"]) == ("returned", "c1", False)
        assert line["drives"] == said["drives"]
        world.detach("c1", drive=1, nsid=2)
        await asyncio.sleep(6)
        assert [s["level"] for s in world.heard("c1 is no longer back: it is cut")] == ["notice"]
        assert world.audit[-1]["result"] == "returned-no-longer"
        assert world.lookout.status == ""

    play(world, story)


def test_each_change_is_said_and_nothing_between(world: World) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        for number, (drive, nsid) in enumerate([(0, 1), (0, 2), (1, 1)]):
            world.attach("c1", drive, nsid)
            await asyncio.sleep(4 * VIGIL_S)
            assert len(world.heard("RETURNED")) == number + 1
        assert "S0: attached to namespaces 1, 2 (controller 11); S1: " in world.said[-1]["message"]

    play(world, story)


def test_a_host_that_is_not_fenced_is_of_no_interest(world: World) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        for host in ("c2", "c3"):
            world.attach(host)
        await asyncio.sleep(3 * VIGIL_S)
        assert world.said == []

    play(world, story)


def test_with_no_fenced_host_no_drive_is_opened_and_hardly_anything_is_done(world: World) -> None:
    async def story(world: World) -> None:
        await asyncio.sleep(1)
        reads = 0
        read = world.there.store.load_all

        def counting() -> Any:
            nonlocal reads
            reads += 1
            return read()

        world.there.store.load_all = counting  # type: ignore[method-assign]
        await asyncio.sleep(10 * REST_S)
        assert (world.transport.opened, world.discoveries) == (0, 0)
        assert reads <= 11

    play(world, story)


def test_a_host_that_somebody_else_fences_is_looked_for_from_then_on(world: World, tmp_path: Path) -> None:
    """Another process wrote the record, and at rest the next look by the clock is a minute away."""
    other = World(tmp_path)

    async def story(world: World) -> None:
        await asyncio.sleep(10)
        other.start()
        await other.fence("c2")
        await other.stop()
        world.attach("c2")
        await asyncio.sleep(VIGIL_S + 0.5)
        assert world.alarms() == {"c2"}

    play(world, story)


def test_a_restore_in_hand_is_no_return_and_after_it_the_host_is_left_alone(world: World) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        await asyncio.sleep(2)
        assert world.begin_restore("c1")
        await asyncio.sleep(4 * VIGIL_S)
        world.end_restore("c1")
        await asyncio.sleep(4 * VIGIL_S)
        assert world.said == []
        assert world.attached("c1")

    play(world, story)


@pytest.mark.parametrize("whole", [True, False])
def test_a_restore_that_begins_and_ends_while_a_look_goes_on_is_no_return(world: World, whole: bool) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        await asyncio.sleep(VIGIL_S + 1)
        world.transport.latency = 0.5
        before = world.discoveries
        assert world.lookout is not None
        world.lookout.hint()
        await asyncio.sleep(0.1)
        assert world.begin_restore("c1")
        await asyncio.sleep(0.8)
        assert world.discoveries == before + 1
        world.end_restore("c1", whole=whole)
        await asyncio.sleep(4 * VIGIL_S)
        assert world.said == []

    play(world, story)


def test_what_a_restore_gave_in_part_is_no_return(world: World) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        assert world.begin_restore("c1")
        world.end_restore("c1", whole=False)
        await asyncio.sleep(4 * VIGIL_S)
        assert world.record("c1") is not None
        assert world.said == []

    play(world, story)


def test_what_a_restore_gave_that_died_is_no_return(world: World) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        assert world.begin_restore("c1")
        world.locks.pop("c1").end()  # as the kernel does for a process that is killed
        await asyncio.sleep(4 * VIGIL_S)
        assert world.said == []
        assert world.attached("c1")

    play(world, story)


def test_while_somebody_has_the_lock_of_a_restore_nothing_is_a_return(world: World) -> None:
    """Whatever the record says: whoever has it may be giving the host something."""

    async def story(world: World) -> None:
        await world.fence("c1")
        lock = world.there.locks.restore("c1")
        world.attach("c1")
        await asyncio.sleep(4 * VIGIL_S)
        assert world.said == []
        lock.end()
        await asyncio.sleep(VIGIL_S + 1)
        assert world.alarms() == {"c1"}

    play(world, story)


def test_an_alarm_ends_when_the_host_counts_as_fenced_no_longer(world: World) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        world.attach("c1")
        await asyncio.sleep(VIGIL_S + 2)
        assert world.alarms() == {"c1"}
        assert world.unfence("c1")
        await asyncio.sleep(VIGIL_S + 2)
        assert world.heard("c1 is no longer back: it counts as fenced no longer")
        opened = world.transport.opened
        await asyncio.sleep(REST_S)
        assert world.transport.opened == opened

    play(world, story)


@pytest.mark.parametrize(("rule", "alarm"), [("offline", {"c1"}), ("drain", set())])
def test_online_again_is_a_return_only_where_the_fence_left_it_offline(
    tmp_path: Path, rule: str, alarm: set[str]
) -> None:
    async def story(world: World) -> None:
        assert await world.fence("c1")
        await asyncio.sleep(2 * VIGIL_S)
        assert world.alarms() == set()
        world.set_online("c1", True)
        await asyncio.sleep(2 * VIGIL_S)
        assert world.alarms() == alarm
        if alarm:
            (said,) = world.heard("RETURNED: c1 is online again")
            assert "S0: controller 11 online" in said["message"]
            world.set_online("c1", False)
            await asyncio.sleep(2 * VIGIL_S)
            assert world.alarms() == set()

    with judged(tmp_path, quiesce=rule) as world:
        play(world, story)


def test_a_fence_that_failed_afterwards_ends_no_watch(world: World) -> None:
    async def story(world: World) -> None:
        assert await world.fence("c1")
        world.attach("c1")
        world.fault(1, fail(0x006 | 0x4000))
        assert not await world.fence("c1")
        world.attach("c1", nsid=2)
        record = world.record("c1")
        assert record is not None
        assert not record.confirmed
        await asyncio.sleep(2 * VIGIL_S)
        assert world.alarms() == {"c1"}

    play(world, story)


def test_a_drive_that_does_not_answer_is_left_alone_for_longer_and_longer(world: World) -> None:
    async def story(world: World) -> None:
        assert await world.fence("c1")
        world.fault(0, hang())
        before = len(world.transport.log)
        await asyncio.sleep(600)
        asked = [sent for sent in world.transport.log[before:] if sent.path == "/dev/nvme0"]
        looks = [sent for sent in asked if sent.command.opcode == IDENTIFY and sent.command.cdw10 & 0xFF == 0x01]
        assert 4 < len(looks) < 12
        assert world.lookout is not None
        (trouble,) = world.lookout.troubles.values()
        assert trouble.startswith("not looked at for fenced hosts: S0: Identify Controller: no answer")
        world.attach("c1", drive=1)
        await asyncio.sleep(VIGIL_S + LOOK_S + 1)
        assert world.alarms() == {"c1"}, "the other drive is looked at as ever"
        world.fault(0, None)
        await asyncio.sleep(130)
        assert world.lookout.troubles == {}

    play(world, story)


def test_what_was_seen_on_a_drive_stands_until_it_is_seen_otherwise(world: World) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        world.attach("c1")
        await asyncio.sleep(VIGIL_S + 2)
        world.fault(0, hang())
        await asyncio.sleep(60)
        assert world.alarms() == {"c1"}
        world.detach("c1")
        world.fault(0, None)
        await asyncio.sleep(130)
        assert world.alarms() == set()

    play(world, story)


def test_a_hung_drive_piles_up_no_looks(world: World) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        world.fault(0, hang())
        assert world.lookout is not None
        for _ in range(100):
            world.lookout.hint()
            await asyncio.sleep(0.2)
        assert world.discoveries < 20 / LEAST_S + 5
        assert len(world.transport._handles) <= 2

    play(world, story)


def test_a_hint_is_followed_at_once_and_many_are_one(world: World) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        await asyncio.sleep(VIGIL_S + 2)
        world.attach("c1")
        moment = world.clock.now
        before = world.discoveries
        assert world.lookout is not None
        for _ in range(1000):
            world.lookout.hint()
            await asyncio.sleep(0.001)
        assert since(world, "RETURNED", moment) < 0.1
        assert world.discoveries - before <= 3

    play(world, story)


def test_while_a_fence_is_under_way_and_just_after_it_no_hint_leads_to_a_look(world: World) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        await asyncio.sleep(VIGIL_S + 1)
        world.transport.latency = 0.4  # a fence takes more than a second
        task = asyncio.create_task(world.fence("c2"))
        await asyncio.sleep(0.1)
        before = world.discoveries
        assert world.lookout is not None
        while not task.done():
            world.lookout.hint()
            await asyncio.sleep(0.1)
        await asyncio.sleep(QUIET_S - 0.3)
        assert world.discoveries == before
        await asyncio.sleep(1)
        assert world.discoveries == before + 1

    play(world, story)


def test_a_host_that_is_no_longer_in_the_map_and_a_missing_drive_are_told(world: World) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        await world.fence("c2")
        hosts = {"c1": {"controllers": 11}}
        world.hostmap = hostfile.parse({"version": 1, "drives": {"count": 2}, "hosts": hosts}, "hosts.toml")
        world.gone.add(1)
        await asyncio.sleep(2 * VIGIL_S)
        assert world.lookout is not None
        assert world.lookout.troubles == {
            "vigil map": "fenced on record and not in the host map, so nobody looks for them: c2",
            "vigil drives": "not looked at for fenced hosts: 1 of 2 drives missing",
        }

    play(world, story)


def test_a_record_that_cannot_be_read_is_told(world: World, tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        (tmp_path / "fenced" / "c9.json").write_text("{")
        await asyncio.sleep(VIGIL_S + 1)
        assert world.lookout is not None
        assert "c9.json" in world.lookout.troubles["vigil records"]
        world.attach("c1")
        await asyncio.sleep(VIGIL_S + 1)
        assert world.alarms() == {"c1"}

    play(world, story)


def test_a_look_out_that_is_started_anew_finds_who_is_back(world: World) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        world.attach("c1")
        await world.stop()
        world.start()
        await asyncio.sleep(1)
        assert world.alarms() == {"c1"}

    play(world, story)


def test_a_defect_on_the_way_does_not_end_the_look_out(world: World) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        before, world.transport.run = world.transport.run, None  # type: ignore[assignment,method-assign]
        await asyncio.sleep(2 * VIGIL_S)
        assert world.lookout is not None
        assert "defect in nvmefence: TypeError" in world.lookout.troubles["vigil"]
        world.transport.run = before  # type: ignore[method-assign]
        world.attach("c1")
        await asyncio.sleep(VIGIL_S + 1)
        assert world.alarms() == {"c1"}
        assert world.lookout.troubles == {}

    play(world, story)


def test_with_0_seconds_nobody_looks(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        world.attach("c1")
        await asyncio.sleep(3 * REST_S)
        assert [said["message"] for said in world.said] == ["nobody is cut again: --vigil-s is 0"]
        assert world.attached("c1")

    with judged(tmp_path, vigil_s=0.0, enforce=True) as world:
        play(world, story)

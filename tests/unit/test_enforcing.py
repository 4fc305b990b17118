"""Cutting a fenced host again: when, how often, and above all whom not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from nvmefence.nvme.commands import NAMESPACE_ATTACHMENT
from nvmefence.nvme.emulated import fail, on
from nvmefence.records.beside import Beside
from nvmefence.records.hostlock import FenceLock
from nvmefence.spool import request
from nvmefence.watcher.enforcing import FIRST_S, LONGEST_S, REQUESTED
from nvmefence.watcher.passes import Ticket
from nvmefence.watcher.permit import Permit
from tests.property.vigil_world import HOSTS, World, judged
from tests.property.virtual_time import run

Story = Callable[[World], Coroutine[Any, Any, None]]
VIGIL_S = 5.0
DNR = 0x4000


def play(place: Path, story: Story, **options: Any) -> None:
    with judged(place, enforce=True, **options) as world:

        async def whole() -> None:
            async with world.looking():
                await story(world)

        run(whole(), world.clock)


@contextlib.contextmanager
def before_the_lock(world: World, happens: Callable[[str], object]) -> Iterator[None]:
    """Have something happen to c1 after a look has found it back, just before its lock is taken."""
    take = world.there.locks.fence

    def fence() -> FenceLock:
        happens("c1")
        return take()

    with mock.patch.object(world.there.locks, "fence", fence):
        yield


@pytest.mark.parametrize("by", [REQUESTED, "command line", "fence_nvmefence"])
def test_a_fenced_host_that_is_back_is_cut_again(tmp_path: Path, by: str) -> None:
    async def story(world: World) -> None:
        await world.fence("c1", by)
        world.attach("c1")
        world.attach("c2")
        await asyncio.sleep(VIGIL_S + 3)
        assert not world.attached("c1")
        assert world.attached("c2")
        assert world.alarms() == set()
        assert [said["message"] for said in world.said] == [
            mock.ANY, "cutting c1 again", mock.ANY, "c1 is no longer back: it is cut",
        ]  # fmt: skip
        assert world.said[2]["message"].startswith("cut again: SIMULATED: Fenced c1: detached 1 attachment on 2")
        (line,) = [line for line in world.audit if line["event"] == "enforced"]
        assert (line["host"], line["result"], line["evidence"]["confirmed"]) == ("c1", "enforced", True)
        record = world.record("c1")
        assert record is not None
        assert record.confirmed
        assert [one.by for one in record.asked] == [by, "enforce"]
        assert len(record.taken) == 4, "what is to be given back once is what was taken first, and no more"

    play(tmp_path, story)


def test_a_host_that_was_unfenced_or_restored_meanwhile_is_left_alone(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.fence("c1", REQUESTED)
        await world.fence("c2", REQUESTED)
        await asyncio.sleep(VIGIL_S + 1)
        assert world.unfence("c1")
        world.attach("c1")
        assert world.begin_restore("c2")
        await asyncio.sleep(4 * VIGIL_S)
        world.end_restore("c2")
        await asyncio.sleep(100)
        assert world.attached("c1")
        assert world.attached("c2")
        assert world.said == []

    play(tmp_path, story)


@pytest.mark.parametrize("restored", [True, False])
def test_a_record_that_changes_between_the_look_and_the_cut_saves_the_host(tmp_path: Path, restored: bool) -> None:
    async def story(world: World) -> None:
        def restore_in_part(host: str) -> None:
            world.begin_restore(host)
            world.end_restore(host, whole=False)

        await world.fence("c1")
        with before_the_lock(world, restore_in_part if restored else world.unfence):
            world.attach("c1")
            await asyncio.sleep(VIGIL_S + 3)
        assert world.heard("c1 is not cut again: it counts as fenced no longer")
        assert world.attached("c1")

    play(tmp_path, story)


def test_a_restore_that_begins_between_the_look_and_the_cut_is_not_disturbed(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        with before_the_lock(world, world.begin_restore):
            world.attach("c1")
            await asyncio.sleep(VIGIL_S + 3)
        assert "c1" in world.locks
        assert world.locks["c1"].wanted() == ""
        (said,) = world.heard("is not cut again")
        assert "a restore" in said["message"]
        world.end_restore("c1")
        await asyncio.sleep(100)
        assert world.attached("c1")

    play(tmp_path, story)


def test_while_it_is_cut_again_no_restore_begins(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        world.transport.latency = 0.3
        world.attach("c1")
        await world.until_said("cutting c1 again")
        assert not world.begin_restore("c1")
        await asyncio.sleep(5)
        assert not world.attached("c1")
        assert world.begin_restore("c1"), "afterwards it does"
        world.end_restore("c1")

    play(tmp_path, story)


def test_a_host_whose_responses_were_taken_away_by_hand_is_not_cut(tmp_path: Path) -> None:
    """So NNF's operators readmit a node: then it is a person's turn to say what is meant."""

    async def story(world: World) -> None:
        await world.fence("c1", REQUESTED)
        world.standing.clear()
        world.attach("c1")
        await asyncio.sleep(100)
        assert world.attached("c1")
        assert world.alarms() == {"c1"}
        (said,) = world.heard("c1 is not cut again: it is fenced on record, and no response says so any more")
        assert said["message"].endswith("nvmefence unfence --host c1")

    play(tmp_path, story)


def test_where_responses_cannot_be_read_nobody_is_cut(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.fence("c1", REQUESTED)
        world.responses_hang = True
        world.attach("c1")
        await asyncio.sleep(30)
        assert world.attached("c1")
        assert world.heard("c1 is not cut again: records or responses cannot be read: ")
        world.responses_hang = False
        await asyncio.sleep(2 * LONGEST_S)
        assert not world.attached("c1")

    play(tmp_path, story)


def test_a_fight_with_other_software_goes_slower_and_slower(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        begun = world.clock.now
        while world.clock.now < begun + 600:
            world.attach("c1")
            await asyncio.sleep(0.1)
        tries = world.times("cutting c1 again")
        pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
        assert len(tries) < 20
        assert FIRST_S <= pauses[0] < 3 * FIRST_S
        assert all(LONGEST_S <= pause < LONGEST_S + VIGIL_S + 1 for pause in pauses[8:])
        await asyncio.sleep(LONGEST_S + VIGIL_S + 1)
        assert not world.attached("c1"), "it ends when the other gives up"

    play(tmp_path, story)


def test_after_a_long_peace_the_next_try_comes_at_once(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        for _ in range(5):
            world.attach("c1")
            await asyncio.sleep(100)
        await asyncio.sleep(1000)
        world.attach("c1")
        await asyncio.sleep(VIGIL_S + 1)
        assert not world.attached("c1")

    play(tmp_path, story)


def test_a_try_that_is_not_confirmed_is_told_and_made_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        world.attach("c1")
        world.attach("c1", drive=1)
        world.transport.faults["/dev/nvme1"] = on(NAMESPACE_ATTACHMENT, fail(0x006 | DNR))
        await asyncio.sleep(VIGIL_S + 8)
        (line,) = [line for line in world.audit if line["event"] == "enforced"][:1]
        assert (line["result"], line["evidence"]["confirmed"]) == ("not-enforced", False)
        assert [said["level"] for said in world.heard("not cut again: SIMULATED: NOT fenced c1")][:1] == ["error"]
        assert world.alarms() == {"c1"}
        world.fault(1, None)
        await asyncio.sleep(200)
        assert not world.attached("c1")
        assert world.alarms() == set()

    play(tmp_path, story)


def test_a_request_that_comes_meanwhile_joins(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        world.transport.latency = 0.3
        world.attach("c1")
        await world.until_said("cutting c1 again")
        asked = request.parse("r.json", b'{"request_id": "r", "action": "off", "target_node": "c1"}', 0.0)
        now = world.clock.now
        ticket = Ticket(asked, world.hostmap.hosts["c1"], now, now + 30, 0.0)
        assert world.passes.take([ticket], world.hostmap) == [], "there is no fence beside the one under way"
        await asyncio.sleep(5)
        made = world.ended[-1]
        assert made.tickets == [ticket]
        assert made.report is not None
        assert made.report.confirmed("c1")

    play(tmp_path, story)


def test_at_the_end_what_is_being_cut_is_cut_and_nothing_is_begun(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        world.transport.latency = 0.3
        world.attach("c1")
        await world.until_said("cutting c1 again")
        await world.stop()
        assert not world.attached("c1")
        assert world.heard("cut again: SIMULATED: Fenced c1")
        world.attach("c1")
        await asyncio.sleep(100)
        assert world.attached("c1")
        world.start()

    play(tmp_path, story)


def test_a_controller_online_again_is_cut_only_where_the_rule_leaves_it_offline(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.fence("c1")
        world.set_online("c1", True)
        await asyncio.sleep(VIGIL_S + 3)
        assert world.heard("RETURNED: c1 is online again")
        assert world.heard("cut again: SIMULATED: Fenced c1")
        assert not world.drives[0].secondaries[11].online
        assert world.alarms() == set()

    play(tmp_path, story, quiesce="offline")


def test_more_hosts_than_the_mass_fence_guard_lets_through_wait_for_a_person(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for host in HOSTS:
            await world.fence(host)
        for host in HOSTS:
            world.attach(host)
        await asyncio.sleep(100)
        assert [host for host in HOSTS if world.attached(host)] == ["c3"]
        (said,) = world.heard("c3 is not cut again: held by the mass-fence guard (more than 2 hosts in 60 s)")
        assert said["message"].endswith("nvmefence allow-mass-fence")
        world.guard._permit = Permit(world.clock.now + 100, "somebody")
        await asyncio.sleep(VIGIL_S + 1)
        assert not world.attached("c3")

    play(tmp_path, story, mass_fence_hosts=2, mass_fence_action="hold")


def test_the_guard_that_only_alarms_holds_nobody(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for host in HOSTS:
            await world.fence(host)
            world.attach(host)
        await asyncio.sleep(2 * VIGIL_S)
        assert not any(map(world.attached, HOSTS))

    play(tmp_path, story, mass_fence_hosts=1)


def test_who_comes_when_the_drives_were_read_for_the_last_time_has_a_fence_of_its_own(tmp_path: Path) -> None:
    """What was read before a request was there says nothing about the time after it."""
    real = Beside.record

    async def slowly(beside: Beside, *arguments: Any) -> dict[str, str]:
        await asyncio.sleep(1.0)
        return await real(beside, *arguments)

    async def story(world: World) -> None:
        await world.fence("c1")
        world.attach("c1")
        with mock.patch.object(Beside, "record", slowly):
            await world.until_said("cutting c1 again")
            await asyncio.sleep(0.5)
            assert not world.attached("c1")
            asked = request.parse("r.json", b'{"request_id": "r", "action": "off", "target_node": "c1"}', 0.0)
            now = world.clock.now
            ticket = Ticket(asked, world.hostmap.hosts["c1"], now, now + 30, 0.0)
            assert world.passes.take([ticket], world.hostmap) == [], "it joins, for there is no other beside it"
            await asyncio.sleep(2.0)
        assert world.ended[-1].report is not None
        assert world.ended[-1].report.confirmed("c1")
        assert world.ended[-1].tickets == []
        assert world.again[-1] == [ticket]

    play(tmp_path, story)

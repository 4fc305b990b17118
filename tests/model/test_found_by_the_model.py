"""What the model found in the code, and what must not come back."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from nvmefence.agents import fence_gfs2_recorder
from nvmefence.records.store import Store
from nvmefence.spool.errors import ReadFailed
from nvmefence.watcher.passes import Passes, Ticket
from tests.model import stories
from tests.property.virtual_time import Clock, run
from tests.property.watcher_world import World, build


def test_no_restore_begins_before_a_success_that_is_on_its_way_is_visible() -> None:
    """Else the response would say that a host is cut which has all its storage again."""
    with stories.told() as story:
        story.play(stories.undeliverable)


def test_a_request_that_was_withdrawn_before_the_cut_cuts_nothing() -> None:
    """Else it could cut a host that was readmitted since it was withdrawn."""
    with stories.told() as story:
        story.play(stories.withdrawn)


def withdrawing(world: World, number: int) -> Callable[..., Any]:
    """Return what begins a pass when a request has been withdrawn just before."""
    real = Passes._begin

    def begin(passes: Passes, *arguments: Any) -> Any:
        world.withdraw(world.asked[f"id-{number}"])
        return real(passes, *arguments)

    return begin


@pytest.mark.parametrize("before", [False, True], ids=["never fenced", "fenced before"])
def test_the_withdrawal_of_one_request_stops_no_other_host_s_fence(before: bool, tmp_path: Path) -> None:
    world = build(tmp_path, Clock(), quiesce=0.0)
    store = Store(world.settings.records)
    records = []

    async def story() -> None:
        world.start()
        await asyncio.sleep(0.01)
        if before:
            world.ask(0, "c1", "off", 30.0, "ours")
            await asyncio.sleep(1.0)
            world.readmit("c1")
        records.append(store.load("c1"))
        with mock.patch.object(Passes, "_begin", withdrawing(world, 1)):
            world.ask(1, "c1", "off", 30.0, "ours")
            world.ask(2, "c2", "off", 30.0, "ours")
            await asyncio.sleep(2.0)
        records.append(store.load("c1"))
        await world.stop()

    run(story(), world.clock)
    assert world.responses["id-2.json"]["success"] is True
    assert not world.attached("c2")
    assert world.responses["id-1.json"]["success"] is False
    assert "withdrawn" in world.responses["id-1.json"]["message"]
    assert world.attached("c1")
    assert records[0] == records[1], "nothing is put on record about who is not fenced"


def test_a_directory_that_does_not_answer_holds_up_no_cut(tmp_path: Path) -> None:
    world = build(tmp_path, Clock(), quiesce=0.0)
    cut: list[float] = []

    async def never(*_arguments: object) -> frozenset[str]:
        await asyncio.sleep(60.0)
        return frozenset()

    async def story() -> None:
        world.start()
        await asyncio.sleep(0.01)
        assert world.watcher is not None
        world.watcher._passes._gone = never
        asked = world.ask(1, "c1", "off", 30.0, "ours")
        await asyncio.sleep(2.0)
        cut.extend(at - asked.at for at, _named in world.transport.cuts)
        await world.stop()

    run(story(), world.clock)
    assert world.responses["id-1.json"]["success"] is True
    assert cut
    assert max(cut) < 0.2


async def hangs(*_arguments: object) -> frozenset[str]:
    await asyncio.sleep(60.0)
    return frozenset()


async def fails(*_arguments: object) -> frozenset[str]:
    raise ReadFailed("requests: Input/output error", errno.EIO)


@pytest.mark.parametrize("word", [hangs, fails])
def test_a_request_read_long_before_cuts_nobody_unless_it_is_known_to_be_there_still(
    word: Callable[..., Any], tmp_path: Path
) -> None:
    """Its host may have been given back since; who was asked for just now is cut without delay."""
    world = build(tmp_path, Clock(), quiesce=0.0)
    real = Passes.take

    def take(passes: Passes, tickets: Sequence[Ticket], *arguments: Any) -> Any:
        for ticket in tickets:
            if ticket.host.name == "c1":
                ticket.read_at -= 1.0  # as when the watcher was stopped meanwhile
        return real(passes, tickets, *arguments)

    async def story() -> None:
        world.start()
        await asyncio.sleep(0.01)
        assert world.watcher is not None
        world.watcher._passes._gone = word
        with mock.patch.object(Passes, "take", take):
            world.ask(1, "c1", "off", 30.0, "ours")
            asked = world.ask(2, "c2", "off", 30.0, "ours")
            await asyncio.sleep(4.0)
        assert world.transport.cuts
        assert max(at for at, _named in world.transport.cuts) < asked.at + 0.2
        await world.stop()

    run(story(), world.clock)
    assert world.responses["id-1.json"]["success"] is False
    assert "cannot be told: nothing was cut" in world.responses["id-1.json"]["message"]
    assert world.attached("c1")
    assert world.responses["id-2.json"]["success"] is True
    assert not world.attached("c2")


class Disk:
    """Sees in which order names go and directories are made durable."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._fsync, self._unlink = os.fsync, os.unlink

    def fsync(self, fd: int) -> None:
        self._fsync(fd)
        self.seen.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{fd}')).name}")

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        self._unlink(path, dir_fd=dir_fd)
        self.seen.append(f"unlink {Path(path).name}")


def test_a_withdrawal_outlives_a_power_cut(tmp_path: Path) -> None:
    """Else the request stands again after it, and cuts a host that was readmitted meanwhile."""
    disk = Disk()
    for name in ("requests", "responses", "log"):
        (tmp_path / name).mkdir()
    words = [
        "--action=off", "--plug=c1", f"--request-dir={tmp_path}/requests", f"--response-dir={tmp_path}/responses",
        f"--log-dir={tmp_path}/log", "--fence-timeout=0.1",
    ]  # fmt: skip
    with (
        mock.patch("nvmefence.agents.stopping.hold_signals"),
        mock.patch("os.fsync", disk.fsync),
        mock.patch("os.unlink", disk.unlink),
    ):
        assert fence_gfs2_recorder.main(words) == 1
    assert disk.seen[-2].startswith("unlink ")
    assert disk.seen[-1] == "fsync requests"
    assert not list((tmp_path / "requests").iterdir())


def test_a_response_that_a_predecessor_left_is_durable_before_its_request_is_removed(tmp_path: Path) -> None:
    """Else a power cut takes the only thing that says that the host is fenced."""
    world = build(tmp_path, Clock(), quiesce=0.0)
    disk = Disk()

    async def story() -> None:
        world.ask(1, "c1", "off", 30.0, "ours")
        (world.answers / "id-1.json").write_text("{}")  # visible; its writer died before it was durable
        with mock.patch("os.fsync", disk.fsync), mock.patch("os.unlink", disk.unlink):
            world.start()
            await asyncio.sleep(1.5)
            await world.stop()

    with mock.patch.object(World, "look_on"):
        run(story(), world.clock)
    assert disk.seen.index("fsync responses") < disk.seen.index("unlink id-1.json")

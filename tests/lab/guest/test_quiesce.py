"""Writes under way at the cut, on slow media: drained they land before the answer, else some land after it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvmefence.fencing import quiesce
from nvmefence.fencing.evidence import FenceReport
from nvmefence.fencing.quiesce import Quiesce
from tests.lab import bringup, faults, observer
from tests.lab.guest.product import attached, fence_here, hosts_toml, without
from tests.lab.guest.streams import Streams
from tests.lab.guest.test_fencing import both, target
from tests.lab.shape import Shape

pytestmark = pytest.mark.shape("drains")
HOST, VF = "compute-0", 2
FENCES = int(os.environ.get("NVMEFENCE_LAB_ROUNDS", "3"))
"""Fences in a row for one method. Each finds ten drives at work, in ten states of their own."""
MOST_FENCES = 20
"""Fences in which a late write must be seen where nothing holds it up."""
SIZE, INTERVAL_S = 32768, 0.4
"""A write takes 0.7 s, and the next one comes that much later. One after another: QEMU 7.2 may crash when a host
submits while its controller goes offline."""
LATE_S = 1.2
"""Seconds for which the media are watched after the answer: longer than they need for what is in flight."""


@pytest.fixture
def streams(drives: list[observer.Drive], tmp_path: Path) -> Iterator[Streams]:
    """A writer on the host's view of every drive, each with a few writes in flight."""
    made = Streams(tmp_path, drives)
    made.start_all({drive.serial: drive for drive in drives}, VF, size=SIZE, interval=INTERVAL_S)
    yield made
    made.close()


@pytest.fixture
def map_file(shape: Shape, tmp_path: Path) -> Path:
    path = tmp_path / "hosts.toml"
    path.write_text(hosts_toml(shape))
    return path


def reboot(drives: list[observer.Drive]) -> None:
    """Do to the host's functions what its reboot does, and see it find them at work, without a namespace."""
    addresses = [bringup.function_address(drive, VF) for drive in drives]
    bringup.each(lambda address: faults.unbind(address, 60), addresses)
    for drive in drives:
        with observer.Device(drive.primary.path) as device:
            for secondary in device.secondaries():
                if not secondary.online:
                    device.assign(secondary.cntlid)
                    device.online(secondary.cntlid)
    bringup.each(faults.function_reset, addresses)
    bringup.each(faults.bind, addresses)

    def live() -> list[observer.Controller] | None:
        found = [c for c in observer.controllers() if c.address in addresses and c.state == "live"]
        return found if len(found) == len(addresses) else None

    assert not any(observer.blocks(view) for view in faults.wait_for("live controllers", live))


def round_of(
    streams: Streams, drives: list[observer.Drive], map_file: Path, backend: str, rule: Quiesce
) -> tuple[FenceReport, dict[str, set[int]]]:
    """Fence at a random instant; return the report, and what came to each medium after it."""
    streams.wait(1)
    time.sleep(random.uniform(0, 1.1))
    report = fence_here(map_file, backend, [HOST], rule=rule)
    numbers = streams.sample().numbers
    time.sleep(LATE_S)
    later = streams.sample().numbers
    return report, {drive.serial: set(later[drive.serial]) - set(numbers[drive.serial]) for drive in drives}


@pytest.mark.limit(900)
@pytest.mark.parametrize("rule", ["drain", "offline"])
@both
def test_nothing_lands_after_a_fence_that_took_the_controllers_offline(
    baseline: bringup.Attachments,
    drives: list[observer.Drive],
    streams: Streams,
    map_file: Path,
    rule: str,
    backend: str,
) -> None:
    expected = without(attached(drives), target(drives, VF))
    fences = FENCES if backend == "io_uring" else max(FENCES // 5, 1)
    started = time.monotonic()
    seconds = []
    for number in range(fences):
        report, late = round_of(streams, drives, map_file, backend, quiesce.parse(rule))
        assert report.confirmed(HOST), report.message(HOST)
        assert {drive.quiesce for drive in report.drives} == {rule}
        assert late == {drive.serial: set() for drive in drives}, f"fence {number}"
        assert attached(drives) == expected
        seconds.append(report.seconds)
        for drive in drives:
            with observer.Device(drive.primary.path) as device:
                online = {s.function: s.online for s in device.secondaries()}
            assert online[VF] is (rule == "drain")
            assert all(up for function, up in online.items() if function != VF)
        reboot(drives)
        bringup.restore(baseline)
    rounds = fences * len(drives)
    print(
        f"{rule}, {backend}: {fences} fences of {len(drives)} slow drives, {rounds} rounds, nothing late; a fence "
        f"took {min(seconds):.2f} to {max(seconds):.2f} s; {time.monotonic() - started:.0f} s in all"
    )


@pytest.mark.limit(300)
def test_without_quiesce_late_writes_are_caught(
    baseline: bringup.Attachments, drives: list[observer.Drive], streams: Streams, map_file: Path
) -> None:
    """The test above can fail: this is it, with a fence that takes nothing offline and does not wait."""
    caught = fences = 0
    while not caught and fences < MOST_FENCES:  # how many writes are in flight at a fence is chance
        report, late = round_of(streams, drives, map_file, "io_uring", quiesce.parse("none"))
        assert report.confirmed(HOST)
        fences += 1
        caught = sum(len(numbers) for numbers in late.values())
        bringup.restore(baseline)
    print(f"none: {caught} writes landed late in fence {fences}")
    assert caught


@pytest.mark.limit(240)
def test_by_default_the_drives_are_drained_and_check_says_so(
    baseline: bringup.Attachments, drives: list[observer.Drive], streams: Streams, map_file: Path
) -> None:
    report, late = round_of(streams, drives, map_file, "auto", quiesce.DEFAULT)
    assert report.confirmed(HOST), report.message(HOST)
    assert {(drive.quiesce, drive.quiesce_reason) for drive in report.drives} == {("drain", "")}
    assert not any(late.values())
    reboot(drives)

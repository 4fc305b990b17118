"""The faults that `tests.lab.faults` makes are real, and healed afterwards."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import pytest

from tests.lab import bringup, faults, observer
from tests.lab.shape import Shape


@pytest.mark.shape("small")
@pytest.mark.limit(300)
def test_a_drive_that_never_answers(drive: observer.Drive, device: observer.Device) -> None:
    with observer.Device(drive.function(2).path) as silent:
        controller = faults.hang(drive, 2)
        with pytest.raises(faults.StuckError):
            faults.within(2, "Identify", silent.cntlid)
    states = {c.name: c.state for c in observer.controllers()}
    assert states[controller.name] == "live", "sysfs does not know"
    secondary = device.secondaries()[controller.cntlid - 1]
    assert (secondary.online, secondary.queues, secondary.interrupts) == (False, 0, 0)
    assert controller.cntlid in device.attached(1), "offline leaves the attachments"


@pytest.mark.shape("small")
def test_a_secondary_without_driver_goes_offline_and_comes_back(
    shape: Shape, baseline: bringup.Attachments, device: observer.Device
) -> None:
    last = device.secondaries()[-1]
    device.offline(last.cntlid)
    assert not device.secondaries()[-1].online
    bringup.heal(shape, baseline)
    assert device.secondaries()[-1] == last


@pytest.mark.shape("ports")
def test_a_pulled_port_leaves_the_others(drive: observer.Drive) -> None:
    faults.pull(drive.controllers[1].address)
    with observer.Device(drive.primary.path) as device:
        assert device.attached(1) == [c.cntlid for c in drive.controllers]
    assert len(observer.drives()[0].controllers) == len(drive.controllers) - 1


def seconds_to_write(block: Path, size: int) -> float:
    """Return how long a direct write takes."""
    buffer = mmap.mmap(-1, size)
    descriptor = os.open(block, os.O_WRONLY | os.O_DIRECT)
    started = time.monotonic()
    try:
        for _ in range(2):  # the throttle lets a first burst through
            os.pwrite(descriptor, buffer, 0)
    finally:
        os.close(descriptor)
    return time.monotonic() - started


@pytest.mark.shape("slow")
def test_a_throttled_medium_is_slow(drives: list[observer.Drive]) -> None:
    views = [drive.function(1) for drive in drives]
    faults.wait_for("block devices", lambda: all(1 in observer.blocks(view) for view in views))
    slow, quick = (seconds_to_write(observer.blocks(view)[1], 32768) for view in views)
    assert slow > 1 > quick

"""The laboratory is what it says it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import bringup, faults, observer, writer
from tests.lab.shape import Shape

pytestmark = pytest.mark.shape("small")


@pytest.mark.shape("small", "rabbit", "ports", "own-vf", "wide")
def test_all_drives_are_live(shape: Shape, drives: list[observer.Drive]) -> None:
    assert [drive.serial for drive in drives] == [shape.serial(n) for n in range(shape.drives)]
    controllers = [controller for drive in drives for controller in drive.controllers]
    assert len(controllers) == shape.live + shape.drives * len(shape.bound)
    assert {controller.state for controller in controllers} == {"live"}


@pytest.mark.shape("small", "rabbit", "own-vf")
def test_all_secondary_controllers_are_online(shape: Shape, drives: list[observer.Drive]) -> None:
    for drive in drives:
        with observer.Device(drive.primary.path) as device:
            secondaries = device.secondaries()
        assert [s.function for s in secondaries] == list(range(1, shape.secondaries + 1))
        assert all(s.online and s.queues == 2 and s.interrupts == 2 for s in secondaries)


@pytest.mark.shape("small", "rabbit", "ports", "wide")
def test_every_controller_has_every_shared_namespace(shape: Shape, drives: list[observer.Drive]) -> None:
    for drive in drives:
        with observer.Device(drive.primary.path) as device:
            everyone = frozenset(device.controllers())
            attachments = device.attachments()
        private = {shape.last_nsid: frozenset([drive.primary.cntlid])} if shape.private else {}
        shared = range(shape.first_nsid, shape.first_nsid + shape.namespaces)
        assert attachments == dict.fromkeys(shared, everyone) | private


@pytest.mark.shape("small", "ports")
def test_a_detach_is_seen_through_another_controller(drive: observer.Drive) -> None:
    first, second = drive.controllers[0], drive.controllers[1]
    with observer.Device(first.path) as one, observer.Device(second.path) as other:
        before = set(other.attached(1))
        one.detach(1, [second.cntlid])
        assert set(other.attached(1)) == before - {second.cntlid}
        assert 1 not in other.active()


@pytest.mark.shape("small", "ports")
def test_everything_is_attached_again_between_tests(
    shape: Shape, baseline: bringup.Attachments, device: observer.Device, drive: observer.Drive
) -> None:
    victim = drive.controllers[1].cntlid
    for nsid in range(1, shape.namespaces + 1):
        device.detach(nsid, [victim])
    assert bringup.survey() != baseline
    bringup.heal(shape, baseline)
    assert bringup.survey() == baseline


def block_device(controller: observer.Controller, nsid: int) -> Path:
    return faults.wait_for("a block device", lambda: observer.blocks(controller).get(nsid))


def test_a_writer_stops_at_the_detach_and_another_goes_on(
    drive: observer.Drive, device: observer.Device, start_writer: Callable[[Path], Path]
) -> None:
    fenced, other = drive.function(2), drive.function(3)
    logs = [start_writer(block_device(controller, 1)) for controller in (fenced, other)]
    faults.wait_for("five writes by each", lambda: all(len(writer.read_log(log)) >= 5 for log in logs))
    device.detach(1, [fenced.cntlid])
    cut = time.monotonic()

    def begun_after_the_cut(log: Path) -> list[writer.Line]:
        return [line for line in writer.read_log(log) if line.started > cut]

    faults.wait_for("writes by both after it", lambda: all(len(begun_after_the_cut(log)) >= 5 for log in logs))
    assert not any(line.ok for line in begun_after_the_cut(logs[0]))
    assert all(line.ok for line in writer.read_log(logs[1]))


def test_a_pulled_drive_is_gone_and_comes_back(
    shape: Shape, baseline: bringup.Attachments, drive: observer.Drive
) -> None:
    faults.pull(drive.primary.address)
    assert drive.serial not in [d.serial for d in observer.drives()]
    bringup.heal(shape, baseline)
    assert bringup.survey() == baseline


def test_an_unbound_controller_is_gone_and_comes_back(
    shape: Shape, baseline: bringup.Attachments, drive: observer.Drive
) -> None:
    faults.unbind(drive.function(2).address)
    with pytest.raises(LookupError):
        observer.drives()[0].function(2)
    bringup.heal(shape, baseline)
    assert observer.drives()[0].function(2).state == "live"

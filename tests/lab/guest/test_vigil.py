"""Staying fenced under a real kernel: virtual functions taken down and up again bring a fenced host back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import bringup, faults, observer
from tests.lab.guest.product import attached, hosts_toml, nvmefence, without
from tests.lab.guest.test_fencing import target
from tests.lab.guest.watching import Observed, Place
from tests.lab.shape import Shape

pytestmark = [pytest.mark.shape("small"), pytest.mark.limit(400)]
HOST, VF = "compute-2", 4
SHARED = ("1", "2", "3")
"""Namespaces that the emulator gives every function that comes up."""
SELDOM_S = 60.0
"""Between two looks by the clock, where a look is to come from a hint."""


@pytest.fixture
def place(shape: Shape, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, hosts_toml(shape))
    yield made
    made.close()


def down_and_up(drive: observer.Drive, count: int) -> float:
    """Take a drive's virtual functions down and up again, as software does that sets it up anew; return when."""
    sysfs = bringup.PCI_DEVICES / drive.primary.address
    faults.write(sysfs / "sriov_drivers_autoprobe", "0")
    faults.write(sysfs / "sriov_numvfs", "0", 60)
    faults.write(sysfs / "sriov_numvfs", str(count), 60)
    return time.monotonic()


def alarms(place: Place) -> list[dict[str, Any]]:
    """What the watcher has said about hosts that are back."""
    return [line for line in map(json.loads, place.said().splitlines()) if line.get("returned")]


def alarm(place: Place, seconds: float) -> dict[str, Any]:
    return faults.wait_for("the alarm", lambda: alarms(place), seconds)[0]


def fence(place: Place, drives: list[observer.Drive], victim: dict[str, int]) -> None:
    before = attached(drives)
    ended = place.fence(HOST)
    assert ended.code == 0, ended.err
    assert attached(drives) == without(before, victim)
    time.sleep(2)  # the look after a fence is over


@pytest.mark.parametrize("within", [(), ("unshare", "--net")], ids=["plain", "network-of-its-own"])
def test_virtual_functions_down_and_up_are_an_alarm_at_once(
    shape: Shape, place: Place, drives: list[observer.Drive], within: tuple[str, ...]
) -> None:
    """The kernel's events lead to the look, in a network namespace of its own too, as the service has one."""
    victim = target(drives, VF)
    place.start("io_uring", "wait:0.5", 30, "--vigil-s", str(SELDOM_S), within=within)
    fence(place, drives, victim)
    assert alarms(place) == []
    up = down_and_up(drives[0], shape.secondaries)
    said = alarm(place, 40)
    seconds = time.monotonic() - up
    with observer.Device(drives[0].primary.path) as device:
        assert victim[drives[0].serial] in device.attached(1), "the host is really back"
    assert said["host"] == HOST
    (there,) = said["drives"]
    assert there["serial"] == drives[0].serial
    assert set(there["attached"]) <= set(SHARED)
    assert {tuple(ids) for ids in there["attached"].values()} == {(victim[drives[0].serial],)}
    assert place.audit("returned")[0]["drives"] == said["drives"]
    print(f"alarm {seconds:.2f} s after the functions were up again; looks by the clock come every {SELDOM_S:g} s")
    shown = nvmefence("status", "--hosts", str(place.hosts), "--json", NVMEFENCE_RECORDS=str(place.records)).json
    assert [(one["host"], one["returned"]) for one in shown["fenced"]] == [(HOST, True)]
    assert place.stop() == 0


def test_without_events_the_clock_finds_it(shape: Shape, place: Place, drives: list[observer.Drive]) -> None:
    """An attachment through another controller raises no event on this machine."""
    victim = target(drives, VF)
    place.start("io_uring", "wait:0.5", 30, "--vigil-s", "2")
    fence(place, drives, victim)
    with observer.Device(drives[1].primary.path) as device:
        device.attach(2, [victim[drives[1].serial]])
    begun = time.monotonic()
    said = alarm(place, 40)
    print(f"alarm {time.monotonic() - begun:.2f} s after the attachment; looks come every 2 s")
    assert said["drives"] == [
        {
            "serial": drives[1].serial,
            "nqn": drives[1].nqn,
            "attached": {"2": [victim[drives[1].serial]]},
            "online": [],
        }
    ]
    assert place.stop() == 0


@pytest.mark.parametrize("rule", ["drain", "wait:0.5"])
def test_with_enforce_the_host_is_cut_again_and_after_a_restore_it_is_left_alone(
    shape: Shape, place: Place, drives: list[observer.Drive], rule: str
) -> None:
    before = attached(drives)
    victim = target(drives, VF)
    place.start("io_uring", rule, 30, "--vigil-s", "2", "--enforce")
    fence(place, drives, victim)
    seen = Observed(drives)
    try:
        up = down_and_up(drives[0], shape.secondaries)
        back = seen()[drives[0].serial]
        faults.wait_for("the second cut", lambda: place.audit("enforced"), 60)
        seconds = time.monotonic() - up
    finally:
        seen.close()
    print(f"{rule}: cut again {seconds:.2f} s after the functions were up, found {back}")
    assert [line["result"] for line in place.audit("enforced")] == ["enforced"], place.told()
    assert attached(drives) == without(before, victim), "and nobody else was cut"
    faults.wait_for("the end of the alarm", lambda: "is no longer back" in place.said(), 40)

    arguments = ["--hosts", str(place.hosts), "--response-dir", str(place.responses)]
    given = nvmefence("restore", "--host", HOST, *arguments, NVMEFENCE_RECORDS=str(place.records))
    assert given.code == 0, given.out + given.err
    down_and_up(drives[1], shape.secondaries)
    time.sleep(6)
    assert attached(drives) == before
    assert len(place.audit("enforced")) == 1
    assert len(alarms(place)) == 1, place.told()
    assert place.stop() == 0


def test_a_controller_that_was_left_offline_and_is_online_again_is_taken_offline_again(
    place: Place, drives: list[observer.Drive]
) -> None:
    victim = target(drives, VF)
    place.start("io_uring", "offline", 30, "--vigil-s", "2", "--enforce")
    fence(place, drives, victim)
    cntlid = victim[drives[2].serial]
    with observer.Device(drives[2].primary.path) as device:
        device.assign(cntlid)
        device.online(cntlid)
        said = alarm(place, 40)
        assert said["drives"] == [
            {"serial": drives[2].serial, "nqn": drives[2].nqn, "attached": {}, "online": [cntlid]}
        ]
        faults.wait_for("the second cut", lambda: place.audit("enforced"), 60)
        assert {entry.cntlid: entry.online for entry in device.secondaries()}[cntlid] is False
    assert place.stop() == 0

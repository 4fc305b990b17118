"""Drives that hang, refuse, lie and come and go under a real kernel: the watcher tells the truth, and goes on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nvmefence.fencing.evidence import DriveEvidence, FenceReport
from nvmefence.fencing.fence import Options, fence
from nvmefence.inventory.hostfile import load
from nvmefence.settings import Settings
from nvmefence.site import open_site
from tests.lab import bringup, faults, observer
from tests.lab.chaos_faults import by_name
from tests.lab.chaos_inside import Campaign
from tests.lab.cuse import DETACH, READ, Impostor, Manner
from tests.lab.guest.product import NO_QUIESCE, attached, fence_here, hosts_toml, without
from tests.lab.guest.test_fencing import both, target
from tests.lab.shape import Shape

FIRST_VF = 2
HOSTS = ("compute-0", "compute-1")
DEADLINE_S = 6


@pytest.fixture
def map_file(shape: Shape, tmp_path: Path) -> Path:
    path = tmp_path / "hosts.toml"
    path.write_text(hosts_toml(shape))
    return path


MANNERS = {
    "hangs": (Manner("hung"), "no answer"),
    "hangs-at-the-detach": (Manner("hung", (DETACH,)), "no answer"),
    "refuses": (Manner("refuse", (DETACH,), status=0x4002), "Invalid Field"),
    "lies": (Manner("lie", (DETACH,)), "still attached|no answer"),
    "writes-nothing": (Manner("blank", (READ,)), "wrote nothing"),
    "interrupted": (Manner("error", status=errno.EINTR), "no answer|EINTR"),
    "fails": (Manner("error", (READ,), status=errno.EIO), "EIO"),
}


@pytest.mark.shape("small")
@pytest.mark.limit(300)
def test_a_drive_that_misbehaves_at_the_ioctl_is_never_a_success_and_is_named(
    drives: list[observer.Drive], map_file: Path, tmp_path: Path, baseline: bringup.Attachments
) -> None:
    before = attached(drives)
    victim = target(drives, FIRST_VF)
    bad, rest = drives[1], [drives[0], drives[2]]
    cut_there = without({drive.serial: before[drive.serial] for drive in rest}, victim)
    with Impostor(bad, tmp_path) as impostor, observer.Device(impostor.real) as real:
        for name, (behaviour, reason) in MANNERS.items():
            impostor.behave(behaviour)
            started = time.monotonic()
            report = fence_here(map_file, "auto", ["compute-0"], deadline=DEADLINE_S)
            waited = time.monotonic() - started
            message = report.message("compute-0")
            assert not report.confirmed("compute-0"), f"{name}: {message}"
            assert (bad.serial in message, bool(re.search(reason, message))) == (True, True), f"{name}: {message}"
            assert not [drive.serial for drive in rest if drive.serial in message], f"{name}: {message}"
            assert waited < DEADLINE_S + 30, name
            assert attached(rest) == cut_there, f"{name}: the others are cut"
            impostor.behave(Manner())
            done = fence_here(map_file, "auto", ["compute-0"], deadline=20)
            assert done.confirmed("compute-0"), f"{name}: {done.message('compute-0')}"
            assert real.attachments() == without(before, victim)[bad.serial], name
            for nsid, ids in baseline[bad.serial].items():
                if ids != real.attachments()[nsid]:
                    real.attach(nsid, [victim[bad.serial]])


@pytest.mark.shape("small")
@both
def test_a_drive_that_answers_late_is_fenced_where_it_can_be_spoken_to(
    drives: list[observer.Drive], map_file: Path, tmp_path: Path, backend: str
) -> None:
    """A device whose driver has no io_uring passthrough is said to be so where nothing else is allowed."""
    before = attached(drives)
    with Impostor(drives[1], tmp_path, Manner("late", seconds=0.3)):
        report = fence_here(map_file, backend, ["compute-0"], deadline=20)
    message = report.message("compute-0")
    if backend == "ioctl":
        assert report.confirmed("compute-0"), message
        assert attached(drives) == without(before, target(drives, FIRST_VF))
    else:
        assert not report.confirmed("compute-0")
        assert (drives[1].serial in message, "ENOTSUP" in message) == (True, True), message


@pytest.mark.shape("small")
def test_a_list_applied_in_part_is_believed_only_as_far_as_the_read_back(
    drives: list[observer.Drive], map_file: Path, tmp_path: Path
) -> None:
    with Impostor(drives[1], tmp_path, Manner("part", (DETACH,))):
        report = fence_here(map_file, "auto", HOSTS, deadline=4)
    seen = attached(drives[1:2])[drives[1].serial]
    for host, function in zip(HOSTS, (FIRST_VF, FIRST_VF + 1), strict=True):
        cntlid = target(drives, function)[drives[1].serial]
        assert report.confirmed(host) == (not [nsid for nsid, ids in seen.items() if cntlid in ids]), host
    assert sorted(report.confirmed(host) for host in HOSTS) == [False, True]


@pytest.mark.shape("small")
def test_with_auto_one_device_falls_back_in_the_middle_of_its_life_and_back_again(
    drives: list[observer.Drive], map_file: Path, tmp_path: Path, baseline: bringup.Attachments
) -> None:
    before = attached(drives)
    hostmap = load(map_file)
    site = open_site(Settings(hosts=str(map_file), backend="auto"))
    assert site.transport.backend == "io_uring"

    async def thrice() -> None:
        for now in (contextlib.nullcontext(), Impostor(drives[1], tmp_path), contextlib.nullcontext()):
            with now:
                options = Options(30, NO_QUIESCE)
                report = await fence(site.transport, hostmap, site.discover(), [hostmap.find("compute-0")], options)
            assert report.confirmed("compute-0"), report.message("compute-0")
            assert attached(drives) == without(before, target(drives, FIRST_VF))
            bringup.restore(baseline)

    try:
        asyncio.run(thrice())
    finally:
        site.transport.close()


@pytest.mark.shape("small")
def test_where_io_uring_is_denied_ioctl_is_used(
    drives: list[observer.Drive], map_file: Path, tmp_path: Path
) -> None:
    before = attached(drives)
    command = [
        sys.executable, "-m", "tests.lab.no_ring", sys.executable, "-m", "nvmefence.cli.main", "detach",
        "--hosts", str(map_file), "--host", "compute-0", "--quiesce", "none", "--records", str(tmp_path / "fenced"),
        "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hosts"][0]["backend"] == "ioctl"
    assert attached(drives) == without(before, target(drives, FIRST_VF))


def reset(drive: observer.Drive) -> None:
    faults.write(observer.SYSFS / drive.primary.name / "reset_controller", "1")


def unbind_and_bind(drive: observer.Drive) -> None:
    faults.unbind(drive.primary.address)
    faults.bind(drive.primary.address)


def pull_and_back(drive: observer.Drive) -> None:
    faults.pull(drive.primary.address)
    faults.rescan()


@pytest.mark.shape("small")
@pytest.mark.limit(240)
@pytest.mark.parametrize("phase", ["cut", "read-back"])
@pytest.mark.parametrize("disturb", [reset, unbind_and_bind, pull_and_back])
def test_a_controller_that_goes_away_and_comes_back_in_the_middle(
    shape: Shape,
    drives: list[observer.Drive],
    map_file: Path,
    disturb: Callable[[observer.Drive], None],
    phase: str,
) -> None:
    """Confirmed only if it is true; else the drive is named; and the next fence succeeds."""
    victim = target(drives, FIRST_VF)
    disturbed: list[str] = []

    def heard(drive: DriveEvidence, now: str) -> None:
        if now == phase and drive.serial == drives[1].serial and not disturbed:
            disturbed.append(drive.serial)
            disturb(drives[1])

    report: FenceReport = fence_here(map_file, "io_uring", ["compute-0"], heard, deadline=15)
    assert disturbed
    now = observer.drives()
    reached = {
        serial: nsids
        for serial, by_nsid in attached(now).items()
        if (nsids := [nsid for nsid, ids in by_nsid.items() if victim[serial] in ids])
    }
    if report.confirmed("compute-0"):
        assert not reached
    else:
        assert drives[1].serial in report.message("compute-0")
        assert not reached.keys() - {drives[1].serial}
    bringup.heal(shape, {})
    again = fence_here(map_file, "io_uring", ["compute-0"], deadline=30)
    assert again.confirmed("compute-0"), again.message("compute-0")
    for serial, by_nsid in attached(observer.drives()).items():
        assert not [nsid for nsid, ids in by_nsid.items() if victim[serial] in ids]


SHORT = ["attached by a stranger", "drive pulled and back", "drive changes its manners", "watcher killed"]


@pytest.mark.shape("chaos")
@pytest.mark.limit(600)
def test_a_short_run_of_random_faults_finds_no_false_success_and_no_missing_answer(
    shape: Shape, tmp_path: Path
) -> None:
    document = Campaign(tmp_path, shape, time.time_ns() % 2**31).run(by_name(SHORT), rounds=len(SHORT))
    print(json.dumps(document))
    assert document["findings"] == []
    assert document["successes"] > 0
    assert document["reads_held_against_a_success"] > 20


@pytest.mark.shape("chaos")
@pytest.mark.limit(240)
@pytest.mark.parametrize(
    ("defect", "fault", "count", "timeout"),
    [("no-read-back", "drive lies", "false_successes", 30), ("answers-lost", "none", "missing_answers", 4)],
)
def test_a_watcher_with_a_defect_is_found_out_by_a_short_run(
    shape: Shape, tmp_path: Path, defect: str, fault: str, count: str, timeout: float
) -> None:
    campaign = Campaign(tmp_path, shape, 1, ("tests.lab.broken", defect), timeout)
    document = campaign.run(by_name([fault]), rounds=1)
    assert document[count] > 0, document

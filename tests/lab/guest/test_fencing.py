"""The fence against a real kernel and NVMe controllers, on both backends, judged by the lab's own observer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nvmefence.cli.detach import exit_code
from nvmefence.errors import Exit
from nvmefence.fencing.evidence import DriveEvidence, Outcome
from tests.lab import faults, observer, writer
from tests.lab.guest.product import (
    BACKENDS,
    attached,
    fence_here,
    hosts_toml,
    nvmefence,
    without,
)
from tests.lab.shape import Shape

both = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture
def map_file(shape: Shape, tmp_path: Path) -> Path:
    path = tmp_path / "hosts.toml"
    path.write_text(hosts_toml(shape))
    return path


def block_device(view: observer.Controller) -> Path:
    return faults.wait_for("a block device", lambda: observer.blocks(view).get(1))


def target(drives: list[observer.Drive], function: int) -> dict[str, int]:
    """The controller id of a virtual function on each drive, by serial number, as the observer reads it."""
    ids = {}
    for drive in drives:
        with observer.Device(drive.primary.path) as device:
            ids[drive.serial] = next(s.cntlid for s in device.secondaries() if s.function == function)
    return ids


@pytest.mark.shape("rabbit")
@pytest.mark.limit(400)
@both
def test_one_host_of_sixteen_is_cut_on_all_drives_and_the_others_are_untouched(
    drives: list[observer.Drive], map_file: Path, backend: str
) -> None:
    before = attached(drives)
    arguments = [
        "detach",
        "--hosts",
        str(map_file),
        "--host",
        "compute-7",
        "--quiesce",
        "none",
        "--backend",
        backend,
    ]
    first = nvmefence(*arguments, "--json")
    assert first.code == Exit.OK, first.err + first.out
    assert attached(drives) == without(before, target(drives, 9))
    report = first.json["hosts"][0]
    assert report["backend"] == backend
    assert {drive["hosts"]["compute-7"]["outcome"] for drive in report["drives"]} == {"cut"}
    assert all(drive["read_back"] == {} and len(drive["sent"]) == 4 for drive in report["drives"])
    again = nvmefence(*arguments)
    assert again.code == Exit.OK
    assert "already detached on all of 18 drives" in again.out
    assert attached(drives) == without(before, target(drives, 9))


@pytest.mark.shape("rabbit")
@pytest.mark.limit(300)
def test_sixteen_hosts_are_cut_in_one_pass_with_one_command_for_each_namespace(
    shape: Shape, drives: list[observer.Drive], map_file: Path
) -> None:
    hosts = [f"compute-{slot}" for slot in range(16)]
    report = fence_here(map_file, "io_uring", hosts)
    assert all(report.confirmed(host) for host in hosts)
    assert {len(drive.sent) for drive in report.drives} == {shape.namespaces}
    for by_nsid in attached(drives).values():
        assert all(ids <= {0, 1} for ids in by_nsid.values())


@pytest.mark.shape("rabbit")
@pytest.mark.limit(300)
def test_status_and_check_say_what_the_observer_sees(drives: list[observer.Drive], map_file: Path) -> None:
    with observer.Device(drives[4].primary.path) as device:
        device.detach(2, [target(drives, 3)[drives[4].serial]])
    result = nvmefence("status", "--hosts", str(map_file), "--json")
    assert result.code == Exit.OK, result.err
    states = {d["serial"]: d["hosts"]["compute-1"]["state"] for d in result.json["drives"]}
    assert states.pop(drives[4].serial) == "partly"
    assert set(states.values()) == {"attached"}
    check = nvmefence("check", "--hosts", str(map_file), "--json")
    assert check.code == Exit.OK, check.out + check.err
    assert not [f for f in check.json["findings"] if f["level"] == "fail"]


@pytest.mark.shape("small")
@both
def test_a_namespace_attached_while_fencing_is_caught_by_the_read_back(
    drives: list[observer.Drive], map_file: Path, backend: str
) -> None:
    before = attached(drives)
    victim = target(drives, 3)
    raced: list[str] = []

    def attach_again(drive: DriveEvidence, phase: str) -> None:
        if phase == "read-back" and drive.serial == drives[1].serial and not raced:
            raced.append(drive.serial)
            with observer.Device(drives[1].primary.path) as device:
                device.attach(2, [victim[drive.serial]])

    report = fence_here(map_file, backend, ["compute-1"], attach_again)
    assert raced
    assert report.confirmed("compute-1"), report.message("compute-1")
    raced_drive = next(drive for drive in report.drives if drive.serial == raced[0])
    assert [sent.nsid for sent in raced_drive.sent] == [1, 2, 3, 2]
    assert attached(drives) == without(before, victim)


@pytest.mark.shape("small")
@pytest.mark.limit(240)
@both
def test_a_drive_pulled_in_the_middle_is_a_failure_that_names_it_and_all_others_are_cut(
    drives: list[observer.Drive], map_file: Path, backend: str
) -> None:
    before = attached(drives)
    victim = target(drives, 2)
    gone = drives[1]
    pulled: list[str] = []

    def pull(drive: DriveEvidence, phase: str) -> None:
        if phase == "cut" and drive.serial == gone.serial and not pulled:
            pulled.append(drive.serial)
            faults.pull(gone.primary.address)

    report = fence_here(map_file, backend, ["compute-0"], pull, deadline=20)
    assert pulled
    assert not report.confirmed("compute-0")
    assert exit_code(report) == Exit.NOT_CONFIRMED
    assert gone.serial in report.message("compute-0")
    outcomes = {drive.serial: drive.outcome("compute-0") for drive in report.drives}
    assert outcomes.pop(gone.serial) is Outcome.UNKNOWN
    assert set(outcomes.values()) == {Outcome.CUT}
    rest = [drive for drive in drives if drive is not gone]
    del before[gone.serial]
    assert attached(rest) == without(before, victim)


@pytest.mark.shape("small")
@pytest.mark.limit(600)
def test_what_cannot_be_fenced_is_refused_with_its_exit_code(
    shape: Shape, drives: list[observer.Drive], tmp_path: Path
) -> None:
    before = attached(drives)

    def detach(host: str, text: str, *more: str) -> tuple[int, str]:
        path = tmp_path / "map.toml"
        path.write_text(text)
        ran = nvmefence("detach", "--hosts", str(path), "--host", host, "--quiesce", "none", *more)
        return ran.code, ran.out + ran.err

    code, text = detach("compute-99", hosts_toml(shape))
    assert (code, "compute-99" in text) == (Exit.UNKNOWN_HOST, True)
    code, text = detach("compute-0", hosts_toml(shape, drives='serials = ["ELSEWHERE"]'))
    assert (code, "ELSEWHERE" in text) == (Exit.DRIVES_MISSING, True)
    code, text = detach("rabbit", hosts_toml(shape, own='"visible"', hosts="[hosts.rabbit]\nvf = 2"))
    assert (code, "this machine's own" in text) == (Exit.REFUSED, True)
    code, text = detach("rabbit", hosts_toml(shape, own="[0, 1]", hosts="[hosts.rabbit]\ncontrollers = [1]"))
    assert (code, "this machine's own" in text) == (Exit.BAD_CONFIG, True)
    code, text = detach("ghost", hosts_toml(shape, hosts="[hosts.ghost]\ncontrollers = [77]"))
    assert (code, "does not exist" in text) == (Exit.REFUSED, True)
    assert attached(drives) == before
    code, text = detach("compute-0", hosts_toml(shape, drives=f"count = {shape.drives + 1}"))
    assert (code, "1 of 4 drives missing" in text) == (Exit.DRIVES_MISSING, True)
    assert attached(drives) == without(before, target(drives, 2)), "the drives that are there are cut all the same"


@pytest.mark.shape("small")
@pytest.mark.limit(200)
@both
def test_the_fenced_host_cannot_write_and_the_other_goes_on(
    drives: list[observer.Drive], map_file: Path, backend: str, start_writer: Callable[[Path], Path]
) -> None:
    views = [drives[0].function(2), drives[0].function(3)]
    fenced, other = (start_writer(block_device(view)) for view in views)
    faults.wait_for("writes", lambda: all(len(writer.read_log(log)) >= 5 for log in (fenced, other)))
    report = fence_here(map_file, backend, ["compute-0"])
    cut = time.monotonic()
    assert report.confirmed("compute-0")
    faults.wait_for("tries after the cut", lambda: len([w for w in writer.read_log(fenced) if w.started > cut]) > 3)
    assert not [line for line in writer.read_log(fenced) if line.started > cut and line.ok]
    faults.wait_for("the other's writes", lambda: len([w for w in writer.read_log(other) if w.started > cut]) > 5)
    assert all(line.ok for line in writer.read_log(other))


@pytest.mark.shape("own-vf")
@pytest.mark.limit(400)
@both
def test_a_hung_drive_delays_neither_the_cut_on_the_other_nor_the_exit(
    shape: Shape, drives: list[observer.Drive], tmp_path: Path, backend: str
) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text(hosts_toml(shape, own="[1]", hosts="[hosts.compute]\ncontrollers = [3]"))
    before = attached(drives)
    silent = faults.hang(drives[0], 1)
    try:
        started = time.monotonic()
        ran = nvmefence(
            "detach", "--hosts", str(path), "--host", "compute", "--quiesce", "none", "--backend", backend,
            "--deadline", "12", "--json",
        )  # fmt: skip
        waited = time.monotonic() - started
        assert ran.code == Exit.NOT_CONFIRMED, ran.out + ran.err
        hung, good = ran.json["hosts"][0]["drives"]
        assert "no answer" in hung["hosts"]["compute"]["reason"]
        assert good["hosts"]["compute"]["outcome"] == "cut"
        assert good["seconds"]["total"] < 11 <= hung["seconds"]["total"]
        assert waited < 45, "the kernel holds the command for 60 s; the answer must not wait for it"
        assert attached(drives[1:]) == without({drives[1].serial: before[drives[1].serial]}, {drives[1].serial: 3})
    finally:
        faults.revive(drives[0], silent)


@pytest.mark.shape("ports")
@both
def test_drives_without_virtual_functions_are_cut_by_controller_id(
    shape: Shape, drives: list[observer.Drive], map_file: Path, backend: str
) -> None:
    before = attached(drives)
    report = fence_here(map_file, backend, ["compute-2"])
    assert report.confirmed("compute-2"), report.message("compute-2")
    assert attached(drives) == without(before, {drive.serial: 2 for drive in drives})


@pytest.mark.shape("wide")
@pytest.mark.limit(300)
@both
def test_sixty_four_namespaces_of_one_drive_are_cut(
    shape: Shape, drives: list[observer.Drive], map_file: Path, backend: str
) -> None:
    before = attached(drives)
    report = fence_here(map_file, backend, ["compute-0"], deadline=120)
    assert report.confirmed("compute-0"), report.message("compute-0")
    assert len(report.drives[0].detached("compute-0")) == shape.namespaces
    assert attached(drives) == without(before, target(drives, 2))

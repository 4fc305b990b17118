"""Simulated fleets: what FLEET.toml may say, and one state for all processes."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from nvmefence.errors import ConfigError, Exit
from nvmefence.nvme import commands, simulation, status
from nvmefence.nvme.commands import VirtualizationAction
from nvmefence.nvme.emulated import QEMU_7_2, SPECIFICATION
from nvmefence.nvme.fleet_file import read_plan
from nvmefence.nvme.simulation import Fleet, FleetController, FleetError, SimulatedTransport, load_fleet
from nvmefence.nvme.transport import NO_ANSWER, Command, Completion

FLEET = """
[fleet]
drives = 3
secondary_controllers = 4
namespaces = 2
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path, FLEET)


def written(folder: Path, text: str) -> Path:
    file = folder / "fleet.toml"
    file.write_text(text)
    return file


def send(fleet: Fleet, name: str, sent: Sequence[Command], within: float = 5.0) -> list[Completion]:
    async def main() -> list[Completion]:
        transport = SimulatedTransport(fleet)
        return await transport.run(transport.open(name), sent, time.monotonic() + within)

    return asyncio.run(main())


def codes(found: Sequence[Completion]) -> list[int]:
    return [status.code(completion.status) for completion in found]


# The fleet file


def test_every_drive_is_a_controller_of_ours(path: Path) -> None:
    found = load_fleet(path).controllers()
    assert [controller.path for controller in found] == ["/dev/nvme0", "/dev/nvme1", "/dev/nvme2"]
    assert found[1] == FleetController(
        nqn="nqn.2014-08.org.nvmexpress:simulated:SIM00001",
        serial="SIM00001",
        model="Simulated NVMe",
        firmware="1.0",
        name="nvme1",
        path="/dev/nvme1",
        cntlid=0,
        state="live",
        physical=True,
    )


def test_shared_namespaces_start_attached_to_all_but_us(path: Path) -> None:
    drive = load_fleet(path).subsystems[0]
    assert [drive.attached(nsid) for nsid in drive.namespaces] == [(1, 2, 3, 4)] * 2
    path.write_text(FLEET + "attached = 'none'\n")
    drive = load_fleet(path).subsystems[0]
    assert [drive.attached(nsid) for nsid in drive.namespaces] == [()] * 2


def test_every_key(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        [fleet]
        drives = 4
        controllers = 3
        namespaces = 1
        quirks = "qemu-7.2"
        state = "run/state.json"
        latency_ms = 2.5
        [[drive]]
        number = 2
        serial = "S2"
        nqn = "nqn.2014-08.org.example:2"
        model = "Model"
        firmware = "F"
        controllers = [7]
        secondary_controllers = [9, 8]
        namespaces = [{ nsid = 9, size = 8192, private = true }, { nsid = 4 }]
        answers = "no-namespace-management"
        [[drive]]
        number = 3
        secondary_controllers = 2
        """,
    )
    plan = read_plan(file)
    assert (plan.latency, plan.quirks, plan.state) == (0.0025, QEMU_7_2, tmp_path / "run/state.json")
    assert plan.drives[0].controllers == (1, 2, 3)
    second, third = plan.drives[2:]
    assert (second.serial, second.nqn, second.model, second.firmware) == (
        "S2", "nqn.2014-08.org.example:2", "Model", "F",
    )  # fmt: skip
    assert (second.controllers, second.secondaries, second.namespace_management) == ((7,), (9, 8), False)
    assert [(n.nsid, n.size, n.shared) for n in second.namespaces] == [(4, 1 << 21, True), (9, 2, False)]
    assert (third.controllers, third.secondaries) == ((0,), (1, 2))
    fleet = load_fleet(file)
    assert fleet.subsystems[2].attached(9) == (7,)
    assert [entry.vf for entry in fleet.subsystems[2].secondaries.values()] == [1, 2]
    assert read_plan(written(tmp_path, FLEET)).quirks == SPECIFICATION


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "fleet: is missing"),
        ("[fleet]", "fleet.drives: must be a whole number from 1"),
        ("[fleet]\ndrives = 0", "fleet.drives"),
        ("[fleet]\ndrives = true", "fleet.drives"),
        ("[fleet]\ndrives = 2\ndrivs = 1", "fleet.drivs: unknown key (did you mean 'drives'?)"),
        ("[fleets]\ndrives = 2", "fleets: unknown key (did you mean 'fleet'?)"),
        ("[fleet]\ndrives = 2\nquirks = 'qemu'", "did you mean 'qemu-7.2'?"),
        ("[fleet]\ndrives = 2\nattached = true", "fleet.attached: True is not known"),
        ("[fleet]\ndrives = 2\nlatency_ms = -1", "fleet.latency_ms"),
        ("[fleet]\ndrives = 2\nlatency_ms = nan", "fleet.latency_ms"),
        ("[fleet]\ndrives = 2\nstate = ''", "fleet.state"),
        ("[fleet]\ndrives = 2\ncontrollers = 2\nsecondary_controllers = 2", "exclude each other"),
        ("[fleet]\ndrives = 2\ncontrollers = [1, 1]", "fleet.controllers"),
        ("[fleet]\ndrives = 2\ncontrollers = [1]\nsecondary_controllers = [1]", "fleet.secondary_controllers"),
        ("[fleet]\ndrives = 2\nsecondary_controllers = 128", "fleet.secondary_controllers: at most 127"),
        ("[fleet]\ndrives = 2\nnamespaces = [{ nsid = 0 }]", "fleet.namespaces[0].nsid"),
        ("[fleet]\ndrives = 2\nnamespaces = [{ nsid = 1 }, { nsid = 1 }]", "fleet.namespaces[1]"),
        ("[fleet]\ndrives = 2\nnamespaces = [{ nsid = 1, size = 4097 }]", "a multiple of 4096"),
        ("[fleet]\ndrives = 2\nnamespaces = [{ nsid = 300 }]\nquirks = 'qemu-7.2'", "drive 0: namespace id 300"),
        ("[fleet]\ndrives = 2\ndrive = 3", "fleet.drive"),
        ("drive = 3\n[fleet]\ndrives = 2", "drive: must be a list"),
        ("[fleet]\ndrives = 2\n[[drive]]\nnumber = 2", "drive[0].number: must be a whole number from 0 to 1"),
        ("[fleet]\ndrives = 2\n[[drive]]\nnumber = 0\n[[drive]]\nnumber = 0", "described twice"),
        ("[fleet]\ndrives = 2\n[[drive]]\nserial = 'SIM00001'", "drives 0 and 1 have the same serial"),
        ('[fleet]\ndrives = 2\n[[drive]]\nserial = "A\\u001b"', "drive[0].serial"),
        ("[fleet]\ndrives = 2\n[[drive]]\nmodel = 'Modèle'", "drive[0].model"),
        ("[fleet]\ndrives = 2\n[[drive]]\nanswers = 'nevr'", "did you mean 'never'?"),
        ("[fleet]\ndrives = 2\n[[drive]]\nanswers = 'late:soon'", "drive[0].answers: 'late:soon': not a number"),
        ("[fleet]\ndrives = 2\n[[drive]]\nanswers = 'late:inf'", "drive[0].answers"),
        ("[fleet", "correct the file"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(tmp_path: Path, text: str, reason: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(FleetError) as caught:
        load_fleet(file)
    assert reason in str(caught.value)
    assert str(file) in str(caught.value)
    assert isinstance(caught.value, ConfigError)
    assert caught.value.exit_code is Exit.BAD_CONFIG


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="there is no fleet file"):
        load_fleet(tmp_path / "none.toml")
    with pytest.raises(FleetError, match="Is a directory"):
        load_fleet(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(FleetError, match="not UTF-8 at byte 5"):
        load_fleet(tmp_path / "latin.toml")


# Rehearsed failures


def test_drives_fail_as_they_are_told_to(tmp_path: Path) -> None:
    text = FLEET + "".join(
        f"[[drive]]\nanswers = '{answers}'\n" for answers in ("never", "late:0.05", "no-namespace-management")
    )
    fleet = load_fleet(written(tmp_path, text))
    cut = [commands.detach(1, [3])]
    assert codes(send(fleet, "/dev/nvme0", cut, within=0.02)) == [NO_ANSWER]
    assert codes(send(fleet, "/dev/nvme1", cut, within=0.02)) == [NO_ANSWER]
    (late,) = send(fleet, "/dev/nvme1", [commands.identify_controller()])
    assert late.status == 0
    assert late.finished - late.started >= 0.05
    assert codes(send(fleet, "/dev/nvme2", cut)) == [status.INVALID_OPCODE]


def test_a_removed_drive_is_not_there(tmp_path: Path) -> None:
    fleet = load_fleet(written(tmp_path, FLEET + "[[drive]]\nnumber = 1\nanswers = 'removed'\n"))
    assert [controller.name for controller in fleet.controllers()] == ["nvme0", "nvme2"]
    with pytest.raises(FileNotFoundError):
        SimulatedTransport(fleet).open("/dev/nvme1")


# State


def test_a_change_is_seen_by_whoever_reads_next(path: Path) -> None:
    writer, reader = load_fleet(path), load_fleet(path)
    assert codes(send(writer, "/dev/nvme1", [commands.detach(2, [3]), commands.detach(1, [1, 2])])) == [0, 0]
    found = send(reader, "/dev/nvme1", [commands.attached_controllers(2)])
    assert found[0].data[:8] == b"\3\0\1\0\2\0\4\0"
    assert load_fleet(path).subsystems[1].attached(1) == (3, 4)
    assert load_fleet(path).subsystems[0].attached(1) == (1, 2, 3, 4)


def test_each_sees_the_other_turn_by_turn(path: Path) -> None:
    one, other = load_fleet(path), load_fleet(path)
    for turn in range(6):
        fleet, change = ((one, commands.detach), (other, commands.attach))[turn % 2]
        assert codes(send(fleet, "/dev/nvme0", [change(1, [2])])) == [0], turn


def test_secondary_states_are_kept(path: Path) -> None:
    offline = commands.virtualization(VirtualizationAction.SECONDARY_OFFLINE, 2)
    assert codes(send(load_fleet(path), "/dev/nvme0", [offline])) == [0]
    entry = load_fleet(path).subsystems[0].secondaries[2]
    assert (entry.online, entry.vq, entry.vi) == (False, 0, 0)


def test_undoing_a_change_empties_the_state(path: Path) -> None:
    fleet = load_fleet(path)
    send(fleet, "/dev/nvme0", [commands.detach(1, [2])])
    send(fleet, "/dev/nvme0", [commands.attach(1, [2])])
    assert json.loads(fleet.plan.state.read_bytes()) == {"version": 1, "drives": {}}


def test_reading_writes_nothing(path: Path) -> None:
    send(load_fleet(path), "/dev/nvme0", [commands.allocated_namespaces(), commands.effects_log()])
    assert list(path.parent.iterdir()) == [path]


def test_deleting_the_state_begins_anew(path: Path) -> None:
    fleet = load_fleet(path)
    send(fleet, "/dev/nvme0", [commands.detach(1, [2])])
    fleet.plan.state.unlink()
    assert codes(send(fleet, "/dev/nvme0", [commands.detach(1, [2])])) == [0]


def test_a_state_edited_in_place_is_seen(path: Path) -> None:
    fleet = load_fleet(path)
    send(fleet, "/dev/nvme0", [commands.detach(1, [2])])
    with fleet.plan.state.open("w") as file:
        json.dump({"version": 1, "drives": {"SIM00000": {"attached": {"1": "0"}}}}, file)
    assert codes(send(fleet, "/dev/nvme0", [commands.detach(1, [3])])) == [status.NAMESPACE_NOT_ATTACHED]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("\xff", "not JSON"),
        ("[]", "not a state file of version 1"),
        ('{"version": 2}', "not a state file of version 1"),
        ('{"version": 1}', "drives: must be a table"),
        ('{"version": 1, "drives": {"X": {}}}', "drives.X: the fleet file has no such drive"),
        ('{"version": 1, "drives": {"SIM00000": {"attached": {"9": "2"}}}}', "drives.SIM00000: does not fit"),
        ('{"version": 1, "drives": {"SIM00000": {"attached": {"1": "ffff"}}}}', "do not exist"),
        ('{"version": 1, "drives": {"SIM00000": {"attached": []}}}', "drives.SIM00000: does not fit"),
        ('{"version": 1, "drives": {"SIM00000": {"secondaries": {"1": true}}}}', "does not fit"),
    ],
)
def test_a_broken_state_is_refused_until_it_is_mended(path: Path, text: str, reason: str) -> None:
    fleet = load_fleet(path)
    fleet.plan.state.write_text(text, "latin-1")
    for _ in range(2):
        with pytest.raises(FleetError) as caught:
            send(fleet, "/dev/nvme0", [commands.detach(1, [2])])
        assert reason in str(caught.value)
        assert str(fleet.plan.state) in str(caught.value)
    with pytest.raises(FleetError):
        load_fleet(path)
    fleet.plan.state.unlink()
    assert codes(send(fleet, "/dev/nvme0", [commands.detach(1, [2])])) == [0]


def test_a_late_command_that_cannot_be_stored_raises(tmp_path: Path) -> None:
    fleet = load_fleet(written(tmp_path, FLEET + "latency_ms = 1\nstate = 'none/state.json'\n"))
    with pytest.raises(FleetError, match=r"cannot open .*none/state.json.lock"):
        send(fleet, "/dev/nvme0", [commands.detach(1, [2])])


def test_what_cannot_be_stored_has_not_happened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = load_fleet(path)
    send(fleet, "/dev/nvme0", [commands.detach(1, [2])])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FleetError, match="No space left"):
            send(fleet, "/dev/nvme0", [commands.detach(1, [3])])
    assert fleet.subsystems[0].attached(1) == (1, 3, 4)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "fleet.toml",
        "fleet.toml.state.json",
        "fleet.toml.state.json.lock",
    ]
    assert codes(send(fleet, "/dev/nvme0", [commands.detach(1, [3])])) == [0]


def test_a_lock_that_is_never_given_back_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = load_fleet(path)
    monkeypatch.setattr(simulation, "_LOCK_SECONDS", 0.05)
    with Path(f"{fleet.plan.state}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FleetError, match="another process holds"):
            send(fleet, "/dev/nvme0", [commands.detach(1, [2])])
        assert codes(send(fleet, "/dev/nvme0", [commands.attached_controllers(1)])) == [0]
    assert codes(send(fleet, "/dev/nvme0", [commands.detach(1, [2])])) == [0]


CHANGER = """
import asyncio, sys
from nvmefence.nvme import commands
from nvmefence.nvme.simulation import SimulatedTransport, load_fleet

async def main():
    transport = SimulatedTransport(load_fleet(sys.argv[1]))
    for name in ("/dev/nvme0", "/dev/nvme1"):
        device = transport.open(name)
        for nsid in range(1, 13):
            (found,) = await transport.run(device, [commands.detach(nsid, [int(sys.argv[2])])])
            assert found.status == 0, found
asyncio.run(main())
"""


def test_processes_that_change_at_once_lose_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "[fleet]\ndrives = 2\nsecondary_controllers = 4\nnamespaces = 12\n")
    processes = [subprocess.Popen([sys.executable, "-c", CHANGER, str(path), str(n)]) for n in (1, 2, 3)]
    assert [process.wait(timeout=30) for process in processes] == [0, 0, 0]
    for drive in load_fleet(path).subsystems:
        assert [drive.attached(nsid) for nsid in range(1, 13)] == [(4,)] * 12

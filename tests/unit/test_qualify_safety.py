"""Qualifying a drive: what is refused, what is taken for data, and what is put back whatever happens."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nvmefence.cli.qualify import as_text
from nvmefence.errors import Exit
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.inventory.hostmap import HostMap
from nvmefence.nvme import status
from nvmefence.nvme.commands import IDENTIFY
from nvmefence.nvme.emulated import (
    Fault,
    fail,
    on,
)
from nvmefence.nvme.transport import Command
from nvmefence.qualify import ground
from nvmefence.qualify.blocks import BLOCK, MARK, BlockBench, block_name, holds_data, in_use
from nvmefence.qualify.control import Control
from nvmefence.qualify.figures import (
    Measured,
    Plan,
    QualifyRefusedError,
    State,
    Trouble,
)
from nvmefence.qualify.ground import DriveMissingError, Named
from nvmefence.qualify.putback import put_back
from nvmefence.qualify.rehearsal import Rehearsal
from nvmefence.qualify.report import Report
from tests.unit.qualify_place import (
    CHANGING,
    NSID,
    OTHER,
    OWN,
    PLAN,
    TARGET,
    Place,
    quick,  # noqa: F401 (a fixture)
)

# Refusals


def checked(place: Place, *, target: int = TARGET, nsid: int = NSID, hostmap: HostMap | None = None) -> None:
    place.control = Control(place.transport, place.found, place.own, target, nsid)

    async def work(before: State) -> None:
        await ground.check(place.control, before, hostmap, simulated=False)

    place.run(work)


def a_map(hosts: dict[str, Any], **drives: Any) -> HostMap:
    return hostfile.parse({"version": 1, "drives": drives or {"count": 1}, "hosts": hosts}, "hosts.toml")


@pytest.mark.parametrize(
    ("attached", "arguments", "words"),
    [
        ([OWN, TARGET, OTHER], {}, "attached to controller 12 as well"),
        ([TARGET], {}, "is not attached to controller 0"),
        ([OWN], {}, "is not attached to controller 11"),
        ([OWN, TARGET], {"nsid": 9}, "has no namespace 9"),
        ([OWN, TARGET], {"target": 99}, "has no controller 99"),
        ([OWN, TARGET], {"hostmap": a_map({"c1": {"vf": 1}})}, "controller 11 is c1's by hosts.toml"),
        ([OWN, TARGET], {"hostmap": a_map({"c1": {"controllers": TARGET}})}, "controller 11 is c1's"),
        ([OWN, TARGET], {"hostmap": a_map({"c1": {"controllers": TARGET}}, count=18)}, "controller 11 is c1's"),
        ([OWN, TARGET], {"hostmap": a_map({"c1": {"vf": 7}})}, "it cannot be told which controllers of S0"),
    ],
)
def test_what_is_not_set_aside_is_refused_and_nothing_is_sent(
    attached: list[int], arguments: dict[str, Any], words: str
) -> None:
    place = Place()
    place.drive.set_attached(NSID, attached)
    with pytest.raises(QualifyRefusedError, match=words):
        checked(place, **arguments)
    assert place.changed() == []


@pytest.mark.parametrize(
    "hostmap",
    [
        None,
        a_map({"c1": {"controllers": OTHER}}),
        a_map({"c1": {"vf": 1}}, serials=["ANOTHER"]),
        a_map({"c1": {"vf": 1}}, count=1, ignore=["S0"]),
    ],
)
def test_a_drive_that_is_set_aside_is_taken(hostmap: HostMap | None) -> None:
    place = Place()
    checked(place, hostmap=hostmap)
    assert place.changed() == []


def test_the_controllers_must_be_this_machines_own() -> None:
    own = LocalController("nvme0", "/dev/nvme0", OWN, "", "live", False)
    seen = LocalController("nvme1", "/dev/nvme1", TARGET, "", "live", True)
    dead = LocalController("nvme1", "/dev/nvme1", TARGET, "", "resetting", True)

    def find(*controllers: LocalController, name: str = "S0", reader: int | None = None) -> ground.Ground:
        found = [Drive("nqn.example:0", "S0", "M", "1", controllers)]
        return ground.find(Named(name, TARGET, NSID, reader), found, simulated=False)

    place = find(seen, own)
    assert (place.own, place.target) == (own, seen)
    with pytest.raises(DriveMissingError):
        find(own, seen, name="S1")
    with pytest.raises(QualifyRefusedError, match="does not drive controller 11"):
        find(own)
    with pytest.raises(QualifyRefusedError, match="another controller"):
        find(seen)
    with pytest.raises(QualifyRefusedError, match="controller 5, beside the target"):
        find(own, seen, reader=5)
    with pytest.raises(QualifyRefusedError, match="controller 11, beside the target"):
        find(own, seen, reader=TARGET)
    with pytest.raises(QualifyRefusedError, match="nvme1 is resetting"):
        find(own, dead)


def test_data_at_either_end_is_seen_and_what_a_measurement_left_is_none() -> None:
    mark = MARK.to_bytes(8, "little")
    assert not holds_data(bytes(4 * BLOCK))
    assert not holds_data(bytes(BLOCK) + mark + b"x" * (BLOCK - 8))
    assert holds_data(bytes(BLOCK) + b"\0" * 512 + b"EFI PART" + bytes(BLOCK - 520))
    assert holds_data(bytes(BLOCK + 1080) + b"\x53\xef" + bytes(BLOCK - 1082))


def test_a_block_device_that_is_held_or_has_partitions_or_is_one_path_of_many_is_refused(tmp_path: Path) -> None:
    device = tmp_path / "nvme3/nvme3n2"
    (device / "holders").mkdir(parents=True)
    (device / "nsid").write_text("1\n")
    assert block_name("nvme3", 1, tmp_path) == "nvme3n2"
    assert block_name("nvme3", 2, tmp_path) == block_name("nvme4", 1, tmp_path) == ""
    assert in_use("nvme3", "nvme3n2", tmp_path) == ""
    (device / "holders/dm-0").mkdir()
    assert in_use("nvme3", "nvme3n2", tmp_path) == "/dev/nvme3n2 is held by dm-0"
    (device / "holders/dm-0").rmdir()
    (device / "nvme3n2p1").mkdir()
    (device / "nvme3n2p1/partition").write_text("1\n")
    assert in_use("nvme3", "nvme3n2", tmp_path) == "/dev/nvme3n2 has partitions: nvme3n2p1"
    (tmp_path / "nvme5/nvme1c5n1").mkdir(parents=True)
    (tmp_path / "nvme5/nvme1c5n1/nsid").write_text("1\n")
    with pytest.raises(Trouble, match=r"nvme_core\.multipath=N"):
        block_name("nvme5", 1, tmp_path)


class FileBench(BlockBench):
    """Block devices that are a file."""

    def __init__(self, path: Path, plan: Plan) -> None:
        local = LocalController("nvme-none", "/dev/nvme-none", OWN, "", "live", False)
        super().__init__(local, local, NSID, plan)
        self.path = path

    def _block(self, controller: LocalController) -> str:
        return "file"

    def _take(self, controller: LocalController, flags: int) -> int:
        return os.open(self.path, flags & ~(os.O_DIRECT | os.O_EXCL))


def a_file(tmp_path: Path, data: bytes = b"") -> Path:
    path = tmp_path / "medium"
    path.write_bytes(data)
    os.truncate(path, 4 << 20)
    return path


def test_what_is_written_is_read_back_and_a_part_of_a_write_is_seen(tmp_path: Path) -> None:
    path = a_file(tmp_path)

    async def work() -> None:
        bench = FileBench(path, Plan(writes=2, size=2 * BLOCK, pause_s=0.002))
        bench.open()
        assert await bench.sample() == frozenset()
        bench.start()
        while sum(write.outcome == "ok" for write in bench.writes()) < 20:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.005)
        bench.stop()
        while bench.writing():  # noqa: ASYNC110 (likewise)
            await asyncio.sleep(0.005)
        first = await bench.sample()
        newest = sorted(write.number for write in bench.writes())[-16:]
        assert sorted(number for _, number in first) == sorted(2 * newest)
        assert all(write.outcome == "ok" and write.ended is not None for write in bench.writes())
        with path.open("r+b") as stream:  # the second half of a write lands late
            stream.seek(BLOCK)
            stream.write(MARK.to_bytes(8, "little") + (99).to_bytes(8, "little"))
        assert await bench.sample() - first == {(1, 99)}
        bench.close()
        FileBench(path, PLAN).open()  # what a measurement left is in nobody's way

    asyncio.run(work())


@pytest.mark.parametrize("at", [0, 510, (1 << 20) - 1])
@pytest.mark.parametrize("end", [False, True])
def test_a_medium_with_data_is_not_taken(tmp_path: Path, at: int, end: bool) -> None:
    path = a_file(tmp_path)
    with path.open("r+b") as stream:
        stream.seek((3 << 20) + at if end else at)
        stream.write(b"x")
    with pytest.raises(Trouble, match="holds data"):
        FileBench(path, PLAN).open()


# Put back


@pytest.mark.parametrize("at", range(1, 14))
def test_an_interruption_after_any_command_leaves_the_drive_as_it_was(at: int) -> None:
    place = Place()
    before = place.snapshot()
    assert place.interrupt(at) == []
    assert place.snapshot() == before


def test_what_cannot_be_put_back_is_named() -> None:
    place = Place()

    async def work(before: State) -> list[str]:
        bench = Rehearsal(place.transport, place.drive, TARGET, NSID, PLAN)
        await place.control.detach()
        await place.control.offline()
        place.drive.set_attached(2, [OWN, TARGET, OTHER])  # somebody else's doing
        place.transport.faults["/dev/nvme0"] = refuse
        left = await put_back(place.control, bench, before)
        place.transport.faults.clear()
        return left

    def refuse(_path: str, command: Command) -> Fault | None:
        return fail(0x006 | status.DNR) if command.opcode in CHANGING else None

    left = place.run(work)
    assert left == [
        "namespace 1 is not attached to controller 11: Internal Error (006h)",
        "namespace 2 is now attached to controller 12",
        "controller 11 is offline with 0 queues and 0 interrupts, was online with 2 queues and 2 interrupts",
    ]
    assert place.drive.attached(2) == (OWN, TARGET, OTHER)


def test_a_drive_that_does_not_answer_is_not_said_to_be_as_it_was() -> None:
    place = Place()

    async def work(before: State) -> list[str]:
        place.transport.faults["/dev/nvme0"] = on(IDENTIFY, fail(0x006 | status.DNR))
        return await put_back(place.control, Rehearsal(place.transport, place.drive, TARGET, NSID, PLAN), before)

    (left,) = place.run(work)
    assert left.startswith("it cannot be told what is put back: ")


@pytest.mark.parametrize(
    ("fields", "why_not", "code"),
    [
        ({}, {}, Exit.OK),
        ({}, {"drain": "it was not asked for"}, Exit.OK),
        ({}, {"drain": "our controller is not a primary controller"}, Exit.UNKNOWN_STATE),
        ({"trouble": "the drive is gone"}, {}, Exit.UNKNOWN_STATE),
        ({"interrupted": True, "trouble": "x"}, {}, Exit.INTERRUPTED),
        ({"interrupted": True, "left": ["namespace 1 is not attached to controller 11"]}, {}, Exit.NOT_RESTORED),
    ],
)
def test_the_exit_code_tells_the_worst_and_the_report_names_it(
    fields: dict[str, Any], why_not: dict[str, str], code: Exit
) -> None:
    place = Place()
    told = Measured(not_measured=why_not)
    report = Report(
        place.found, TARGET, OWN, NSID, PLAN, "ioctl", "6.1", "1.0", "2026-01-01T00:00:00Z", False, told, **fields
    )
    assert report.exit() is code
    text = as_text(report)
    for words in (*fields.get("left", ()), fields.get("trouble", ""), *report.unanswered):
        assert words in text
    assert ("as they were before: read back" in text) is not bool(report.left)
    assert ("Everything that was asked was measured" in text) is (code is Exit.OK)


def test_nothing_on_the_way_of_a_fence_loads_it() -> None:
    code = (
        "import sys, nvmefence.cli.main, nvmefence.cli.detach, nvmefence.watcher.service, "
        "nvmefence.agents.fence_nvmefence; print([m for m in sys.modules if 'qualify' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"

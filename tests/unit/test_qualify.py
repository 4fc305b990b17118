"""Qualifying a drive: what is found out about drives that behave in one way or another, and what is put back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from nvmefence.cli.qualify import as_text
from nvmefence.errors import Exit
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.inventory.hostmap import HostMap
from nvmefence.nvme import status
from nvmefence.nvme.commands import GET_LOG_PAGE, IDENTIFY, NAMESPACE_ATTACHMENT, VIRTUALIZATION_MANAGEMENT
from nvmefence.nvme.emulated import (
    SPECIFICATION,
    EmulatedSubsystem,
    EmulatedTransport,
    Fault,
    Namespace,
    Quirks,
    delay,
    fail,
    on,
)
from nvmefence.nvme.transport import Command
from nvmefence.qualify import ground, judge, putback, rehearsal
from nvmefence.qualify.blocks import BLOCK, MARK, BlockBench, block_name, holds_data, in_use
from nvmefence.qualify.control import Control
from nvmefence.qualify.figures import (
    Cut,
    Measured,
    Plan,
    QualifyRefusedError,
    Reset,
    State,
    Times,
    Trouble,
)
from nvmefence.qualify.ground import DriveMissingError, Named
from nvmefence.qualify.measure import Measurement
from nvmefence.qualify.putback import put_back
from nvmefence.qualify.rehearsal import Rehearsal
from nvmefence.qualify.report import Report
from nvmefence.settings import load

OWN, TARGET, OTHER, NSID = 0, 11, 12, 1
PLAN = Plan(rounds=2, timing_rounds=3, watch_s=0.05, writes=2)
SHORT = Plan(rounds=1, timing_rounds=1, watch_s=0.01, writes=1)
CHANGING = (NAMESPACE_ATTACHMENT, VIRTUALIZATION_MANAGEMENT)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have emulated writes be short, and what is tried again tried soon."""
    monkeypatch.setattr(rehearsal, "WRITE_S", (0.01, 0.04))
    monkeypatch.setattr(putback, "_PAUSE_S", 0.01)


class Place:
    """A drive that is set aside: a primary controller, the target, and another secondary without a namespace."""

    def __init__(self, quirks: Quirks = SPECIFICATION, kind: type[EmulatedSubsystem] = EmulatedSubsystem) -> None:
        self.drive = kind(
            "nqn.example:0", "S0", controllers=[OWN], secondaries=[TARGET, OTHER], attached=[OWN, TARGET],
            namespaces=[Namespace(NSID), Namespace(2)], quirks=quirks, model="MODEL 9",
        )  # fmt: skip
        self.transport = EmulatedTransport({"/dev/nvme0": (self.drive, OWN)})
        self.own = LocalController("nvme0", "/dev/nvme0", OWN, "", "live", False)
        self.found = Drive("nqn.example:0", "S0", "MODEL 9", "1", (self.own,))
        self.control = Control(self.transport, self.found, self.own, TARGET, NSID)
        self.measured = Measured()

    def snapshot(self) -> dict[str, Any]:
        return self.drive.snapshot()

    def changed(self) -> list[Command]:
        return [sent.command for sent in self.transport.log if sent.command.opcode not in (IDENTIFY, GET_LOG_PAGE)]

    def run(self, work: Callable[[State], Coroutine[Any, Any, Any]]) -> Any:
        async def inside() -> Any:
            await self.control.open()
            try:
                return await work(await self.control.state())
            finally:
                self.control.close()

        return asyncio.run(inside())

    def measure(self, plan: Plan = PLAN) -> Measured:
        async def work(before: State) -> None:
            bench = Rehearsal(self.transport, self.drive, TARGET, NSID, plan)
            measurement = Measurement([self.control], bench, plan, before)
            self.measured = measurement.measured
            try:
                await measurement.run()
            finally:
                bench.close()

        self.run(work)
        return self.measured

    def interrupt(self, at: int) -> list[str]:
        """Cancel a measurement when it has sent so many changing commands; return what is not put back then."""

        async def work(before: State) -> list[str]:
            bench = Rehearsal(self.transport, self.drive, TARGET, NSID, SHORT)
            task = asyncio.create_task(Measurement([self.control], bench, SHORT, before).run())
            seen = 0

            def hook(_path: str, command: Command) -> Fault | None:
                nonlocal seen
                seen += command.opcode in CHANGING
                if seen == at and command.opcode in CHANGING:
                    asyncio.get_running_loop().call_soon(task.cancel)
                    return delay(0.03)  # processed after the interruption
                return None

            self.transport.faults["/dev/nvme0"] = hook
            await asyncio.wait([task])
            assert task.cancelled()
            self.transport.faults.clear()
            left = await put_back(self.control, bench, before)
            bench.close()
            await asyncio.sleep(0.05)
            return left

        result: list[str] = self.run(work)
        return result


class NeverCut(EmulatedSubsystem):
    """A drive on which a host that is detached goes on writing."""

    def start_write(self, cntlid: int, nsid: int, duration: float) -> bool:
        attached = self.attached(nsid)
        if cntlid in attached:
            return super().start_write(cntlid, nsid, duration)
        self.set_attached(nsid, [*attached, cntlid])
        try:
            return super().start_write(cntlid, nsid, duration)
        finally:
            self.set_attached(nsid, attached)


class Forgetful(EmulatedSubsystem):
    """A drive whose reset detaches the target."""

    def reset(self) -> None:
        super().reset()
        self.set_attached(NSID, [OWN])


def words(measured: Measured) -> list[str]:
    return [answer.answer for answer in judge.answers(measured)]


def verdicts(measured: Measured) -> dict[str, str]:
    return {rule.quiesce.partition(":")[0]: rule.verdict for rule in judge.rules(measured)}


# What is found out


def test_late_writes_are_found_after_a_detach_and_none_after_a_drain_that_drains() -> None:
    place = Place()
    before = place.snapshot()
    measured = place.measure()
    assert place.snapshot() == before
    cuts = measured.of("none")
    assert len(cuts) == PLAN.rounds
    assert any(cut.late for cut in cuts)
    assert all(0 < seconds < 0.2 for cut in cuts for seconds in cut.late)
    assert all(cut.landed + cut.landed_late + cut.failed == cut.under_way for cut in measured.cuts)
    drained = measured.of("drain")
    assert len(drained) == PLAN.rounds
    assert not any(cut.late for cut in drained)
    assert all(cut.offline_seen and cut.online_again for cut in drained)
    assert [step.name for step in drained[0].steps] == [
        "offline", "detach", "assign queues", "assign interrupts", "online", "attach",
    ]  # fmt: skip
    assert words(measured)[:4] == ["late_writes", "left_running", "none_seen", "works"]
    assert verdicts(measured) == {
        "drain": "justified", "offline": "justified", "wait": "justified", "none": "ruled_out",
    }  # fmt: skip
    assert [(one.action, len(one.seconds)) for one in measured.times] == [("detach", 3), ("attach", 3)]


def test_a_drain_that_does_not_drain_is_ruled_out_and_auto_is_not_proposed() -> None:
    measured = Place(Quirks(offline_drains=False)).measure(Plan(rounds=3, timing_rounds=1, watch_s=0.05, writes=2))
    assert any(cut.late for cut in measured.of("drain"))
    assert verdicts(measured)["drain"] == verdicts(measured)["offline"] == "ruled_out"
    lines = judge._settings(measured, "MODEL 9", "1")
    assert lines[1:] == ['quiesce = "wait:1"']


def test_a_drive_whose_detach_waits_shows_no_late_write_and_that_is_not_taken_for_proof() -> None:
    measured = Place(Quirks(detach_drains=True)).measure()
    assert not any(cut.late for cut in measured.cuts)
    assert words(measured)[:2] == ["none_seen", "finished"]
    assert verdicts(measured)["none"] == "not_known"
    late = next(judge.answers(measured)).text
    assert "none was seen in 2 rounds" in late
    assert "not the same as that there is none" in late
    assert '"none"' not in "\n".join(judge.settings(measured, "MODEL 9", "1"))


def test_a_drive_that_takes_new_writes_after_a_detach_is_told_apart_and_nothing_is_justified() -> None:
    measured = Place(kind=NeverCut).measure(Plan(rounds=1, timing_rounds=1, watch_s=0.05, writes=1))
    assert any(cut.accepted_after for cut in measured.of("none"))
    assert words(measured)[0] == "not_cut"
    assert "justified" not in (verdicts(measured)["wait"], verdicts(measured)["none"])
    assert judge.settings(measured, "MODEL 9", "1") == []


def test_a_drive_without_secondary_controllers_is_not_drained_and_the_reason_is_the_answer() -> None:
    place = Place()
    local = LocalController("nvme0", "/dev/nvme0", 1, "", "live", False)
    drive = EmulatedSubsystem(
        "nqn.example:0", "S0", controllers=[1, TARGET], namespaces=[Namespace(NSID)], attached=[1, TARGET]
    )
    place.drive, place.transport = drive, EmulatedTransport({"/dev/nvme0": (drive, 1)})
    place.found = Drive("nqn.example:0", "S0", "M", "1", (local,))
    place.control = Control(place.transport, place.found, local, TARGET, NSID)
    measured = place.measure()
    assert "gives no Secondary Controller List" in measured.not_measured["drain"]
    assert words(measured)[2:4] == ["not_measured", "not_measured"]
    assert verdicts(measured)["drain"] == "not_known"
    assert [line for line in judge._settings(measured, "M", "1") if "quiesce =" in line] == []


def test_a_step_that_fails_is_told_and_the_rest_is_measured_nevertheless() -> None:
    place = Place()
    place.transport.faults["/dev/nvme0"] = on(VIRTUALIZATION_MANAGEMENT, fail(status.INVALID_FIELD | status.DNR))
    measured = place.measure(Plan(rounds=1, timing_rounds=2, watch_s=0.1, questions=frozenset(("drain", "times"))))
    assert "offline failed: Invalid Field" in measured.not_measured["drain"]
    assert words(measured)[3] == "fails"
    assert verdicts(measured)["drain"] == "ruled_out"
    assert len(measured.times) == 2


def test_what_a_reset_loses_is_named_and_put_back() -> None:
    place = Place(kind=Forgetful)
    before = place.snapshot()
    measured = place.measure(Plan(questions=frozenset(("resets",))))
    assert place.snapshot() == before
    lost = {(one.what, one.attached): (one.lost, one.offline) for one in measured.resets}
    assert lost["own", True] == ((f"namespace {NSID} from controller {TARGET}",), (TARGET, OTHER))
    assert lost["own", False] == ((), (TARGET, OTHER))
    assert lost["host", True] == ((), ())
    assert [one.why_not for one in measured.resets if one.what == "subsystem"] == ["it was not asked for"] * 2


def test_our_controller_is_not_reset_while_others_use_the_drive() -> None:
    place = Place()
    place.drive.set_attached(2, [OTHER])
    measured = place.measure(Plan(questions=frozenset(("resets",))))
    assert place.drive.secondaries[OTHER].online
    assert {one.what for one in measured.resets if not one.why_not} == {"host"}
    assert f"namespace 2 is attached to [{OTHER}]" in measured.resets[2].why_not


def test_too_few_writes_are_no_answer() -> None:
    measured = Measured(cuts=[Cut("none")], not_measured={"writes": "only 0 of 3 cuts found writes under way"})
    assert words(measured)[0] == "not_measured"
    assert verdicts(measured)["none"] == verdicts(measured)["wait"] == "not_known"


# What follows from it


def enough(seconds: float, model: str = "MODEL 9", drain: float | None = None, rounds: int = 20) -> list[str]:
    cuts = [Cut("none", under_way=1, late=[seconds]) for _ in range(rounds)]
    cuts += [Cut("drain", under_way=1, late=[] if drain is None else [drain]) for _ in range(rounds)]
    return judge.settings(Measured(cuts), model, "1.0")


@pytest.mark.parametrize("model", ["MODEL 9", 'ACME "Fast" [1]*?\\'])
def test_the_lines_proposed_are_settings_that_match_the_model_and_no_other(model: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("\n".join(enough(3.1, model)))
    settings = load({}, {"NVMEFENCE_CONFIG": str(path)})
    choice = settings.quiesce.choose(model, "no secondary controllers")
    assert (choice.name, choice.reason) != ("wait:10", "no secondary controllers")
    assert choice.name == "wait:7"
    assert settings.quiesce.choose(f"{model}X", "no").name == "wait:10"
    assert settings.quiesce.choose(model, "").name == "drain"


def test_a_wait_beyond_the_default_is_said_to_be_needed() -> None:
    assert any("the default of 10 s is too short" in line for line in enough(5.5))
    assert not any("too short" in line for line in enough(4.9))


def test_few_rounds_propose_nothing_that_would_be_taken_as_it_is() -> None:
    lines = enough(1.0, rounds=19)
    assert lines[0].startswith("# of 19 rounds, too few")
    assert all(line.startswith("#") or not line for line in lines)
    assert any(not line.startswith("#") for line in enough(1.0))


def test_percentiles_are_of_values_that_were_measured() -> None:
    times = Times("detach", "ioctl", tuple(float(n) for n in range(1, 101)))
    assert (times.percentile(0.5), times.percentile(0.99), times.to_json()["max_s"]) == (50.0, 99.0, 100.0)
    assert Times("detach", "ioctl", (7.0,)).percentile(0.99) == 7.0


def test_a_reset_that_changed_nothing_and_one_that_was_not_made_are_not_the_same() -> None:
    answers = {
        one.question: one
        for one in judge.answers(Measured(resets=[Reset("host", True), Reset("own", True, "why")]))
    }
    assert [one.answer for one in answers.values()][-3:-1] == ["kept", "not_measured"]


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

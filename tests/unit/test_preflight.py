"""The check before anything happens: it finds what would make a fence fail, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from nvmefence.fencing.fence import Options, fence
from nvmefence.fencing.preflight import DriveFacts, Finding, Level, check, inspect
from nvmefence.fencing.quiesce import DEFAULT, Quiesce, parse
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.nvme.commands import GET_LOG_PAGE, IDENTIFY
from nvmefence.nvme.emulated import EmulatedSubsystem, EmulatedTransport, Fault, Namespace, fail, hang, lie
from nvmefence.nvme.transport import Command
from tests.property.virtual_time import run


class Ioctl(EmulatedTransport):
    @property
    def backend(self) -> str:
        return "ioctl"


class Bench:
    def __init__(self, drives: int = 2, host: dict[str, Any] | None = None, **options: Any) -> None:
        shape: dict[str, Any] = {"controllers": [0], "secondaries": [1, 2, 3]} | options
        self.drives = [
            EmulatedSubsystem(f"nqn.example:{n}", f"S{n}", namespaces=[Namespace(1), Namespace(2)], **shape)
            for n in range(drives)
        ]
        self.hostmap = hostfile.parse(
            {"version": 1, "drives": {"count": drives}, "hosts": {"c1": host or {"vf": 2}}}, "hosts.toml"
        )
        self.transport = Ioctl({f"/dev/nvme{n}": (d, 0) for n, d in enumerate(self.drives)})
        self.found = [
            Drive(d.nqn, d.serial, "M", "1", (LocalController(f"nvme{n}", f"/dev/nvme{n}", 0, "", "live", False),))
            for n, d in enumerate(self.drives)
        ]

    def check(self, rule: Quiesce = DEFAULT) -> tuple[list[Finding], list[DriveFacts]]:
        return run(check(self.transport, self.hostmap, self.found, rule, 3.0))

    def failures(self) -> list[tuple[str, str]]:
        return [(f.subject, f.text) for f in self.check()[0] if f.level is Level.FAIL]

    def fault(self, cns: int, fault: Fault) -> None:
        def hook(_path: str, command: Command) -> Fault | None:
            return fault if command.opcode == IDENTIFY and command.cdw10 & 0xFF == cns else None

        self.transport.faults["/dev/nvme0"] = hook

    def fence_would_work(self) -> bool:
        options = Options(3.0, Quiesce(0))
        report = run(fence(self.transport, self.hostmap, self.found, [self.hostmap.find("c1")], options))
        return report.confirmed("c1")


def test_good_drives_have_no_failures_and_a_fence_works() -> None:
    bench = Bench()
    findings, facts = bench.check()
    assert not [f for f in findings if f.level is Level.FAIL]
    assert [f.text for f in findings if f.level is Level.OK] == [
        "all 2 expected drives are there",
        "answers through /dev/nvme0, controller 0, 2 namespaces",
        "answers through /dev/nvme1, controller 0, 2 namespaces",
    ]
    assert [fact.namespaces for fact in facts] == [[1, 2], [1, 2]]
    assert bench.fence_would_work()


def test_check_sends_only_questions() -> None:
    bench = Bench()
    before = [drive.snapshot() for drive in bench.drives]
    bench.check()
    assert {sent.command.opcode for sent in bench.transport.log} == {IDENTIFY, GET_LOG_PAGE}
    assert [drive.snapshot() for drive in bench.drives] == before


@pytest.mark.parametrize("cns", [0x01, 0x10, 0x12, 0x15])
@pytest.mark.parametrize("fault", [fail(0x4002), hang(), lie()], ids=["refused", "hung", "nothing written"])
def test_question_that_a_fence_needs_and_a_drive_does_not_answer_fails_the_check(cns: int, fault: Fault) -> None:
    bench = Bench()
    bench.fault(cns, fault)
    assert not bench.fence_would_work()
    assert [subject for subject, _ in bench.failures()] == ["S0"]


def test_controller_without_namespace_management_fails_the_check() -> None:
    bench = Bench(drives=1, namespace_management=False)
    assert bench.failures() == [("S0", "our controller does not support Namespace Attachment (OACS bit 3 clear)")]
    assert not bench.fence_would_work()


def test_missing_drive_fails_the_check_and_the_rest_is_checked() -> None:
    bench = Bench()
    del bench.found[0]
    assert bench.failures() == [("drives", "1 of 2 drives missing")]
    assert "S1" in [f.subject for f in bench.check()[0]]


def test_no_drive_at_all_fails_the_check() -> None:
    bench = Bench()
    bench.found.clear()
    assert ("drives", "no expected drive is there") in bench.failures()


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ({"vf": 9}, "c1: virtual function 9 does not exist on this drive (it has 3)"),
        ({"controllers": 77}, "c1: controller 77 does not exist on this drive (it has 0, 1, 2, 3)"),
        ({"controllers": {"S1": 2}}, "c1: the map names no controller for this drive"),
    ],
)
def test_host_that_cannot_be_named_fails_the_check(host: dict[str, Any], reason: str) -> None:
    assert ("S0", reason) in Bench(host=host).failures()


def test_drive_that_hangs_costs_the_deadline_and_no_more() -> None:
    bench = Bench()
    bench.transport.faults["/dev/nvme0"] = lambda _path, _command: hang()
    assert bench.failures() == [("S0", "Identify Controller: no answer")]


def test_ioctl_that_waits_for_a_rescan_is_noted() -> None:
    texts = [f.text for f in Bench(drives=1).check()[0] if f.level is Level.NOTE]
    assert "every detach through ioctl waits for a rescan of our controller's namespaces" in texts


@pytest.mark.parametrize(
    ("rule", "host", "text", "level"),
    [
        ("auto", {"vf": 2}, "quiesce drain", Level.NOTE),
        ("offline", {"vf": 2}, "quiesce offline", Level.NOTE),
        ("wait:3", {"vf": 2}, "quiesce wait:3", Level.NOTE),
        ("auto", {"controllers": 9}, "quiesce wait:10: controller 9 is not a secondary controller", Level.NOTE),
        ("drain", {"controllers": 9}, "it is required and not possible", Level.FAIL),
    ],
)
def test_what_a_drive_gets_for_writes_under_way_is_said_with_the_reason(
    rule: str, host: dict[str, Any], text: str, level: Level
) -> None:
    bench = Bench(drives=1, host=host, controllers=[0, 9], secondaries=[11, 12, 13])
    (found,) = [f for f in bench.check(parse(rule))[0] if "quiesce" in f.text]
    assert text in found.text
    assert found.level is level


def test_drive_without_an_effects_log_is_noted() -> None:
    bench = Bench(drives=1)
    bench.transport.faults["/dev/nvme0"] = lambda _path, c: fail(0x4109) if c.opcode == GET_LOG_PAGE else None
    assert bench.failures() == []
    assert any("no Commands Supported and Effects log" in f.text for f in bench.check()[0])


def test_facts_have_fixed_keys_whatever_the_drive_answers() -> None:
    bench = Bench()
    bench.transport.faults["/dev/nvme0"] = lambda _path, _command: hang()
    hung, good = run(inspect(bench.transport, bench.found, bench.hostmap, 1.0))
    assert set(hung.to_json()) == set(good.to_json())
    assert hung.to_json()["controllers"] is None
    assert good.to_json()["secondaries"][1] == {"cntlid": 2, "vf": 2, "online": True, "queues": 2, "interrupts": 2}
    assert set(Finding(Level.OK, "a", "b").to_json()) == {"level", "subject", "text", "advice"}

"""Secondary controllers offline before the cut, and back after it: commands, their order, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from nvmefence.fencing.evidence import FenceReport, Outcome
from nvmefence.fencing.fence import Options, fence
from nvmefence.fencing.options import Before
from nvmefence.fencing.quiesce import DEFAULT, Quiesce, parse
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.nvme import commands
from nvmefence.nvme.commands import NAMESPACE_ATTACHMENT, VIRTUALIZATION_MANAGEMENT, VirtualizationAction
from nvmefence.nvme.emulated import (
    QEMU_7_2,
    EmulatedSubsystem,
    EmulatedTransport,
    Fault,
    Namespace,
    fail,
    hang,
    on,
)
from nvmefence.nvme.transport import Command
from tests.property.virtual_time import Clock, run

Hook = Callable[[str, Command], Fault | None]
OFFLINE, ASSIGN, ONLINE = (
    VirtualizationAction.SECONDARY_OFFLINE,
    VirtualizationAction.SECONDARY_ASSIGN,
    VirtualizationAction.SECONDARY_ONLINE,
)
VF1, VF2, VF3 = 11, 12, 13


class Bench:
    """A drive with a primary controller 0 and virtual functions 1 to 3; host cN has the Nth."""

    def __init__(
        self, *, own: int = 0, host: dict[str, Any] | None = None, without: bool = False, **more: Any
    ) -> None:
        """`without`: there is no namespace on the drive."""
        self.drive = EmulatedSubsystem(
            "nqn.example:0", "S0", controllers=[0, 5], secondaries=[VF1, VF2, VF3],
            namespaces=[] if without else [Namespace(1), Namespace(2)], quirks=QEMU_7_2, model="MODEL 9", **more,
        )  # fmt: skip
        self.own = own
        self.transport = EmulatedTransport({"/dev/nvme0": (self.drive, own)})
        self.clock = Clock()
        hosts = {"c1": host or {"vf": 1}, "c2": {"controllers": VF2}, "c3": {"controllers": VF3}}
        self.hostmap = hostfile.parse({"version": 1, "drives": {"count": 1}, "hosts": hosts}, "hosts.toml")

    def fence(
        self, *names: str, rule: Quiesce = DEFAULT, deadline: float = 30.0, escalate: bool = False,
        before: Before | None = None, beside: Callable[[], Coroutine[None, None, None]] | None = None,
    ) -> FenceReport:  # fmt: skip
        """`beside` is done meanwhile."""
        local = LocalController("nvme0", "/dev/nvme0", self.own, "", "live", False)
        found = [Drive("nqn.example:0", "S0", "MODEL 9", "1", (local,))]
        hosts = [self.hostmap.find(name) for name in names or ("c1",)]
        options = Options(deadline, rule, escalate, before=before or Before(read=True))

        async def story() -> FenceReport:
            other = asyncio.ensure_future(beside()) if beside else None
            report = await fence(self.transport, self.hostmap, found, hosts, options)
            if other is not None:
                await other
            return report

        return run(story(), self.clock)

    def fault(self, hook: Hook) -> None:
        self.transport.faults["/dev/nvme0"] = hook

    def changes(self) -> list[tuple[str, int]]:
        """What was sent that changes something, in order: the action, and the namespace or controller."""
        found = []
        for sent in self.transport.log:
            command = sent.command
            if command.opcode == NAMESPACE_ATTACHMENT:
                found.append(("detach", command.nsid))
            elif command.opcode == VIRTUALIZATION_MANAGEMENT:
                action = VirtualizationAction(command.cdw10 & 0xF)
                found.append((action.name.split("_")[1].lower(), command.cdw10 >> 16))
        return found

    def resources(self, cntlid: int) -> tuple[bool, int, int]:
        entry = self.drive.secondaries[cntlid]
        return entry.online, entry.vq, entry.vi

    def attached(self, cntlid: int) -> bool:
        return any(cntlid in self.drive.attached(nsid) for nsid in self.drive.namespaces)


def managing(action: VirtualizationAction, fault: Fault, *, times: int = 10**9, cntlid: int | None = None) -> Hook:
    """A fault for one kind of Virtualization Management."""
    seen = 0

    def hook(_path: str, command: Command) -> Fault | None:
        nonlocal seen
        wanted = command.opcode == VIRTUALIZATION_MANAGEMENT and command.cdw10 & 0xF == action
        if not wanted or cntlid not in (None, command.cdw10 >> 16):
            return None
        seen += 1
        return fault if seen <= times else None

    return hook


DRAINED = [
    ("offline", VF1), ("detach", 1), ("detach", 2), ("assign", VF1), ("assign", VF1), ("online", VF1),
]  # fmt: skip


def test_a_drain_goes_offline_cuts_and_comes_back_with_what_it_had() -> None:
    bench = Bench(flexible=3)
    report = bench.fence()
    assert report.confirmed("c1")
    assert bench.changes() == DRAINED
    assert bench.resources(VF1) == (True, 3, 3)
    assert not bench.attached(VF1)
    drive = report.drives[0]
    assert (drive.quiesce, drive.quiesce_reason) == ("drain", "")
    assert drive.secondaries[VF1].to_json() == {
        "queues": 3, "interrupts": 3, "offline": True, "back_online": True, "problem": "",
    }  # fmt: skip
    assert [m.cntlid for m in drive.managed] == [VF1] * 4
    assert report.seconds < 1, "nothing is waited for"


def test_no_write_is_under_way_after_a_drain_and_one_may_be_after_none() -> None:
    for rule, left in ((DEFAULT, 0), (parse("offline"), 0), (parse("none"), 1)):
        bench = Bench()
        bench.drive._clock = bench.clock
        assert bench.drive.start_write(VF1, 1, 7.0)
        assert bench.fence(rule=rule).confirmed("c1")
        assert len(bench.drive.settle()) == left


def test_offline_stays_offline() -> None:
    bench = Bench()
    report = bench.fence(rule=parse("offline"))
    assert report.confirmed("c1")
    assert bench.changes() == DRAINED[:3]
    assert bench.resources(VF1) == (False, 0, 0)
    assert report.drives[0].offline("c1") == (VF1,)


def cut_by_others(bench: Bench) -> None:
    """Detach a host that has a write under way, as other software would just before the fence."""
    bench.drive._clock = bench.clock
    assert bench.drive.start_write(VF1, 1, 7.0)
    for nsid in (1, 2):
        bench.drive.set_attached(nsid, [VF2])


@pytest.mark.parametrize("rule", ["auto", "drain", "offline"])
def test_what_was_cut_by_others_is_waited_for_before_its_controller_goes_offline(rule: str) -> None:
    """Offline ends nothing of what is under way for a namespace that is detached."""
    bench = Bench()
    cut_by_others(bench)
    report = bench.fence(rule=parse(rule))
    assert report.drives[0].outcome("c1") is Outcome.ALREADY
    back = [] if rule == "offline" else ["assign", "assign", "online"]
    assert [what for what, _ in bench.changes()] == ["offline", *back]
    assert not bench.drive.settle(), "nothing is under way when it is confirmed"
    assert report.seconds == pytest.approx(10.0, abs=0.1)
    assert "had nothing attached when they went offline" in report.drives[0].quiesce_reason


def test_how_long_it_is_waited_for_is_what_the_settings_say_of_the_drive() -> None:
    for rule, seconds in ((parse("auto:8"), 8.0), (Quiesce(10.0, DEFAULT.method, (("MODEL*", 7.5),)), 7.5)):
        bench = Bench()
        cut_by_others(bench)
        report = bench.fence(rule=rule)
        assert report.confirmed("c1")
        assert report.seconds == pytest.approx(seconds, abs=0.1)


def test_a_deadline_that_leaves_no_time_for_that_is_said_at_once() -> None:
    bench = Bench()
    cut_by_others(bench)
    report = bench.fence(deadline=9.0)
    assert not report.confirmed("c1")
    assert report.seconds < 1
    assert "10 s must pass, and the deadline leaves no time" in report.message("c1")


def test_who_counted_as_fenced_before_is_not_waited_for_again_unless_it_was_attached() -> None:
    bench = Bench()
    for nsid in (1, 2):
        bench.drive.set_attached(nsid, [VF2])
    known = Before({"c1"}, read=True)
    assert bench.fence(before=known).seconds < 1
    bench = Bench()
    bench.fault(managing(OFFLINE, fail(0x007), times=3))
    bench.drive._clock = bench.clock
    assert bench.drive.start_write(VF1, 1, 7.0)
    assert bench.fence(before=known).confirmed("c1")
    assert not bench.drive.settle()


def test_what_is_known_of_a_host_may_come_later_than_the_drive_answers() -> None:
    bench = Bench()
    for nsid in (1, 2):
        bench.drive.set_attached(nsid, [VF2])
    known = Before()

    async def read() -> None:
        await asyncio.sleep(0.3)
        known.quiet.add("c1")
        known.read = True

    report = bench.fence(before=known, beside=read)
    assert report.confirmed("c1")
    assert report.seconds == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("rule", ["auto", "drain"])
def test_an_offline_that_comes_after_the_cut_ends_nothing(rule: str) -> None:
    bench = Bench()
    bench.fault(managing(OFFLINE, fail(0x007), times=3))
    bench.drive._clock = bench.clock
    assert bench.drive.start_write(VF1, 1, 7.0)
    report = bench.fence(rule=parse(rule))
    assert report.confirmed("c1")
    assert not bench.drive.settle(), "nothing is under way when it is confirmed"
    assert not bench.attached(VF1)


def test_where_there_is_no_namespace_nothing_is_waited_for() -> None:
    bench = Bench(without=True)
    report = bench.fence()
    assert report.confirmed("c1")
    assert report.seconds < 1


def test_a_controller_that_is_offline_already_ends_online_with_what_the_others_have() -> None:
    bench = Bench(flexible=2)
    bench.drive.secondaries[VF1].online = False
    bench.drive.secondaries[VF1].vq = bench.drive.secondaries[VF1].vi = 0
    assert bench.fence().confirmed("c1")
    assert bench.resources(VF1) == (True, 2, 2)


def test_where_no_other_is_online_each_gets_an_equal_share() -> None:
    bench = Bench(flexible=4)
    bench.drive.reset()
    assert bench.fence().confirmed("c1")
    assert bench.resources(VF1) == (True, 4, 4)


def test_all_hosts_of_a_pass_drain_side_by_side() -> None:
    bench = Bench()
    report = bench.fence("c1", "c2", "c3")
    assert all(report.confirmed(name) for name in ("c1", "c2", "c3"))
    assert [c for c in bench.changes() if c[0] == "detach"] == [("detach", 1), ("detach", 2)]
    assert [bench.resources(n) for n in (VF1, VF2, VF3)] == [(True, 2, 2)] * 3


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Bench(own=5), "our controller is not a primary controller"),
        (lambda: Bench(host={"controllers": 5}), "controller 5 is not a secondary controller of ours"),
    ],
)
def test_where_a_drain_is_not_to_be_had_it_waits(make: Callable[[], Bench], reason: str) -> None:
    bench = make()
    host = "c2" if bench.own else "c1"
    report = bench.fence(host)
    assert report.confirmed(host)
    assert report.seconds == pytest.approx(10.0, abs=0.1)
    assert (report.drives[0].quiesce, report.drives[0].quiesce_reason) == ("wait:10", reason)


def test_a_qualified_model_waits_for_less() -> None:
    bench = Bench(own=5)
    report = bench.fence("c2", rule=Quiesce(10.0, DEFAULT.method, (("OTHER*", 7.0), ("MODEL*", 1.5))))
    assert report.drives[0].quiesce == "wait:1.5"
    assert "model MODEL* is qualified" in report.drives[0].quiesce_reason
    assert report.seconds == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize("rule", ["drain", "offline"])
def test_a_required_method_that_is_not_to_be_had_is_a_failure_and_the_host_is_cut_nevertheless(rule: str) -> None:
    bench = Bench(own=5)
    report = bench.fence("c2", rule=parse(rule))
    assert not report.confirmed("c2")
    assert f"quiesce {rule} is not possible: our controller is not a primary controller" in report.message("c2")
    assert not bench.attached(VF2)


def test_a_drive_that_refuses_to_take_it_offline_waits_or_fails_by_the_rule() -> None:
    bench = Bench()
    bench.fault(managing(OFFLINE, fail(0x4002)))
    report = bench.fence()
    assert report.confirmed("c1")
    assert report.drives[0].quiesce == "wait:10"
    assert f"controller {VF1} cannot be taken offline: Invalid Field" in report.drives[0].quiesce_reason
    assert report.seconds == pytest.approx(10.0, abs=0.1)
    assert bench.resources(VF1) == (True, 2, 2)
    bench = Bench()
    bench.fault(managing(OFFLINE, fail(0x4002)))
    report = bench.fence(rule=parse("drain"))
    assert not report.confirmed("c1")
    assert "cannot be taken offline" in report.message("c1")
    assert not bench.attached(VF1)


def test_a_drive_that_says_offline_and_is_not_is_found_out() -> None:
    bench = Bench()
    bench.fault(managing(OFFLINE, fail(0)))
    report = bench.fence(rule=parse("drain"))
    assert not report.confirmed("c1")
    assert "reported offline and is not seen offline" in report.message("c1")


def test_a_failure_that_passes_costs_nothing_but_time() -> None:
    bench = Bench()
    bench.fault(managing(OFFLINE, fail(0x007), times=2))
    report = bench.fence()
    assert report.confirmed("c1")
    assert report.drives[0].quiesce == "drain"


def test_an_offline_that_never_answers_delays_the_cut_and_no_more() -> None:
    bench = Bench()
    bench.fault(managing(OFFLINE, hang()))
    report = bench.fence(rule=parse("drain"), deadline=8.0)
    assert not bench.attached(VF1), "half of the time is left for the cut"
    assert not report.confirmed("c1")
    assert report.seconds <= 8.1
    assert report.drives[0].sent[0].started == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize("action", [ASSIGN, ONLINE])
def test_a_controller_that_cannot_be_brought_back_stays_offline_and_the_fence_is_confirmed(
    action: VirtualizationAction,
) -> None:
    bench = Bench()
    bench.fault(managing(action, fail(0x4121)))
    report = bench.fence()
    assert report.confirmed("c1")
    assert not bench.resources(VF1)[0]
    entry = report.drives[0].secondaries[VF1]
    assert entry.back is False
    assert entry.problem == "stays offline: Invalid Number of Controller Resources (121h)"


def test_a_controller_that_is_still_attached_is_not_brought_back() -> None:
    bench = Bench()
    bench.fault(on(NAMESPACE_ATTACHMENT, fail(0x4006)))
    report = bench.fence()
    assert not report.confirmed("c1")
    assert not bench.resources(VF1)[0]
    assert f"controller {VF1} was left offline" in report.message("c1")


def test_a_host_that_cannot_be_cut_leaves_the_others_of_the_pass_drained_and_back() -> None:
    bench = Bench()

    def hook(_path: str, command: Command) -> Fault | None:
        stuck = command.opcode == NAMESPACE_ATTACHMENT and VF2 in command.data[2:8:2]
        return fail(0x4006) if stuck else None

    bench.fault(hook)
    report = bench.fence("c1", "c2", "c3")
    assert [report.confirmed(name) for name in ("c1", "c2", "c3")] == [True, False, True]
    assert [bench.resources(n)[0] for n in (VF1, VF2, VF3)] == [True, False, True]


def test_what_is_attached_again_after_it_came_back_is_drained_and_cut_again() -> None:
    bench = Bench()
    raced: list[float] = []

    def hook(_path: str, command: Command) -> Fault | None:
        online = command.opcode == VIRTUALIZATION_MANAGEMENT and command.cdw10 & 0xF == ONLINE
        if online and not raced:
            raced.append(bench.clock.now)
            bench.drive.set_attached(2, [VF1, VF2])
        return None

    bench.fault(hook)
    report = bench.fence()
    assert report.confirmed("c1")
    again = [("offline", VF1), ("detach", 2), *DRAINED[3:]]
    assert bench.changes() == DRAINED + again


@pytest.mark.parametrize("escalate", [True, False])
def test_escalation_takes_offline_where_a_detach_fails(escalate: bool) -> None:
    bench = Bench()
    bench.fault(on(NAMESPACE_ATTACHMENT, fail(0x4006)))
    report = bench.fence(rule=parse("none"), escalate=escalate)
    assert not report.confirmed("c1"), "it is attached, whatever else"
    assert bench.resources(VF1)[0] is not escalate
    assert report.drives[0].escalated == ((VF1,) if escalate else ())
    assert (f"controller {VF1} was left offline" in report.message("c1")) is escalate


def test_with_a_rule_that_waits_no_secondary_controller_is_asked_for() -> None:
    bench = Bench(host={"controllers": VF1})
    bench.hostmap = hostfile.parse(
        {"version": 1, "drives": {"count": 1}, "hosts": {"c1": {"controllers": VF1}}}, "hosts.toml"
    )
    assert bench.fence(rule=parse("none")).confirmed("c1")
    assert commands.secondary_controllers() not in [sent.command for sent in bench.transport.log]


@pytest.mark.parametrize(
    ("text", "name", "least"),
    [
        ("auto", "auto", 0.0),
        ("auto:10", "auto", 0.0),
        ("auto:2.5", "auto:2.5", 0.0),
        ("drain", "drain", 0.0),
        ("offline", "offline", 0.0),
        ("wait:3", "wait:3", 3.0),
        ("none", "none", 0.0),
        ("wait:0", "none", 0.0),
    ],
)
def test_rules_by_name(text: str, name: str, least: float) -> None:
    assert (parse(text).name, parse(text).least) == (name, least)


@pytest.mark.parametrize("text", ["", "Drain", "wait", "wait:", "wait:-1", "auto:x", "offline:3", "drain "])
def test_no_rules(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse(text)


def test_what_an_incomplete_read_may_have_missed_after_it_came_back_is_drained_again() -> None:
    """A host that is online again may have been attached, and written, where the read did not look."""
    bench = Bench()
    unread: list[Command] = []

    def hook(_path: str, command: Command) -> Fault | None:
        back = any(what == "online" for what, _ in bench.changes())
        if back and not unread and command == commands.attached_controllers(2):
            unread.append(command)
            bench.drive.set_attached(2, [VF2])
            return fail(0x4006)
        return None

    bench.fault(hook)
    report = bench.fence()
    assert unread
    assert report.confirmed("c1")
    assert [what for what, _ in bench.changes()].count("offline") == 2
    assert bench.resources(VF1) == (True, 2, 2)

"""The fence, fault by fault: what is sent, what is said, and when it gives up."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from nvmefence.fencing.cutting import detach_commands
from nvmefence.fencing.evidence import DriveEvidence, FenceReport, Outcome
from nvmefence.fencing.fence import Options, Progress, fence
from nvmefence.fencing.quiesce import Quiesce
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.nvme import commands
from nvmefence.nvme.emulated import (
    EmulatedSubsystem,
    EmulatedTransport,
    Fault,
    Namespace,
    fail,
    hang,
    lie,
    on,
    remove,
)
from nvmefence.nvme.transport import Command, Completion
from tests.property.virtual_time import Clock, run

ATTACHMENT = commands.NAMESPACE_ATTACHMENT


class Bench:
    """Drives with controllers 0 (ours) to 17; host cN owns controller N."""

    def __init__(self, drives: int = 1, namespaces: Sequence[int] = (1, 2, 3), hosts: int = 16) -> None:
        self.drives = [
            EmulatedSubsystem(
                f"nqn.example:{n}", f"S{n}", controllers=range(18), namespaces=[Namespace(i) for i in namespaces]
            )
            for n in range(drives)
        ]
        self.document: dict[str, Any] = {
            "version": 1,
            "drives": {"count": drives},
            "hosts": {f"c{n}": {"controllers": n} for n in range(1, hosts + 1)},
        }
        self.transport = EmulatedTransport({f"/dev/nvme{n}": (d, 0) for n, d in enumerate(self.drives)})
        self.clock = Clock()

    def found(self) -> list[Drive]:
        return [
            Drive(d.nqn, d.serial, "M", "1", (LocalController(f"nvme{n}", f"/dev/nvme{n}", 0, "", "live", False),))
            for n, d in enumerate(self.drives)
        ]

    def fence(
        self,
        *names: str,
        deadline: float = 10.0,
        quiesce: float = 0.0,
        progress: Progress = lambda _drive, _phase: None,
    ) -> FenceReport:
        hostmap = hostfile.parse(self.document, "hosts.toml")
        hosts = [hostmap.find(name) for name in names or ("c1",)]
        options = Options(deadline, Quiesce(quiesce))
        return run(fence(self.transport, hostmap, self.found(), hosts, options, progress), self.clock)

    def fault(self, hook: Callable[[str, Command], Fault | None], drive: int = 0) -> None:
        self.transport.faults[f"/dev/nvme{drive}"] = hook

    def detaches(self) -> list[tuple[int, tuple[int, ...]]]:
        sent = [s.command for s in self.transport.log if s.command.opcode == ATTACHMENT]
        return [(c.nsid, tuple(c.data[2 * i] for i in range(1, 1 + c.data[0]))) for c in sent]

    def cut(self, *controllers: int, drive: int = 0) -> bool:
        subsystem = self.drives[drive]
        return all(not set(controllers).intersection(subsystem.attached(n)) for n in subsystem.namespaces)


@pytest.mark.parametrize("hosts", [1, 16])
def test_sixteen_hosts_take_no_more_commands_than_one(hosts: int) -> None:
    bench = Bench()
    names = [f"c{n}" for n in range(1, hosts + 1)]
    report = bench.fence(*names)
    assert all(report.confirmed(name) for name in names)
    assert bench.detaches() == [(nsid, tuple(range(1, hosts + 1))) for nsid in (1, 2, 3)]
    assert len(bench.transport.log) == 3 + 3 + 2 * 3 + 4


def test_only_what_is_attached_is_named() -> None:
    bench = Bench()
    bench.drives[0].set_attached(1, [1, 5])
    bench.drives[0].set_attached(2, [5])
    bench.fence("c1", "c2", "c3")
    assert bench.detaches() == [(1, (1,)), (3, (1, 2, 3))]


def test_drive_without_namespaces_is_already_cut() -> None:
    report = Bench(namespaces=()).fence()
    assert report.confirmed("c1")
    assert report.drives[0].outcome("c1") is Outcome.ALREADY


def test_more_namespaces_than_a_list_holds_are_all_cut() -> None:
    bench = Bench(namespaces=range(1, 1501))
    assert bench.fence().confirmed("c1")
    assert bench.cut(1)
    assert len(bench.detaches()) == 1500


def test_list_that_fails_is_followed_by_one_command_for_each_controller() -> None:
    bench = Bench(namespaces=[1, 2])
    seen: list[int] = []

    def hook(_path: str, command: Command) -> Fault | None:
        if command.opcode == ATTACHMENT and command.nsid == 1:
            seen.append(command.data[0])
            return fail(0x411F) if command.data[0] > 1 else None
        return None

    bench.fault(hook)
    report = bench.fence("c1", "c2", "c3")
    assert all(report.confirmed(name) for name in ("c1", "c2", "c3"))
    assert seen == [3, 1, 1, 1]


def test_list_applied_in_part_is_believed_only_as_far_as_the_read_back() -> None:
    bench = Bench(namespaces=[1])

    def hook(_path: str, command: Command) -> Fault | None:
        if command.opcode == ATTACHMENT and 2 in command.data[2:8:2]:
            bench.drives[0].set_attached(1, set(bench.drives[0].attached(1)) - {1})
            return fail(0x4006)
        return None

    bench.fault(hook)
    report = bench.fence("c1", "c2", "c3")
    assert report.drives[0].outcome("c2") is Outcome.ATTACHED
    assert report.drives[0].remaining == {1: (2,)}
    assert bench.cut(1, 3)


@pytest.mark.parametrize("status", [0x4006, 0x0119, 0x4015, 0x411F, -errno.EIO])
def test_final_refusal_is_given_up_long_before_the_deadline(status: int) -> None:
    bench = Bench()
    bench.fault(on(ATTACHMENT, fail(status)))
    report = bench.fence(deadline=60.0)
    assert not report.confirmed("c1")
    assert report.drives[0].outcome("c1") is Outcome.ATTACHED
    assert report.seconds < 1
    assert "still attached to namespace 1, 2, 3" in report.message("c1")


@pytest.mark.parametrize("status", [0x0007, 0x0370, -errno.EINTR])
def test_refusal_that_may_pass_is_tried_until_the_deadline(status: int) -> None:
    bench = Bench()
    bench.fault(on(ATTACHMENT, fail(status)))
    report = bench.fence(deadline=20.0)
    assert not report.confirmed("c1")
    assert 18 <= report.seconds <= 20


def test_status_that_lies_is_not_believed() -> None:
    bench = Bench()
    bench.fault(on(ATTACHMENT, lie()))
    report = bench.fence(deadline=5.0)
    assert report.drives[0].outcome("c1") is Outcome.ATTACHED
    assert "other software may be attaching again" in report.drives[0].problem
    assert not bench.cut(1)


def test_not_attached_is_success_once_the_read_back_says_so() -> None:
    bench = Bench(namespaces=[1])

    def hook(_path: str, command: Command) -> Fault | None:
        if command.opcode == ATTACHMENT:
            bench.drives[0].set_attached(1, [5])
        return None

    bench.fault(hook)
    report = bench.fence()
    assert [sent.status & 0x7FF for sent in report.drives[0].sent] == [0x11A]
    assert report.confirmed("c1")


def test_attachment_made_during_the_wait_is_cut_and_the_wait_begins_again() -> None:
    bench = Bench(namespaces=[1])
    races = [True]

    def hook(_path: str, command: Command) -> Fault | None:
        if bench.clock.now >= 1002 and races:
            races.clear()
            bench.drives[0].set_attached(1, [1, 5])
        return None

    bench.fault(hook)
    report = bench.fence(quiesce=2.0)
    assert report.confirmed("c1")
    assert report.seconds == pytest.approx(4.0)
    assert bench.cut(1)


def test_attachment_seen_by_an_incomplete_read_makes_the_wait_begin_again() -> None:
    bench = Bench(namespaces=[1, 2])
    raced: list[float] = []

    def hook(_path: str, command: Command) -> Fault | None:
        if bench.clock.now < 1002:
            return None
        if not raced:
            raced.append(bench.clock.now)
            bench.drives[0].set_attached(1, [1, 5])
        unread = command == commands.attached_controllers(2) and bench.clock.now < 1002.5
        return fail(0x006) if unread else None

    bench.fault(hook)
    report = bench.fence(quiesce=2.0)
    assert report.confirmed("c1")
    assert raced
    assert bench.cut(1)
    assert report.seconds >= 4.0, "the last cut came after 2 s, and the wait is 2 s"


def test_host_that_cannot_be_cut_leaves_the_others_of_the_pass_confirmed() -> None:
    bench = Bench(namespaces=[1])

    def hook(_path: str, command: Command) -> Fault | None:
        stuck = command.opcode == ATTACHMENT and 2 in command.data[2 : 2 + 2 * command.data[0] : 2]
        return fail(0x4006) if stuck else None

    bench.drives[0].set_attached(1, [1, 2, 5])
    bench.fault(hook)
    report = bench.fence("c1", "c2", "c3", quiesce=2.0)
    assert bench.detaches()[0] == (1, (1, 2))
    assert not report.confirmed("c2")
    assert "still attached to namespace 1" in report.message("c2")
    assert report.confirmed("c1")
    assert report.confirmed("c3")
    assert report.seconds >= 2.0, "the rule for writes under way holds for those as well"


def test_hung_listing_of_controllers_is_no_answer_and_no_refusal() -> None:
    bench = Bench()
    bench.fault(lambda _path, command: hang() if command == commands.subsystem_controllers() else None)
    report = bench.fence(deadline=1.0)
    assert report.drives[0].outcome("c1") is Outcome.UNKNOWN
    assert "no answer" in report.message("c1")


def test_quiesce_without_time_left_is_not_confirmed_though_cut() -> None:
    bench = Bench()
    bench.fault(on(ATTACHMENT, fail(0x007), times=9))
    report = bench.fence(quiesce=3.0, deadline=3.01)
    assert bench.cut(1)
    assert not report.confirmed("c1")
    assert "leaves no time for quiesce wait:3" in report.message("c1")
    assert report.drives[0].advice == "give a longer --deadline"


def test_namespace_deleted_during_a_late_read_back_does_not_fail_the_fence() -> None:
    bench = Bench(namespaces=[1, 2])
    lists: list[Command] = []

    def hook(_path: str, command: Command) -> Fault | None:
        if command.opcode == ATTACHMENT:
            return lie() if len(lists) < 3 else None
        if command.cdw10 == commands.Cns.ALLOCATED_NAMESPACES:
            lists.append(command)
        elif len(lists) == 4 and 2 in bench.drives[0].namespaces:
            bench.drives[0].remove_namespace(2)
        return None

    bench.fault(hook)
    report = bench.fence()
    assert report.confirmed("c1"), report.message("c1")
    assert report.drives[0].namespaces == 1


def test_namespace_that_cannot_be_read_is_given_up_long_before_the_deadline() -> None:
    bench = Bench()

    def hook(_path: str, command: Command) -> Fault | None:
        unreadable = command.cdw10 == commands.Cns.ATTACHED_CONTROLLERS and command.nsid == 2
        return fail(0x4002) if unreadable else None

    bench.fault(hook)
    report = bench.fence(deadline=60.0)
    assert report.seconds < 1
    assert report.drives[0].outcome("c1") is Outcome.UNKNOWN
    assert "namespace 2 (CNS 12h): Invalid Field" in report.message("c1")


def test_removed_drive_is_not_confirmed_and_not_waited_for() -> None:
    bench = Bench(drives=2)
    bench.fault(on(ATTACHMENT, remove(), skip=1))
    report = bench.fence(deadline=60.0)
    assert not report.confirmed("c1")
    assert report.seconds < 1
    assert [d.outcome("c1") for d in report.drives] == [Outcome.UNKNOWN, Outcome.CUT]
    assert "ENODEV" in report.message("c1")


def test_past_a_fixed_end_no_command_is_sent_however_long_the_deadline() -> None:
    bench = Bench()
    hostmap = hostfile.parse(bench.document, "hosts.toml")
    options = Options(30.0, Quiesce(0.0), until=bench.clock.now - 0.001)
    report = run(fence(bench.transport, hostmap, bench.found(), [hostmap.find("c1")], options, None), bench.clock)
    assert not report.confirmed("c1")
    assert bench.detaches() == []
    assert not bench.cut(1)


def test_hung_detach_is_not_confirmed_and_says_what_to_do() -> None:
    bench = Bench()
    bench.fault(on(ATTACHMENT, hang(applied=True)))
    report = bench.fence(deadline=2.0)
    assert not report.confirmed("c1")
    assert "no answer" in report.message("c1")
    assert "power it off" in report.drives[0].advice


def test_refused_host_leaves_the_others_of_the_pass_alone() -> None:
    bench = Bench()
    bench.document["hosts"]["c2"] = {"controllers": 99}
    report = bench.fence("c1", "c2")
    assert report.confirmed("c1")
    assert not report.confirmed("c2")
    assert report.drives[0].outcome("c2") is Outcome.REFUSED
    assert "hosts discover" in report.drives[0].advice, "the cut of the other host does not take the advice away"
    assert bench.detaches() == [(1, (1,)), (2, (1,)), (3, (1,))]


def test_host_refused_on_one_drive_is_cut_on_the_others() -> None:
    bench = Bench(drives=2)
    bench.document["hosts"]["c1"] = {"controllers": {"S0": 0xAA, "S1": 1}}
    report = bench.fence()
    assert not report.confirmed("c1")
    assert not bench.cut(1)
    assert bench.cut(1, drive=1)
    assert "S0: controller 170 does not exist on this drive" in report.message("c1")


def test_host_that_was_not_asked_for_is_never_confirmed() -> None:
    report = Bench().fence("c1")
    assert not report.confirmed("c2")
    assert not report.confirmed("")


class Faulty(EmulatedTransport):
    """Has a defect on the first drive."""

    async def run(self, device: int, commands: Sequence[Command], until: float | None = None) -> list[Completion]:
        if self._handles[device].path == "/dev/nvme0" and commands[0].opcode == ATTACHMENT:
            raise RuntimeError("a defect")
        return await super().run(device, commands, until)


def test_defect_on_one_drive_is_not_success_and_stops_no_other() -> None:
    bench = Bench(drives=3)
    bench.transport = Faulty({f"/dev/nvme{n}": (d, 0) for n, d in enumerate(bench.drives)})
    report = bench.fence()
    assert not report.confirmed("c1")
    assert [d.outcome("c1") for d in report.drives] == [Outcome.UNKNOWN, Outcome.CUT, Outcome.CUT]
    assert "internal error: RuntimeError('a defect')" in report.message("c1")


@pytest.mark.parametrize("when", ["open", "cut", "read-back", "done"])
def test_listener_that_fails_stops_no_cut_and_falsifies_nothing(when: str) -> None:
    bench = Bench(drives=2)

    def progress(_drive: DriveEvidence, phase: str) -> None:
        if phase == when:
            raise OSError(errno.EIO, "the terminal is gone")

    report = bench.fence(progress=progress)
    assert bench.cut(1)
    assert bench.cut(1, drive=1)
    assert report.confirmed("c1")


def test_phases_are_told_in_order_and_timed() -> None:
    bench = Bench()
    told: list[str] = []
    report = bench.fence(quiesce=1.0, progress=lambda _drive, phase: told.append(phase))
    assert told == ["open", "look", "read", "cut", "read-back", "quiesce", "read-back", "done"]
    assert set(report.drives[0].seconds) == {*told, "total"} - {"done"}
    assert report.drives[0].seconds["quiesce"] == pytest.approx(1.0)


def test_cancelled_fence_leaves_no_handle_open() -> None:
    bench = Bench(drives=3)
    bench.fault(on(ATTACHMENT, hang()))

    async def main() -> None:
        hostmap = hostfile.parse(bench.document, "hosts.toml")
        task = asyncio.create_task(fence(bench.transport, hostmap, bench.found(), [hostmap.find("c1")], Options()))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert not bench.transport._handles


def test_report_says_when_how_and_that_it_was_simulated() -> None:
    report = Bench().fence()
    assert report.simulated
    assert report.backend == "simulated"
    assert report.started_at.endswith("Z")
    assert report.message("c1").startswith("SIMULATED: Fenced c1: detached 3 attachments on 1 drive in 0.000 s")


def test_commands_are_split_only_where_lists_failed() -> None:
    batch = detach_commands({1: (4, 5), 2: (4, 5)}, {2})
    assert [(nsid, ids) for _, nsid, ids in batch] == [(1, (4, 5)), (2, (4,)), (2, (5,))]
    assert all(command.opcode == ATTACHMENT and command.cdw10 == 1 for command, _, _ in batch)

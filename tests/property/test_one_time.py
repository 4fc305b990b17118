"""What is said of all drives is true of one time: who is back on one while another is waited for is cut again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmefence.fencing.evidence import FenceReport
from nvmefence.fencing.fence import Options, fence
from nvmefence.fencing.guard import Guard
from nvmefence.fencing.quiesce import parse
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.nvme.commands import NAMESPACE_ATTACHMENT, VIRTUALIZATION_MANAGEMENT, VirtualizationAction
from nvmefence.nvme.emulated import QEMU_7_2, EmulatedSubsystem, EmulatedTransport, Fault, Namespace, fail, hang
from nvmefence.nvme.transport import Command
from tests.property.virtual_time import Clock, run

VF1, VF2 = 11, 12
DRIVES = 3
SLOW = 1
"""The drive that refuses to take a controller offline: there, ten seconds pass."""
APART_S = 0.6
"""Seconds by which the last reads may be apart, and what an emulated read takes."""
Story = Callable[[], Any]


class Bench:
    """Drives of which two can drain, with host c1 on virtual function 1."""

    def __init__(self, *, latency: float = 0.0) -> None:
        self.clock = Clock()
        self.drives = [
            EmulatedSubsystem(
                f"nqn.{n}", f"S{n}", controllers=[0], secondaries=[VF1, VF2],
                namespaces=[Namespace(1), Namespace(2)], quirks=QEMU_7_2,
            )
            for n in range(DRIVES)
        ]  # fmt: skip
        devices = {f"/dev/nvme{n}": (drive, 0) for n, drive in enumerate(self.drives)}
        self.transport = EmulatedTransport(devices, latency=latency)
        self.transport.faults[f"/dev/nvme{SLOW}"] = no_offline
        table = {"version": 1, "drives": {"count": DRIVES}, "hosts": {"c1": {"vf": 1}, "c2": {"vf": 2}}}
        self.hostmap = hostfile.parse(table, "hosts.toml")

    def fence(
        self, *beside: tuple[float, Callable[[], object]], deadline: float = 60.0,
        hosts: Sequence[str] = ("c1",), guard: Guard | None = None,
    ) -> FenceReport:  # fmt: skip
        """Fence hosts, and do something at each of some times."""
        found = [
            Drive(
                f"nqn.{n}", f"S{n}", "M", "1", (LocalController(f"nvme{n}", f"/dev/nvme{n}", 0, "", "live", False),)
            )
            for n in range(DRIVES)
        ]

        async def later(seconds: float, do: Callable[[], object]) -> None:
            await asyncio.sleep(seconds)
            do()

        async def story() -> FenceReport:
            others = [asyncio.ensure_future(later(*one)) for one in beside]
            options = Options(deadline, parse("auto"), guard=guard)
            report = await fence(self.transport, self.hostmap, found, list(map(self.hostmap.find, hosts)), options)
            for other in others:
                other.cancel()
            return report

        return run(story(), self.clock)

    def give(self, drive: int, nsid: int) -> None:
        """Attach the host again, as other software would."""
        self.drives[drive].set_attached(nsid, [VF1, VF2])

    def attached(self) -> list[int]:
        return [n for n, drive in enumerate(self.drives) if any(VF1 in drive.attached(nsid) for nsid in (1, 2))]


def no_offline(_path: str, command: Command) -> Fault | None:
    managing = command.opcode == VIRTUALIZATION_MANAGEMENT
    return fail(0x4002) if managing and command.cdw10 & 0xF == VirtualizationAction.SECONDARY_OFFLINE else None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 25.0), st.integers(0, DRIVES - 1), st.integers(1, 2)), max_size=4))
def test_no_drive_has_the_host_again_when_it_is_confirmed_but_in_that_very_moment(
    gifts: list[tuple[float, int, int]],
) -> None:
    bench = Bench()
    report = bench.fence(*((when, lambda d=drive, n=nsid: bench.give(d, n)) for when, drive, nsid in gifts))
    assert report.confirmed("c1")
    just_now = {drive for when, drive, _ in gifts if report.seconds - when <= APART_S}
    assert set(bench.attached()) <= just_now


def test_a_host_that_comes_back_on_a_drive_that_has_ended_is_cut_there_again() -> None:
    bench = Bench()
    report = bench.fence((3.0, lambda: bench.give(0, 2)))
    assert report.confirmed("c1")
    assert bench.attached() == []
    assert report.seconds == pytest.approx(10.0, abs=0.5)
    assert report.drives[0].passes > report.drives[2].passes
    assert report.drives[0].detached("c1") == {1: (VF1,), 2: (VF1,)}


def test_drives_that_end_together_are_not_read_once_more() -> None:
    bench = Bench()
    bench.transport.faults.clear()
    report = bench.fence()
    assert report.confirmed("c1")
    assert {drive.passes for drive in report.drives} == {3}


@pytest.mark.parametrize("fault", [fail(0x4006), hang()])
def test_a_drive_that_cannot_be_read_once_more_is_not_confirmed(fault: Fault) -> None:
    bench = Bench()

    def break_it() -> None:
        bench.transport.faults["/dev/nvme0"] = lambda _path, _command: fault

    report = bench.fence((3.0, break_it), deadline=14.0)
    assert not report.confirmed("c1")
    assert report.drives[0].reason("c1")
    assert report.seconds <= 14.1


def test_a_drive_that_cannot_be_cut_again_is_not_confirmed() -> None:
    bench = Bench()

    def come_back() -> None:
        bench.give(0, 1)
        bench.transport.faults["/dev/nvme0"] = lambda _path, command: (
            fail(0x4006) if command.opcode == NAMESPACE_ATTACHMENT else None
        )

    report = bench.fence((3.0, come_back))
    assert not report.confirmed("c1")
    assert "still attached to namespace 1" in report.message("c1")


def test_where_nothing_can_be_confirmed_nothing_is_read_once_more() -> None:
    bench = Bench()
    bench.transport.faults[f"/dev/nvme{SLOW}"] = lambda _path, command: (
        fail(0x4006) if command.opcode == NAMESPACE_ATTACHMENT else no_offline(_path, command)
    )
    report = bench.fence()
    assert not report.confirmed("c1")
    assert [drive.passes for drive in report.drives][::2] == [3, 3]


class Holding:
    """A guard by which one host is being given storage back, and goes on being."""

    def enter(self, host: str) -> str:
        return "a restore of c2 is under way" if host == "c2" else ""


def test_a_host_that_is_held_until_the_deadline_costs_the_others_of_its_pass_nothing() -> None:
    """There is still time for the last look, which they are confirmed by."""
    bench = Bench(latency=0.06)
    bench.transport.faults.clear()
    report = bench.fence(hosts=("c1", "c2"), deadline=30.0, guard=Holding())
    assert report.confirmed("c1")
    assert not report.confirmed("c2")
    assert report.seconds <= 30.1
    assert bench.attached() == []

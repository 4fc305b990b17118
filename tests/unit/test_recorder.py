"""What a fence takes is written beside the cut, never before it, and a writer that hangs delays nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nvmefence.fencing.evidence import FenceReport
from nvmefence.fencing.fence import Options, fence
from nvmefence.fencing.quiesce import parse
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.nvme.commands import NAMESPACE_ATTACHMENT, VIRTUALIZATION_MANAGEMENT
from nvmefence.nvme.emulated import EmulatedSubsystem, EmulatedTransport, Fault, Namespace, delay, fail, hang, on
from nvmefence.nvme.transport import Command, Completion
from nvmefence.records.beside import Beside
from nvmefence.records.hostlock import UNANSWERED_S, HostLocks
from nvmefence.records.record import Record
from nvmefence.records.recorder import Keeper
from nvmefence.records.store import Change, RecordError, Store
from tests.property.virtual_time import Clock, run

VF = (11, 12, 13)


class Watched(Store):
    """A store that remembers its writings, and may fail."""

    def __init__(self, path: str, clock: Clock) -> None:
        super().__init__(path, simulated=True)
        self.clock = clock
        self.written: list[tuple[float, Record | None]] = []
        self.broken = ""

    def update(self, host: str, change: Change, *, keep: bool = False) -> Record | None:
        if self.broken:
            raise RecordError(self.broken)
        made = super().update(host, change, keep=keep)
        self.written.append((self.clock.now, made))
        return made


class Thread:
    """A writer that is done with each piece of work after some seconds, like a slow or dead disk."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.free_at = 0.0
        self.posted: list[float] = []
        self.full = False

    def post(self, work: Callable[[], object]) -> bool:
        loop = asyncio.get_running_loop()
        if self.full:
            return False
        self.posted.append(loop.time())
        self.free_at = max(loop.time(), self.free_at) + self.seconds
        if self.seconds:
            loop.call_at(self.free_at, work)
        else:
            work()
        return True


class Sent(EmulatedTransport):
    """Remembers when each command that changes something was sent."""

    changes: list[float]

    async def run(self, device: int, commands: Sequence[Command], until: float | None = None) -> list[Completion]:
        if any(c.opcode in (NAMESPACE_ATTACHMENT, VIRTUALIZATION_MANAGEMENT) for c in commands):
            self.changes.append(asyncio.get_running_loop().time())
        return await super().run(device, commands, until)


class Bench:
    def __init__(self, place: Path, *, latency: float = 0.001, seconds: float = 0.0) -> None:
        self.clock = Clock()
        self.drives = [
            EmulatedSubsystem(
                f"nqn.{n}", f"S{n}", controllers=[0], secondaries=VF, namespaces=[Namespace(1), Namespace(2)]
            )
            for n in range(2)
        ]
        self.transport = Sent({f"/dev/nvme{n}": (d, 0) for n, d in enumerate(self.drives)}, latency=latency)
        self.transport.changes = []
        self.hostmap = hostfile.parse(
            {"version": 1, "drives": {"count": 2}, "hosts": {"c1": {"vf": 1}, "c2": {"vf": 2}}}, "hosts.toml"
        )
        self.store = Watched(str(place / "fenced"), self.clock)
        self.thread = Thread(seconds)
        self.keeper = Keeper(self.store, self.thread, lambda: 1_800_000_000 + self.clock.now)
        self.locks = HostLocks(str(place / "run"))
        self.troubles: dict[str, str] = {}
        self.took = 0.0

    def fault(self, number: int, hook: Callable[[str, Command], Fault | None]) -> None:
        self.transport.faults[f"/dev/nvme{number}"] = hook

    async def fence(
        self,
        *hosts: str,
        rule: str = "drain",
        deadline: float = 30.0,
        within: float = 0.2,
        in_flight: Callable[[], int] | None = None,
    ) -> FenceReport:
        found = [
            Drive(
                f"nqn.{n}", f"S{n}", "M", "1", (LocalController(f"nvme{n}", f"/dev/nvme{n}", 0, "", "live", False),)
            )
            for n in range(2)
        ]
        names = hosts or ("c1",)
        beside = Beside(self.keeper, self.locks, {name: [("r-1", "test")] for name in names}, rule, in_flight)
        options = beside.options(Options(deadline, parse(rule)))
        report = await fence(
            self.transport, self.hostmap, found, [self.hostmap.find(name) for name in names], options, beside.heard
        )
        ended = self.clock.now
        self.troubles = await beside.finish(report, within, 5 * within)
        self.took = self.clock.now - ended
        return report

    def run(self, **more: Any) -> FenceReport:
        return run(self.fence(**more), self.clock)

    def record(self, host: str = "c1") -> Record:
        found = self.store.load(host)
        assert found is not None
        return found


def test_a_quick_fence_is_written_once_and_after_the_cut(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    report = bench.run()
    assert report.confirmed("c1")
    assert len(bench.store.written) == 1
    assert bench.store.written[0][0] >= max(bench.transport.changes)
    record = bench.record()
    assert record.confirmed
    assert record.fenced_at is not None
    assert record.since < record.fenced_at
    assert (record.host, record.simulated, record.quiesce) == ("c1", True, "drain")
    assert record.message == report.message("c1")
    assert [(t.serial, t.nsid, t.controllers, t.request_id) for t in record.taken] == [
        (serial, nsid, (11,), "r-1") for serial in ("S0", "S1") for nsid in (1, 2)
    ]
    assert {t.identity for t in record.taken if t.identity is None or not t.identity.nguid} == set()
    assert (record.offline, bench.troubles) == ((), {})


def test_a_fence_that_waits_is_written_while_it_waits(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(rule="wait:5")
    (early, first), (_, last) = bench.store.written
    assert max(bench.transport.changes) < early < max(bench.transport.changes) + 0.2
    assert first is not None
    assert last is not None
    assert (first.taken, first.confirmed, first.message) == (last.taken, False, "")
    assert last.confirmed


def test_controllers_that_stay_offline_are_on_record_with_what_they_had(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(rule="offline")
    assert [(o.serial, o.cntlid, o.queues, o.interrupts, o.stays) for o in bench.record().offline] == [
        ("S0", 11, 2, 2, True), ("S1", 11, 2, 2, True)
    ]  # fmt: skip


def test_while_a_drive_is_slow_with_the_cut_what_it_may_be_taking_is_on_record(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fault(1, on(NAMESPACE_ATTACHMENT, delay(3.0)))
    bench.run()
    during, after = bench.store.written[0][1], bench.record()
    assert during is not None
    assert {(t.serial, t.nsid, t.identity is None) for t in during.taken} == {
        ("S0", 1, False), ("S0", 2, False), ("S1", 1, True), ("S1", 2, True)
    }  # fmt: skip
    assert {(o.serial, o.cntlid, o.stays) for o in during.offline} == {("S1", 11, False)}
    assert not during.confirmed
    assert all(t.identity is not None for t in after.taken)
    assert len(after.taken) == 4
    assert after.offline == ()


def test_a_drive_that_never_answers_the_cut_leaves_what_it_may_have_taken_on_record(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fault(1, on(NAMESPACE_ATTACHMENT, hang()))
    report = bench.run(deadline=2.0)
    assert not report.confirmed("c1")
    record = bench.record()
    assert (record.confirmed, record.fenced_at) == (False, None)
    assert {(t.serial, t.nsid) for t in record.taken} == {("S0", 1), ("S0", 2), ("S1", 1), ("S1", 2)}
    assert [(o.serial, o.stays) for o in record.offline] == [("S1", True)]


def test_two_hosts_of_one_fence_have_a_record_each(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    run(bench.fence("c1", "c2"), bench.clock)
    assert {t.controllers for t in bench.record("c1").taken} == {(11,)}
    assert {t.controllers for t in bench.record("c2").taken} == {(12,)}


def test_a_fence_that_took_nothing_and_is_not_confirmed_leaves_no_record(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for n in range(2):
        bench.fault(n, on(0x06, fail(0x4006)))
    assert not bench.run(deadline=1.0).confirmed("c1")
    assert bench.store.load("c1") is None


# A writer that hangs or fails


def test_a_writer_that_hangs_delays_neither_the_cut_nor_the_answer(tmp_path: Path) -> None:
    quick, hung = Bench(tmp_path / "a"), Bench(tmp_path / "b", seconds=1000.0)
    assert quick.run().confirmed("c1")
    report = hung.run()
    assert report.confirmed("c1"), "what goes wrong with the record changes nothing about the fence"
    assert hung.transport.changes == quick.transport.changes
    assert hung.took == pytest.approx(0.2)
    assert "not written within 0.2 s" in hung.troubles["c1"]
    assert hung.keeper.troubles == hung.troubles


def test_behind_a_writer_that_hangs_the_next_fence_waits_no_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path, seconds=50.0)

    async def story() -> None:
        await bench.fence()
        await bench.fence("c2")
        assert bench.took == 0
        assert set(bench.keeper.troubles) == {"c1", "c2"}
        await asyncio.sleep(500.0)
        assert bench.keeper.troubles == {}, "it has been written after all"
        assert bench.keeper.late == 0
        bench.thread.seconds = 0.0
        await bench.fence()
        assert bench.troubles == {}

    run(story(), bench.clock)
    assert bench.record("c1").confirmed
    assert bench.record("c2").confirmed


def test_what_cannot_be_written_is_said_and_changes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.store.broken = "no space"
    report = bench.run()
    assert report.confirmed("c1")
    assert bench.troubles == {"c1": "no space"}
    assert bench.keeper.troubles == {"c1": "no space"}
    bench.store.broken = ""
    bench.run()
    assert bench.keeper.troubles == {}


def test_a_writer_that_takes_nothing_more_is_trouble_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.thread.full = True
    assert bench.run().confirmed("c1")
    assert set(bench.troubles) == {"c1"}


def test_a_defect_in_the_store_is_trouble_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)

    def broken(_host: str, _change: Change, *, keep: bool) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(bench.store, "update", broken)
    assert bench.run().confirmed("c1")
    assert "KeyError" in bench.troubles["c1"]


def test_a_writer_that_is_slow_and_gets_on_is_waited_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    class Steps(Thread):
        """Takes 0.3 s for each piece of work."""

        def post(self, work: Callable[[], object]) -> bool:
            asyncio.get_running_loop().call_later(0.3, work)
            return True

    bench.keeper.writer = Steps()

    async def story() -> None:
        progress = iter(range(100))
        started = bench.clock.now
        assert await bench.keeper.done(lambda: None, 0.2, 1.0, lambda: next(progress))
        assert bench.clock.now - started == pytest.approx(0.3)
        assert not await bench.keeper.done(lambda: None, 0.2, 1.0, lambda: 0)
        assert bench.clock.now - started == pytest.approx(0.5)
        assert bench.keeper.late == 1
        await asyncio.sleep(1.0)
        assert bench.keeper.late == 0

    run(story(), bench.clock)


# What an earlier fence left


def test_what_a_controller_had_before_an_earlier_fence_is_what_it_gets_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for drive in bench.drives:
        drive.secondaries[12].vq = drive.secondaries[12].vi = 3
        drive.secondaries[11].vq = drive.secondaries[11].vi = 1
        drive.flexible = 9

    async def story() -> None:
        await bench.fence("c2", rule="offline")
        await bench.fence("c2", rule="drain")

    run(story(), bench.clock)
    for drive in bench.drives:
        entry = drive.secondaries[12]
        assert (entry.online, entry.vq, entry.vi) == (True, 3, 3)
    assert bench.record("c2").offline == ()


# The lock


@pytest.mark.parametrize(
    ("opcode", "held"), [(None, False), (NAMESPACE_ATTACHMENT, True), (VIRTUALIZATION_MANAGEMENT, True)]
)
def test_restores_are_kept_away_for_as_long_as_a_command_may_still_be_carried_out(
    tmp_path: Path, opcode: int | None, held: bool
) -> None:
    bench = Bench(tmp_path)
    if opcode is not None:
        bench.fault(0, on(opcode, hang()))

    async def story() -> None:
        await bench.fence(deadline=2.0)
        assert bool(bench.locks.restoring("c1")) is False
        await asyncio.sleep(UNANSWERED_S - 1.0)
        if held:
            with pytest.raises(Exception, match="under way"):
                bench.locks.restore("c1")
            await asyncio.sleep(2.0)
        bench.locks.restore("c1").end()

    run(story(), bench.clock)


def test_restores_are_kept_away_no_longer_than_the_kernel_has_a_command(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fault(0, on(NAMESPACE_ATTACHMENT, hang()))
    held = 1

    async def story() -> None:
        nonlocal held
        await bench.fence(deadline=2.0, in_flight=lambda: held)
        await asyncio.sleep(50.0)
        with pytest.raises(Exception, match="under way"):
            bench.locks.restore("c1")
        held = 0
        await asyncio.sleep(1.0)
        bench.locks.restore("c1").end()
        held = 1
        await bench.fence(deadline=2.0, in_flight=lambda: held)
        await asyncio.sleep(UNANSWERED_S - 1.0)
        with pytest.raises(Exception, match="under way"):
            bench.locks.restore("c1")
        await asyncio.sleep(2.0)
        bench.locks.restore("c1").end()

    run(story(), bench.clock)


def test_a_fence_is_not_confirmed_while_a_restore_has_the_host_and_says_who(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def story() -> None:
        lock = bench.locks.restore("c1")
        report = await bench.fence(deadline=1.0)
        assert not report.confirmed("c1")
        assert "a restore (process" in report.message("c1")
        assert all(11 not in drive.attached(nsid) for drive in bench.drives for nsid in (1, 2)), "it is cut at once"
        lock.end()
        assert (await bench.fence()).confirmed("c1")

    run(story(), bench.clock)


def test_a_fence_is_confirmed_as_soon_as_the_restore_has_let_go(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def story() -> None:
        lock = bench.locks.restore("c1")
        fencing = asyncio.create_task(bench.fence("c1", "c2"))
        await asyncio.sleep(0.5)
        assert lock.wanted()
        bench.drives[0].set_attached(1, {11, 12, 13})  # the last of the restore
        lock.end()
        report = await fencing
        assert report.confirmed("c1")
        assert report.confirmed("c2")
        assert report.seconds < 1.0
        assert 11 not in bench.drives[0].attached(1)

    run(story(), bench.clock)
    assert {t.nsid for t in bench.record().taken} == {1, 2}

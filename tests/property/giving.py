"""Fences, restores and what others do meanwhile on one random fleet, with judges that read the drives' memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from hypothesis import strategies as st

from nvmefence.errors import UnderWayError
from nvmefence.fencing.evidence import FenceReport
from nvmefence.fencing.fence import Options, fence
from nvmefence.fencing.quiesce import Quiesce
from nvmefence.inventory.drives import Drive
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.nvme.emulated import Namespace
from nvmefence.nvme.transport import Command, Completion
from nvmefence.records.beside import Beside
from nvmefence.records.hostlock import FenceLock, HostLocks, RestoreLock
from nvmefence.records.places import Places
from nvmefence.records.record import Record
from nvmefence.records.recorder import Keeper
from nvmefence.records.store import Store
from nvmefence.restoring import Ended, Of, Restoring
from tests.property.fleets import NAMESPACE_ATTACHMENT, VIRTUALIZATION, Case, Recorder, TrueDrive
from tests.property.virtual_time import Clock

T = TypeVar("T")
ATTACH: Final = 0
DETACH: Final = 1
ONLINE: Final = 9
Had = tuple[str, int, Namespace, int]
"""Serial number, NSID, which namespace that was, controller."""


class Inline:
    """A worker that does its work at once, until it dies."""

    def __init__(self) -> None:
        self.alive = True

    async def do(self, work: Callable[[], T], within: float) -> T:
        await asyncio.sleep(0)
        if not self.alive:
            await asyncio.Event().wait()
        return work()

    def post(self, work: Callable[[], object]) -> bool:
        if self.alive:
            work()
        return self.alive


class Locks(HostLocks):
    """Host locks that end with their process, which here is a wish."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.taken: list[FenceLock | RestoreLock] = []

    def fence(self) -> FenceLock:
        self.taken.append(super().fence())
        return self.taken[-1]  # type: ignore[return-value]

    def restore(self, host: str, what: str = "a restore") -> RestoreLock:
        self.taken.append(super().restore(host, what))
        return self.taken[-1]  # type: ignore[return-value]

    def die(self) -> None:
        for lock in self.taken:
            lock.end()


class Sending(Recorder):
    """Remembers when an attach was sent: by counting what happens, for many things have the same time."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gave: list[int] = []
        self.happened = 0

    def happens(self) -> int:
        self.happened += 1
        return self.happened

    async def run(self, device: int, commands: Sequence[Command], until: float | None = None) -> list[Completion]:
        if any(c.opcode == NAMESPACE_ATTACHMENT and c.cdw10 & 0xF == ATTACH for c in commands):
            self.gave.append(self.happens())
        return await super().run(device, commands, until)


@dataclass(slots=True)
class Fenced:
    """A fence that ended."""

    began: int
    """As `Sending.happens` counts."""
    done: int
    ended: float
    report: FenceReport


@dataclass
class World:
    """One host of a case, fenced and restored; what was true at each moment is in the drives' history."""

    case: Case
    place: Path
    rule: Quiesce
    clock: Clock = field(default_factory=Clock)
    fences: list[Fenced] = field(default_factory=list)
    restores: list[tuple[float, float]] = field(default_factory=list)
    archive: Callable[[Of], list[str]] = lambda _of: []
    """Puts the responses away that say the host is fenced."""
    begun: list[float] = field(default_factory=list)
    """When fences began, also those that have not ended."""

    def __post_init__(self) -> None:
        self.transport = Sending(
            {d.path: (d.subsystem, d.own) for d in self.case.drives}, latency=self.case.latency
        )
        self.worker = Inline()
        self.locks = Locks(str(self.place / "run"))
        self.store = Store(str(self.place / "fenced"), simulated=True)
        for drive in self.case.drives:
            drive.subsystem.history.clear()
            drive.subsystem.now = drive.subsystem._clock = self.clock
        self.had: set[Had] = set()
        """Everything that the host had, ever."""
        self.look()

    @property
    def name(self) -> str:
        return self.case.hosts[0]

    def hostmap(self) -> HostMap:
        return self.case.hostmap()

    def host(self) -> Host:
        return self.hostmap().find(self.case.called[0])

    def mine(self, drive: TrueDrive) -> frozenset[int]:
        return drive.owners[self.name]

    def seen(self) -> list[Drive]:
        return [drive.seen() for drive in self.case.drives]

    def attached(self) -> set[Had]:
        """What the host has now."""
        return {
            (drive.subsystem.serial, nsid, drive.subsystem.namespaces[nsid], cntlid)
            for drive in self.case.drives
            for nsid, ids in drive.subsystem.truth().items()
            for cntlid in self.mine(drive).intersection(ids)
        }

    def look(self) -> None:
        self.had |= self.attached()

    def states(self) -> dict[str, dict[str, Any]]:
        """The secondary controllers' states by serial number."""
        return {d.subsystem.serial: d.subsystem.snapshot()["secondaries"] for d in self.case.drives}

    def record(self) -> Record | None:
        return self.store.load(self.name)

    async def fence(self, deadline: float = 30.0) -> FenceReport:
        """As the watcher and the command line do it."""
        self.look()
        keeper = Keeper(self.store, self.worker, lambda: 1e9 + self.clock.now)
        began = self.transport.happens()
        self.begun.append(self.clock.now)
        beside = Beside(keeper, self.locks, {self.name: [(f"r-{len(self.begun)}", "test")]}, self.rule.name)
        options = beside.options(Options(deadline, self.rule))
        report = await fence(self.transport, self.hostmap(), self.seen(), [self.host()], options, beside.heard)
        troubles = await beside.finish(report, 1.0, 1.0)
        assert troubles == {}
        self.fences.append(Fenced(began, self.transport.happens(), self.clock.now, report))
        return report

    async def restore(self, deadline: float = 30.0) -> Ended | None:
        """As the watcher and the command line do it; None: refused."""

        async def find(_within: float) -> list[Drive]:
            await asyncio.sleep(0)
            return self.seen()

        places = Places(self.store, self.locks)
        restoring = Restoring(self.transport, find, places, self.worker, self.worker, self.archive, simulated=True)
        started = self.clock.now
        try:
            ended = await restoring.restore(self.hostmap(), self.host(), started + deadline)
        except UnderWayError:
            return None
        self.restores.append((started, self.clock.now))
        return ended

    # What others do

    def replace_namespace(self, drive: TrueDrive, nsid: int, pick: int) -> None:
        """Somebody deletes a namespace and makes another in its place, for everyone but the host."""
        old = drive.subsystem.namespaces[nsid]
        keep = [n for n in drive.subsystem.attached(nsid) if n not in self.mine(drive)]
        fresh = old._replace(nguid=bytes([pick % 255 + 1]) * 16)
        if pick % 3 == 0:
            fresh = fresh._replace(size=old.size + 8)
        if pick % 3 == 1:
            fresh = old._replace(size=old.size + 8)
        drive.subsystem.add_namespace(fresh, keep)


class Change(NamedTuple):
    """Something that happens between a fence and a restore."""

    what: str
    drive: int
    pick: int


def changes() -> st.SearchStrategy[list[Change]]:
    what = st.sampled_from(["replace", "delete", "create", "attach", "offline", "swap"])
    return st.lists(st.builds(Change, what, st.integers(0, 3), st.integers(0, 100)), max_size=4)


def happen(world: World, change: Change) -> None:
    drive = world.case.drives[change.drive % len(world.case.drives)]
    subsystem = drive.subsystem
    nsids = sorted(subsystem.namespaces)
    nsid = nsids[change.pick % len(nsids)] if nsids else 0
    if change.what == "replace" and nsids:
        world.replace_namespace(drive, nsid, change.pick)
    elif change.what == "delete" and nsids:
        subsystem.remove_namespace(nsid)
    elif change.what == "create":
        subsystem.add_namespace(Namespace(100 + change.pick), [drive.own])
    elif change.what == "attach" and nsids and subsystem.namespaces[nsid].shared:
        subsystem.set_attached(nsid, {*subsystem.attached(nsid), min(world.mine(drive))})
    elif change.what == "offline" and subsystem.secondaries:
        for cntlid in world.mine(drive) & set(subsystem.secondaries):
            subsystem._offline(cntlid)
    elif change.what == "swap" and len(world.case.document["hosts"]) > 1:
        swap_hosts(world)
    world.look()


def swap_hosts(world: World) -> None:
    """The map gives the host another one's controllers, and the other way round."""
    hosts = world.case.document["hosts"]
    other = next(name for name in hosts if name != world.name)
    mine, theirs = hosts[world.name], hosts[other]
    for key in ("controllers", "vf", "slot"):
        one, two = mine.pop(key, None), theirs.pop(key, None)
        if two is not None:
            mine[key] = two
        if one is not None:
            theirs[key] = one
    for drive in world.case.drives:
        drive.owners[world.name], drive.owners[other] = drive.owners[other], drive.owners[world.name]


# The judges


def judge_attaches(world: World, had: set[Had], owners: Sequence[frozenset[int]]) -> None:
    """Every attach that a drive processed was of what the host had; `owners`: who it is, by drive."""
    for drive, mine in zip(world.case.drives, owners, strict=True):
        for processed in drive.subsystem.history:
            if processed.opcode != NAMESPACE_ATTACHMENT or processed.cns & 0xF != ATTACH:
                continue
            assert processed.named, "an empty list"
            assert processed.named <= mine, "a controller that is not the host's"
            assert drive.own not in processed.named
            for cntlid in processed.named:
                what = (drive.subsystem.serial, processed.nsid, processed.which.get(processed.nsid), cntlid)
                assert what in had, f"it never had {what}"


def judge_online(world: World, owners: Sequence[frozenset[int]]) -> None:
    """Nobody else's controller was managed."""
    for drive, mine in zip(world.case.drives, owners, strict=True):
        for processed in drive.subsystem.history:
            if processed.opcode == VIRTUALIZATION:
                assert processed.named <= mine


def judge_times(world: World) -> None:
    """Nothing was given, or sent to be given, while the host was being fenced."""
    for gave in world.transport.gave:
        for one in world.fences:
            assert not one.began < gave < one.done, "given while the host was being fenced"


def judge_fences(world: World) -> None:
    """A fence that is confirmed stayed so until somebody gave something back: no late attach was carried out."""
    for one in world.fences:
        if not one.report.confirmed(world.name):
            continue
        later = [start for start, _end in world.restores if start >= one.ended]
        until = min(later, default=float("inf"))
        for drive in world.case.drives:
            for processed in drive.subsystem.history:
                attach = processed.opcode == NAMESPACE_ATTACHMENT and processed.cns & 0xF == ATTACH
                assert not (attach and one.ended < processed.when < until), "given after a fence was confirmed"


def judge_nothing_is_lost(world: World) -> None:
    """Whatever was taken of what still exists, the host has it, or it is on record."""
    record = world.record()
    recorded = {(t.serial, t.nsid, n) for t in (record.taken if record else ()) for n in t.controllers}
    there = {
        (drive.subsystem.serial, nsid, which)
        for drive in world.case.drives
        for nsid, which in drive.subsystem.namespaces.items()
    }
    gone = {one for one in world.had - world.attached() if one[:3] in there}
    lost = {one for one in gone if (one[0], one[1], one[3]) not in recorded}
    assert not lost, f"taken, and not on record: {lost}"

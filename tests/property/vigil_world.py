"""Two drives, three hosts and a look-out in virtual time, real records and locks, and judges of all it does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from nvmefence.errors import UnderWayError
from nvmefence.fencing.fence import Options
from nvmefence.fencing.quiesce import Quiesce, parse
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.inventory.hostmap import HostMap
from nvmefence.nvme.commands import NAMESPACE_ATTACHMENT, VIRTUALIZATION_MANAGEMENT
from nvmefence.nvme.emulated import QEMU_7_2, EmulatedSubsystem, EmulatedTransport, Fault, Namespace
from nvmefence.nvme.transport import Command, Completion
from nvmefence.records import merge
from nvmefence.records.fenced import counts
from nvmefence.records.hostlock import RestoreLock
from nvmefence.records.places import Places, places
from nvmefence.records.record import Record
from nvmefence.records.recorder import Keeper
from nvmefence.restoring import Of
from nvmefence.settings import Settings
from nvmefence.site import Site
from nvmefence.watcher.enforcing import REQUESTED
from nvmefence.watcher.guard import Guard
from nvmefence.watcher.journal import Journal
from nvmefence.watcher.lookout import Lookout
from nvmefence.watcher.passes import Pass, Passes, Ticket
from nvmefence.watcher.vigil import LOOK_S
from nvmefence.watcher.worker import Workers
from tests.property.virtual_time import Clock
from tests.property.watcher_world import Inline

HOSTS: Final = ("c1", "c2", "c3")
CONTROLLERS: Final = {"c1": 11, "c2": 12, "c3": 13}
NSIDS: Final = (1, 2)
DEADLINE_S: Final = 10.0


class Seen(EmulatedTransport):
    """Has what changes something judged when it is sent, and counts what is opened."""

    judge: Callable[[frozenset[int]], None]
    opened = 0

    def open(self, path: str) -> int:
        self.opened += 1
        return super().open(path)

    async def run(self, device: int, commands: Sequence[Command], until: float | None = None) -> list[Completion]:
        for command in commands:
            if command.opcode == NAMESPACE_ATTACHMENT:
                count, *ids = struct.unpack("<2048H", command.data)
                self.judge(frozenset(ids[:count]))
            elif command.opcode == VIRTUALIZATION_MANAGEMENT:
                self.judge(frozenset({command.cdw10 >> 16}))
        return await super().run(device, commands, until)


class World:
    """`story` coroutines use it within `virtual_time.run(..., world.clock)`."""

    def __init__(
        self, place: Path, *, quiesce: str = "none", enforce: bool = False, drives: int = 2, **settings: Any
    ) -> None:
        self.clock = Clock()
        self.drives = [
            EmulatedSubsystem(
                f"nqn.example:{n}", f"S{n}", controllers=[0], secondaries=list(CONTROLLERS.values()),
                namespaces=[Namespace(nsid) for nsid in NSIDS], quirks=QEMU_7_2, clock=self.clock,
            )
            for n in range(drives)
        ]  # fmt: skip
        paths = {f"/dev/nvme{n}": (drive, 0) for n, drive in enumerate(self.drives)}
        self.transport = Seen(paths, latency=0.001)
        self.transport.judge = self._judge_cut
        rule: Quiesce = parse(quiesce)
        self.settings = Settings(
            deadline=DEADLINE_S,
            quiesce=rule,
            records=str(place / "fenced"),
            run_dir=str(place / "run"),
            enforce=enforce,
            **settings,
        )
        hosts = {name: {"controllers": cntlid} for name, cntlid in CONTROLLERS.items()}
        self.hostmap: HostMap = hostfile.parse(
            {"version": 1, "drives": {"count": drives}, "hosts": hosts}, "hosts.toml"
        )
        self.gone: set[int] = set()
        """Numbers of drives that are not there."""
        self.there: Places = places(self.settings)
        self.said: list[dict[str, Any]] = []
        self.when: list[float] = []
        """When each of `said` was said."""
        self.inherited = 0
        """How much of it earlier look-outs said."""
        self.audit: list[dict[str, Any]] = []
        self.standing: dict[str, set[str]] = {}
        """Responses that say that a host is fenced."""
        self.responses_hang = False
        self.fencing: set[str] = set()
        """Hosts that a test has fenced now."""
        self.history: list[tuple[float, dict[str, bool]]] = []
        """From when on which hosts were attached, or online where that must not be."""
        self.wrong: list[str] = []
        self.locks: dict[str, RestoreLock] = {}
        self.lookout: Lookout | None = None
        self.discoveries = 0
        self.ended: list[Pass] = []
        self.again: list[list[Ticket]] = []
        self.news = asyncio.Event()

    # The watcher's part

    def start(self) -> None:
        """Start the look-out, and what can fence, in the running loop."""
        self.inherited = len(self.said)
        worker = Inline(lambda: None)
        self.workers = Workers(worker, worker, worker, worker, worker, worker)
        site = Site(self.transport, self._found, simulated=False)
        journal = Journal(self._hear, "json")
        keeper = Keeper(self.there.store, worker, lambda: self.clock.now)
        options = Options(DEADLINE_S, self.settings.quiesce)
        self.passes = Passes(site, worker, options, keeper, self.there.locks, self._pass_ended)
        self.guard = Guard(self.settings, journal, self._note, self.clock)
        self.lookout = Lookout(
            self.settings, site, lambda: self.hostmap, self.there, self.workers, self.passes, self._standing,
            self.guard, journal, self._note, lambda: None, lambda: self.clock.now,
        )  # fmt: skip
        self.lookout.begin()
        self.remember()

    async def stop(self) -> None:
        assert self.lookout is not None
        await self.lookout.finish()
        await self.passes.finish()
        self.lookout = None

    @contextlib.asynccontextmanager
    async def looking(self) -> Any:
        """A look-out that runs meanwhile."""
        self.start()
        try:
            yield self
        finally:
            await self.stop()

    def _found(self) -> list[Drive]:
        self.discoveries += 1
        return [
            Drive(
                drive.nqn, drive.serial, "Emulated", "1.0",
                (LocalController(f"nvme{n}", f"/dev/nvme{n}", 0, "", "live", False),),
            )
            for n, drive in enumerate(self.drives)
            if n not in self.gone
        ]  # fmt: skip

    def _pass_ended(self, made: Pass, again: list[Ticket]) -> None:
        made.release()
        self.ended.append(made)
        self.again.append(again)
        self.remember()
        if self.lookout is not None:
            self.lookout.pass_ended()

    def _standing(self, of: Of) -> list[str]:
        if self.responses_hang:
            raise OSError(5, "they are on a dead disk")
        return [name for host, names in self.standing.items() if of(host) for name in sorted(names)]

    def _note(self, event: str, **fields: Any) -> None:
        self.audit.append(json.loads(json.dumps({"event": event, **fields})))

    def _hear(self, line: str) -> None:
        said = json.loads(line)
        self.said.append(said)
        self.when.append(self.clock.now)
        self.news.set()
        if said.get("returned"):
            self._judge_alarm(said["host"])
        if said["message"].endswith(" again") and "hosts" in said:
            self._judge_begin(said["hosts"][0])

    # What happens to hosts

    async def fence(self, host: str, by: str = "command line", name: str = "r") -> bool:
        """Fence a host, as a request (`REQUESTED`) or somebody else does."""
        known = self.hostmap.hosts[host]
        self.fencing.add(host)
        try:
            made = self.passes.enforce(known, (name, by), self.hostmap)
            if made is None or made.task is None:
                return False
            await asyncio.wait([made.task])
            good = made.report is not None and made.report.confirmed(host)
            if good and by == REQUESTED:
                self.standing.setdefault(host, set()).add(f"{name}.json")
            return good
        finally:
            self.fencing.discard(host)

    def attach(self, host: str, drive: int = 0, nsid: int = 1) -> None:
        """As other software does, behind everyone's back."""
        subsystem = self.drives[drive]
        subsystem.set_attached(nsid, {*subsystem.attached(nsid), CONTROLLERS[host]})
        self.remember()

    def detach(self, host: str, drive: int = 0, nsid: int = 1) -> None:
        subsystem = self.drives[drive]
        subsystem.set_attached(nsid, {*subsystem.attached(nsid)} - {CONTROLLERS[host]})
        self.remember()

    def set_online(self, host: str, online: bool, drive: int = 0) -> None:
        entry = self.drives[drive].secondaries[CONTROLLERS[host]]
        entry.online = online
        self.remember()

    def record(self, host: str) -> Record | None:
        return self.there.store.load(host)

    def unfence(self, host: str) -> bool:
        """Put the record and the responses away, unless somebody is at the host."""
        try:
            lock = self.there.locks.restore(host, "an unfence")
        except UnderWayError:
            return False
        self.standing.pop(host, None)
        self.there.store.update(host, lambda _now: None)
        lock.end()
        self.remember()
        return True

    def begin_restore(self, host: str) -> bool:
        """Take the lock, say on record that the host counts as fenced no longer, and give it a namespace."""
        if host in self.locks:
            return False
        try:
            self.locks[host] = self.there.locks.restore(host)
        except UnderWayError:
            return False
        self.there.store.update(host, lambda now: now and replace(now, fenced_at=None, confirmed=False))
        self.attach(host)
        return True

    def end_restore(self, host: str, *, whole: bool = True) -> None:
        """Take off the record what was given, and put it away if that is all; then let go of the lock."""
        lock = self.locks.pop(host, None)
        if lock is None:
            return
        if not lock.wanted():
            if whole:
                self.standing.pop(host, None)
                self.there.store.update(host, lambda _now: None)
            else:
                self.there.store.update(host, lambda now: now and merge.without(now, now.taken[:1], ()))
        lock.end()
        self.remember()

    def fault(self, drive: int, fault: Fault | None) -> None:
        """Let a drive misbehave from now on, or no longer."""
        if fault is None:
            self.transport.faults.pop(f"/dev/nvme{drive}", None)
        else:
            self.transport.faults[f"/dev/nvme{drive}"] = lambda _path, _command: fault

    # What is true

    def attached(self, host: str) -> bool:
        return any(CONTROLLERS[host] in drive.attached(nsid) for drive in self.drives for nsid in NSIDS)

    def back(self, host: str) -> bool:
        """Whether a fenced host has what it must not have."""
        record = self.record(host)
        left = [] if record is None else [one for one in record.offline if one.stays]
        online = [one for drive in self.drives for one in left if one.serial == drive.serial]
        by_serial = {drive.serial: drive for drive in self.drives}
        return self.attached(host) or any(by_serial[o.serial].secondaries[o.cntlid].online for o in online)

    def fenced(self, host: str) -> bool:
        found = self.record(host)
        return found is not None and counts(found)

    def alarms(self) -> set[str]:
        """The hosts that the look-out which runs now says are back."""
        now: set[str] = set()
        for said in self.said[self.inherited :]:
            if said.get("returned") is True:
                now.add(said["host"])
            elif said.get("returned") is False:
                now.discard(said["host"])
        return now

    def heard(self, text: str) -> list[dict[str, Any]]:
        return [said for said in self.said if text in said["message"]]

    def times(self, text: str) -> list[float]:
        """When that was said."""
        return [when for when, said in zip(self.when, self.said, strict=True) if text in said["message"]]

    async def until_said(self, text: str) -> None:
        while not self.heard(text):
            self.news.clear()
            await self.news.wait()

    # The judges

    def remember(self) -> None:
        self.history.append((self.clock.now, {host: self.back(host) for host in HOSTS}))

    def _was_back(self, host: str, since: float) -> bool:
        """Whether a host was back at some moment from then on."""
        latest = self.history[0][1]
        for when, state in self.history:
            if when > since and latest[host]:
                return True
            latest = state
            if when > since and state[host]:
                return True
        return latest[host]

    def _judge_alarm(self, host: str) -> None:
        if not self.fenced(host):
            self.wrong.append(f"{host} is said to be back and counts as fenced no longer")
        if host in self.locks:
            self.wrong.append(f"{host} is said to be back and is being restored")
        if not self._was_back(host, self.clock.now - LOOK_S - 0.1):
            self.wrong.append(f"{host} is said to be back at {self.clock.now} and is not")

    def _judge_begin(self, host: str) -> None:
        record = self.record(host)
        requested = record is not None and any(one.by == REQUESTED for one in record.asked)
        if requested and not self.standing.get(host):
            self.wrong.append(f"{host} is cut again and no response says that it is fenced")
        if host in self.locks:
            self.wrong.append(f"{host} is cut again and is being restored")

    def _judge_cut(self, named: frozenset[int]) -> None:
        hosts = [host for host, cntlid in CONTROLLERS.items() if cntlid in named]
        if len(hosts) != len(named):
            self.wrong.append(f"a command names {set(named)}")
        for host in hosts:
            if host not in self.fencing and not self.fenced(host):
                self.wrong.append(f"{host} is cut and counts as fenced no longer")


@contextlib.contextmanager
def judged(place: Path, **options: Any) -> Iterator[World]:
    """A world in which nothing may have gone wrong at the end."""
    world = World(place, **options)
    yield world
    assert world.wrong == []

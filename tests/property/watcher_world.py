"""A watcher with emulated drives and real directories in virtual time, and judges that see every moment of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from nvmefence.fencing.quiesce import Quiesce
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.nvme.emulated import SPECIFICATION, EmulatedTransport, Fault, Namespace
from nvmefence.nvme.transport import Command, Completion
from nvmefence.settings import Settings
from nvmefence.site import Site
from nvmefence.watcher import audit
from nvmefence.watcher.journal import Journal
from nvmefence.watcher.service import Watcher
from nvmefence.watcher.systemd import Notifier
from nvmefence.watcher.worker import Workers
from tests.property.fleets import NAMESPACE_ATTACHMENT, Witness
from tests.property.virtual_time import Clock

T = TypeVar("T")
EPOCH: Final = 1_800_000_000.0
"""What the wall clock shows at the virtual time 1000."""
HOSTS: Final = ("c1", "c2", "c3")
OWN: Final = 1
MAX_AGE_S: Final = 40.0
DEADLINE_S: Final = 5.0


class Inline:
    """A Worker that does its work at once, and has it witnessed."""

    def __init__(self, witness: Callable[[], None]) -> None:
        self._witness = witness

    async def do(self, work: Callable[[], T], within: float) -> T:
        await asyncio.sleep(0)
        try:
            return work()
        finally:
            self._witness()

    def post(self, work: Callable[[], object]) -> bool:
        with contextlib.suppress(OSError):
            work()
        return True


class Observed(EmulatedTransport):
    """Remembers when controllers were to be detached, or attached. A drive may act on a command much later."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cuts: list[tuple[float, frozenset[int]]] = []
        self.given: list[tuple[float, frozenset[int]]] = []

    async def run(self, device: int, commands: Sequence[Command], until: float | None = None) -> list[Completion]:
        now = asyncio.get_running_loop().time()
        for command in commands:
            if command.opcode == NAMESPACE_ATTACHMENT:
                count, *ids = struct.unpack("<2048H", command.data)
                done = self.cuts if command.cdw10 & 0xF else self.given
                done.append((now, frozenset(ids[:count])))
        return await super().run(device, commands, until)


@dataclass(slots=True)
class Asked:
    """A request as the tests made it."""

    name: str
    request_id: str
    host: str
    action: str
    at: float
    limit: float
    withdrawn: float = float("inf")

    def wanted(self, moment: float) -> bool:
        """Whether somebody waits for it then, and it is not too old."""
        return self.at <= moment <= min(self.at + self.limit, self.withdrawn)


@dataclass(slots=True)
class World:
    """Two or more drives, three hosts, one watcher."""

    place: Path
    clock: Clock
    drives: list[Witness]
    transport: Observed
    settings: Settings
    asked: dict[str, Asked] = field(default_factory=dict)
    begun: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    readmitted: dict[str, list[float]] = field(default_factory=dict)
    responses: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    watcher: Watcher | None = None
    task: asyncio.Task[None] | None = None

    @property
    def requests(self) -> Path:
        return Path(self.settings.request_dir)

    @property
    def answers(self) -> Path:
        return Path(self.settings.response_dir)

    def wall(self) -> float:
        return EPOCH + self.clock.now - 1000.0

    def controllers(self, host: str) -> frozenset[int]:
        first = 2 + 2 * HOSTS.index(host)
        return frozenset({first, first + 1})

    def attached(self, host: str) -> bool:
        mine = self.controllers(host)
        return any(mine.intersection(ids) for drive in self.drives for ids in drive.truth().values())

    def start(self) -> None:
        """Start a watcher in the running loop."""
        worker = Inline(self.look_on)
        site = Site(self.transport, self._seen, simulated=False)
        hostmap = hostfile.load(self.settings.hosts)
        journal = Journal(self._hear, "json")
        workers = Workers(worker, worker, worker, worker, worker, worker)
        self.watcher = Watcher(self.settings, site, hostmap, workers, journal, Notifier({}), self.wall)
        self.task = asyncio.create_task(self.watcher.run())

    async def stop(self) -> None:
        """Stop it as SIGTERM does."""
        assert self.watcher is not None
        assert self.task is not None
        self.watcher.stop()
        await self.task

    def _seen(self) -> list[Drive]:
        found = []
        for n, drive in enumerate(self.drives):
            local = LocalController(f"nvme{n}", f"/dev/nvme{n}", OWN, "", "live", False)
            found.append(Drive(drive.nqn, drive.serial, "Emulated", "1.0", (local,)))
        return found

    @contextlib.contextmanager
    def host_map(self, spoiled_by: str) -> Iterator[None]:
        """Have this text at the end of the host map for a while."""
        path = Path(self.settings.hosts)
        before = path.read_text()
        path.write_text(before + spoiled_by)
        try:
            yield
        finally:
            path.write_text(before)

    def _hear(self, line: str) -> None:
        document = json.loads(line)
        self.said.append(document)
        if document["message"].startswith("fencing "):
            self.begun.append((self.clock.now, tuple(document["hosts"])))

    def ask(self, number: int, host: str, action: str, timeout: float | None, style: str) -> Asked:
        """Write a request as one of the agents in the field does."""
        request_id = f"id-{number}"
        name = f"{host}-{request_id}.json" if style == "target" else f"{request_id}.json"
        document: dict[str, Any] = {"request_id": request_id, "action": action, "target_node": host}
        if timeout is not None:
            document["timeout_s"] = timeout
        path = self.requests / name
        self.put(path, json.dumps(document).encode(), rename=style != "in-place")
        limit = MAX_AGE_S if timeout is None else min(timeout, MAX_AGE_S)
        asked = Asked(name, request_id, host, action, self.clock.now, limit)
        self.asked[request_id] = asked
        return asked

    def put(self, path: Path, data: bytes, *, rename: bool = True) -> None:
        target = path.with_name(f".{path.name}.tmp") if rename else path
        target.write_bytes(data)
        target.chmod(0o600)
        os.utime(target, (self.wall(), self.wall()))
        if rename:
            target.rename(path)

    def withdraw(self, asked: Asked) -> None:
        (self.requests / asked.name).unlink(missing_ok=True)
        asked.withdrawn = min(asked.withdrawn, self.clock.now)

    def readmit(self, host: str) -> None:
        """Give a host everything back, as other software might."""
        for drive in self.drives:
            for nsid in drive.namespaces:
                drive.set_attached(nsid, {*drive.attached(nsid), *self.controllers(host)})
        self.readmitted.setdefault(host, []).append(self.clock.now)

    def look_on(self) -> None:
        """Judge what became visible just now."""
        if not self.answers.is_dir():
            return
        for path in self.answers.glob("*.json"):
            if path.name.startswith(".") or path.name in self.responses:
                continue
            document = json.loads(path.read_bytes())
            self.responses[path.name] = document
            self._judge(document)

    def _judge(self, document: dict[str, Any]) -> None:
        asked = self.asked.get(document["request_id"])
        if asked is None or asked.host != document["target_node"]:
            self.wrong.append(f"a response to nobody: {document}")
            return
        if asked.request_id not in self.audited():
            self.wrong.append(f"{asked.request_id} is visible before its audit line")
        if document["success"] is True and asked.action != "on" and self.attached(asked.host):
            started = max(at for at, hosts in self.begun if asked.host in hosts)
            given = [at for at, named in self.transport.given if named & self.controllers(asked.host)]
            if not any(moment >= started for moment in (*self.readmitted.get(asked.host, ()), *given)):
                self.wrong.append(f"{asked.host} is called fenced and is attached")

    def audited(self) -> set[str]:
        """The request ids that are on record as answered."""
        found = set()
        for path in (Path(self.settings.audit), self.answers / audit.FALLBACK):
            if path.is_file():
                for document in map(json.loads, path.read_bytes().splitlines()):
                    if document["event"] == "answer" and document["request"]:
                        found.add(document["request"]["request_id"])
        return found

    def judge_cuts(self) -> None:
        """Every detach was wanted: by a request that was there when its pass began and had not expired since.

        Every attach was wanted by an `on`.
        """
        for when, named in self.transport.cuts:
            hosts = [host for host in HOSTS if named & self.controllers(host)]
            if not named or named - frozenset().union(*map(self.controllers, hosts)):
                self.wrong.append(f"a detach of {set(named)}")
            for host in hosts:
                began = [at for at, together in self.begun if host in together and at <= when]
                if not any(
                    a.host == host and a.action != "on" and a.wanted(began[-1]) and when <= a.at + a.limit
                    for a in self.asked.values()
                ):
                    self.wrong.append(f"a cut of {host} is sent at {when} and nobody asked for it")
        for when, named in self.transport.given:
            for host in HOSTS:
                mine = named & self.controllers(host)
                wanted = [a for a in self.asked.values() if a.host == host and a.action == "on"]
                if mine and not any(a.at <= when <= a.at + a.limit for a in wanted):
                    self.wrong.append(f"{host} is given something at {when} and nobody asked for it")


def build(
    place: Path,
    clock: Clock,
    *,
    drives: int = 2,
    quiesce: float | Quiesce = 0.5,
    secondaries: bool = False,
    **settings: Any,
) -> World:
    """Make directories, host map and drives; with `secondaries`, the hosts' controllers are virtual functions."""
    for name in ("requests", "responses", "log"):
        (place / name).mkdir()
    entries = "".join(f"[hosts.{h}]\ncontrollers = [{2 + 2 * n}, {3 + 2 * n}]\n" for n, h in enumerate(HOSTS))
    (place / "hosts.toml").write_text(f"version = 1\n[drives]\ncount = {drives}\n{entries}")
    subsystems = []
    for number in range(drives):
        subsystem = Witness(
            f"nqn.x:{number}", f"S{number}",
            controllers=[OWN] if secondaries else range(1, 8), secondaries=range(2, 8) if secondaries else (),
            quirks=SPECIFICATION,
        )  # fmt: skip
        subsystem.history = []
        subsystem.now = clock
        for nsid in (1, 2):
            subsystem.add_namespace(Namespace(nsid), range(1, 8))
        subsystems.append(subsystem)
    transport = Observed({f"/dev/nvme{n}": (s, OWN) for n, s in enumerate(subsystems)}, latency=0.001)
    chosen = Settings(
        hosts=str(place / "hosts.toml"),
        deadline=DEADLINE_S,
        quiesce=quiesce if isinstance(quiesce, Quiesce) else Quiesce(quiesce),
        request_dir=str(place / "requests"),
        response_dir=str(place / "responses"),
        log_dir=str(place / "log"),
        audit=str(place / "audit.jsonl"),
        records=str(place / "fenced"),
        run_dir=str(place / "run"),
        max_request_age_s=MAX_AGE_S,
        **settings,
    )
    return World(place, clock, subsystems, transport, chosen)


def sabotage(world: World, drive: int, fault: Fault, until: float) -> None:
    """Let a drive misbehave until a moment of virtual time."""

    def hook(_path: str, _command: Command) -> Fault | None:
        return fault if world.clock.now < until else None

    world.transport.faults[f"/dev/nvme{drive}"] = hook

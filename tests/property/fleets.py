"""Random fleets, host maps and faults, with the truth about them kept apart from what the product says."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.inventory.hostmap import HostMap
from nvmefence.nvme.emulated import (
    QEMU_7_2,
    SPECIFICATION,
    EmulatedSubsystem,
    EmulatedTransport,
    Fault,
    Namespace,
    answer,
    delay,
    fail,
    hang,
    lie,
    remove,
)
from nvmefence.nvme.transport import Command, Completion

IDENTIFY: Final = 0x06
NAMESPACE_ATTACHMENT: Final = 0x15
VIRTUALIZATION: Final = 0x1C
LIST: Final = 0x10
"""CNS of the allocated namespaces."""
ATTACHED: Final = 0x12
"""CNS of the controllers that a namespace is attached to."""
DNR: Final = 0x4000
PAGE: Final = 4096

TRANSIENT: Final = (0x007, 0x021, 0x022, 0x370, 0x01D, 0x1821, -errno.EINTR, -errno.EAGAIN, -errno.ENOMEM)
FINAL: Final = (0x118, 0x119 | DNR, 0x11A, 0x11A | DNR, 0x11F | DNR, 0x002, 0x001 | DNR, 0x006 | DNR, -errno.EIO)
WRITE_S: Final = 1000.0
"""Seconds that a write of a host takes: longer than any fence."""
STYLES: Final = ("everywhere", "per-serial", "per-nqn", "override", "vf", "slot", "mixed")


class Processed(NamedTuple):
    """A command as the subsystem processed it, and its true attachments just before."""

    when: float
    opcode: int
    cns: int
    nsid: int
    named: frozenset[int]
    """The controllers in the list that came with it, or that it manages; else empty."""
    truth: dict[int, tuple[int, ...]]
    which: dict[int, Namespace]
    """The namespaces that were allocated, by NSID."""


class Witness(EmulatedSubsystem):
    """A subsystem that remembers what was true whenever it processed a command."""

    history: list[Processed]
    now: Any = staticmethod(lambda: 0.0)

    def truth(self) -> dict[int, tuple[int, ...]]:
        return {nsid: self.attached(nsid) for nsid in self.namespaces}

    def execute(self, cntlid: int, sqe: bytes, data: bytes) -> tuple[int, int, bytes]:
        (nsid,) = struct.unpack_from("<I", sqe, 4)
        (cdw10,) = struct.unpack_from("<I", sqe, 40)
        named: frozenset[int] = frozenset()
        if sqe[0] == NAMESPACE_ATTACHMENT:
            named = frozenset(struct.unpack_from(f"<{struct.unpack_from('<H', data)[0]}H", data, 2))
        elif sqe[0] == VIRTUALIZATION:
            named = frozenset({cdw10 >> 16})
        self.history.append(
            Processed(self.now(), sqe[0], cdw10 & 0xFF, nsid, named, self.truth(), dict(self.namespaces))
        )
        return super().execute(cntlid, sqe, data)


class Recorder(EmulatedTransport):
    """A transport that remembers every answer as its user saw it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.answers: list[tuple[str, Command, Completion]] = []
        self._paths: dict[int, str] = {}

    def open(self, path: str) -> int:
        handle = super().open(path)
        self._paths[handle] = path
        return handle

    async def run(self, device: int, commands: Sequence[Command], until: float | None = None) -> list[Completion]:
        completions = await super().run(device, commands, until)
        self.answers += [(self._paths[device], c, a) for c, a in zip(commands, completions, strict=True)]
        return completions


@dataclass(slots=True)
class TrueDrive:
    """A drive and what is true about it."""

    path: str
    own: int
    subsystem: Witness
    owners: dict[str, frozenset[int]]
    """Controllers by host."""
    sriov: bool

    def targets(self, hosts: Sequence[str]) -> frozenset[int]:
        return frozenset().union(*(self.owners[host] for host in hosts))

    def seen(self) -> Drive:
        """As this machine's kernel shows it."""
        local = LocalController(self.path[5:], self.path, self.own, "", "live", False)
        return Drive(self.subsystem.nqn, self.subsystem.serial, "Emulated NVMe", "1.0", (local,))


@dataclass(slots=True)
class Case:
    """A fleet, its host map, and who is to be fenced."""

    drives: list[TrueDrive]
    document: dict[str, Any]
    hosts: tuple[str, ...]
    called: tuple[str, ...]
    """The hosts by the names they are asked for."""
    latency: float
    zero_allowed: bool
    others: dict[str, dict[int, frozenset[int]]] = field(default_factory=dict)
    """By serial and NSID: who else must be attached at the end."""

    def __post_init__(self) -> None:
        for drive in self.drives:
            targets = drive.targets(self.hosts)
            truth = drive.subsystem.truth()
            self.others[drive.subsystem.serial] = {n: frozenset(ids) - targets for n, ids in truth.items()}

    def hostmap(self) -> HostMap:
        return hostfile.parse(self.document, "hosts.toml")

    def each_has_something(self) -> bool:
        """Whether each controller of the targets has a namespace of each drive that has any."""
        return all(
            any(cntlid in drive.subsystem.attached(nsid) for nsid in drive.subsystem.namespaces)
            for drive in self.drives
            for cntlid in drive.targets(self.hosts)
            if drive.subsystem.namespaces
        )

    def transport(self) -> Recorder:
        return Recorder({d.path: (d.subsystem, d.own) for d in self.drives}, latency=self.latency)


class Race(NamedTuple):
    """Other software changes attachments just before the drive's command number `at`."""

    at: int
    what: str
    pick: int


class Plan(NamedTuple):
    """A fault of one drive."""

    fault: Fault
    opcode: int
    cns: int
    """With opcode Identify: this CNS only; 0: any."""
    skip: int
    times: int | None

    def matches(self, command: Command) -> bool:
        return self.opcode in (0, command.opcode) and self.cns in (0, command.cdw10 & 0xFF)


class Saboteur:
    """The fault hook of one drive: races, then the first fault that matches."""

    def __init__(self, case: Case, drive: TrueDrive, plans: Sequence[Plan], races: Sequence[Race]) -> None:
        self.case, self.drive, self.plans, self.races = case, drive, plans, races
        self.commands = 0
        self.matched = [0] * len(plans)

    def __call__(self, _path: str, command: Command) -> Fault | None:
        for race in self.races:
            if race.at == self.commands:
                self.act(race)
        self.commands += 1
        for n, plan in enumerate(self.plans):
            if plan.matches(command):
                self.matched[n] += 1
                if plan.skip < self.matched[n] <= plan.skip + (plan.times or 10**9):
                    return plan.fault
        return None

    def act(self, race: Race) -> None:
        subsystem, others = self.drive.subsystem, self.case.others[self.drive.subsystem.serial]
        nsids = sorted(subsystem.namespaces)
        targets = self.drive.targets(self.case.hosts)
        victim = sorted(targets)[race.pick % len(targets)]
        if race.what == "create":
            nsid = 20 + race.pick % 50
            subsystem.add_namespace(Namespace(nsid), subsystem.cntlids)
            others[nsid] = frozenset(subsystem.cntlids) - targets
        elif nsids and race.what == "write":
            subsystem.start_write(victim, nsids[race.pick % len(nsids)], WRITE_S)
        elif nsids and race.what == "attach":
            nsid = nsids[race.pick % len(nsids)]
            if subsystem.namespaces[nsid].shared:
                subsystem.set_attached(nsid, {*subsystem.attached(nsid), victim})
        elif nsids and race.what == "delete":
            nsid = nsids[race.pick % len(nsids)]
            subsystem.remove_namespace(nsid)
            del others[nsid]


@st.composite
def cases(draw: st.DrawFn, styles: Sequence[str] = STYLES) -> Case:
    style = draw(st.sampled_from(styles))
    count = draw(st.integers(1, 4))
    names = ["c1", "c2.example.org", "Node-3"][: draw(st.integers(1, 3))]
    common = draw(_ids(8))
    drives: list[TrueDrive] = []
    for n in range(count):
        same = style == "everywhere" or (style == "override" and n)
        drives.append(draw(_drive(n, names, common if same else draw(_ids(8)), style)))
    targets = tuple(draw(st.lists(st.sampled_from(names), min_size=1, unique=True)))
    zero = any(0 in ids for drive in drives for ids in drive.owners.values())
    table: dict[str, Any] = {"allow_controller_zero": True} if zero else {}
    table |= draw(
        st.sampled_from(
            [
                {"count": count},
                {"serials": [d.subsystem.serial for d in drives]},
                {"nqns": [d.subsystem.nqn for d in drives]},
            ]
        )
    )
    hosts = {
        name: {**_selector(style, n, name, drives), "aliases": [f"{name.split('.')[0]}-ib"]}
        for n, name in enumerate(names)
    }
    called = tuple(draw(st.sampled_from(_names(name))) for name in targets)
    document = {"version": 1, "drives": table, "hosts": hosts}
    return Case(drives, document, targets, called, draw(st.sampled_from([0.0, 0.001])), zero)


def _names(host: str) -> list[str]:
    short = host.split(".", maxsplit=1)[0]
    return [host, host.upper(), host.lower(), f"{short}-ib", short, *([] if "." in host else [f"{host}.site"])]


def _ids(size: int) -> st.SearchStrategy[list[int]]:
    pool = st.one_of(st.integers(0, 12), st.integers(0, 0xFFEF))
    return st.lists(pool, min_size=size, max_size=size, unique=True)


@st.composite
def _drive(draw: st.DrawFn, number: int, names: list[str], ids: list[int], style: str) -> TrueDrive:
    """Two controllers for each host at most; the rest are bystanders that the map does not name."""
    sriov = style in ("vf", "slot", "mixed")
    own, rest = ids[0], ids[1:]
    if sriov:
        rest = sorted(rest)
    owners: dict[str, frozenset[int]] = {}
    for n, name in enumerate(names):
        if style == "slot":
            owners[name] = frozenset({rest[n + 1]})  # slot n is virtual function n + 2
        else:
            owners[name] = frozenset(rest[2 * n : 2 * n + (1 if n == 1 else 2)])
    subsystem = Witness(
        f"nqn.2014-08.org.example:drive-{number}",
        f"S{number}",
        controllers=[own] if sriov else ids,
        secondaries=rest if sriov else (),
        quirks=draw(st.sampled_from([SPECIFICATION, QEMU_7_2])),
    )
    subsystem.history = []
    for nsid in draw(st.lists(st.integers(1, 12), max_size=6, unique=True)):
        shared = draw(st.booleans()) or draw(st.booleans())
        attached = draw(st.lists(st.sampled_from(ids), max_size=8 if shared else 1, unique=True))
        subsystem.add_namespace(Namespace(nsid, shared=shared), attached)
    return TrueDrive(f"/dev/nvme{number}", own, subsystem, owners, sriov)


def _selector(style: str, number: int, name: str, drives: list[TrueDrive]) -> dict[str, Any]:
    if style == "everywhere":
        return {"controllers": sorted(drives[0].owners[name])}
    if style == "slot":
        return {"slot": number}
    if style == "vf" or (style == "mixed" and number):
        return {"vf": [2 * number + 1] if number == 1 else [2 * number + 1, 2 * number + 2]}
    if style == "override":
        everywhere = drives[-1].owners[name] if len(drives) > 1 else frozenset({0x1000 + number})
        return {"controllers": {"*": sorted(everywhere), "S0": sorted(drives[0].owners[name])}}
    by_nqn = style == "per-nqn"
    return {
        "controllers": {d.subsystem.nqn if by_nqn else d.subsystem.serial: sorted(d.owners[name]) for d in drives}
    }


def _plans(faults: st.SearchStrategy[Fault], scopes: Sequence[tuple[int, int]]) -> st.SearchStrategy[Plan]:
    times = st.one_of(st.none(), st.integers(1, 3))
    return st.builds(
        lambda fault, scope, skip, n: Plan(fault, scope[0], scope[1], skip, n),
        faults,
        st.sampled_from(scopes),
        st.integers(0, 8),
        times,
    )


_EVERY_SCOPE: Final = (
    (0, 0),
    (NAMESPACE_ATTACHMENT, 0),
    (VIRTUALIZATION, 0),
    (IDENTIFY, ATTACHED),
    (IDENTIFY, LIST),
    (IDENTIFY, 0),
)
_READS: Final = ((IDENTIFY, ATTACHED), (IDENTIFY, LIST), (IDENTIFY, 0x13), (IDENTIFY, 0x15), (IDENTIFY, 0x01))

_honest_faults: Final = st.one_of(
    st.builds(hang, applied=st.booleans()),
    st.builds(delay, st.floats(0.001, 4.0)),
    st.builds(fail, st.sampled_from(TRANSIENT + FINAL), applied=st.booleans()),
    st.builds(remove, applied=st.booleans()),
)


def honest_plans() -> st.SearchStrategy[list[Plan]]:
    """Faults that leave every answered read true; the status of what changes something may be a lie."""
    false_success = _plans(st.just(lie()), ((NAMESPACE_ATTACHMENT, 0), (VIRTUALIZATION, 0)))
    return st.lists(st.one_of(_plans(_honest_faults, _EVERY_SCOPE), false_success), max_size=3)


def races() -> st.SearchStrategy[list[Race]]:
    what = st.sampled_from(["attach", "attach", "create", "delete", "write", "write"])
    return st.lists(st.builds(Race, st.integers(0, 30), what, st.integers(0, 100)), max_size=4)


def transient_plans() -> st.SearchStrategy[list[Plan]]:
    """Faults that a patient fencer gets over: at most three commands each."""
    faults = st.one_of(
        st.builds(fail, st.sampled_from(TRANSIENT), applied=st.booleans()),
        st.builds(delay, st.floats(0.001, 0.5)),
        st.just(lie()),
    )

    def believable(plan: Plan) -> Plan:
        false_success = plan.fault.status == 0
        return plan._replace(
            opcode=NAMESPACE_ATTACHMENT if false_success and plan.opcode != VIRTUALIZATION else plan.opcode,
            cns=0 if false_success else plan.cns,
            times=plan.times or 3,
        )

    return st.lists(_plans(faults, _EVERY_SCOPE).map(believable), max_size=1)


def numbers_page(width: str, values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}{width}", *values).ljust(PAGE, b"\0")


_false_data: Final = st.one_of(
    st.none(),
    st.just(b""),
    st.just(bytes(PAGE)),
    st.binary(min_size=64, max_size=64).map(lambda data: data * (PAGE // 64)),
    st.lists(st.integers(0, 14), min_size=1, max_size=6).map(lambda ids: numbers_page("H", [len(ids), *ids])),
    st.lists(st.integers(0, 14), min_size=1, max_size=6).map(lambda ids: numbers_page("I", ids)),
    st.integers(2048, 0xFFFF).map(lambda count: numbers_page("H", [count, 1, 2, 3])),
    st.just(numbers_page("H", [2, 5, 5])),
    st.just(numbers_page("H", [1, 0xFFFF])),
)


def lying_plans() -> st.SearchStrategy[list[Plan]]:
    """Faults whose data is not the truth: garbage, empty lists, somebody else's lists, nothing written."""
    faults = st.one_of(
        _false_data.map(lie),
        _false_data.map(lambda data: answer(data or b"")),
    )
    return st.lists(_plans(faults, _READS), min_size=1, max_size=3)

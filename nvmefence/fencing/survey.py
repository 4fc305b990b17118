"""Reading without changing anything: which host is attached to what, and what a fence would send."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nvmefence.fencing.cutting import detach_commands
from nvmefence.fencing.session import DriveProblem, DriveSession
from nvmefence.inventory.drives import Drive
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.inventory.selectors import Refusal
from nvmefence.nvme.transport import Transport


class State(enum.Enum):
    """A host's access to one drive."""

    ATTACHED = "attached"
    """To every allocated namespace."""
    PARTLY = "partly"
    """To some."""
    NONE = "none"
    """To none: a complete read showed it."""
    UNKNOWN = "unknown"


@dataclass(slots=True)
class HostOnDrive:
    """One host on one drive."""

    state: State = State.UNKNOWN
    controllers: tuple[int, ...] = ()
    attached: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Controllers of the host by NSID."""
    online: tuple[int, ...] | None = None
    """Which of its controllers the Secondary Controller List shows online; None: the list was not read, or none of
    them is in it."""
    reason: str = ""
    """Why the state is unknown."""
    advice: str = ""


@dataclass(slots=True)
class DriveSurvey:
    """One drive as read just now."""

    serial: str
    nqn: str
    model: str
    device: str = ""
    own_controller: int | None = None
    namespaces: list[int] = field(default_factory=list)
    hosts: dict[str, HostOnDrive] = field(default_factory=dict)
    problem: str = ""
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "serial": self.serial,
            "nqn": self.nqn,
            "model": self.model,
            "device": self.device,
            "own_controller": self.own_controller,
            "namespaces": self.namespaces,
            "problem": self.problem,
            "advice": self.advice,
            "hosts": {
                name: {
                    "state": host.state.value,
                    "controllers": list(host.controllers),
                    "attached": {str(nsid): list(ids) for nsid, ids in host.attached.items()},
                    "online": None if host.online is None else list(host.online),
                    "reason": host.reason,
                    "advice": host.advice,
                }
                for name, host in self.hosts.items()
            },
        }


@dataclass(frozen=True, slots=True)
class Survey:
    """All expected drives as read just now."""

    drives: Sequence[DriveSurvey]
    missing: Sequence[str]
    backend: str

    @property
    def complete(self) -> bool:
        """Whether every expected drive was read and every host resolved on it."""
        return (
            not self.missing
            and bool(self.drives)
            and not any(
                drive.problem or any(h.state is State.UNKNOWN for h in drive.hosts.values())
                for drive in self.drives
            )
        )


async def survey(
    transport: Transport,
    hostmap: HostMap,
    found: Sequence[Drive],
    hosts: Sequence[Host],
    deadline: float,
    progress: Callable[[DriveSurvey], None] = lambda _drive: None,
    *,
    secondaries: bool = False,
) -> Survey:
    """Read every expected drive; sends nothing but Identify. `progress` hears of each drive when it is read.

    With `secondaries`, the Secondary Controller List is read even if no host is named by it.
    """
    until = asyncio.get_running_loop().time() + deadline
    selection = hostmap.select(found)

    async def one(drive: Drive) -> DriveSurvey:
        result = await _survey_drive(DriveSession(transport, drive, hostmap, until), hosts, secondaries)
        progress(result)
        return result

    drives = await asyncio.gather(*(one(drive) for drive in selection.drives))
    return Survey(drives, selection.missing, transport.backend)


async def _survey_drive(session: DriveSession, hosts: Sequence[Host], secondaries: bool) -> DriveSurvey:
    drive = session.drive
    result = DriveSurvey(drive.serial, drive.nqn, drive.model)
    result.hosts = {host.name: HostOnDrive() for host in hosts}
    try:
        await session.open()
        if session.local is not None:
            result.device, result.own_controller = session.local.path, session.local.cntlid
        await session.look(secondaries=secondaries)
        attached = await session.read_attached(fresh=False)
    except DriveProblem as problem:
        result.problem, result.advice = problem.reason, problem.advice
        for entry in result.hosts.values():
            entry.reason, entry.advice = problem.reason, problem.advice
        return result
    finally:
        session.close()
    result.namespaces = attached.nsids
    if not attached.complete:
        fault = next(iter(attached.faults.values()))
        result.problem, result.advice = str(fault), fault.advice
    for host in hosts:
        entry = result.hosts[host.name]
        try:
            ids = session.resolve(host)
        except Refusal as refusal:
            entry.reason, entry.advice = refusal.reason, refusal.advice
            continue
        entry.controllers = tuple(sorted(ids))
        entry.attached = attached.of(ids)
        entry.online = _online(session, ids)
        if not attached.complete:
            entry.reason, entry.advice = result.problem, result.advice
        elif not entry.attached:
            entry.state = State.NONE
        else:
            all_of_them = len(entry.attached) == len(attached.nsids)
            entry.state = State.ATTACHED if all_of_them else State.PARTLY
    return result


def _online(session: DriveSession, ids: frozenset[int]) -> tuple[int, ...] | None:
    listed = session.view.secondaries if session.view is not None else None
    mine = [entry for entry in listed or () if entry.cntlid in ids]
    return tuple(sorted(entry.cntlid for entry in mine if entry.online)) if mine else None


@dataclass(frozen=True, slots=True)
class PlannedCommand:
    """A command that a fence would send now."""

    device: str
    serial: str
    nsid: int
    controllers: tuple[int, ...]
    opcode: int
    cdw10: int

    def words(self) -> str:
        """Return the command in the specification's terms."""
        ids = ",".join(str(number) for number in self.controllers)
        return (
            f"{self.device}  {self.serial}  Namespace Attachment opcode={self.opcode:02X}h nsid={self.nsid} "
            f"cdw10={self.cdw10:08X}h (detach) controllers={ids}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "device": self.device,
            "serial": self.serial,
            "opcode": self.opcode,
            "nsid": self.nsid,
            "cdw10": self.cdw10,
            "controllers": list(self.controllers),
        }


def plan(result: Survey, hosts: Sequence[str]) -> list[PlannedCommand]:
    """Return the commands that a fence of `hosts` would send, given the survey."""
    planned = []
    for drive in result.drives:
        wanted: dict[int, set[int]] = {}
        for name in hosts:
            for nsid, ids in drive.hosts[name].attached.items():
                wanted.setdefault(nsid, set()).update(ids)
        merged = {nsid: tuple(sorted(wanted[nsid])) for nsid in sorted(wanted)}
        planned += [
            PlannedCommand(drive.device, drive.serial, nsid, ids, command.opcode, command.cdw10)
            for command, nsid, ids in detach_commands(merged)
        ]
    return planned

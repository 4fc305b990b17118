"""Whether a drive is set aside: everything that must be so before one byte is written or one attachment changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nvmefence.errors import Exit, NvmefenceError
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.inventory.hostmap import HostMap
from nvmefence.inventory.selectors import DriveView, Refusal
from nvmefence.qualify.control import Control, others
from nvmefence.qualify.figures import QualifyRefusedError, State


class DriveMissingError(NvmefenceError):
    """The drive that was named is not there."""

    exit_code = Exit.DRIVES_MISSING


@dataclass(frozen=True, slots=True)
class Named:
    """What was named on the command line."""

    drive: str
    """Serial number or NQN."""
    target: int
    nsid: int
    reader: int | None = None
    """The controller to read and to send commands through; None: the best of the others."""


@dataclass(frozen=True, slots=True)
class Ground:
    """The drive, and its two controllers."""

    drive: Drive
    own: LocalController
    target: LocalController | None
    """None: this machine's kernel does not drive it; only emulated drives can do without."""


def find(named: Named, found: Sequence[Drive], *, simulated: bool) -> Ground:
    """Find drive and controllers. Raises DriveMissingError, QualifyRefusedError."""
    drives = [drive for drive in found if named.drive in (drive.serial, drive.nqn)]
    if not drives:
        there = ", ".join(drive.serial for drive in found) or "no drives"
        raise DriveMissingError(f"there is no drive {named.drive}", f"this machine sees {there}; nothing was done")
    if len(drives) > 1:
        raise QualifyRefusedError(f"{len(drives)} drives call themselves {named.drive}", "name it by its NQN")
    drive = drives[0]
    target = next((c for c in drive.controllers if c.cntlid == named.target), None)
    if target is None and not simulated:
        seen = ", ".join(f"{c.name} is controller {c.cntlid}" for c in drive.controllers)
        raise QualifyRefusedError(
            f"this machine's kernel does not drive controller {named.target} of {drive.serial} ({seen})",
            "the writes are this machine's own: give it that controller, such as by binding the virtual function",
        )
    readers = [c for c in drive.controllers if c.cntlid != named.target]
    if named.reader is not None:
        readers = [c for c in readers if c.cntlid == named.reader]
    if not readers:
        which = "another controller" if named.reader is None else f"controller {named.reader}, beside the target,"
        raise QualifyRefusedError(
            f"this machine has not got {which} of {drive.serial} to read the medium back with",
            "it takes two controllers of one drive in one machine",
        )
    own = min(readers, key=lambda c: (c.state != "live", c.virtual_function, c.cntlid))
    for controller in filter(None, (target, own)):
        if controller.state != "live":
            raise QualifyRefusedError(f"{controller.name} is {controller.state}", "it must be live")
    return Ground(drive, own, target)


async def check(control: Control, before: State, hostmap: HostMap | None, *, simulated: bool) -> None:
    """Refuse what is not set aside. Raises QualifyRefusedError, Trouble."""
    target, own, nsid = control.target, control.own.cntlid, control.nsid
    known = await control.controllers()
    if known is not None and target not in known:
        raise QualifyRefusedError(
            f"{control.drive.serial} has no controller {target}", "look: nvmefence hosts discover"
        )
    if nsid not in before.attachments:
        there = ", ".join(map(str, sorted(before.attachments))) or "none"
        raise QualifyRefusedError(f"{control.drive.serial} has no namespace {nsid}", f"it has {there}")
    strangers = others(before.attachments, frozenset((target, own))).get(nsid)
    if strangers:
        listed = ", ".join(map(str, sorted(strangers)))
        raise QualifyRefusedError(
            f"namespace {nsid} is attached to controller {listed} as well, which is none of those named",
            "another host may be using it; if it is really set aside, detach it there first",
        )
    needed = (target,) if simulated else (target, own)
    for cntlid in needed:
        if cntlid not in before.attachments[nsid]:
            raise QualifyRefusedError(
                f"namespace {nsid} is not attached to controller {cntlid}", "attach it first: nvme attach-ns"
            )
    if hostmap is not None:
        view = DriveView(control.drive, known, before.secondaries)
        _refuse_hosts(hostmap, view, frozenset((target,)))


def _refuse_hosts(hostmap: HostMap, view: DriveView, controllers: frozenset[int]) -> None:
    """Refuse controllers which the host map gives to a host, or of which it cannot be told."""
    expected = bool(hostmap.select([view.drive]).drives)
    for host in hostmap.hosts.values():
        try:
            ids = host.selector.resolve(view)
        except Refusal as refusal:
            if not expected:
                continue
            raise QualifyRefusedError(
                f"it cannot be told which controllers of {view.drive.serial} are {host.name}'s: {refusal.reason}",
                f"take the drive out of {hostmap.path}, or correct it",
            ) from None
        if expected and ids & controllers:
            raise QualifyRefusedError(
                f"controller {min(ids & controllers)} is {host.name}'s by {hostmap.path}",
                "it would lose its storage: take the drive, or that host, out of the map first",
            )

"""What would happen if a host had to be fenced now: every drive asked, nothing changed."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nvmefence.fencing.quiesce import Choice, Quiesce
from nvmefence.fencing.secondaries import obstacle
from nvmefence.fencing.session import DriveProblem, DriveSession
from nvmefence.inventory.drives import Drive
from nvmefence.inventory.hostmap import HostMap
from nvmefence.inventory.selectors import ByController, DriveView, Refusal
from nvmefence.nvme import controller as nvme
from nvmefence.nvme.controller import AnswerError
from nvmefence.nvme.structures import Effects, IdentifyController, PrimaryCapabilities, SecondaryController
from nvmefence.nvme.transport import Transport


class Level(enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; a fence works."""
    FAIL = "fail"
    """A fence would fail, or might cut the wrong thing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked."""

    level: Level
    subject: str
    """A drive's serial number, or what else was checked."""
    text: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """Return plain data."""
        return {"level": self.level.value, "subject": self.subject, "text": self.text, "advice": self.advice}


@dataclass(slots=True)
class DriveFacts:
    """What one drive says about itself. None: it did not answer that question."""

    drive: Drive
    device: str = ""
    own_controller: int | None = None
    identity: IdentifyController | None = None
    namespaces: list[int] = field(default_factory=list)
    controllers: list[int] | None = None
    secondaries: list[SecondaryController] | None = None
    primary: PrimaryCapabilities | None = None
    effects: Effects | None = None
    problem: str = ""
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "serial": self.drive.serial,
            "nqn": self.drive.nqn,
            "model": self.drive.model,
            "firmware": self.drive.firmware,
            "device": self.device,
            "own_controller": self.own_controller,
            "namespaces": self.namespaces,
            "controllers": self.controllers,
            "secondaries": None
            if self.secondaries is None
            else [
                {"cntlid": s.cntlid, "vf": s.vf, "online": s.online, "queues": s.queues, "interrupts": s.interrupts}
                for s in self.secondaries
            ],
            "problem": self.problem,
            "advice": self.advice,
        }


async def inspect(
    transport: Transport, drives: Sequence[Drive], hostmap: HostMap, deadline: float
) -> list[DriveFacts]:
    """Ask every drive for all that a map or a check needs; sends Identify and Get Log Page only."""
    until = asyncio.get_running_loop().time() + deadline
    return list(await asyncio.gather(*(_inspect(DriveSession(transport, d, hostmap, until)) for d in drives)))


async def _inspect(session: DriveSession) -> DriveFacts:
    facts = DriveFacts(session.drive)
    try:
        await session.open()
        if session.local is not None:
            facts.device, facts.own_controller = session.local.path, session.local.cntlid
        facts.identity = await session.look()
        answers = await session.controller.read(
            [
                nvme.SUBSYSTEM_CONTROLLERS,
                nvme.SECONDARY_CONTROLLERS,
                nvme.PRIMARY_CAPABILITIES,
                nvme.EFFECTS_LOG,
            ]
        )
        attached = await session.read_attached(fresh=False)
    except DriveProblem as problem:
        facts.problem, facts.advice = problem.reason, problem.advice
        return facts
    finally:
        session.close()
    controllers, secondaries, primary, effects = (
        None if isinstance(answer, AnswerError) else answer for answer in answers
    )
    facts.namespaces = attached.nsids
    for fault in attached.faults.values():
        facts.problem, facts.advice = str(fault), fault.advice
    facts.controllers = controllers
    facts.secondaries = secondaries
    facts.primary = primary[0] if primary else None
    facts.effects = effects[0] if effects else None
    return facts


async def check(
    transport: Transport,
    hostmap: HostMap,
    found: Sequence[Drive],
    rule: Quiesce,
    deadline: float,
    progress: Callable[[str], None] = lambda _text: None,
) -> tuple[list[Finding], list[DriveFacts]]:
    """Check that every host of the map could be fenced on every expected drive; changes nothing."""
    selection = hostmap.select(found)
    findings = [
        Finding(Level.FAIL, "drives", text, "look at the drive's slot, power and link, or correct the map")
        for text in selection.missing
    ]
    if not selection.drives:
        findings.append(Finding(Level.FAIL, "drives", "no expected drive is there", "is this the right machine?"))
    elif not selection.missing:
        findings.append(Finding(Level.OK, "drives", f"all {len(selection.drives)} expected drives are there"))
    findings += _strange_names(hostmap, selection.drives)
    progress(f"asking {len(selection.drives)} drives")
    every = await inspect(transport, selection.drives, hostmap, deadline)
    for facts in every:
        findings += _drive_findings(facts, hostmap, rule, transport.backend)
    return findings, every


def _strange_names(hostmap: HostMap, drives: Sequence[Drive]) -> list[Finding]:
    """Drives that a host's controllers are listed for, and that are none of the expected ones: often a slip."""
    known = {name for drive in drives for name in drive.key}
    return [
        Finding(
            Level.FAIL,
            host.name,
            f"its controllers name the drive {name}, which is none of the expected ones",
            f'correct hosts.{host.name}.controllers."{name}" in {hostmap.path}',
        )
        for host in hostmap.hosts.values()
        if isinstance(host.selector, ByController)
        for name in host.selector.per_drive
        if name not in known
    ]


def _drive_findings(facts: DriveFacts, hostmap: HostMap, rule: Quiesce, backend: str) -> list[Finding]:
    serial = facts.drive.serial
    if facts.problem or facts.identity is None:
        return [Finding(Level.FAIL, serial, facts.problem or "no answer", facts.advice)]
    findings = []
    if not facts.identity.namespace_management:
        findings.append(
            Finding(
                Level.FAIL,
                serial,
                "our controller does not support Namespace Attachment (OACS bit 3 clear)",
                "this drive cannot be fenced through this controller",
            )
        )
    findings += _resolution(facts, hostmap)
    findings += _effects(facts, serial, backend)
    findings += _quiesce(facts, hostmap, rule)
    if not any(finding.level is Level.FAIL for finding in findings):
        text = (
            f"answers through {facts.device}, controller {facts.own_controller}, {len(facts.namespaces)} namespaces"
        )
        findings.insert(0, Finding(Level.OK, serial, text))
    return findings


def _resolution(facts: DriveFacts, hostmap: HostMap) -> list[Finding]:
    view = DriveView(facts.drive, facts.controllers, facts.secondaries)
    findings = []
    for host in hostmap.hosts.values():
        try:
            hostmap.resolve(host, view)
        except Refusal as refusal:
            findings.append(
                Finding(Level.FAIL, facts.drive.serial, f"{host.name}: {refusal.reason}", refusal.advice)
            )
    return findings


def _effects(facts: DriveFacts, serial: str, backend: str) -> list[Finding]:
    if facts.effects is None:
        return [Finding(Level.NOTE, serial, "has no Commands Supported and Effects log; Linux assumes defaults")]
    findings = []
    if not facts.effects.supported:
        findings.append(
            Finding(
                Level.NOTE, serial, "the effects log does not list Namespace Attachment", "try a dry run of a fence"
            )
        )
    if backend == "ioctl" and facts.effects.namespace_inventory_change:
        findings.append(
            Finding(
                Level.NOTE,
                serial,
                "every detach through ioctl waits for a rescan of our controller's namespaces",
                "a kernel with io_uring passthrough (Linux 6.0) avoids it",
            )
        )
    if backend == "ioctl" and facts.effects.exclusive:
        findings.append(
            Finding(
                Level.NOTE, serial, "Linux freezes our controller's I/O around every detach through ioctl (CSE)"
            )
        )
    return findings


def _quiesce(facts: DriveFacts, hostmap: HostMap, rule: Quiesce) -> list[Finding]:
    """Say what this drive gets for writes under way, and why."""
    found: dict[Choice, list[str]] = {}
    for host in hostmap.hosts.values():
        with contextlib.suppress(Refusal):
            ids = hostmap.resolve(host, DriveView(facts.drive, facts.controllers, facts.secondaries))
            why = obstacle(facts.secondaries, facts.own_controller, ids)
            found.setdefault(rule.choose(facts.drive.model, why), []).append(host.name)
    findings = []
    for choice, hosts in found.items():
        text = f"quiesce {choice.name}" + (f": {choice.reason}" if choice.reason else "")
        if len(found) > 1:
            text = f"{', '.join(hosts)}: {text}"
        if choice.possible:
            findings.append(Finding(Level.NOTE, facts.drive.serial, text))
        else:
            advice = "choose another method: quiesce in the settings"
            findings.append(
                Finding(Level.FAIL, facts.drive.serial, f"{text}; it is required and not possible", advice)
            )
    return findings

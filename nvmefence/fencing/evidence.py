"""What a fence found, did and saw afterwards, as data: the only source of every message and response."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from nvmefence.nvme import status
from nvmefence.nvme.commands import VirtualizationAction
from nvmefence.nvme.structures import IdentifyNamespace
from nvmefence.plain import counted

Attachments = Mapping[int, tuple[int, ...]]
"""Controllers by NSID."""

MOST_STEPS: Final = 100
"""A drive that answers wrongly until the deadline goes through its phases again and again."""


class Outcome(enum.Enum):
    """What became of one drive."""

    CUT = "cut"
    """Something was attached; it was detached and a read-back showed nothing."""
    ALREADY = "already"
    """A complete read showed that nothing was attached."""
    ATTACHED = "attached"
    """A read-back still shows controllers of the target."""
    UNKNOWN = "unknown"
    """The drive did not answer, or not so that it can be believed."""
    REFUSED = "refused"
    """The target's controllers could not be named on this drive, or must not be cut; nothing was sent for it."""

    @property
    def confirmed(self) -> bool:
        """Whether the drive is known to be cut from the target."""
        return self in (Outcome.CUT, Outcome.ALREADY)


class Sent(NamedTuple):
    """One Namespace Attachment command that was sent."""

    nsid: int
    controllers: tuple[int, ...]
    status: int
    """As `Completion.status`."""
    started: float
    """Seconds since the fence began."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "nsid": self.nsid,
            "controllers": list(self.controllers),
            "status": self.status,
            "status_text": status.describe(self.status),
            "started_s": round(self.started, 6),
            "seconds": round(self.seconds, 6),
        }


class Managed(NamedTuple):
    """One Virtualization Management command that was sent."""

    cntlid: int
    action: VirtualizationAction
    status: int
    """As `Completion.status`."""
    started: float
    """Seconds since the fence began."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "controller": self.cntlid,
            "action": self.action.name.lower().replace("_", " "),
            "status": self.status,
            "status_text": status.describe(self.status),
            "started_s": round(self.started, 6),
            "seconds": round(self.seconds, 6),
        }


class Identity(NamedTuple):
    """What tells a namespace from another that has its NSID later."""

    nguid: str
    """32 hexadecimal digits; empty when the drive gives none."""
    eui64: str
    """16 hexadecimal digits; empty when the drive gives none."""
    size: int
    """In logical blocks."""
    block_size: int
    """Bytes."""

    @classmethod
    def of(cls, page: IdentifyNamespace) -> Identity:
        """Take it from Identify Namespace (CNS 11h)."""
        nguid = page.nguid.hex() if any(page.nguid) else ""
        return cls(nguid, page.eui64.hex() if any(page.eui64) else "", page.size, page.block_size)


@dataclass(slots=True)
class SecondaryEvidence:
    """A secondary controller that was to go offline."""

    queues: int = 0
    """VQ resources that it had; 0: not known."""
    interrupts: int = 0
    """VI resources that it had."""
    offline: bool = False
    """The drive reported it offline, and a read after the cut showed it so."""
    back: bool | None = None
    """Whether it was seen online again after it was brought back; None: that was not tried."""
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "queues": self.queues,
            "interrupts": self.interrupts,
            "offline": self.offline,
            "back_online": self.back,
            "problem": self.problem,
        }


@dataclass(slots=True)
class DriveEvidence:
    """What happened on one drive. Filled while the drive is fenced; not changed afterwards."""

    serial: str
    nqn: str
    model: str
    hosts: tuple[str, ...] = ()
    """The hosts to cut."""
    device: str = ""
    """The device node that commands went through."""
    own_controller: int | None = None
    targets: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Controller ids by host, as resolved on this drive."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why a host's controllers could not be named here, by host."""
    namespaces: int = 0
    """Allocated namespaces at the last complete look."""
    found: Attachments = field(default_factory=dict)
    """What the targets were attached to when first seen."""
    sent: list[Sent] = field(default_factory=list)
    identities: dict[int, Identity] = field(default_factory=dict)
    """The namespaces that were detached, by NSID, as they identified themselves at the cut."""
    unidentified: dict[int, set[int]] = field(default_factory=dict)
    """By NSID: controllers that were cut when the namespace had not identified itself. What it says later may be
    another namespace's word."""
    cutting: Attachments = field(default_factory=dict)
    """What the cut in hand, which has not been answered yet, names."""
    held: dict[str, str] = field(default_factory=dict)
    """Who may be giving storage back, by host: while that is so nothing is confirmed."""
    remaining: Attachments | None = None
    """What the last complete read after the last cut showed attached; None: there was no such read."""
    problem: str = ""
    """What went wrong with the drive, in words; empty when nothing did."""
    advice: str = ""
    quiesce: str = "none"
    """The method that stands for writes under way, as applied."""
    quiesce_reason: str = ""
    """Why it is not another one."""
    secondaries: dict[int, SecondaryEvidence] = field(default_factory=dict)
    """Secondary controllers that were to go offline, by controller id."""
    managed: list[Managed] = field(default_factory=list)
    """Virtualization Management commands that were sent."""
    escalated: tuple[int, ...] = ()
    """Controllers that were taken offline because a detach failed."""
    quiesced: set[str] = field(default_factory=set)
    """The hosts for which its rule was met."""
    passes: int = 0
    """Complete or incomplete reads of the attachments."""
    steps: list[tuple[str, float]] = field(default_factory=list)
    """The phases one after the other, each with its begin in seconds since the fence began; the last one ends the
    drive's part. After `MOST_STEPS` of them "more" stands for the rest."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time by phase: open, look, read, offline, cut, read-back, quiesce, online, restore (waiting for a restore to
    end), total."""

    def outcome(self, host: str) -> Outcome:
        """Judge one host on this drive. Everything that is not known to be cut is not confirmed."""
        if host in self.refused:
            return Outcome.REFUSED
        if host not in self.targets or self.remaining is None:
            return Outcome.UNKNOWN
        mine = set(self.targets[host])
        if not mine or any(mine.intersection(controllers) for controllers in self.remaining.values()):
            return Outcome.ATTACHED if mine else Outcome.UNKNOWN
        if host not in self.quiesced:
            return Outcome.UNKNOWN
        return Outcome.CUT if self.detached(host) else Outcome.ALREADY

    def detached(self, host: str) -> dict[int, tuple[int, ...]]:
        """Return what was taken from the host: controllers by NSID, seen attached and gone after a cut."""
        mine = set(self.targets.get(host, ()))
        gone: dict[int, set[int]] = {}
        for sent in self.sent:
            ids = mine.intersection(sent.controllers) - set((self.remaining or {}).get(sent.nsid, ()))
            if ids:
                gone.setdefault(sent.nsid, set()).update(ids)
        return {nsid: tuple(sorted(ids)) for nsid, ids in sorted(gone.items())}

    def offline(self, host: str) -> tuple[int, ...]:
        """Return the host's controllers that were taken offline and are so, as far as is known."""
        mine = self.targets.get(host, ())
        return tuple(n for n in mine if n in self.secondaries and not self.secondaries[n].back)

    def reason(self, host: str) -> str:
        """Say why the drive is not confirmed for the host; empty when it is."""
        outcome = self.outcome(host)
        if outcome.confirmed:
            return ""
        if outcome is Outcome.REFUSED:
            return self.refused[host]
        if outcome is Outcome.ATTACHED:
            mine = set(self.targets[host])
            nsids = [str(nsid) for nsid, ids in (self.remaining or {}).items() if mine.intersection(ids)]
            failed = [s for s in self.sent if s.status and str(s.nsid) in nsids]
            why = f": {status.describe(failed[-1].status)}" if failed else ""
            offline = self.offline(host)
            told = f"; controller {', '.join(map(str, offline))} was left offline" if offline else ""
            return f"still attached to namespace {', '.join(nsids)}{why}{told}"
        return self.held.get(host) or self.problem or "not confirmed before the deadline"

    def to_json(self, host: str = "") -> dict[str, Any]:
        """Return plain data with a fixed set of keys; `hosts` is about one host only if one is given."""
        return {
            "serial": self.serial,
            "nqn": self.nqn,
            "model": self.model,
            "device": self.device,
            "own_controller": self.own_controller,
            "hosts": {
                name: {
                    "outcome": self.outcome(name).value,
                    "controllers": list(self.targets.get(name, ())),
                    "detached": {str(nsid): list(ids) for nsid, ids in self.detached(name).items()},
                    "quiesced": name in self.quiesced,
                    "reason": self.reason(name),
                }
                for name in self.hosts
                if host in ("", name)
            },
            "namespaces": self.namespaces,
            "found": _plain(self.found),
            "sent": [sent.to_json() for sent in self.sent],
            "identities": {str(nsid): found._asdict() for nsid, found in sorted(self.identities.items())},
            "read_back": None if self.remaining is None else _plain(self.remaining),
            "problem": self.problem,
            "advice": self.advice,
            "quiesce": self.quiesce,
            "quiesce_reason": self.quiesce_reason,
            "secondaries": {
                str(cntlid): entry.to_json()
                for cntlid, entry in sorted(self.secondaries.items())
                if not host or cntlid in self.targets.get(host, ())
            },
            "managed": [
                managed.to_json()
                for managed in self.managed
                if not host or managed.cntlid in self.targets.get(host, ())
            ],
            "escalated": list(self.escalated),
            "passes": self.passes,
            "steps": [[phase, round(begun, 6)] for phase, begun in self.steps],
            "seconds": {phase: round(value, 6) for phase, value in self.seconds.items()},
        }


def _plain(attachments: Attachments) -> dict[str, list[int]]:
    return {str(nsid): list(ids) for nsid, ids in attachments.items()}


@dataclass(frozen=True, slots=True)
class FenceReport:
    """The result of fencing one or more hosts in one pass."""

    hosts: tuple[str, ...]
    drives: Sequence[DriveEvidence]
    missing: Sequence[str]
    """What of the expected drives is missing, or too much, in words."""
    backend: str
    started_at: str
    """RFC 3339, UTC."""
    seconds: float
    simulated: bool

    def confirmed(self, host: str) -> bool:
        """Whether the host is known to be cut from every expected drive. This is what success means."""
        return (
            host in self.hosts
            and not self.missing
            and bool(self.drives)
            and all(drive.outcome(host).confirmed for drive in self.drives)
        )

    def message(self, host: str) -> str:
        """Say in one line what happened; a failure names the drives and the reasons."""
        mark = "SIMULATED: " if self.simulated else ""
        good = [drive for drive in self.drives if drive.outcome(host).confirmed]
        if self.confirmed(host):
            pairs = sum(len(ids) for drive in good for ids in drive.detached(host).values())
            did = f"detached {counted(pairs, 'attachment')} on" if pairs else "already detached on all of"
            return f"{mark}Fenced {host}: {did} {counted(len(good), 'drive')} in {self.seconds:.3f} s"
        reasons = list(self.missing)
        reasons += [
            f"{drive.serial}: {drive.reason(host)}" for drive in self.drives if not drive.outcome(host).confirmed
        ]
        if not self.drives:
            reasons.append("no expected drive is there")
        shown = "; ".join(reasons[:4]) + (f"; and {len(reasons) - 4} more" if len(reasons) > 4 else "")
        return f"{mark}NOT fenced {host} ({len(good)} of {counted(len(self.drives), 'drive')} cut): {shown}"

    def to_json(self, host: str) -> dict[str, Any]:
        """Return plain data for one host."""
        return {
            "host": host,
            "confirmed": self.confirmed(host),
            "message": self.message(host),
            "simulated": self.simulated,
            "backend": self.backend,
            "started_at": self.started_at,
            "seconds": round(self.seconds, 6),
            "missing": list(self.missing),
            "drives": [drive.to_json(host) for drive in self.drives],
        }

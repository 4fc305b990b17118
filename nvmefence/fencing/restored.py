"""What a restore found, did and saw afterwards, as data: the only source of its messages and answers."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from nvmefence.fencing.evidence import Managed, Sent
from nvmefence.plain import counted
from nvmefence.records.record import Offline, Taken


class Gave(enum.Enum):
    """What became of one drive."""

    RESTORED = "restored"
    """The host has everything again that is on record; a read-back showed it."""
    ALREADY = "already"
    """The same, and nothing had to be done for it."""
    PARTLY = "partly"
    """It has some of it."""
    LEFT_OUT = "left-out"
    """It has none of it."""


class Left(NamedTuple):
    """Something on record that the host does not have again."""

    serial: str
    what: str
    reason: str
    """Empty: nothing is known to stand in the way."""
    by_hand: str = ""
    """A command that gives it back, for a person who knows better."""

    def __str__(self) -> str:
        """Return it in one line, without the command."""
        return f"{self.serial}: {self.what}: {self.reason or 'not tried'}"


@dataclass(slots=True)
class Piece:
    """A namespace on record, and which of its controllers have it again."""

    taken: Taken
    given: tuple[int, ...] = ()
    """As a read showed them attached, after anything that was sent."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why the others have not, by controller."""

    @property
    def left(self) -> tuple[int, ...]:
        """The controllers that do not have it."""
        return tuple(n for n in self.taken.controllers if n not in self.given)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        identity = self.taken.identity
        return {
            "nsid": self.taken.nsid,
            "identity": None if identity is None else identity._asdict(),
            "controllers": list(self.taken.controllers),
            "given": list(self.given),
            "reasons": {str(n): self.reasons.get(n, "") for n in self.left},
            "request_id": self.taken.request_id,
            "when": self.taken.when,
        }


@dataclass(slots=True)
class Returned:
    """A secondary controller on record as offline, and whether it is online again."""

    offline: Offline
    online: bool = False
    """As a read showed it."""
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "controller": self.offline.cntlid,
            "queues": self.offline.queues,
            "interrupts": self.offline.interrupts,
            "online": self.online,
            "reason": "" if self.online else self.reason,
        }


class Planned(NamedTuple):
    """A command that a restore would send."""

    device: str
    serial: str
    words: str

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return self._asdict()


@dataclass(slots=True)
class DriveRestored:
    """What happened on one drive. Filled while it is worked on; not changed afterwards."""

    serial: str
    nqn: str
    pieces: list[Piece]
    controllers: list[Returned]
    model: str = ""
    device: str = ""
    own_controller: int | None = None
    mine: tuple[int, ...] = ()
    """The host's controllers by today's map."""
    sent: list[Sent] = field(default_factory=list)
    managed: Sequence[Managed] = ()
    planned: list[Planned] = field(default_factory=list)
    """Of a dry run: what would be sent."""
    problem: str = ""
    advice: str = ""
    seconds: float = 0.0

    @property
    def outcome(self) -> Gave:
        """Judge the drive by what was read."""
        done = sum(len(piece.given) for piece in self.pieces) + sum(one.online for one in self.controllers)
        left = sum(len(piece.left) for piece in self.pieces) + sum(not one.online for one in self.controllers)
        if left:
            return Gave.PARTLY if done else Gave.LEFT_OUT
        return Gave.RESTORED if self.sent or self.managed else Gave.ALREADY

    def left(self) -> Iterator[Left]:
        """Yield what the host does not have again."""
        for one in self.controllers:
            if not one.online:
                what = f"controller {one.offline.cntlid} stays offline"
                yield Left(self.serial, what, one.reason or self.problem, self._online(one.offline))
        for piece in self.pieces:
            for reason in dict.fromkeys(piece.reasons.get(n, "") for n in piece.left):
                ids = [n for n in piece.left if piece.reasons.get(n, "") == reason]
                named = ", ".join(map(str, ids))
                yield Left(
                    self.serial,
                    f"namespace {piece.taken.nsid} for controller {named}",
                    reason or self.problem,
                    f"nvme attach-ns {self._node} --namespace-id={piece.taken.nsid} "
                    f"--controllers={','.join(map(str, ids))}",
                )

    @property
    def _node(self) -> str:
        return self.device or "/dev/nvmeX"

    def _online(self, one: Offline) -> str:
        manage = f"nvme virt-mgmt {self._node} --cntlid={one.cntlid}"
        assign = [
            f"{manage} --rt={kind} --nr={count} --act=8"
            for kind, count in ((0, one.queues), (1, one.interrupts))
            if count
        ]
        return " && ".join([*assign, f"{manage} --act=9"])

    def to_json(self) -> dict[str, Any]:
        """Return plain data with a fixed set of keys."""
        return {
            "serial": self.serial,
            "nqn": self.nqn,
            "model": self.model,
            "device": self.device,
            "own_controller": self.own_controller,
            "outcome": self.outcome.value,
            "host_controllers": list(self.mine),
            "namespaces": [piece.to_json() for piece in self.pieces],
            "controllers": [one.to_json() for one in self.controllers],
            "sent": [sent.to_json() for sent in self.sent],
            "managed": [managed.to_json() for managed in self.managed],
            "planned": [planned.to_json() for planned in self.planned],
            "problem": self.problem,
            "advice": self.advice,
            "seconds": round(self.seconds, 6),
        }


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """The result of a restore of one host."""

    host: str
    drives: Sequence[DriveRestored]
    backend: str
    started_at: str
    """RFC 3339, UTC."""
    seconds: float
    simulated: bool
    gave_up: str = ""
    """Why nothing more was given from some moment on: a fence of the host came."""

    @property
    def complete(self) -> bool:
        """Whether the host has everything again that is on record."""
        return all(drive.outcome in (Gave.RESTORED, Gave.ALREADY) for drive in self.drives)

    @property
    def touched(self) -> bool:
        """Whether anything was sent that changes something."""
        return any(drive.sent or drive.managed for drive in self.drives)

    @property
    def left(self) -> list[Left]:
        """What the host does not have again."""
        return [one for drive in self.drives for one in drive.left()]

    def given(self) -> list[Taken]:
        """Return what the host has again: of what is on record, the controllers that have it."""
        return [
            replace(piece.taken, controllers=piece.given)
            for drive in self.drives
            for piece in drive.pieces
            if piece.given
        ]

    def online(self) -> list[Offline]:
        """Return the controllers on record that are online again."""
        return [one.offline for drive in self.drives for one in drive.controllers if one.online]

    def message(self) -> str:
        """Say in one line what happened; names what could not be given back."""
        mark = "SIMULATED: " if self.simulated else ""
        given = sum(len(one.controllers) for one in self.given())
        what = counted(given, "attachment")
        back = len(self.online())
        if back:
            what += f" and {counted(back, 'controller')}"
        on = counted(len(self.drives), "drive")
        if self.complete:
            again = "has" if self.touched else "had"
            return f"{mark}Restored {self.host}: it {again} {what} on {on} again, in {self.seconds:.3f} s"
        reasons = [self.gave_up] if self.gave_up else []
        reasons += [str(one) for one in self.left][: 4 - len(reasons)]
        more = len(self.left) - 4 + bool(self.gave_up)
        shown = "; ".join(reasons) + (f"; and {more} more" if more > 0 else "")
        return f"{mark}NOT all of {self.host} restored ({what} on {on}): {shown}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "host": self.host,
            "complete": self.complete,
            "message": self.message(),
            "simulated": self.simulated,
            "backend": self.backend,
            "started_at": self.started_at,
            "seconds": round(self.seconds, 6),
            "gave_up": self.gave_up,
            "left": [{**one._asdict()} for one in self.left],
            "drives": [drive.to_json() for drive in self.drives],
        }

"""What is measured, as plain values: writes, cuts, resets, times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nvmefence.errors import Exit, NvmefenceError
from nvmefence.nvme.structures import SecondaryController

Attachments = Mapping[int, frozenset[int]]
"""By namespace id, the controllers."""
Sample = frozenset[tuple[int, int]]
"""What the medium holds: places, each with the number of the write that it is from."""


class QualifyRefusedError(NvmefenceError):
    """The namespace, the controller or the drive is not set aside for this. Nothing was written or changed."""

    exit_code = Exit.REFUSED


class Trouble(Exception):
    """A measurement cannot go on; the text says why."""


QUESTIONS: Final = ("writes", "drain", "times", "resets")
NOT_ASKED: Final = "it was not asked for"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured, and how."""

    rounds: int = 20
    """Cuts that find writes under way, for each method."""
    timing_rounds: int = 100
    """Detachments and attachments without writes, for each backend."""
    watch_s: float = 15.0
    """Seconds for which the medium is watched after each cut."""
    writes: int = 8
    """Under way at once."""
    size: int = 131072
    """Bytes of a write."""
    pause_s: float = 0.0
    """Seconds between two writes of one writer."""
    questions: frozenset[str] = frozenset()
    """Of `QUESTIONS`; empty: all."""
    subsystem_reset: bool = False

    def asks(self, question: str) -> bool:
        """Whether a question is to be answered."""
        return not self.questions or question in self.questions


@dataclass(slots=True)
class Write:
    """One write of the target's host; times are CLOCK_MONOTONIC."""

    number: int
    started: float
    ended: float | None = None
    """None: under way."""
    outcome: str = ""
    """ "ok", or the errno's name."""

    def under_way(self, at: float) -> bool:
        """Whether the host had no answer yet at that time."""
        return self.started <= at and (self.ended is None or self.ended > at)


@dataclass(frozen=True, slots=True)
class Step:
    """One command that changes something."""

    name: str
    status: int
    seconds: float


@dataclass(slots=True)
class Cut:
    """One cut while the target's host was writing, and what became of its writes."""

    method: str
    """ "none": a detach and its read-back. "drain": Secondary Offline, detach, read-back, online again."""
    steps: list[Step] = field(default_factory=list)
    under_way: int = 0
    """Writes under way when the first command of the cut was sent."""
    before_answer: int = 0
    """Of these, those whose host had its answer before the detach had."""
    landed: int = 0
    """Of these, those that the medium held when the read-back was done."""
    late: list[float] = field(default_factory=list)
    """Seconds after the read-back by which each write was seen that was not there then, if it was begun before."""
    landed_late: int = 0
    """Of those under way when the cut began, those of them."""
    failed: int = 0
    """Of those under way, those that never came to the medium while it was watched."""
    accepted_after: int = 0
    """Writes that were begun after the read-back and came to the medium or were reported written."""
    still_attached: bool = False
    """Whether the read-back showed the controller attached though the detach had succeeded."""
    longest_s: float = 0.0
    """The longest time that a write of this round took which succeeded."""
    watched_s: float = 0.0
    offline_seen: bool | None = None
    """Whether the read-back showed the controller offline; None: it was not to be."""
    online_again: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "method": self.method,
            "steps": [{"name": s.name, "status": s.status, "seconds": round(s.seconds, 6)} for s in self.steps],
            "under_way": self.under_way,
            "answered_before_the_detach": self.before_answer,
            "landed_before_the_read_back": self.landed,
            "landed_late": self.landed_late,
            "late_s": [round(seconds, 3) for seconds in self.late],
            "never_landed": self.failed,
            "accepted_after": self.accepted_after,
            "still_attached": self.still_attached,
            "longest_write_s": round(self.longest_s, 3),
            "watched_s": round(self.watched_s, 3),
            "offline_seen": self.offline_seen,
            "online_again": self.online_again,
        }


@dataclass(frozen=True, slots=True)
class Reset:
    """What a reset did to the attachments."""

    what: str
    """ "host" (the target), "own" (the controller that commands go through), "subsystem"."""
    attached: bool
    """Whether the namespace was attached to the target when it was reset."""
    why_not: str = ""
    """Why it was not tried; the rest is then without meaning."""
    lost: tuple[str, ...] = ()
    gained: tuple[str, ...] = ()
    offline: tuple[int, ...] = ()
    """Secondary controllers that were online before and not after."""

    @property
    def kept(self) -> bool:
        """Whether attachments were the same before and after."""
        return not (self.why_not or self.lost or self.gained)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "reset": self.what,
            "attached_before": self.attached,
            "answer": "not_measured" if self.why_not else "kept" if self.kept else "changed",
            "why": self.why_not,
            "lost": list(self.lost),
            "gained": list(self.gained),
            "secondaries_went_offline": list(self.offline),
        }


@dataclass(frozen=True, slots=True)
class Times:
    """How long one command took."""

    action: str
    backend: str
    seconds: tuple[float, ...]

    def percentile(self, share: float) -> float:
        """Return the nearest-rank percentile: the smallest value that `share` of all values do not exceed."""
        ordered = sorted(self.seconds)
        return ordered[max(math.ceil(share * len(ordered)), 1) - 1]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "action": self.action,
            "backend": self.backend,
            "rounds": len(self.seconds),
            "p50_s": round(self.percentile(0.5), 6),
            "p99_s": round(self.percentile(0.99), 6),
            "max_s": round(max(self.seconds), 6),
        }


@dataclass(frozen=True, slots=True)
class State:
    """What the drive was like before, to be put back."""

    attachments: Attachments
    secondaries: Sequence[SecondaryController] | None


@dataclass(slots=True)
class Measured:
    """All that was found out; what could not be has its reason."""

    cuts: list[Cut] = field(default_factory=list)
    times: list[Times] = field(default_factory=list)
    resets: list[Reset] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)
    """By question, why not, or why not to the end."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By question, how long it took to answer, the drive put back included."""

    def of(self, method: str) -> list[Cut]:
        """Return the cuts of one method that found writes under way: the others say nothing."""
        return [cut for cut in self.cuts if cut.method == method and cut.under_way]


def pairs(attachments: Attachments) -> Iterable[tuple[int, int]]:
    """Yield (NSID, CNTLID) of each attachment."""
    for nsid, controllers in attachments.items():
        for cntlid in controllers:
            yield nsid, cntlid

"""What was asked in the long run of the laboratory, and what came of it."""

from __future__ import annotations

import subprocess
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.lab.guest.watching import Agent
from tests.lab.witness import Witness


@dataclass
class Asked:
    """One fence that somebody asked for."""

    host: str
    way: str
    timeout: float
    began: float
    success: bool | None = None
    """None: no answer."""
    reason: str = ""
    agent: Agent | None = None
    process: subprocess.Popen[str] | None = None
    request: str = ""


@dataclass
class Tally:
    """What happened so far."""

    seed: int
    rounds: int = 0
    seconds: float = 0.0
    faults: dict[str, Counter[str]] = field(default_factory=dict)
    watchers: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    restores: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    """What did not hold, but for the witness's findings."""
    missing: list[str] = field(default_factory=list)
    by_hand: Counter[str] = field(default_factory=Counter)
    """Attachments taken at the instant at which a process was killed or the drive went away, so that they are not
    on record, or not which namespace it was: documented, and attached by hand."""

    def of(self, fault: str) -> Counter[str]:
        """Return what happened under one fault."""
        return self.faults.setdefault(fault, Counter())

    def document(self, witness: Witness) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {
            "seed": self.seed,
            "seconds": round(self.seconds),
            "rounds": self.rounds,
            "fences_asked": sum(self.asked.values()),
            "by_way": dict(self.asked),
            "successes": sum(c["success"] for c in self.faults.values()),
            "failures": sum(c["failure"] for c in self.faults.values()),
            "restores": dict(self.restores),
            "watchers": dict(self.watchers),
            "by_fault": {name: dict(counter) for name, counter in self.faults.items()},
            "failures_by_reason": dict(self.reasons.most_common()),
            "reads_held_against_a_success": witness.reads,
            "attachments_by_hand": dict(self.by_hand),
            "false_successes": len(witness.false),
            "missing_answers": len(self.missing),
            "changed_answers": len(witness.changed),
            "other_findings": len(self.broken),
            "findings": [*witness.false, *self.missing, *witness.changed, *self.broken],
        }

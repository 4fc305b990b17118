"""A measurement as a document: what was measured, on what, how, with which result."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from nvmefence.errors import Exit
from nvmefence.inventory.drives import Drive
from nvmefence.qualify import judge
from nvmefence.qualify.figures import NOT_ASKED, Measured, Plan


@dataclass(slots=True)
class Report:
    """All of it."""

    drive: Drive
    target: int
    own: int
    nsid: int
    plan: Plan
    backend: str
    kernel: str
    version: str
    date: str
    """RFC 3339, UTC."""
    simulated: bool
    measured: Measured = field(default_factory=Measured)
    interrupted: bool = False
    trouble: str = ""
    """Why it was broken off; empty: it was not."""
    left: list[str] = field(default_factory=list)
    """What is not as it was before."""
    notes: list[str] = field(default_factory=list)

    @property
    def unanswered(self) -> list[str]:
        """What was asked and could not be measured, or not to the end, and why."""
        found = [f"{key}: {why}" for key, why in self.measured.not_measured.items() if why != NOT_ASKED]
        found += [
            f"reset ({one.what}): {one.why_not}"
            for one in self.measured.resets
            if one.why_not and one.why_not != NOT_ASKED
        ]
        return list(dict.fromkeys(found))

    def exit(self) -> Exit:
        """Return the exit code: what was not put back is worse than what was not measured."""
        if self.left:
            return Exit.NOT_RESTORED
        if self.interrupted:
            return Exit.INTERRUPTED
        return Exit.UNKNOWN_STATE if self.trouble or self.unanswered else Exit.OK

    def method(self) -> str:
        """Say how it was measured, in a sentence or two."""
        plan = self.plan
        return (
            f"{plan.writes} direct writes of {plan.size} bytes under way at once through controller {self.target}, "
            f"cut through controller {self.own} at random instants, the medium read back through it: "
            f"{plan.rounds} cuts with writes under way for each method, each watched for {plan.watch_s:g} s; "
            f"{plan.timing_rounds} detachments and attachments without writes for each backend"
        )

    def settings(self) -> list[str]:
        """Return lines for the settings file; empty: the figures justify none."""
        return judge.settings(self.measured, self.drive.model, self.drive.firmware)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        measured = self.measured
        plan = dataclasses.asdict(self.plan)
        plan["questions"] = sorted(self.plan.questions)
        return {
            "simulated": self.simulated,
            "exit": int(self.exit()),
            "date": self.date,
            "nvmefence": self.version,
            "kernel": self.kernel,
            "backend": self.backend,
            "drive": {
                "serial": self.drive.serial,
                "nqn": self.drive.nqn,
                "model": self.drive.model,
                "firmware": self.drive.firmware,
            },
            "controller": self.target,
            "own_controller": self.own,
            "namespace": self.nsid,
            "method": self.method(),
            "plan": plan,
            "answers": [one.to_json() for one in judge.answers(measured)],
            "quiesce": [one.to_json() for one in judge.rules(measured)],
            "settings": "\n".join(self.settings()),
            "cuts": [one.to_json() for one in measured.cuts],
            "resets": [one.to_json() for one in measured.resets],
            "times": [one.to_json() for one in measured.times],
            "seconds": {question: round(took, 3) for question, took in measured.seconds.items()},
            "unanswered": self.unanswered,
            "interrupted": self.interrupted,
            "trouble": self.trouble,
            "put_back": not self.left,
            "not_put_back": self.left,
            "notes": self.notes,
        }

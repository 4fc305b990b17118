"""Bars of a timeline: what took from when to when; and those of the drives, out of their evidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from nvmefence.watcher import loose

LONGEST_S: Final = 7 * 86400.0
"""What is said to have taken longer is not believed: no fence has a deadline beyond an hour."""
PHASES: Final = ("open", "look", "read", "offline", "cut", "read-back", "quiesce", "online", "restore")
"""Phases of a drive's fence, in their usual order."""
MORE: Final = "more"
"""Stands for the phases after very many."""
_DONE: Final = "done"
_MOST: Final = 200
"""Phases of one drive that are looked at; evidence has fewer."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that took its time. Seconds since the timeline's begin; `start` is never after `end`."""

    name: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start

    def within(self, start: float, end: float) -> Bar:
        """Return the part of it in a window."""
        return Bar(self.name, min(max(self.start, start), end), max(min(self.end, end), start))

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"name": self.name, "start_s": round(self.start, 6), "end_s": round(self.end, 6)}


@dataclass(frozen=True, slots=True)
class Step(Bar):
    """A bar that somebody is at work in."""

    who: str
    """agent, watcher or drives."""
    words: str
    """For people."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"who": self.who, **Bar.to_json(self), "words": self.words}


@dataclass(slots=True)
class DriveBars:
    """One drive's phases."""

    serial: str
    outcome: str
    confirmed: bool
    phases: list[Bar] = field(default_factory=list)
    """One after the other; none overlaps another."""

    @property
    def end(self) -> float:
        """When it was done, in seconds since the timeline's begin; 0: that is not known."""
        return self.phases[-1].end if self.phases else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        phases = [bar.to_json() for bar in self.phases]
        return {"serial": self.serial, "outcome": self.outcome, "confirmed": self.confirmed, "phases": phases}


@dataclass(slots=True)
class Told:
    """What one drive's evidence tells, in seconds since the fence began."""

    phases: list[Bar]
    ordered: bool
    """The phases are told one by one; else only each one's sum is known, and the order is the usual one."""
    broken: bool = False
    """Some of it cannot be so, and is left out."""


def told(evidence: dict[str, Any]) -> Told:
    """Return the phases of one drive out of its evidence, which may hold anything."""
    steps = evidence.get("steps")
    return _one_by_one(steps) if isinstance(steps, list) and steps else _sums(loose.table(evidence.get("seconds")))


def _one_by_one(steps: list[Any]) -> Told:
    found = Told([], ordered=True)
    name, begun = "", 0.0
    for one in steps[:_MOST]:
        pair = loose.items(one)
        when = loose.seconds(pair[1]) if len(pair) == 2 else None
        if when is None or not begun <= when <= LONGEST_S:
            found.broken = True
            break
        if name:
            found.phases.append(Bar(name, begun, when))
        name, begun = loose.text(pair[0], 40) or "?", when
        if name == _DONE:
            return found
    found.broken = True  # it does not say when it was done: what is last has no end
    return found


def _sums(seconds: dict[str, Any]) -> Told:
    found = Told([], ordered=False)
    now = 0.0
    for phase in PHASES:
        if phase not in seconds:
            continue
        took = loose.seconds(seconds[phase])
        if took is None or now + took > LONGEST_S:
            found.broken = True
            continue
        found.phases.append(Bar(phase, now, now + took))
        now += took
    return found

"""Fences in numbers, since the watcher's start: how many, why some failed, how long each step took."""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Final

from nvmefence.fencing.evidence import DriveEvidence, FenceReport, Outcome
from nvmefence.watcher.answers import Result
from nvmefence.watcher.metrics import Sample, Value
from nvmefence.watcher.passes import Pass

BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: upper bounds of the buckets that durations are counted in."""
_PHASES: Final = {
    "reading": ("open", "look", "read"),
    "cut": ("cut",),
    "read_back": ("read-back",),
    "quiesce": ("quiesce", "offline", "online"),
}
"""Steps on the drives, and the phases of `DriveEvidence.seconds` that they consist of."""
STEPS: Final = ("waited", "discovery", *_PHASES, "fence", "record", "total")
_DEFECT: Final = ("defect in nvmefence", "internal error")
"""How what our own faults leave as a reason begins."""


class Reason(enum.Enum):
    """Why a fence is not confirmed: the first of these that is so on any drive."""

    GUARD = "guard"
    """The mass-fence guard held it until it was too late."""
    DEFECT = "defect"
    """Of nvmefence itself."""
    DISCOVERY = "discovery"
    """The machine's drives could not be found out."""
    MISSING = "missing"
    """An expected drive was not there, or more than expected were."""
    REFUSED = "refused"
    """The host's controllers could not be told for certain, or must not be cut."""
    ATTACHED = "attached"
    """A read-back still showed it attached."""
    UNREAD = "unread"
    """A drive did not answer, or not completely, so what is attached there is not known."""
    RESTORE = "restore"
    """Somebody was giving it storage back."""
    QUIESCE = "quiesce"
    """It is detached, and the rule for writes under way was not met."""


class Durations:
    """How often a step took how long."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def take(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def values(self, labels: Mapping[str, str]) -> Iterable[Value]:
        """Return them as a histogram's values."""
        so_far = 0
        for bound, count in zip((*(f"{one:g}" for one in BOUNDS), "+Inf"), self._counts, strict=True):
            so_far += count
            yield Value({**labels, "le": bound}, so_far, "_bucket")
        yield Value(labels, self._sum, "_sum")
        yield Value(labels, so_far, "_count")


class Counts:
    """Every label is there from the start, with 0, so that the first failure is an increase.

    `ended` and `samples` are for one thread; the others may be called in another.
    """

    def __init__(self) -> None:
        self._answers = dict.fromkeys(Result, 0)
        self._failures = dict.fromkeys(Reason, 0)
        self._confirmed = 0
        self._steps = {step: Durations() for step in STEPS}

    def answered(self, result: Result) -> None:
        """Count a request's end."""
        self._answers[result] += 1

    def held(self) -> None:
        """Count a fence that the mass-fence guard held until it was too late."""
        self._failures[Reason.GUARD] += 1

    def ended(self, made: Pass, now: float) -> None:
        """Count a pass that requests asked for, one fence for each host. `now` is loop time."""
        for host in dict.fromkeys(ticket.host.name for ticket in made.tickets):
            reason = why(made, host)
            if reason is None:
                self._confirmed += 1
            else:
                self._failures[reason] += 1
        for ticket in made.tickets:
            self._steps["waited"].take(ticket.waited)
            self._steps["total"].take(max(now - ticket.read_at, 0.0))
        if made.tickets:
            for step, seconds in _steps(made).items():
                self._steps[step].take(seconds)

    def samples(self) -> list[Sample]:
        """Return all of them."""
        results = {"confirmed": self._confirmed, "not_confirmed": sum(self._failures.values())}
        steps = tuple(value for step, took in self._steps.items() for value in took.values({"step": step}))
        return [
            _counter("fences_total", "Fences that requests asked for.", "result", results),
            _counter("fence_failures_total", "Fences that are not confirmed.", "reason", _named(self._failures)),
            _counter("answers_total", "Requests that were answered.", "result", _named(self._answers)),
            Sample("nvmefence_fence_step_seconds", "histogram", "Duration of the steps of fences.", steps),
        ]


def why(made: Pass, host: str) -> Reason | None:
    """Return why a pass does not confirm the fence of a host; None: it does."""
    report = made.report
    if report is None:
        return Reason.DEFECT if made.defect.startswith(_DEFECT) else Reason.DISCOVERY
    if report.confirmed(host):
        return None
    found = set(_reasons(report, host))
    return next((reason for reason in Reason if reason in found), Reason.DEFECT)


def _reasons(report: FenceReport, host: str) -> Iterable[Reason]:
    if report.missing or not report.drives:
        yield Reason.MISSING
    for drive in report.drives:
        outcome = drive.outcome(host)
        if outcome.confirmed:
            continue
        if drive.problem.startswith(_DEFECT):
            yield Reason.DEFECT
        elif outcome is Outcome.REFUSED:
            yield Reason.REFUSED
        elif outcome is Outcome.ATTACHED:
            yield Reason.ATTACHED
        elif host in drive.held:
            yield Reason.RESTORE
        else:
            yield _unknown(drive, host)


def _unknown(drive: DriveEvidence, host: str) -> Reason:
    return Reason.UNREAD if drive.remaining is None or host not in drive.targets else Reason.QUIESCE


def _steps(made: Pass) -> dict[str, float]:
    """Return the seconds of a pass by step; on the drives, that of the slowest, as they work side by side."""
    found: dict[str, float] = {}
    for step in ("discovery", "fence", "record"):
        if step in made.times:
            found[step] = made.times[step]
    drives = [] if made.report is None else [drive.seconds for drive in made.report.drives]
    for step, phases in _PHASES.items():
        each = [sum(took.get(phase, 0.0) for phase in phases) for took in drives if any(p in took for p in phases)]
        if each:
            found[step] = max(each)
    return found


def _named(counts: Mapping[Reason, int] | Mapping[Result, int]) -> dict[str, int]:
    return {key.value.replace("-", "_"): number for key, number in counts.items()}


def _counter(name: str, text: str, label: str, counts: Mapping[str, int]) -> Sample:
    values = tuple(Value({label: key}, number) for key, number in counts.items())
    return Sample(f"nvmefence_{name}", "counter", text, values)

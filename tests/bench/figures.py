"""What a run of the benchmark measured, as data, and what was aimed at."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

BARE = "bare"
URING = "io_uring"
URING_COMMAND = "io_uring-command"
IOCTL = "ioctl"
IOCTL_COMMAND = "ioctl-command"
LOOP = "nvme-loop"
LOOPS = "nvme-loops"

INTERPRETER = "interpreter"
PLAIN_INTERPRETER = "plain-interpreter"
WATCHER = "watcher"
ON_DISK = "on-disk"
AGENT = "agent"
PIP_AGENT = "pip-agent"
POLLING = "polling-pair"

FENCE = "the fence itself, in all of ours"
"""Name of a time of round trips."""
MB = 1_000_000


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of the values that at least so many percent of them do not exceed (nearest rank)."""
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(rank, 1) - 1]


@dataclasses.dataclass(frozen=True)
class Figures:
    """One way of doing something, measured."""

    way: str
    title: str
    commands: int
    """Admin commands sent for one fence; 0 where that is not the point."""
    seconds: Sequence[float]
    """Of each round."""

    @property
    def median(self) -> float:
        """Seconds, of the rounds."""
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        """Seconds that 99 of 100 rounds did not exceed."""
        return percentile(self.seconds, 99)


@dataclasses.dataclass(frozen=True)
class Aim:
    """What a figure should be: `bound` at most, or at least."""

    text: str
    value: float
    bound: float
    at_most: bool
    unit: str

    @property
    def reached(self) -> bool:
        """Whether it is."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: where, and what each way took."""

    where: Mapping[str, str]
    """What it ran on, in words, by topic."""
    ways: Sequence[Figures]
    started: Mapping[str, float]
    """Median seconds of what else was measured in the same run, by what it was."""
    checks: int
    """How often the drives were read after a cut or a restore, all of them each time."""

    BASES: ClassVar[Mapping[str, str]] = {"to_bare": BARE, "to_loop": LOOP}
    """The ways that all others are compared with, by the name that the ratio has in JSON."""

    def median(self, way: str) -> float | None:
        """Return the median seconds of a way, None when it was not measured."""
        return next((figures.median for figures in self.ways if figures.way == way), None)

    def ratio(self, way: str, base: str) -> float | None:
        """Return how many times as long as `base` the way took: medians of one run."""
        one, other = self.median(way), self.median(base)
        return None if one is None or not other else one / other

    def aims(self) -> list[Aim]:
        """Return what was aimed at beside what was measured."""
        return self._ratio_aims(
            (URING, BARE, "io_uring to the bare minimum", 1.2, True),
            (URING, LOOP, "io_uring, faster than the nvme loop", 100, False),
            (IOCTL, LOOP, "ioctl, faster than the nvme loop", 5, False),
        )

    def _ratio_aims(self, *wanted: tuple[str, str, str, float, bool]) -> list[Aim]:
        found = []
        for way, base, text, bound, at_most in wanted:
            ratio = self.ratio(way, base)
            if ratio:
                found.append(Aim(text, ratio if at_most else 1 / ratio, bound, at_most, "x"))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with the ratios for those who don't want to compute them."""
        return {
            "where": dict(self.where),
            "started_s": dict(self.started),
            "checks": self.checks,
            "ways": [
                {
                    **dataclasses.asdict(figures),
                    "median": figures.median,
                    "p99": figures.p99,
                    **{name: self.ratio(figures.way, base) for name, base in self.BASES.items()},
                }
                for figures in self.ways
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_json` was given."""
        keys = [field.name for field in dataclasses.fields(Figures)]
        ways = [Figures(**{key: way[key] for key in keys}) for way in data["ways"]]
        return cls(data["where"], ways, data["started_s"], data["checks"])


@dataclasses.dataclass(frozen=True)
class Rest:
    """A watcher that has nothing to do."""

    resident: int
    """Bytes in memory."""
    private: int
    """Bytes of these that no other process shares."""
    seconds: float
    """How long it was watched."""
    moments: int
    """How often it woke in this time."""
    explained: int
    """How often the rescan and the heartbeat let it wake."""
    switches: int
    """Voluntary context switches of all its threads in this time."""
    awake: int
    """Threads that had any."""
    threads: int


@dataclasses.dataclass(frozen=True)
class RoundTrips(Run):
    """One run of requests and their responses."""

    rest: Rest

    BASES: ClassVar[Mapping[str, str]] = {"to_interpreter": INTERPRETER, "to_polling_pair": POLLING}

    def aims(self) -> list[Aim]:
        """Return what was aimed at beside what was measured."""
        rest = self.rest
        return [
            *self._ratio_aims(
                (AGENT, INTERPRETER, "agent, start to exit, to a bare interpreter's start and exit", 2.5, True),
                (AGENT, POLLING, "agent, start to exit, faster than the polling pair", 20, False),
            ),
            *self._beyond_drives_and_disk(),
            Aim("watcher at rest, resident memory", rest.resident / MB, 30, True, "MB"),
            Aim(f"watcher at rest, wake-ups in {rest.seconds:.0f} s", rest.moments, rest.explained, True, ""),
        ]

    def _beyond_drives_and_disk(self) -> list[Aim]:
        """Return what the watcher adds to the fence and to what must be on the disk before it may answer."""
        found = {way.way: way.median for way in self.ways}
        if WATCHER not in found or ON_DISK not in found:
            return []
        beyond = found[WATCHER] - found[ON_DISK] - self.started.get(FENCE, 0.0)
        return [Aim("watcher, request to response, beyond the fence and the disk", 1e3 * beyond, 3, True, "ms")]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as `Run` does."""
        return {**super().to_json(), "rest": dataclasses.asdict(self.rest)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_json` was given."""
        run = Run.from_json(data)
        return cls(run.where, run.ways, run.started, run.checks, Rest(**data["rest"]))

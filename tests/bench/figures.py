"""What a run of the benchmark measured, as data."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BARE = "bare"
URING = "io_uring"
URING_COMMAND = "io_uring-command"
IOCTL = "ioctl"
IOCTL_COMMAND = "ioctl-command"
LOOP = "nvme-loop"
LOOPS = "nvme-loops"


@dataclasses.dataclass(frozen=True)
class Figures:
    """One way of cutting a host off, measured."""

    way: str
    title: str
    commands: int
    """Admin commands sent for one fence."""
    seconds: Sequence[float]
    """Of each round."""

    @property
    def median(self) -> float:
        """Seconds, of the rounds."""
        return statistics.median(self.seconds)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: where, and what each way took."""

    where: Mapping[str, str]
    """What it ran on, in words, by topic."""
    ways: Sequence[Figures]
    started: Mapping[str, float]
    """Median seconds of what else was measured in the same guest, by what it was."""
    checks: int
    """Read-backs by the laboratory's own observer, each of all drives."""

    def median(self, way: str) -> float | None:
        """Return the median seconds of a way, None when it was not measured."""
        return next((figures.median for figures in self.ways if figures.way == way), None)

    def ratio(self, way: str, base: str) -> float | None:
        """Return how many times as long as `base` the way took: medians of one run."""
        one, other = self.median(way), self.median(base)
        return None if one is None or not other else one / other

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
                    "to_bare": self.ratio(figures.way, BARE),
                    "to_loop": self.ratio(figures.way, LOOP),
                }
                for figures in self.ways
            ],
        }

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read what `to_json` gave."""
        data = json.loads(path.read_text())
        keys = [field.name for field in dataclasses.fields(Figures)]
        ways = [Figures(**{key: way[key] for key in keys}) for way in data["ways"]]
        return cls(data["where"], ways, data["started_s"], data["checks"])

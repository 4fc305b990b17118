"""How a fence grows with drives, namespaces and hosts, on the emulation: commands, processor, memory."""

from __future__ import annotations

import gc
import os
import platform
import time
import tracemalloc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nvmefence.fencing import quiesce
from tests.bench import formula
from tests.bench.counting import Counting
from tests.bench.emulation import Fleet, Site
from tests.bench.figures import Aim
from tests.bench.sheet import Cell, Grid, Row, Sheet, Unit, count, duration, ratio
from tests.bench.turns import WrongResult

RULES = ("none", "wait:0.001", "drain", "offline")
COLUMNS = (
    "commands",
    "beyond the formula",
    "processor",
    "of a command, to the first",
    "memory",
    "of a namespace, to the first",
)


@dataclass(frozen=True)
class Point:
    """One size."""

    drives: int
    namespaces: int
    hosts: int
    by_id: bool = False

    @property
    def key(self) -> str:
        """The point's name among the committed figures."""
        named = ", by id" if self.by_id else ""
        return f"{self.drives} drives x {self.namespaces} namespaces, {self.hosts} hosts{named}"


@dataclass
class Measured:
    """What a point took."""

    commands: int
    predicted: int
    processor: list[float]
    """Seconds of each round, the emulation's own included."""
    memory: list[float]
    """Bytes at most, beyond what was there before."""


NAMESPACES = tuple(Point(18, n, 1) for n in (1, 4, 16, 64, 128))
DRIVES = tuple(Point(d, 4, 1) for d in (1, 18, 100, 300, 1000))
HOSTS = tuple(Point(18, 4, h) for h in (1, 16, 64, 128))
NAMED = tuple(Point(18, 4, h, by_id=True) for h in (1, 16, 64, 128))
LARGEST = (Point(1000, 4, 1), Point(1000, 4, 128))
GROUPS: Sequence[tuple[str, Sequence[Point]]] = (
    ("Namespaces", NAMESPACES),
    ("Drives", DRIVES),
    ("Hosts fenced in one pass, named by virtual function", HOSTS),
    ("Hosts fenced in one pass, named by controller id", NAMED),
    ("The largest", LARGEST),
)


def measure(
    rounds: int, groups: Sequence[tuple[str, Sequence[Point]]] = GROUPS, *, rules: Sequence[str] = RULES
) -> Sheet:
    """Measure all points. Raises WrongResult for a fence that is not confirmed or not true."""
    started = time.monotonic()
    grids, worst = [], 0.0
    for title, points in groups:
        found = [_point(point, rounds) for point in points]
        grids.append(Grid(title, "size", COLUMNS, list(_rows(title, points, found))))
        worst = max(worst, *(abs(one.commands - one.predicted) for one in found))
    counted, differ = _all_rules(rules)
    aims = [Aim("commands beyond the formula, of any size and rule", max(worst, differ), 0, True, "commands")]
    aims += _straight(grids)
    where = {
        "Python": platform.python_version(),
        "CPUs": str(os.cpu_count()),
        "rounds": str(rounds),
        "whole run": f"{time.monotonic() - started:.0f} s",
    }
    return Sheet(where, grids, aims, f"each fence was confirmed, and true; {counted} sizes and rules were counted")


def _straight(grids: Iterable[Grid]) -> list[Aim]:
    """Return how far the largest of each table lies above a straight line through zero and its first."""
    found = []
    for grid in grids:
        for column in (COLUMNS[3], COLUMNS[5]):
            cell = grid.rows[-1].cells[column]
            what = "processor" if column == COLUMNS[3] else "memory"
            last = grid.rows[-1].title
            found.append(Aim(f"{grid.title.lower()}: {what} {column}, {last}", cell.median, 1.5, True, "x"))
    return found


def _rows(title: str, points: Sequence[Point], found: Sequence[Measured]) -> Iterable[Row]:
    first, smallest = found[0], points[0]
    base = [one / first.commands for one in first.processor]
    space = [one / (smallest.drives * smallest.namespaces) for one in first.memory]
    for point, one in zip(points, found, strict=True):
        size = point.drives * point.namespaces
        yield Row(
            f"{title.lower()}: {point.key}",
            point.key,
            {
                COLUMNS[0]: count(one.commands),
                COLUMNS[1]: count(one.commands - one.predicted),
                COLUMNS[2]: duration(one.processor),
                COLUMNS[3]: ratio([s / one.commands for s in one.processor], base),
                COLUMNS[4]: Cell(one.memory, Unit.BYTES),
                COLUMNS[5]: ratio([m / size for m in one.memory], space),
            },
        )


def _point(point: Point, rounds: int) -> Measured:
    fleet = Fleet(Site([point.namespaces] * point.drives, point.hosts, by_id=point.by_id))
    hosts = list(range(point.hosts))
    rule = quiesce.parse("none")
    expected = _predicted(fleet, hosts, rule)
    counting = Counting(fleet.transport)
    fleet.fence(hosts, rule, counting)  # also brings everything into memory
    result = Measured(counting.commands, expected, [], [])
    for _ in range(rounds):
        fleet.attach()
        gc.collect()
        before = time.process_time()
        fleet.fence(hosts, rule)
        result.processor.append(time.process_time() - before)
    fleet.attach()
    gc.collect()
    tracemalloc.start()
    try:
        before_bytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        fleet.fence(hosts, rule)
        result.memory.append(float(tracemalloc.get_traced_memory()[1] - before_bytes))
    finally:
        tracemalloc.stop()
    return result


def _predicted(fleet: Fleet, hosts: Sequence[int], rule: quiesce.Quiesce) -> int:
    by_id = fleet.site.by_id
    return formula.commands_of_all(fleet.sizes(hosts), rule, by_id=by_id, by_function=not by_id)


def _all_rules(rules: Sequence[str]) -> tuple[int, int]:
    """Count, for every rule, fences of attached hosts, and of hosts that are cut already; return how many, and
    the largest difference from the formula."""
    counted, worst = 0, 0
    for rule in map(quiesce.parse, rules):
        for point in (Point(1, 1, 1), Point(18, 4, 16), Point(2, 128, 3)):
            for each in (1, 2):
                fleet = Fleet(Site([point.namespaces] * point.drives, point.hosts, each))
                for _ in ("attached", "cut already")[: 1 if rule.method is quiesce.Method.OFFLINE else 2]:
                    expected = _predicted(fleet, range(point.hosts), rule)
                    counting = Counting(fleet.transport)
                    fleet.fence(range(point.hosts), rule, counting)
                    worst = max(worst, abs(counting.commands - expected))
                    counted += 1
    if worst:
        raise WrongResult(f"commands differ from the formula by up to {worst}")
    return counted, worst

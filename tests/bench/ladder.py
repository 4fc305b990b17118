"""How a fence grows with the namespaces of a drive, under the real kernel; and what the ioctl's rescans cost.

One guest whose drives have 1, 2, 4, … 128 namespaces; one drive at a time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.bench import guests
from tests.bench.figures import Aim
from tests.bench.sheet import Cell, Grid, Row, Sheet, Unit, count, duration, ratio
from tests.lab.shape import SHAPES

LIMIT = 420
FLIGHTS = {32: (1, 2, 4, 8, 16, 24, 32), 128: (24, 64, 128)}
"""Detaches at once through the ioctl, by namespaces of the drive. One queue has 24 under way on a controller at
most; beyond that there are several queues."""
PER_QUEUE = 24
COLUMNS = (
    "commands",
    "bare minimum",
    "io_uring",
    "to the bare minimum",
    "ioctl",
    "ioctl to io_uring",
    "rescans",
    "the kernel's Identify",
    "threads",
)
FLIGHT_COLUMNS = ("time", "to one at a time", "rescans", "the kernel's Identify")


class Rung(NamedTuple):
    """One drive: a fence of one host on it."""

    namespaces: int
    commands: int
    bare: Sequence[float]
    io_uring: Sequence[float]
    ioctl: Sequence[float]
    rescans: int
    """Of one fence through the ioctl."""
    identifies: int
    threads: int
    """Of the ioctl backend, after the first such fence of this drive."""
    rescans_of_io_uring: int


class Flight(NamedTuple):
    """Detaches of all namespaces of a drive through the ioctl, so many at a time."""

    namespaces: int
    at_once: int
    seconds: Sequence[float]
    rescans: int
    identifies: int


def measure(options: argparse.Namespace) -> Sheet:
    """Measure. Raises LabError and ShapeError."""
    arguments = [f"--rounds={options.ladder_rounds}", f"--slow-rounds={options.slow_rounds}"]
    shape = SHAPES["ladder"]
    result = guests.run(shape, "tests.bench.ladder_guest", arguments, LIMIT)
    said: dict[str, Any] = json.loads((result.folder / "bench.json").read_text())
    where = {
        "Rabbit": shape.describe(),
        **said["where"],
        "QEMU": guests.qemu(),
        "whole run": f"{result.seconds:.0f} s",
    }
    checked = f"every cut and every restore was read back by the lab's observer ({said['checks']} times)"
    return sheet([Rung(*one) for one in said["rungs"]], [Flight(*one) for one in said["flights"]], where, checked)


def sheet(rungs: Sequence[Rung], flights: Sequence[Flight], where: Mapping[str, str], checked: str) -> Sheet:
    """Return the tables."""
    grids = [Grid("One host, one drive", "namespaces", COLUMNS, [_rung(one) for one in rungs])]
    for namespaces in dict.fromkeys(one.namespaces for one in flights):
        of = [one for one in flights if one.namespaces == namespaces]
        rows = [_flight(one, of[0]) for one in of]
        grids.append(Grid(f"{namespaces} detaches through the ioctl", "at once", FLIGHT_COLUMNS, rows))
    return Sheet(where, grids, _aims(rungs), checked)


def _rung(one: Rung) -> Row:
    cells = {
        COLUMNS[0]: count(one.commands),
        COLUMNS[1]: duration(one.bare),
        COLUMNS[2]: duration(one.io_uring),
        COLUMNS[3]: ratio(one.io_uring, one.bare),
        COLUMNS[4]: duration(one.ioctl),
        COLUMNS[5]: ratio(one.ioctl, one.io_uring),
        COLUMNS[6]: _about(one.rescans),
        COLUMNS[7]: _about(one.identifies),
        COLUMNS[8]: _about(one.threads),
    }
    return Row(f"{one.namespaces} namespaces", str(one.namespaces), cells)


def _about(value: float) -> Cell:
    """Return a count that differs a little from run to run."""
    return Cell([value], Unit.SEEN)


def _flight(one: Flight, first: Flight) -> Row:
    cells = {
        FLIGHT_COLUMNS[0]: duration(one.seconds),
        FLIGHT_COLUMNS[1]: ratio(one.seconds, first.seconds),
        FLIGHT_COLUMNS[2]: _about(one.rescans),
        FLIGHT_COLUMNS[3]: _about(one.identifies),
    }
    return Row(f"{one.namespaces} detaches, {one.at_once} at once", str(one.at_once), cells)


def _aims(rungs: Sequence[Rung]) -> list[Aim]:
    """A command costs the same at the top as in the middle of the ladder, and io_uring waits for no rescan."""
    last = rungs[-1]
    middle = next((one for one in rungs if one.namespaces >= 16), last)
    each = [one / last.commands for one in last.io_uring]
    growth = ratio(each, [one / middle.commands for one in middle.io_uring]).median
    text = f"io_uring: a command at {last.namespaces} namespaces to one at {middle.namespaces}"
    return [
        Aim(text, growth, 1.5, True, "x"),
        Aim(
            "rescans of the kernel in all fences through io_uring",
            sum(one.rescans_of_io_uring for one in rungs),
            0,
            True,
            "",
        ),
    ]

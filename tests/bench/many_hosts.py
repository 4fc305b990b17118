"""One host and sixteen in one pass, of a whole Rabbit with 4 and with 32 namespaces a drive: a guest for each.

What takes seconds is measured on a part of the drives, and what it is compared with is measured there as well.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.bench import guests
from tests.bench.figures import Aim
from tests.bench.sheet import Cell, Grid, Row, Sheet, count, duration, ratio
from tests.lab.shape import SHAPES

LIMIT = 420
NAMESPACES = (4, 32)
HOSTS = (1, 16)
DRIVES = (1, 2, 4, 9)
"""Beside all 18, of the smaller Rabbit."""
PART = 32
"""Namespaces, of all drives together, that what takes seconds is measured on."""
BARE = "bare"
URING = "io_uring"
IOCTL = "ioctl"
ONE_BY_ONE = "one-by-one"
LOOP = "nvme-loop"
TITLES = {
    BARE: "bare minimum of commands, C, io_uring",
    URING: "nvmefence, io_uring",
    IOCTL: "nvmefence, ioctl",
    ONE_BY_ONE: "bare minimum, C, one ioctl after the other",
    LOOP: "nvme detach-ns in a loop, naming all hosts at once",
}
COLUMNS = ("commands", "time", "to the bare minimum", "to the nvme loop")


class Spot(NamedTuple):
    """Where a way is measured."""

    namespaces: int
    """Of each drive."""
    drives: int
    hosts: int

    def text(self) -> str:
        """Return it in words, which stay the same from run to run."""
        hosts = "1 host" if self.hosts == 1 else f"{self.hosts} hosts"
        drives = "1 drive" if self.drives == 1 else f"{self.drives} drives"
        return f"{drives} x {self.namespaces} namespaces, {hosts}"


class Took(NamedTuple):
    """One way at one spot."""

    spot: Spot
    way: str
    commands: int
    seconds: Sequence[float]


def measure(options: argparse.Namespace) -> Sheet:
    """Measure both Rabbits. Raises LabError and ShapeError."""
    took: list[Took] = []
    checks, seconds, where = 0, 0.0, {}
    for namespaces in NAMESPACES:
        shape = dataclasses.replace(SHAPES["rabbit"], namespaces=namespaces)
        arguments = [f"--rounds={options.host_rounds}", f"--slow-rounds={options.slow_rounds}"]
        result = guests.run(shape, "tests.bench.many_hosts_guest", arguments, LIMIT)
        said: dict[str, Any] = json.loads((result.folder / "bench.json").read_text())
        took += [Took(Spot(*one["spot"]), one["way"], one["commands"], one["seconds"]) for one in said["took"]]
        checks += said["checks"]
        seconds += result.seconds
        where = said["where"]
    where |= {"Rabbit": "18 drives x 17 VFs", "QEMU": guests.qemu(), "whole run": f"{seconds:.0f} s"}
    checked = f"every cut and every restore was read back by the lab's observer ({checks} times)"
    return sheet(took, where, checked)


def sheet(took: Sequence[Took], where: Mapping[str, str], checked: str) -> Sheet:
    """Return the tables: all drives, the part, and so many drives of the smaller Rabbit."""
    partly = {one.spot for one in took if one.way == LOOP}
    spots = sorted(
        {one.spot for one in took}, key=lambda spot: (spot.drives != 18, spot not in partly, spot.namespaces, spot)
    )
    grids = [
        Grid(spot.text(), "way", COLUMNS, [_row(one, took) for one in took if one.spot == spot]) for spot in spots
    ]
    return Sheet(where, grids, _aims(took), checked)


def _find(took: Sequence[Took], spot: Spot, way: str) -> Took | None:
    return next((one for one in took if one.spot == spot and one.way == way), None)


def _row(one: Took, took: Sequence[Took]) -> Row:
    cells: dict[str, Cell] = {COLUMNS[0]: count(one.commands), COLUMNS[1]: duration(one.seconds)}
    for column, way in ((COLUMNS[2], BARE), (COLUMNS[3], LOOP)):
        base = _find(took, one.spot, way)
        if base is not None and base is not one:
            cells[column] = ratio(one.seconds, base.seconds)
    return Row(f"{one.way}, {one.spot.text()}", TITLES[one.way], cells)


def _aims(took: Sequence[Took]) -> list[Aim]:
    aims = []
    for one in took:
        bare, loop = (_find(took, one.spot, way) for way in (BARE, LOOP))
        if one.way == URING and bare is not None and one.spot.drives == 18:
            value = ratio(one.seconds, bare.seconds).median
            aims.append(Aim(f"io_uring to the bare minimum, {one.spot.text()}", value, 1.2, True, "x"))
        if one.way in (URING, IOCTL) and loop is not None:
            value = 1 / ratio(one.seconds, loop.seconds).median
            bound = 100 if one.way == URING else 5
            aims.append(Aim(f"{one.way}, faster than the nvme loop, {one.spot.text()}", value, bound, False, "x"))
        single = _find(took, one.spot._replace(hosts=1), one.way)
        if one.way in (BARE, URING) and one.spot.hosts > 1 and single is not None and one.spot.drives == 18:
            value = ratio(one.seconds, single.seconds).median
            text = f"{TITLES[one.way]}: {one.spot.hosts} hosts to one, {one.spot.namespaces} namespaces"
            aims.append(Aim(text, value, 1.3, True, "x"))
    return aims

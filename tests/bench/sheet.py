"""Figures that are no race of several ways: named rows of cells, each cell a number with its spread."""

from __future__ import annotations

import dataclasses
import enum
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.figures import Aim, percentile


class Unit(enum.StrEnum):
    """What a number is of."""

    COUNT = "count"
    """Exact: any difference is one."""
    SEEN = "seen"
    """A number of things that differs from run to run."""
    RATIO = "ratio"
    SECONDS = "s"
    BYTES = "B"
    PER_SECOND = "/s"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One figure: what each round gave."""

    values: Sequence[float]
    unit: Unit

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.values)

    @property
    def judged(self) -> bool:
        """Whether it means the same on any machine, so that it can be compared with the committed one."""
        return self.unit in (Unit.COUNT, Unit.RATIO)

    def text(self) -> str:
        """Return the median, and the spread where there is one."""
        low, high = shown(min(self.values), self.unit), shown(max(self.values), self.unit)
        middle = shown(self.median, self.unit)
        return middle if low == high else f"{middle} ({low} .. {high})"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table."""

    key: str
    """Stays the same from run to run."""
    title: str
    cells: Mapping[str, Cell]
    """By column; a column may be left out."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """One table."""

    title: str
    first: str
    """Heading of the titles."""
    columns: Sequence[str]
    rows: Sequence[Row]

    def lines(self) -> list[tuple[str, ...]]:
        """Return heading and rows as text."""
        cells = [
            (row.title, *(row.cells[name].text() if name in row.cells else "-" for name in self.columns))
            for row in self.rows
        ]
        return [(self.first, *self.columns), *cells]


@dataclasses.dataclass(frozen=True)
class Sheet:
    """One run of a part of the benchmark."""

    where: Mapping[str, str]
    grids: Sequence[Grid]
    found: Sequence[Aim]
    """What was aimed at beside what was measured."""
    checked: str
    """What was checked, and how often."""

    def aims(self) -> list[Aim]:
        """Return what was aimed at."""
        return list(self.found)

    def cells(self) -> dict[str, Cell]:
        """Return every cell by a name that stays the same from run to run."""
        return {
            f"{row.key}, {column}": cell
            for grid in self.grids
            for row in grid.rows
            for column, cell in row.cells.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with the medians for those who don't want to compute them."""
        data = dataclasses.asdict(self)
        for grid, plain in zip(self.grids, data["grids"], strict=True):
            for row, each in zip(grid.rows, plain["rows"], strict=True):
                for name, cell in row.cells.items():
                    each["cells"][name] |= {"median": cell.median}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sheet:
        """Return what `to_json` was given."""
        return cls(
            data["where"],
            [_grid(grid) for grid in data["grids"]],
            [Aim(**aim) for aim in data["found"]],
            data["checked"],
        )


def _grid(data: Mapping[str, Any]) -> Grid:
    rows = [
        Row(row["key"], row["title"], {n: Cell(c["values"], Unit(c["unit"])) for n, c in row["cells"].items()})
        for row in data["rows"]
    ]
    return Grid(data["title"], data["first"], data["columns"], rows)


def shown(value: float, unit: Unit) -> str:
    """Return a number with its unit, and as many digits as say something."""
    if unit in (Unit.COUNT, Unit.SEEN):
        return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
    if unit is Unit.RATIO:
        return times(value)
    if unit is Unit.BYTES:
        return f"{value / 1e6:.1f} MB" if abs(value) >= 100_000 else f"{value / 1e3:.1f} kB"
    if unit is Unit.PER_SECOND:
        return f"{value:,.0f}/s"
    return seconds(value)


def seconds(value: float) -> str:
    """Return a duration with three digits that say something."""
    if value < 1:
        return f"{1000 * value:.1f} ms" if value < 0.1 else f"{1000 * value:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def times(value: float) -> str:
    """Return a ratio."""
    if 0 < abs(value) < 0.1:
        return f"{value:.2g} x"
    return f"{value:.2f} x" if value < 10 else f"{value:,.0f} x"


def ratio(values: Sequence[float], base: Sequence[float]) -> Cell:
    """Return values as multiples of the base's median."""
    one = statistics.median(base)
    return Cell([value / one for value in values], Unit.RATIO)


def count(value: float) -> Cell:
    """Return an exact number."""
    return Cell([value], Unit.COUNT)


def duration(values: Sequence[float]) -> Cell:
    """Return seconds."""
    return Cell(list(values), Unit.SECONDS)


def tail(bursts: Sequence[Sequence[float]], percent: float) -> list[float]:
    """Return a percentile of each burst."""
    return [percentile(burst, percent) for burst in bursts]

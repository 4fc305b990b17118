"""The figures that are committed beside the code, and a run's compared with them.

Only what means the same on any machine is kept: ratios of one run, and counts. Nothing is asserted: a table says
what became better or worse, and a person decides.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.figures import Run
from tests.bench.sheet import Sheet, Unit, shown

FILE = Path(__file__).with_name("committed.json")
SLACK = 0.1
"""A median that differs by less than this part of the committed one is the same, however small the spread."""
Part = Run | Sheet


class Verdict(enum.StrEnum):
    """What became of a figure. Less is better, of all of them."""

    BETTER = "better"
    SAME = "same"
    WORSE = "WORSE"
    NEW = "new"
    GONE = "not measured"


@dataclasses.dataclass(frozen=True)
class Spread:
    """A figure: the median of its rounds, and how far they lay apart."""

    median: float
    low: float
    high: float
    unit: Unit

    @classmethod
    def of(cls, values: Sequence[float], unit: Unit) -> Spread:
        """Return that of a round's values, rounded to four digits."""
        low, high = min(values), max(values)
        median, low, high = (_rounded(value, unit) for value in (statistics.median(values), low, high))
        return cls(median, low, high, unit)

    def verdict(self, before: Spread) -> Verdict:
        """Compare with a committed figure: the same where either's spread holds the other's median."""
        if self.median == before.median or self.unit is not before.unit:
            return Verdict.SAME if self.unit is before.unit else Verdict.NEW
        if self.unit is not Unit.COUNT:
            near = abs(self.median - before.median) <= SLACK * abs(before.median)
            if near or before.low <= self.median <= before.high or self.low <= before.median <= self.high:
                return Verdict.SAME
        return Verdict.BETTER if self.median < before.median else Verdict.WORSE


@dataclasses.dataclass(frozen=True)
class Compared:
    """A figure, before and now."""

    name: str
    before: Spread | None
    now: Spread | None

    @property
    def verdict(self) -> Verdict:
        """What became of it."""
        if self.now is None:
            return Verdict.GONE
        return Verdict.NEW if self.before is None else self.now.verdict(self.before)


def _rounded(value: float, unit: Unit) -> float:
    return value if unit is Unit.COUNT else float(f"{value:.4g}")


def figures(part: Part) -> dict[str, Spread]:
    """Return what of a run is compared, by name."""
    if isinstance(part, Sheet):
        return {name: Spread.of(cell.values, cell.unit) for name, cell in part.cells().items() if cell.judged}
    found = {}
    for way in part.ways:
        if way.commands:
            found[f"{way.way}, commands"] = Spread.of([way.commands], Unit.COUNT)
        for name, base in part.BASES.items():
            median = part.median(base)
            if median and base != way.way:
                found[f"{way.way}, {name}"] = Spread.of([s / median for s in way.seconds], Unit.RATIO)
    return found


def load(path: Path = FILE) -> dict[str, dict[str, Spread]]:
    """Return the committed figures by part; none where there is no file."""
    if not path.exists():
        return {}
    return {
        part: {name: Spread(**{**kept, "unit": Unit(kept["unit"])}) for name, kept in table["figures"].items()}
        for part, table in json.loads(path.read_text()).items()
    }


def store(name: str, part: Part, path: Path = FILE) -> None:
    """Write one part's figures into the file; the other parts' stay."""
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    kept = {figure: dataclasses.asdict(spread) for figure, spread in figures(part).items()}
    document[name] = {"where": dict(part.where), "figures": kept}
    path.write_text(_text(document))


def _text(document: Mapping[str, Any]) -> str:
    """Return JSON with a line for each figure, so that a change of one is a change of one line."""
    parts = []
    for name, table in sorted(document.items()):
        lines = ",\n".join(f"   {json.dumps(f)}: {json.dumps(v)}" for f, v in table["figures"].items())
        where = json.dumps(table["where"])
        parts.append(f' {json.dumps(name)}: {{\n  "where": {where},\n  "figures": {{\n{lines}\n  }}\n }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def compare(name: str, part: Part, before: Mapping[str, Mapping[str, Spread]]) -> list[Compared]:
    """Compare one part's figures with the committed ones."""
    now, then = figures(part), before.get(name, {})
    return [Compared(f"{name}: {each}", then.get(each), now.get(each)) for each in {**then, **now}]


def text(compared: Sequence[Compared], *, everything: bool = False) -> str:
    """Return a table of what has changed, with `everything` of all; and how many there are of each kind."""
    counts = {verdict: sum(one.verdict is verdict for one in compared) for verdict in Verdict}
    told = [one for one in compared if everything or one.verdict not in (Verdict.SAME, Verdict.NEW)]
    order = list(Verdict)[::-1]
    told.sort(key=lambda one: (one.verdict is not Verdict.WORSE, order.index(one.verdict)))
    rows = [("figure", "committed", "now", "verdict")]
    rows += [(one.name, _spread(one.before), _spread(one.now), one.verdict.value) for one in told]
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    summary = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    return "\n".join([*(lines if told else []), f"compared with {FILE.name}: {summary or 'nothing'}"])


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    middle = shown(spread.median, spread.unit)
    low, high = shown(spread.low, spread.unit), shown(spread.high, spread.unit)
    return middle if low == high else f"{middle} ({low} .. {high})"


def to_json(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """Return the comparison as plain data."""
    return [{**dataclasses.asdict(one), "verdict": one.verdict.value} for one in compared]

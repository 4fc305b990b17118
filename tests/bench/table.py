"""The figures as tables, for a terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import BARE, INTERPRETER, LOOP, MB, POLLING, Aim, Figures, RoundTrips, Run
from tests.bench.sheet import Sheet, seconds, times


def _longer(run: Run, figures: Figures, base: str) -> str:
    ratio = run.ratio(figures.way, base)
    return "-" if ratio is None or figures.way == base else times(ratio)


def _quicker(run: Run, figures: Figures, base: str) -> str:
    ratio = run.ratio(figures.way, base)
    return "-" if not ratio or figures.way == base else f"{times(1 / ratio)} faster"


def _fence_row(run: Run, figures: Figures) -> tuple[str, ...]:
    return (
        figures.title,
        str(figures.commands),
        str(len(figures.seconds)),
        seconds(figures.median),
        f"{seconds(min(figures.seconds))} .. {seconds(max(figures.seconds))}",
        _longer(run, figures, BARE),
        _quicker(run, figures, LOOP),
    )


def _round_trip_row(run: Run, figures: Figures) -> tuple[str, ...]:
    return (
        figures.title,
        str(len(figures.seconds)),
        seconds(figures.median),
        seconds(figures.p99),
        _longer(run, figures, INTERPRETER),
        _quicker(run, figures, POLLING),
    )


def _rest(run: Run) -> list[str]:
    if not isinstance(run, RoundTrips):
        return []
    rest = run.rest
    memory = f"{rest.resident / MB:.1f} MB in memory, {rest.private / MB:.1f} MB of it its own"
    woken = f"{rest.switches} voluntary context switches of {rest.awake} of its {rest.threads} threads"
    return [f"watcher at rest, after all these requests: {memory}; {woken} in {rest.seconds:.0f} s"]


@dataclass(frozen=True)
class Marked:
    """Figures that have a place in the documentation."""

    name: str
    """In the marks there."""

    @property
    def begin(self) -> str:
        """The mark before them."""
        return f"<!-- {self.name}: begin, written by python -m tests.bench --update-docs -->"

    @property
    def end(self) -> str:
        """The mark after them."""
        return f"<!-- {self.name}: end -->"

    def text(self, run: Run | Sheet) -> str:
        """Return the figures for a terminal."""
        raise NotImplementedError

    def markdown(self, run: Run | Sheet) -> str:
        """Return the figures for the documentation."""
        raise NotImplementedError

    def update(self, path: Path, run: Run | Sheet) -> None:
        """Replace what lies between the marks. Raises ValueError where there are none."""
        page = path.read_text()
        before, begin, rest = page.partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not begin or not end:
            raise ValueError(f"{path} has no marks {self.begin} and {self.end}")
        path.write_text(f"{before}{begin}\n{self.markdown(run)}\n{end}{after}")


@dataclass(frozen=True)
class Table(Marked):
    """How the figures of several ways are shown."""

    header: tuple[str, ...]
    row: Callable[[Run, Figures], tuple[str, ...]]
    checked: str
    """What was checked `checks` times."""

    def text(self, run: Run | Sheet) -> str:
        """Return the table for a terminal."""
        assert isinstance(run, Run)
        checked = f"{self.checked} ({run.checks} times, all drives)"
        return "\n".join([*_plain(self._lines(run)), "", *aims(run), checked, *_about(run)])

    def markdown(self, run: Run | Sheet) -> str:
        """Return the table for the documentation."""
        assert isinstance(run, Run)
        notes = [f"- {line}" for line in [*aims(run), *_about(run)]]
        return "\n".join([*_ruled(self._lines(run)), "", *notes])

    def _lines(self, run: Run) -> list[tuple[str, ...]]:
        return [self.header, *(self.row(run, figures) for figures in run.ways)]


@dataclass(frozen=True)
class SheetTables(Marked):
    """How a sheet is shown."""

    def text(self, run: Run | Sheet) -> str:
        """Return its tables for a terminal."""
        assert isinstance(run, Sheet)
        lines = []
        for grid in run.grids:
            lines += [grid.title, *_plain(grid.lines()), ""]
        return "\n".join([*lines, *aims(run), run.checked, _where(run)])

    def markdown(self, run: Run | Sheet) -> str:
        """Return its tables for the documentation."""
        assert isinstance(run, Sheet)
        lines = []
        for grid in run.grids:
            lines += [f"{grid.title}:", "", *_ruled(grid.lines()), ""]
        return "\n".join([*lines, *(f"- {line}" for line in [*aims(run), run.checked, _where(run)])])


def _plain(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows, the heading first, in columns."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _ruled(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows, the heading first, as a table of the documentation."""
    rule = ("---", *["---:"] * (len(rows[0]) - 1))
    return [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]


FENCES = Table(
    "bench",
    ("way", "commands", "rounds", "median", "min .. max", "to the bare minimum", "than the nvme loop"),
    _fence_row,
    "every cut and every restore was read back by the lab's observer",
)
ROUND_TRIPS = Table(
    "bench of requests",
    ("way", "runs", "p50", "p99", "to a bare interpreter", "than the polling pair"),
    _round_trip_row,
    "after every request of ours the state of the simulated drives was read: the host was cut off, nobody else",
)


GROWTH = SheetTables("bench of growth")
LOAD = SheetTables("bench of load")
LATE = SheetTables("bench of late drives")
SLOWER = SheetTables("bench of slower drives")
HOSTS = SheetTables("bench of hosts")
LADDER = SheetTables("bench of the ladder")


def aims(run: Run | Sheet) -> list[str]:
    """Return what was aimed at beside what was measured, a line each."""
    return [_aim(aim) for aim in run.aims()]


def _aim(aim: Aim) -> str:
    value = times(aim.value) if aim.unit == "x" else f"{aim.value:.3g} {aim.unit}".strip()
    bound = f"at {'most' if aim.at_most else 'least'} {aim.bound:g} {aim.unit}".strip()
    return f"{aim.text}: {value} (aim: {bound}, {'reached' if aim.reached else 'not reached'})"


def _about(run: Run) -> list[str]:
    return [
        *_rest(run),
        _where(run),
        *(f"also in this run: {what}: {seconds(value)}" for what, value in run.started.items()),
    ]


def _where(run: Run | Sheet) -> str:
    return ", ".join(f"{topic} {value}" for topic, value in run.where.items())

"""The figures as tables, for a terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import BARE, INTERPRETER, LOOP, MB, POLLING, Aim, Figures, RoundTrips, Run


def seconds(value: float) -> str:
    """Return a duration with three digits that say something."""
    if value < 1:
        return f"{1000 * value:.1f} ms" if value < 0.1 else f"{1000 * value:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def _times(value: float) -> str:
    return f"{value:.2f} x" if value < 10 else f"{value:.0f} x"


def _longer(run: Run, figures: Figures, base: str) -> str:
    ratio = run.ratio(figures.way, base)
    return "-" if ratio is None or figures.way == base else _times(ratio)


def _quicker(run: Run, figures: Figures, base: str) -> str:
    ratio = run.ratio(figures.way, base)
    return "-" if not ratio or figures.way == base else f"{_times(1 / ratio)} faster"


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
class Table:
    """How the figures of one kind of run are shown."""

    name: str
    """In the marks in the documentation."""
    header: tuple[str, ...]
    row: Callable[[Run, Figures], tuple[str, ...]]
    checked: str
    """What was checked `checks` times."""

    @property
    def begin(self) -> str:
        """The mark before the table in the documentation."""
        return f"<!-- {self.name}: begin, written by python -m tests.bench --update-docs -->"

    @property
    def end(self) -> str:
        """The mark after it."""
        return f"<!-- {self.name}: end -->"

    def text(self, run: Run) -> str:
        """Return the table for a terminal."""
        rows: Sequence[tuple[str, ...]] = [self.header, *(self.row(run, figures) for figures in run.ways)]
        widths = [max(len(row[n]) for row in rows) for n in range(len(self.header))]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        ]
        checked = f"{self.checked} ({run.checks} times, all drives)"
        return "\n".join([*lines, "", *aims(run), checked, *_about(run)])

    def markdown(self, run: Run) -> str:
        """Return the table for the documentation."""
        rule = ("---", *["---:"] * (len(self.header) - 1))
        rows = [self.header, rule, *(self.row(run, figures) for figures in run.ways)]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        notes = [f"- {line}" for line in [*aims(run), *_about(run)]]
        return "\n".join([*lines, "", *notes])

    def update(self, path: Path, run: Run) -> None:
        """Replace what lies between the marks. Raises ValueError where there are none."""
        page = path.read_text()
        before, begin, rest = page.partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not begin or not end:
            raise ValueError(f"{path} has no marks {self.begin} and {self.end}")
        path.write_text(f"{before}{begin}\n{self.markdown(run)}\n{end}{after}")


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


def aims(run: Run) -> list[str]:
    """Return what was aimed at beside what was measured, a line each."""
    return [_aim(aim) for aim in run.aims()]


def _aim(aim: Aim) -> str:
    value = _times(aim.value) if aim.unit == "x" else f"{aim.value:.3g} {aim.unit}".strip()
    bound = f"at {'most' if aim.at_most else 'least'} {aim.bound:g} {aim.unit}".strip()
    return f"{aim.text}: {value} (aim: {bound}, {'reached' if aim.reached else 'not reached'})"


def _about(run: Run) -> list[str]:
    where = ", ".join(f"{topic} {value}" for topic, value in run.where.items())
    return [
        *_rest(run),
        where,
        *(f"also in this run: {what}: {seconds(value)}" for what, value in run.started.items()),
    ]

"""The figures as a table, for a terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bench.figures import BARE, IOCTL, LOOP, URING, Figures, Run

BEGIN = "<!-- bench: begin, written by python -m tests.bench --update-docs -->"
END = "<!-- bench: end -->"
_HEADER = ("way", "commands", "rounds", "median", "min .. max", "to the bare minimum", "than the nvme loop")


def seconds(value: float) -> str:
    """Return a duration with three digits that say something."""
    if value < 1:
        return f"{1000 * value:.1f} ms" if value < 0.1 else f"{1000 * value:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def _row(run: Run, figures: Figures) -> tuple[str, ...]:
    spread = f"{seconds(min(figures.seconds))} .. {seconds(max(figures.seconds))}"
    slower, to_loop = run.ratio(figures.way, BARE), run.ratio(figures.way, LOOP)
    quicker = "-" if not to_loop else _times(1 / to_loop) + " faster"
    return (
        figures.title,
        str(figures.commands),
        str(len(figures.seconds)),
        seconds(figures.median),
        spread,
        "-" if slower is None or figures.way == BARE else _times(slower),
        "-" if figures.way == LOOP else quicker,
    )


def _times(value: float) -> str:
    return f"{value:.2f} x" if value < 10 else f"{value:.0f} x"


def aims(run: Run) -> list[str]:
    """Return what was aimed at beside what was measured."""
    lines = []
    for way, base, text, aim, at_most in (
        (URING, BARE, "io_uring to the bare minimum", 1.5, True),
        (URING, LOOP, "io_uring, faster than the nvme loop", 100, False),
        (IOCTL, LOOP, "ioctl, faster than the nvme loop", 5, False),
    ):
        ratio = run.ratio(way, base)
        if ratio:
            value = ratio if at_most else 1 / ratio
            bound = f"at {'most' if at_most else 'least'} {aim:g} x"
            reached = "reached" if (value <= aim if at_most else value >= aim) else "not reached"
            lines.append(f"{text}: {_times(value)} (aim: {bound}, {reached})")
    return lines


def _about(run: Run) -> list[str]:
    where = ", ".join(f"{topic} {value}" for topic, value in run.where.items())
    return [where, *(f"also in this run: {what}: {seconds(value)}" for what, value in run.started.items())]


def text(run: Run) -> str:
    """Return the table for a terminal."""
    rows: Sequence[tuple[str, ...]] = [_HEADER, *(_row(run, figures) for figures in run.ways)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(_HEADER))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    checked = f"every cut and every restore was read back by the lab's observer ({run.checks} times, all drives)"
    return "\n".join([*lines, "", *aims(run), checked, *_about(run)])


def markdown(run: Run) -> str:
    """Return the table for the documentation."""
    rows = [_HEADER, ("---", *["---:"] * (len(_HEADER) - 1)), *(_row(run, figures) for figures in run.ways)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    notes = [f"- {line}" for line in [*aims(run), *_about(run)]]
    return "\n".join([*lines, "", *notes])


def update(path: Path, run: Run) -> None:
    """Replace what lies between the marks. Raises ValueError where there are none."""
    page = path.read_text()
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no marks {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{markdown(run)}\n{END}{after}")

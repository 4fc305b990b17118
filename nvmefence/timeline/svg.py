"""A timeline as a picture: one SVG file that needs nothing else, for light and dark, and that steers nothing."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from nvmefence.timeline.bars import PHASES, Bar, DriveBars
from nvmefence.timeline.made import Timeline

MOST_DRIVES: Final = 64
"""Drives that are drawn; of more, those that were done last."""
_WIDTH: Final = 1000
_LEFT: Final = 280
"""Where bars begin; what they are stands before."""
_ROOM: Final = 640
"""For all of the time."""
_ROW: Final = 20
_BAR: Final = 12
_THINNEST: Final = 0.6
_LABEL: Final = 46
"""Characters before the bars."""
_LINE: Final = 140
"""Characters of a line of text."""
_MOST_NOTES: Final = 8
_TICKS: Final = 8
_SHORTEST_S: Final = 1e-9
"""What takes less has no scale."""
_COLOURS: Final = {
    "agent": ("#3b6fd4", "#7aa2f7"),
    "watcher": ("#8250b5", "#b794f6"),
    "drives": ("#8a8f98", "#7d8590"),
    "open": ("#9aa4b2", "#8b949e"),
    "look": ("#8fb8dd", "#a5d6ff"),
    "read": ("#2f7fb8", "#58a6ff"),
    "offline": ("#c9720a", "#f0883e"),
    "cut": ("#c9302c", "#ff7b72"),
    "read-back": ("#2d8a4e", "#56d364"),
    "quiesce": ("#a98600", "#e3b341"),
    "online": ("#138a8a", "#39c5cf"),
    "restore": ("#6e5494", "#a371f7"),
    "other": ("#8a8f98", "#7d8590"),
}
"""By who or what is drawn: its colour on white, and on black."""


def draw(made: Timeline, statement: str, subject: str) -> str:
    """Return the picture. `statement` says what the response says, `subject` of what it is the timeline."""
    drawing = _Drawing(made)
    drawing.text(0, statement, "head")
    drawing.down()
    begins = f"{_duration(made.seconds)} from {made.begins}" + (f", {made.started_at}" if made.started_at else "")
    drawing.text(0, f"{subject}: {begins}", "quiet")
    drawing.down(1.4)
    top = drawing.y
    for step in made.way:
        drawing.row(f"{step.who}: {step.words}", [step], step.who, _duration(step.seconds))
    _draw_drives(drawing, made)
    drawing.grid(top)
    _draw_words(drawing, made)
    return drawing.finished(f"{statement} {subject}: {begins}")


def waited_for(made: Timeline) -> Iterator[str]:
    """Say in sentences what the answer waited for."""
    last = made.last
    if last is not None:
        longest = sorted(last.phases, key=lambda bar: -bar.seconds)[:3]
        phases = ", ".join(f"{bar.name} {_duration(bar.seconds)}" for bar in longest if bar.seconds > 0)
        others = made.slowest[1:2]
        ahead = f", {_duration(last.end - others[0].end)} after the one before it" if others else ""
        yield f"The answer waited for drive {last.serial}, done last of {len(made.drives)}{ahead}: {phases}"
    longest_step = max(made.critical, key=lambda step: step.seconds, default=None)
    if longest_step is not None and made.seconds > 0:
        share = 100 * longest_step.seconds / made.seconds
        yield (
            f"The longest piece of the critical path: {longest_step.who}, {longest_step.words}: "
            f"{_duration(longest_step.seconds)}, {share:.0f} % of the whole"
        )


def _duration(seconds: float) -> str:
    """Return a time for people: milliseconds below one second."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _draw_drives(drawing: _Drawing, made: Timeline) -> None:
    shown = made.slowest[:MOST_DRIVES]
    if not shown:
        return
    drawing.down(0.4)
    more = f"the last {MOST_DRIVES} of {len(made.drives)}, " if len(made.drives) > MOST_DRIVES else ""
    drawing.text(0, f"Drives: {more}the one that was done last first", "quiet")
    drawing.down()
    for drive in shown:
        drawing.row(_label(drive), drive.phases, "", _duration(sum(bar.seconds for bar in drive.phases)))


def _label(drive: DriveBars) -> str:
    return drive.serial if drive.confirmed else f"{drive.serial} ({drive.outcome})"


def _draw_words(drawing: _Drawing, made: Timeline) -> None:
    drawing.down(1.2)
    found = {bar.name for drive in made.drives for bar in drive.phases}
    if found:
        known = [name for name in PHASES if name in found]
        drawing.legend(known + (["other"] if found.difference(known) else []))
    for text in waited_for(made):
        drawing.paragraph(text, "strong")
    for note in made.notes[:_MOST_NOTES]:
        drawing.paragraph(f"Note: {note}", "quiet")


class _Drawing:
    """Grows downwards."""

    def __init__(self, made: Timeline) -> None:
        self.whole = made.seconds if made.seconds >= _SHORTEST_S else 0.0
        self.scale = _ROOM / self.whole if self.whole else 0.0
        self.y = 24.0
        self._pieces: list[str] = []
        self._ground: list[str] = []

    def down(self, rows: float = 1.0) -> None:
        self.y += _ROW * rows

    def text(self, x: float, text: str, kind: str = "", anchor: str = "") -> None:
        where = f' text-anchor="{anchor}"' if anchor else ""
        self._pieces.append(
            f'<text x="{x + 16:.1f}" y="{self.y:.1f}" class="{kind or "plain"}"{where}>{_safe(text, _LINE)}</text>'
        )

    def row(self, label: str, bars: list[Bar] | list[Bar], kind: str, took: str) -> None:
        """Draw bars beside a label, and how long they took behind."""
        self.text(0, _cut(label, _LABEL))
        for bar in bars:
            x = _LEFT + bar.start * self.scale
            width = max(bar.seconds * self.scale, _THINNEST)
            x = min(x, _LEFT + _ROOM - width)
            colour = kind if kind in _COLOURS else bar.name if bar.name in PHASES else "other"
            told = f"{bar.name}: {_duration(bar.seconds)}, from {_duration(bar.start)}"
            self._pieces.append(
                f'<rect x="{x:.2f}" y="{self.y - _BAR + 2:.1f}" width="{width:.2f}" height="{_BAR}" '
                f'class="c-{colour}"><title>{_safe(told, _LINE)}</title></rect>'
            )
        self.text(_WIDTH - 32, took, "quiet", "end")
        self.down()

    def grid(self, top: float) -> None:
        """Draw the time's lines behind all that was drawn from there on, and their times below."""
        bottom = self.y - _ROW + 6
        step = _tick(self.whole)
        for number in range(_TICKS + 1):
            when = number * step
            if not step or when > self.whole:
                break
            x = _LEFT + when * self.scale
            self._ground.append(
                f'<line x1="{x:.2f}" x2="{x:.2f}" y1="{top - _ROW + 4:.1f}" y2="{bottom:.1f}" class="grid"/>'
            )
            shown = f"{when * 1000:g} ms" if self.whole < 1 else f"{when:g} s"
            self.text(x - 16, shown, "quiet", "middle")
        self.down(0.6)

    def legend(self, names: list[str]) -> None:
        x = 16.0
        for name in names:
            self._pieces.append(
                f'<rect x="{x:.1f}" y="{self.y - _BAR + 2:.1f}" width="{_BAR}" height="{_BAR}" class="c-{name}"/>'
            )
            self.text(x + _BAR + 5 - 16, name)
            x += _BAR + 30 + 7.0 * len(name)
        self.down(1.3)

    def paragraph(self, text: str, kind: str) -> None:
        for line in textwrap.wrap(_cut(text, 4 * _LINE), _LINE - 10) or [""]:
            self.text(0, line, kind)
            self.down(0.9)

    def finished(self, description: str) -> str:
        height = math.ceil(self.y)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
                f'viewBox="0 0 {_WIDTH} {height}" role="img">',
                "<title>Timeline of a fence</title>",
                f"<desc>{_safe(description, 4 * _LINE)}</desc>",
                f"<style>\n{_style()}\n</style>",
                f'<rect width="{_WIDTH}" height="{height}" class="ground"/>',
                *self._ground,
                *self._pieces,
                "</svg>",
                "",
            ]
        )


def _style() -> str:
    """Return the colours, for light and for dark."""
    light, dark = [], []
    for name, (on_white, on_black) in _COLOURS.items():
        light.append(f".c-{name} {{ fill: {on_white}; }}")
        dark.append(f"  .c-{name} {{ fill: {on_black}; }}")
    return "\n".join(
        [
            "text { font: 12px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328; }",
            ".head { font-weight: 600; font-size: 15px; } .strong { font-weight: 600; } .quiet { fill: #59636e; }",
            ".ground { fill: #ffffff; } .grid { stroke: #d8dee4; stroke-width: 1; }",
            *light,
            "@media (prefers-color-scheme: dark) {",
            "  text { fill: #e6edf3; } .quiet { fill: #9198a1; } .ground { fill: #0d1117; }",
            "  .grid { stroke: #30363d; }",
            *dark,
            "}",
        ]
    )


def _tick(whole: float) -> float:
    """Return a round step of time that fits a few times into the whole; 0: there is none."""
    if whole <= 0:
        return 0.0
    least = whole / _TICKS
    power = 10.0 ** math.floor(math.log10(least))
    return next((power * factor for factor in (1, 2, 5) if power * factor >= least), power * 10)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _safe(text: str, most: int) -> str:
    """Return a text as it may stand in XML: what is no plain character becomes an escape that is text."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in _cut(text, most))
    return escape(shown)

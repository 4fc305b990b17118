"""`nvmefence explain --timeline`: where the time of a fence went, as bars in text, and as a picture in a file."""

from __future__ import annotations

import itertools
import shutil
from typing import Final

from nvmefence.cli import pages
from nvmefence.cli.history import duration
from nvmefence.cli.text import Screen, plain
from nvmefence.errors import FileError
from nvmefence.spool.response import Response
from nvmefence.timeline import made, parts, svg
from nvmefence.timeline.bars import Bar, DriveBars
from nvmefence.timeline.made import Timeline

STANDARD_OUTPUT: Final = "-"
_SLOWEST: Final = 5
"""Drives that are shown when not all are wanted."""
_WIDTH: Final = 116
"""Columns where there is no terminal."""
_LABEL: Final = 38
_SERIAL: Final = 20
_MARKS: Final = {
    "open": ("o", "dim"), "look": ("l", "blue"), "read": ("r", "blue"), "offline": ("f", "yellow"),
    "cut": ("c", "red"), "read-back": ("b", "green"), "quiesce": ("q", "yellow"), "online": ("n", "yellow"),
    "restore": ("w", "dim"),
}  # fmt: skip
"""By phase: its letter in a drive's bar, and its colour."""
_OTHER: Final = ("?", "")
_WHO: Final = {"agent": "blue", "watcher": "yellow", "drives": "green"}


def of(response: Response, log_dir: str) -> Timeline:
    """Return the timeline of a response, with what the logs in a directory tell beside it."""
    return made.make(response, parts.of(response, log_dir))


def show(line: Timeline, subject: str, screen: Screen, *, every: bool) -> None:
    """Print the timeline: `every` drive, or those that were done last."""
    if not line.way:
        screen.line(f"{subject}: no times are told, so there is nothing to show")
        _print_notes(line, screen)
        return
    begins = f"{line.begins}, {line.started_at}" if line.started_at else line.begins
    screen.line(f"{subject}: {duration(line.seconds)} from {begins}", "bold")
    room, mark = _room(screen), "\u2588" if screen.colour and _unicode(screen) else "#"
    screen.line(f"{'from':>10}  {'took':>10}  {'what':<{_LABEL}}  time")
    for step in line.way:
        drawn = _bar(step, line.seconds, room, mark, _WHO[step.who])
        screen.raw(_row(step.start, step.seconds, f"{step.who}: {step.words}", drawn, screen))
    if line.drives:
        _show_drives(line, room, screen, every=every)
    if line.beside:
        screen.line("Beside it, holding nobody up:")
        for step in line.beside:
            screen.line(f"{duration(step.start):>10}  {duration(step.seconds):>10}  {step.who}: {step.words}")
    if line.apart:
        told = ", ".join(f"{bar.name} {duration(bar.seconds)}" for bar in line.apart)
        screen.line(f"The agent, by its own clock: {told}")
    for text in svg.waited_for(line):
        screen.line(text, "bold")
    _print_notes(line, screen)


def write(line: Timeline, statement: str, subject: str, path: str, screen: Screen) -> None:
    """Write the picture: it appears whole or not at all. Raises FileError, AccessError."""
    if not line.way:
        raise FileError(f"{subject}: no times are told, so there is nothing to draw")
    picture = svg.draw(line, statement, subject)
    if path == STANDARD_OUTPUT:
        screen.raw(picture)
        return
    pages.replace(path, picture.encode("utf-8", "backslashreplace"), "name another file")


def _room(screen: Screen) -> int:
    """Return the columns that bars may take."""
    columns = shutil.get_terminal_size((_WIDTH, 24)).columns if screen.out.isatty() else _WIDTH
    return max(columns - _LABEL - 26, 20)


def _unicode(screen: Screen) -> bool:
    return (getattr(screen.out, "encoding", None) or "").lower().replace("-", "") == "utf8"


def _show_drives(line: Timeline, room: int, screen: Screen, *, every: bool) -> None:
    shown = line.slowest if every else line.slowest[:_SLOWEST]
    few = (
        f"the last {len(shown)} of {len(line.drives)}; all of them: --all"
        if len(shown) < len(line.drives)
        else "all"
    )
    found = {bar.name for drive in shown for bar in drive.phases}
    known = [f"{mark} {phase}" for phase, (mark, _) in _MARKS.items() if phase in found]
    other = [f"{_OTHER[0]} other"] if found.difference(_MARKS) else []
    screen.line(f"Drives ({few}), the one that was done last first: {', '.join(known + other)}")
    for drive in shown:
        begun = drive.phases[0].start if drive.phases else 0.0
        took = sum(bar.seconds for bar in drive.phases)
        serial = drive.serial if drive.confirmed else f"{drive.serial}: {drive.outcome}"
        longest = max(drive.phases, key=lambda bar: bar.seconds, default=None)
        told = f"{longest.name} {duration(longest.seconds)}" if longest else "no times"
        label = f"{_fitted(serial, _SERIAL):<{_SERIAL}} {told}"
        screen.raw(_row(begun, took, label, _phases(drive, line.seconds, room), screen))


def _print_notes(line: Timeline, screen: Screen) -> None:
    for note in line.notes:
        screen.line(f"Note: {note}", "dim")


def _row(start: float, took: float, label: str, marks: list[tuple[str, str]], screen: Screen) -> str:
    drawn = "".join(screen.paint(text, colour) if text.strip() else text for text, colour in marks)
    shown = _fitted(label, _LABEL)
    return f"{duration(start):>10}  {duration(took):>10}  {shown:<{_LABEL}}  {drawn}".rstrip()


def _bar(bar: Bar, whole: float, room: int, mark: str, colour: str) -> list[tuple[str, str]]:
    """Return a bar as it is drawn: at least one mark, and never beyond the room."""
    begin = min(int(bar.start / whole * room), room - 1) if whole else 0
    end = min(max(round(bar.end / whole * room), begin + 1), room) if whole else 1
    return [(" " * begin, ""), (mark * (end - begin), colour)]


def _phases(drive: DriveBars, whole: float, room: int) -> list[tuple[str, str]]:
    """Return a drive's phases as they are drawn: in each column the one that was on in its middle."""
    columns = []
    for column in range(room):
        when = (column + 0.5) / room * whole
        name = next((bar.name for bar in drive.phases if bar.start <= when < bar.end), None)
        columns.append((" ", "") if name is None else _MARKS.get(name, _OTHER))
    runs = itertools.groupby(columns)
    return [(mark * len(list(same)), colour) for (mark, colour), same in runs]


def _fitted(text: str, most: int) -> str:
    shown = plain(text)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."

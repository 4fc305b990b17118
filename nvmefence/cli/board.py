"""The matrix of hosts and drives, fitted into a terminal's size: lines of coloured text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nvmefence.cli.status import COLOURS, OnRecord, cell, problems
from nvmefence.cli.text import plain
from nvmefence.fencing.survey import DriveSurvey, State, Survey
from nvmefence.plain import counted

Line = list[tuple[str, str]]
"""Pieces of text, each with a colour or none."""
UNICODE: Final = {
    "attached": "■", "partly": "▤", "none": "·", "no answer": "×", "unknown": "?", "RETURNED": "!",
}  # fmt: skip
ASCII: Final = {"attached": "#", "partly": "+", "none": ".", "no answer": "x", "unknown": "?", "RETURNED": "!"}
_RETURNED: Final = "RETURNED"
_SILENT: Final = "no answer"
_ORDER: Final = (_RETURNED, _SILENT, "unknown", "partly", "none", "attached")
"""What a person should see first, where not all hosts have room."""
_INK: Final = {state.value: colour for state, colour in COLOURS.items()} | {_RETURNED: "red", _SILENT: "red"}
_GAP: Final = "  "
_LEAST: Final = 3
"""Lines that messages get, where there are so many, even if that costs the matrix some."""


@dataclass(frozen=True, slots=True)
class View:
    """What is known at one moment."""

    clock: str
    """The time, for people."""
    every: float
    """Seconds between two looks; 0: this is the last one."""
    simulated: bool
    survey: Survey
    hosts: Sequence[str]
    fenced: Sequence[OnRecord]
    troubles: Sequence[str] = ()
    """What is wrong besides."""

    @property
    def back(self) -> set[str]:
        """The fenced hosts that were seen back."""
        return {one.record.host for one in self.fenced if one.returned is not None}

    def messages(self) -> list[tuple[str, str]]:
        """Return what is to be said, the worst first, each with its colour."""
        said = [(one.words(), one.colour) for one in self.fenced]
        wrong = [(text, "red") for text in (*problems(self.survey, self.hosts), *self.troubles)]
        return [one for one in said if one[1] == "red"] + wrong + [one for one in said if one[1] != "red"]


def draw(view: View, width: int, height: int, marks: dict[str, str]) -> list[Line]:
    """Return at most `height` lines of at most `width` columns.

    In words where there is room; else a mark for each drive behind each host; else numbers alone, and of the hosts
    those that a person should see first.
    """
    messages = view.messages()
    reserved = min(len(messages), _LEAST)
    room = max(height - 2 - reserved - bool(reserved), 1)
    table = _in_words(view, width, room) or _in_marks(view, width, room, marks)
    lines = [_head(view), [], *table]
    left = height - len(lines) - 1
    if messages and left > 0:
        lines.append([])
        shown = messages if len(messages) <= left else messages[: left - 1]
        lines += [[(plain(text), colour)] for text, colour in shown]
        if len(shown) < len(messages):
            lines.append([(f"and {len(messages) - len(shown)} more lines: nvmefence status shows all", "dim")])
    return [_cut(line, width) for line in lines[:height]]


def _head(view: View) -> Line:
    survey = view.survey
    read = sum(not drive.problem for drive in survey.drives)
    line: Line = [("nvmefence status", "bold"), (f"{_GAP}{view.clock}{_GAP}", "")]
    if view.simulated:
        line += [("SIMULATED", "yellow"), (_GAP, "")]
    line.append((f"{read} of {counted(len(survey.drives), 'drive')} read", "" if survey.complete else "red"))
    return [*line, (f"{_GAP}every {view.every:g} s{_GAP}Ctrl-C ends", "dim")] if view.every else line


def _in_words(view: View, width: int, room: int) -> list[Line]:
    """Return a row for each drive and a column for each host; nothing where that does not fit."""
    drives = view.survey.drives
    if len(drives) + 1 > room or len(drives) * len(view.hosts) > 4 * width * room:
        return []
    back = view.back
    head: list[tuple[str, str]] = [(plain(text), "bold") for text in ("drive", "namespaces", *view.hosts)]
    rows = [head]
    for drive in drives:
        cells = [cell(drive, host, host in back) for host in view.hosts]
        words = [(_state(drive, host, one.text), one.colour) for host, one in zip(view.hosts, cells, strict=True)]
        rows.append([(plain(drive.serial), ""), (str(len(drive.namespaces) or "-"), ""), *words])
    widths = [max(len(row[column][0]) for row in rows) for column in range(len(head))]
    if sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        return []
    return [
        [piece for (text, ink), size in zip(row, widths, strict=True) for piece in ((text, ink), _pad(text, size))]
        for row in rows
    ]


def _state(drive: DriveSurvey, host: str, word: str) -> str:
    """Return the word for a host on a drive: one that does not answer is called so."""
    return _SILENT if word == State.UNKNOWN.value and _SILENT in drive.hosts[host].reason else word


def _pad(text: str, size: int) -> tuple[str, str]:
    return " " * (size - len(text)) + _GAP, ""


def _in_marks(view: View, width: int, room: int, marks: dict[str, str]) -> list[Line]:
    """Return a row for each host, with a mark for each drive where there is room for that."""
    back = view.back
    states = {host: [_kind(drive, host, host in back) for drive in view.survey.drives] for host in view.hosts}
    names = max((len(plain(host)) for host in view.hosts), default=0)
    words = {host: _counted(found) for host, found in states.items()}
    counts = max((sum(len(text) for text, _ in line) for line in words.values()), default=0)
    with_marks = names + counts + 2 * len(_GAP) + len(view.survey.drives) <= width
    order = list(view.hosts)
    if len(order) + 1 > room:
        order.sort(key=lambda host: min((_ORDER.index(kind) for kind in states[host]), default=len(_ORDER)))
    shown = order if len(order) < room else order[: max(room - 2, 0)]
    lines: list[Line] = [_legend(marks)] if with_marks else []
    for host in shown:
        line: Line = [(plain(host), ""), _pad(plain(host), names), *words[host]]
        if with_marks:
            line.append(_pad("".join(text for text, _ in words[host]), counts))
            line += [(marks[kind], _INK[kind]) for kind in states[host]]
        lines.append(line)
    if len(shown) < len(order):
        rest = [kind for host in order[len(shown) :] for kind in states[host]]
        lines.append([(f"and {counted(len(order) - len(shown), 'host')} more: ", "dim"), *_counted(rest)])
    return lines


def _legend(marks: dict[str, str]) -> Line:
    pieces: Line = [("each drive:", "dim")]
    for kind, mark in marks.items():
        pieces += [(f" {mark}", _INK[kind]), (f" {kind}", "dim")]
    return pieces


def _kind(drive: DriveSurvey, host: str, back: bool) -> str:
    entry = drive.hosts[host]
    return _RETURNED if back and entry.attached else _state(drive, host, entry.state.value)


def _counted(kinds: Sequence[str]) -> Line:
    """Return how many drives there are of each kind, in words."""
    pieces: Line = []
    for kind in _ORDER:
        number = kinds.count(kind)
        if number:
            pieces += [(", ", "")] * bool(pieces) + [(f"{number} {kind}", _INK[kind])]
    return pieces or [("no drive", "red")]


def _cut(line: Line, width: int) -> Line:
    """Return a line that is not longer than the terminal is wide."""
    shown: Line = []
    for text, colour in line:
        if width <= 0:
            break
        shown.append((text[:width], colour))
        width -= len(text)
    return shown

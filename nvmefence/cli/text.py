"""Text for people: tables, colour on a terminal, and the one live line of a fence."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Final, TextIO

from nvmefence.lines import LineWriter

_COLOURS: Final = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}

_WIPE: Final = "\r\x1b[2K"
_PATIENCE: Final = 0.5
"""Seconds that what stands on standard error may take before something else is said."""
_NO_PATIENCE: Final = 0.05
"""The same, once standard error was found stuck."""

_ANY_WIDTH: Final = 1 << 16
"""Columns; rich's measurement never exceeds the width that it is given."""


def plain(text: object) -> str:
    """Return text that cannot steer a terminal: control characters are shown as \\xNN or \\uNNNN."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


class Cell:
    """A piece of text with a colour that is used on a terminal only."""

    __slots__ = ("colour", "text")

    def __init__(self, text: object, colour: str = "") -> None:
        self.text = plain(text)
        self.colour = colour


class Screen:
    """Where results go: standard output for results, standard error for progress and errors.

    What goes to standard error never waits for long, and `progress`, `settled`, `note` and `clear`, which are for
    use while drives are worked on, not at all: a terminal that takes nothing must not hold up a fence. Results and
    errors wait for what was said before, half a second at most. Standard output blocks as for any program.
    """

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        self.colour = _wants_colour(self.out)
        self.live = self.err.isatty() and os.environ.get("TERM") != "dumb"
        self._live_text = ""
        self._out_lost = False
        self._writer = _writer(self.err)
        self._patience = _PATIENCE
        self._started = time.monotonic()

    def paint(self, text: str, colour: str) -> str:
        """Return `text` in a colour where the output shows colours."""
        code = _COLOURS.get(colour)
        return f"\x1b[{code}m{text}\x1b[0m" if code and self.colour else text

    def line(self, text: object = "", colour: str = "") -> None:
        """Print one line of a result; line breaks inside `text` are shown, not obeyed."""
        self.raw(self.paint(plain(text), colour))

    def raw(self, text: str) -> None:
        """Print text that is our own, as it is; be silent once that fails: the exit code stays true."""
        if not self._drained() and self.out.isatty():
            text = _WIPE + text  # the live line may still stand there: what was to remove it is dropped
        if self._out_lost:
            return
        try:
            self.out.write(text if text.endswith("\n") else text + "\n")
        except OSError:  # reader gone, disk full, terminal lost
            self._out_lost = True

    def flush(self) -> bool:
        """Hand on what was printed; returns whether there is anybody to take it."""
        if not self._out_lost:
            try:
                self.out.flush()
            except OSError:
                self._out_lost = True
        return not self._out_lost

    def _say(self, text: str) -> None:
        if self._writer is None:
            self.err.write(text)
        else:
            self._writer.put(text)

    def _drained(self) -> bool:
        """Wait for a short time until nothing more waits for standard error; return whether that is so."""
        if self._writer is None or self._writer.drain(self._patience) or self._writer.lost:
            return True
        self._patience = _NO_PATIENCE
        return False

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Cell | str]]) -> None:
        """Print an aligned table; with rich installed and a terminal, a framed one."""
        cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
        if self.colour and self._rich_table(header, cells):
            return
        widths = [
            max(len(title), *(len(row[n].text) for row in cells)) if cells else len(title)
            for n, title in enumerate(header)
        ]
        self.raw("  ".join(title.ljust(width) for title, width in zip(header, widths, strict=True)).rstrip())
        for row in cells:
            padded = [
                self.paint(cell.text, cell.colour) + " " * (width - len(cell.text))
                for cell, width in zip(row, widths, strict=True)
            ]
            self.raw("  ".join(padded).rstrip())

    def _rich_table(self, header: Sequence[str], cells: Sequence[Sequence[Cell]]) -> bool:
        try:
            from rich.box import SIMPLE_HEAD
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            return False
        table = Table(*header, box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for row in cells:
            table.add_row(*(Text(cell.text, style=cell.colour) for cell in row))
        console = Console(file=self.out)
        needed = console.measure(table, options=console.options.update(width=_ANY_WIDTH)).minimum
        if needed > console.width:
            return False
        with console.capture() as captured:
            console.print(table)
        self.raw(captured.get())
        return True

    def progress(self, text: str) -> None:
        """Show what is going on in one line that the next one replaces; nothing where there is no terminal."""
        if not self.live:
            return
        shown = f"{time.monotonic() - self._started:5.1f} s  {plain(text)}"
        self._say(_WIPE + shown)
        self._live_text = shown

    def settled(self, text: str, colour: str = "") -> None:
        """Print a line of progress that stays; nothing where there is no terminal."""
        if not self.live:
            return
        again = self._live_text
        self.clear()
        code = _COLOURS.get(colour)
        self._say((f"\x1b[{code}m{plain(text)}\x1b[0m" if code else plain(text)) + "\n" + again)
        self._live_text = again

    def clear(self) -> None:
        """Remove the live line."""
        if self._live_text:
            self._say(_WIPE)
            self._live_text = ""

    def drain(self) -> None:
        """Wait, half a second at most, until all that was said is written: what waits is lost with the process."""
        self._drained()

    def note(self, text: str) -> None:
        """Print a remark that stays, whether or not there is a terminal."""
        self.clear()
        self._say(f"nvmefence: note: {plain(text)}\n")

    def error(self, what: str, advice: str = "") -> None:
        """Print an error and what to do about it."""
        self.clear()
        self._say(f"nvmefence: {plain(what)}\n")
        if advice:
            self._say(f"  what to do: {plain(advice)}\n")
        self._drained()


def _writer(stream: TextIO) -> LineWriter | None:
    """Return a writer to the stream's descriptor; None for a stream without one, which lives in memory."""
    try:
        return LineWriter(stream.fileno(), encoding=stream.encoding)
    except OSError:
        return None


def _wants_colour(stream: TextIO) -> bool:
    """Colour on a terminal or with FORCE_COLOR, unless NO_COLOR is set (no-color.org, force-color.org)."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")

"""`nvmefence status --watch`: the matrix read again and again, each drive by itself, until Ctrl-C.

Only Identify is sent, no lock is taken, and a drive that does not answer is left alone for longer each time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nvmefence.cli import board, status
from nvmefence.cli.board import View
from nvmefence.cli.status import OnRecord
from nvmefence.cli.text import Screen
from nvmefence.errors import Exit
from nvmefence.fencing.survey import DriveSurvey, HostOnDrive, Survey, survey
from nvmefence.inventory.drives import Drive
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.records.places import Places
from nvmefence.records.record import Record
from nvmefence.site import Site
from nvmefence.watcher.worker import Stuck, Thread, Worker

READ_S: Final = 5.0
"""Seconds that the reading of a drive may take."""
PATIENCE_S: Final = 1.0
"""Seconds that a picture waits for drives."""
LONGEST_S: Final = 60.0
"""Seconds, at most, for which a drive that did not answer is left alone."""
_FILES_S: Final = 2.0
_ALL: Final = 100_000
"""Lines, where nothing is to be left out."""
Key = tuple[str, str]


@dataclass(slots=True)
class _Row:
    """One drive."""

    drive: Drive
    task: asyncio.Task[DriveSurvey] | None = None
    asked: float = 0.0
    """Loop time when the reading began that goes on, or that was the last."""
    pause: float = 0.0
    """Seconds that it is left alone, for it did not answer."""
    due: float = 0.0
    last: DriveSurvey | None = None
    """What the last reading showed."""


class Board:
    """Reads drives and records. Belongs to one event loop from `look` on."""

    def __init__(
        self,
        site: Site,
        hostmap: HostMap,
        hosts: Sequence[Host],
        there: Places,
        worker: Worker | None = None,
        *,
        every_host: bool,
    ) -> None:
        """`every_host`: hosts on record that are not in the map are shown as well.

        `worker` is for what may wait for a disk; without one there is a thread.
        """
        self.site = site
        self.hosts = [host.name for host in hosts]
        self._hostmap = hostmap
        self._hosts = hosts
        self._places = there
        self._every_host = every_host
        self._rows: dict[Key, _Row] = {}
        self._found: Sequence[Drive] = ()
        self._troubles: list[str] = []
        self._worker = worker

    async def look(self, every: float) -> tuple[View, Sequence[str]]:
        """Read once, and return what is known then, and what of the records is not believed."""
        if self._worker is None:
            self._worker = Thread("nvmefence-status")
        self._troubles = []
        before, _ = await self._from_files(self._places.store.load_all, ([], []))
        self._found = await self._from_files(self.site.discover, self._found)
        selection = self._hostmap.select(self._found)
        offline = any(one.stays for record in before for one in record.offline)
        begun = asyncio.get_running_loop().time()
        tasks = [task for drive in selection.drives if (task := self._begin(drive, offline)) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE_S)
        drives = [self._seen(self._rows[drive.key], begun) for drive in selection.drives]
        result = Survey(drives, selection.missing, self.site.transport.backend)
        fenced, unread = await self._from_files(lambda: self._on_record(before, result), ([], []))
        doubts = [f"a record is not believed, so its host may be fenced and not shown so: {one}" for one in unread]
        clock = time.strftime("%Y-%m-%d %H:%M:%S")
        troubles = (*self._troubles, *doubts)
        return View(clock, every, self.site.simulated, result, self.hosts, fenced, troubles), unread

    async def _from_files(self, read: Callable[[], Any], otherwise: Any) -> Any:
        assert self._worker is not None
        try:
            return await self._worker.do(read, _FILES_S)
        except (Stuck, OSError) as error:
            self._troubles.append(f"records or drives cannot be looked up: {error}")
            return otherwise

    def _on_record(self, before: Sequence[Record], result: Survey) -> tuple[list[OnRecord], list[str]]:
        fenced, unread = status.on_record(self._places, before, result, set(self.hosts))
        return fenced + (status.strangers(before, self._hostmap) if self._every_host else []), unread

    def _begin(self, drive: Drive, offline: bool) -> asyncio.Task[DriveSurvey] | None:
        """Begin to read a drive, unless that goes on already or it is left alone; return what to wait for."""
        loop = asyncio.get_running_loop()
        row = self._rows.setdefault(drive.key, _Row(drive))
        row.drive = drive
        if row.task is not None and row.task.done():
            row.task = None
        if row.task is None and loop.time() >= row.due:
            row.asked = loop.time()
            row.task = loop.create_task(self._read(row, offline))
            return row.task
        return None

    async def _read(self, row: _Row, offline: bool) -> DriveSurvey:
        made = await survey(
            self.site.transport, self._hostmap, [row.drive], self._hosts, READ_S, secondaries=offline
        )
        row.last = made.drives[0]
        hangs = "no answer" in row.last.problem
        row.pause = min(max(2 * row.pause, READ_S), LONGEST_S) if hangs else 0.0
        row.due = asyncio.get_running_loop().time() + row.pause
        return row.last

    def _seen(self, row: _Row, begun: float) -> DriveSurvey:
        """Return what this look showed of a drive. What an earlier one showed is not so now."""
        now = asyncio.get_running_loop().time()
        if row.task is not None and row.task.done() and row.asked >= begun and row.task.exception() is None:
            return row.task.result()
        if row.task is not None and row.task.done() and row.task.exception() is not None:
            return self._blank(row.drive, f"defect in nvmefence: {row.task.exception()!r}")
        if row.task is not None and not row.task.done():
            return self._blank(row.drive, f"no answer for {now - row.asked:.0f} s")
        why = row.last.problem if row.last is not None else "not read yet"
        return self._blank(row.drive, f"{why}; it is asked again in {max(row.due - now, 0):.0f} s")

    def _blank(self, drive: Drive, why: str) -> DriveSurvey:
        hosts = {name: HostOnDrive(reason=why) for name in self.hosts}
        return DriveSurvey(drive.serial, drive.nqn, drive.model, hosts=hosts, problem=why)


def watch(shown: Board, arguments: argparse.Namespace, screen: Screen) -> int:
    """Show what is so, again and again."""
    with _until_told() as told:
        try:
            asyncio.run(_go_on(shown, arguments, screen, told))
        finally:
            shown.site.transport.close()
    return Exit.OK


class _Told:
    """Signals, from before the loop begins until after it has ended: each asks for the same end."""

    def __init__(self) -> None:
        self.stopped = False
        self._wake: Callable[[], None] = lambda: None

    def stop(self, _number: int, _frame: object) -> None:
        self.stopped = True
        self._wake()

    def resized(self, _number: int, _frame: object) -> None:
        self._wake()

    @contextlib.contextmanager
    def waking(self, event: asyncio.Event) -> Iterator[None]:
        """Set an event of the running loop at each signal."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(event.set)

        self._wake = wake
        try:
            yield
        finally:
            self._wake = lambda: None


@contextlib.contextmanager
def _until_told() -> Iterator[_Told]:
    told = _Told()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, told.stop)
    signal.signal(signal.SIGWINCH, told.resized)
    yield told


async def _go_on(shown: Board, arguments: argparse.Namespace, screen: Screen, told: _Told) -> None:
    every, loop = arguments.watch, asyncio.get_running_loop()
    wake = asyncio.Event()
    with told.waking(wake), _output(arguments.json, screen) as put:
        while not told.stopped:
            begun = loop.time()
            looking = loop.create_task(shown.look(every))
            await _either(looking, wake, told)
            if told.stopped:
                looking.cancel()
                return
            view, unread = await looking
            if not put(view, unread):
                return
            while not told.stopped and (left := begun + every - loop.time()) > 0:
                wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await wake.wait()
                        put.again()  # another size


async def _either(task: asyncio.Task[Any], wake: asyncio.Event, told: _Told) -> None:
    """Wait until a task has ended, or the end is wanted."""
    while not task.done() and not told.stopped:
        wake.clear()
        waiting = asyncio.ensure_future(wake.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()


class _Lines:
    """To a pipe or a file: a picture below the other, or an object a line."""

    def __init__(self, screen: Screen, *, as_json: bool) -> None:
        self._screen = screen
        self._as_json = as_json
        self._begun = False

    def __call__(self, view: View, unread: Sequence[str]) -> bool:
        screen = self._screen
        if self._as_json:
            made = status.document(view.survey, view.fenced, unread, simulated=view.simulated)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            screen.raw(json.dumps({"time": stamp, **made, "troubles": list(view.troubles)}))
            return screen.flush()
        if self._begun:
            screen.line()
        self._begun = True
        screen.line(f"{view.clock}{'  SIMULATED' if view.simulated else ''}", "bold")
        status.show(view.survey, list(view.hosts), view.fenced, screen)
        for text in view.troubles:
            screen.line(text, "red")
        return screen.flush()

    def again(self) -> None:
        pass


class _Terminal:
    """One picture in the place of the other, on a screen of its own."""

    def __init__(
        self, live: Any, make: Callable[[list[board.Line]], Any], marks: dict[str, str], screen: Screen
    ) -> None:
        self._screen = screen
        self._live = live
        self._make = make
        self._marks = marks
        self.view: View | None = None

    def __call__(self, view: View, _unread: Sequence[str]) -> bool:
        self.view = view
        self.again()
        return True

    def again(self) -> None:
        if self.view is not None:
            size = self._live.console.size
            lines = board.draw(self.view, size.width, size.height, self._marks)
            self._live.update(self._make(lines), refresh=True)

    def leave(self) -> None:
        """Print the last picture once more, all of it, where it stays."""
        if self.view is not None:
            for line in board.draw(replace(self.view, every=0), self._live.console.width, _ALL, self._marks):
                self._screen.raw("".join(self._screen.paint(text, colour) for text, colour in line))


@contextlib.contextmanager
def _output(as_json: bool, screen: Screen) -> Iterator[_Lines | _Terminal]:
    """Give what shows a picture; on a terminal, leave the last one there at the end."""
    rich = None if as_json or not screen.out.isatty() or os.environ.get("TERM") == "dumb" else _rich(screen)
    if rich is None:
        yield _Lines(screen, as_json=as_json)
        return
    live, make = rich
    encoding = (getattr(screen.out, "encoding", "") or "").lower().replace("-", "")
    shown = _Terminal(live, make, board.UNICODE if encoding == "utf8" else board.ASCII, screen)
    with contextlib.suppress(OSError):  # the terminal is gone
        with live:
            yield shown
        shown.leave()


def _rich(screen: Screen) -> tuple[Any, Callable[[list[board.Line]], Any]] | None:
    """Return rich's live display, and what makes lines fit to be shown there; None where there is no rich."""
    try:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.text import Text
    except ImportError:
        print("nvmefence: note: without the Python package rich, pictures follow one another", file=sys.stderr)
        return None
    console = Console(file=screen.out, no_color=not screen.colour, highlight=False, force_terminal=True)

    def make(lines: list[board.Line]) -> Any:
        return Group(*(Text.assemble(*line, no_wrap=True, overflow="crop", end="\n") for line in lines))

    return Live(
        console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    ), make

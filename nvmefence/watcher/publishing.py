"""Writes the figures for monitoring: now and then, in a thread of its own, and not when a fence has just begun."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from nvmefence import __version__
from nvmefence.inventory.hostmap import HostMap
from nvmefence.site import Site
from nvmefence.watcher import metrics
from nvmefence.watcher.answers import Answer
from nvmefence.watcher.counting import Counts
from nvmefence.watcher.metrics import Figures, Sample, Value, counter, gauge
from nvmefence.watcher.passes import Pass, Passes
from nvmefence.watcher.worker import Stuck, Thread, Worker

EVERY_S: Final = 10.0
"""Seconds between two times of writing where nothing has changed."""
LEAST_S: Final = 1.0
"""Seconds between two times of writing."""
LATE_S: Final = 30.0
"""Seconds after which they are written although a fence is under way."""
DRIVES_S: Final = 60.0
"""Seconds between two looks at which drives the kernel knows."""
_FILE_S: Final = 10.0
_MOST: Final = 64
"""Passes, with their evidence, that may wait to be counted; more are lost, and how many is among the figures."""


@dataclass(frozen=True, slots=True)
class _Now:
    """What is so at one moment, taken in the loop."""

    figures: Figures | None
    hostmap: HostMap
    troubles: int
    under_way: int
    beaten_at: float
    moment: float
    """Seconds since 1970."""
    loop_time: float


class Publishing:
    """Belongs to one event loop. Where there is no file to be written, nothing is done."""

    def __init__(
        self,
        path: str,
        site: Site,
        hostmap: Callable[[], HostMap],
        figures: Callable[[], Figures | None],
        passes: Passes,
        troubles: Callable[[], int],
        beaten_at: Callable[[], float],
        wall: Callable[[], float] = time.time,
        worker: Worker | None = None,
    ) -> None:
        """`figures` are the look-out's, None where there is none. `troubles` counts the lasting ones.

        `beaten_at` dates the last sign of life. Without a `worker` there is a thread.
        """
        self._path = path
        self._site = site
        self._hostmap = hostmap
        self._figures = figures
        self._passes = passes
        self._count_troubles = troubles
        self._beaten_at = beaten_at
        self._wall = wall
        self._started = wall()
        self._loop = asyncio.get_running_loop()
        self._worker = worker or (Thread("nvmefence-metrics") if path else None)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ended: deque[tuple[Pass, float]] = deque()
        self._lost = 0
        self._last = float("-inf")
        self._counts = Counts()
        self._drives = (0, 0)
        """Seen, expected; the worker's."""
        self._looked = float("-inf")
        self.troubles: dict[str, str] = {}
        """Why there are no figures; empty when there are."""

    # What the loop tells. No evidence is worked through here: an answer may be waiting to be written.

    def ended(self, made: Pass) -> None:
        """Hear of a pass that has ended."""
        if self._path and len(self._ended) < _MOST:
            self._ended.append((made, self._loop.time()))
        elif self._path:
            self._lost += 1
        self._wake.set()

    def held(self) -> None:
        """Hear of a fence that the mass-fence guard held until it was too late."""
        self._counts.held()
        self._wake.set()

    def answered(self, answer: Answer) -> None:
        """Hear of an answer that was delivered, or given up."""
        self._counts.answered(answer.result)
        self._wake.set()

    def soon(self) -> None:
        """Write before long: something has changed."""
        self._wake.set()

    def begin(self) -> None:
        """Go on writing until `finish`."""
        if self._path:
            self._task = self._loop.create_task(self._run())

    async def finish(self) -> None:
        """Write a last time, if that is quickly done, and no more."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._publish(LEAST_S)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            if not self._passes.hosts or self._loop.time() - self._last >= LATE_S:
                await self._publish(_FILE_S)
            await asyncio.sleep(LEAST_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S - LEAST_S):
                    await self._wake.wait()

    async def _publish(self, within: float) -> None:
        now = self._now()
        self._last = now.loop_time
        trouble = ""
        try:
            if self._worker is not None:
                await self._worker.do(lambda: self._write(now), within)
        except OSError as error:
            trouble = error.strerror or os.strerror(error.errno or 0)
        except Stuck as error:
            trouble = str(error)
        except Exception as error:  # a defect here must end nothing else
            trouble = f"defect in nvmefence: {type(error).__name__}: {error}"
        self.troubles = {"metrics": f"{self._path}: {trouble}"} if trouble else {}

    def _now(self) -> _Now:
        figures = self._figures()
        return _Now(
            figures=figures and replace(figures, returned=dict(figures.returned)),
            hostmap=self._hostmap(),
            troubles=self._count_troubles(),
            under_way=len(self._passes.hosts),
            beaten_at=self._beaten_at(),
            moment=self._wall(),
            loop_time=self._loop.time(),
        )

    # In the worker's thread

    def _write(self, now: _Now) -> None:
        while self._ended:
            self._counts.ended(*self._ended.popleft())
        if not now.under_way and now.loop_time - self._looked >= DRIVES_S:
            self._look_at_drives(now)
        metrics.write(self._path, metrics.render(self._samples(now)))

    def _look_at_drives(self, now: _Now) -> None:
        """Ask the kernel which drives it knows: no command is sent to any of them."""
        self._looked = now.loop_time
        expected = now.hostmap.expected
        names = expected.serials or expected.nqns
        wanted = len(names) if expected.count is None else expected.count
        try:
            seen = len(now.hostmap.select(self._site.discover()).drives)
        except OSError:
            seen = 0
        self._drives = seen, wanted

    def _samples(self, now: _Now) -> list[Sample]:
        about: dict[str, Any] = {"version": __version__, "simulated": str(self._site.simulated).lower()}
        seen, expected = self._drives
        return [
            Sample("nvmefence_info", "gauge", "Always 1: which watcher this is.", (Value(about, 1),)),
            gauge("start_time_seconds", "When the watcher began; counters begin with 0 then.", self._started),
            gauge("heartbeat_timestamp_seconds", "When the last sign of life was given.", now.beaten_at),
            gauge("written_timestamp_seconds", "When these figures were written.", now.moment),
            gauge("troubles", "Lasting troubles that the journal tells of.", now.troubles),
            gauge("fences_under_way", "Hosts that are being fenced.", now.under_way),
            gauge("drives_expected", "Drives that must be cut.", expected),
            gauge("drives_seen", "Drives of those that the kernel knows.", seen),
            *self._counts.samples(),
            counter("passes_lost_total", "Passes whose fences are not in these figures.", self._lost),
            *(now.figures.samples() if now.figures is not None else ()),
        ]

"""What our own code costs beside drives that take their time: canned answers, each after so many seconds."""

from __future__ import annotations

import asyncio
import os
import platform
import selectors
import time
from typing import Final

from tests.bench import native
from tests.bench.figures import Aim
from tests.bench.sheet import Grid, Row, Sheet, count, duration, ratio

LATENCIES: Final = (0.0, 0.0003, 0.001, 0.003, 0.01)
"""Seconds of every command."""
STEPS: Final = 4
"""Of every fence, one after the other: the namespaces, who is attached, detach, who is attached."""
_AIM: Final = 1.2
_AIMED_AT_S: Final = 0.001
"""From which on it should be reached."""
COLUMNS: Final = ("fences", "the drives alone", "nvmefence", "to the drives alone")


def measure(rounds: int) -> Sheet:
    """Fence so often at each latency, in turn with nothing but the drives' time."""
    started = time.monotonic()
    with asyncio.Runner(loop_factory=_exact_loop) as runner:
        found = runner.run(_all(rounds))
    rows = [_row(latency, *found[latency]) for latency in LATENCIES]
    where = {
        "drives": f"{native.DRIVES}, with {native.NAMESPACES} namespaces, answers canned",
        "Python": platform.python_version(),
        "CPUs": str(os.cpu_count()),
        "whole run": f"{time.monotonic() - started:.0f} s",
    }
    aims = [
        Aim(f"{row.title}, to the drives alone", row.cells[COLUMNS[3]].median, _AIM, True, "x")
        for latency, row in zip(LATENCIES, rows, strict=True)
        if latency >= _AIMED_AT_S
    ]
    return Sheet(
        where, [Grid("18 drives, one host", "every command", COLUMNS, rows)], aims, "every fence was confirmed"
    )


def _exact_loop() -> asyncio.AbstractEventLoop:
    """Return a loop that does not round what it waits to milliseconds, as one on epoll does."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _all(rounds: int) -> dict[float, list[tuple[float, float]]]:
    """Return, by latency, the seconds of each fence and of the drives alone."""
    await native.one_fence()
    found: dict[float, list[tuple[float, float]]] = {latency: [] for latency in LATENCIES}
    for _ in range(rounds):
        for latency in LATENCIES:
            seconds, _ = await native.one_fence(latency)
            found[latency].append((seconds, await _drives_alone(latency)))
    return found


async def _drives_alone(latency: float) -> float:
    """Wait as often as a fence must for drives that all answer at the same time."""
    started = time.monotonic()
    for _ in range(STEPS if latency else 0):
        await asyncio.gather(*(asyncio.sleep(latency) for _ in range(native.DRIVES)))
    return time.monotonic() - started


def _row(latency: float, *rounds: tuple[float, float]) -> Row:
    fences, alone = [fence for fence, _ in rounds], [drives for _, drives in rounds]
    cells = {COLUMNS[0]: count(len(rounds)), COLUMNS[2]: duration(fences)}
    if latency:
        cells |= {COLUMNS[1]: duration(alone), COLUMNS[3]: ratio(fences, alone)}
    title = f"a drive takes {1e3 * latency:g} ms" if latency else "the answer is there at once"
    return Row(f"slower {1e3 * latency:g}", title, cells)

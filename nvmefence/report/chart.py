"""How long each fence took, over time: one small picture, by tenfold steps."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Final

from nvmefence.report.gather import total
from nvmefence.report.markup import Markup, element, joined
from nvmefence.watcher.past import Entry

_WIDTH, _HEIGHT = 1000, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 30
_LEAST_S: Final = 0.001
_TICKS: Final = 6


def duration(seconds: float | None) -> str:
    """Return a time for people: milliseconds below one second."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def when(moment: float) -> str:
    """Return seconds since 1970 as local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def durations(entries: Sequence[Entry]) -> Markup:
    """Return the picture; empty where fewer than two fences tell how long they took."""
    points = [(entry, took) for entry in entries if (took := total(entry)) is not None]
    if len(points) < 2:
        return Markup("")
    first, last = min(one.when for one, _ in points), max(one.when for one, _ in points)
    low = math.floor(math.log10(max(min(took for _, took in points), _LEAST_S)))
    high = max(math.ceil(math.log10(max(took for _, took in points) or _LEAST_S)), low + 1)
    room, rise = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(moment: float) -> float:
        return _LEFT + room * ((moment - first) / (last - first) if last > first else 0.5)

    def y(took: float) -> float:
        return _TOP + rise * (1 - (math.log10(max(took, _LEAST_S)) - low) / (high - low))

    pieces = []
    for power in range(low, high + 1):
        at = y(10.0**power)
        pieces.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{at:.1f}", y2=f"{at:.1f}", class_="axis"))
        shown = f"{10**power} s" if power >= 0 else f"{10 ** (power + 3)} ms"
        pieces.append(element("text", shown, x=_LEFT - 8, y=f"{at + 4:.1f}", text_anchor="end", class_="label"))
    pieces += _dates(first, last, x)
    for entry, took in points:
        good = not entry.result.startswith("not-")
        told = f"{when(entry.when)} {', '.join(entry.hosts) or entry.target_node}: {entry.result}, {duration(took)}"
        title = element("title", told)
        place = {"cx": f"{x(entry.when):.1f}", "cy": f"{y(took):.1f}", "r": "4" if good else "5"}
        pieces.append(element("circle", title, class_="dot-good" if good else "dot-bad", **place))
    box = f"0 0 {_WIDTH} {_HEIGHT}"
    words = element("title", "Durations of fences over time")
    return element("div", element("svg", words, joined(pieces), viewBox=box, role="img"), class_="picture")


def _dates(first: float, last: float, x: object) -> list[Markup]:
    assert callable(x)
    number = _TICKS if last > first else 1
    form = "%Y-%m-%d" if last - first > 3 * 86400 else "%m-%d %H:%M" if last - first > 600 else "%H:%M:%S"
    found = []
    for tick in range(number):
        moment = first + (last - first) * tick / max(number - 1, 1)
        anchor = "start" if tick == 0 and number > 1 else "end" if tick == number - 1 and number > 1 else "middle"
        shown = time.strftime(form, time.localtime(moment))
        found.append(
            element("text", shown, x=f"{x(moment):.1f}", y=_HEIGHT - 8, text_anchor=anchor, class_="label")
        )
    return found

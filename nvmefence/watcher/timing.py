"""When what happened on a request's way through the watcher: monotonic times, for the response and for the logs.

A response can tell what was before it; that its audit line is durable and that it is visible itself comes later,
and goes to the detailed log of fence events. docs/timeline.md has the form of both.
"""

from __future__ import annotations

from typing import Final

from nvmefence import clock
from nvmefence.watcher.passes import Pass, Ticket

INOTIFY: Final = "inotify"
RESCAN: Final = "rescan"
WRITER: Final = "watcher"
_CLOCK: Final = clock.identity()


class Wakeup:
    """What has the watcher look at the directories, and when: a hint, or that it looks without one."""

    def __init__(self) -> None:
        self._hinted = 0.0
        self.last = (0.0, RESCAN)
        """Of the look in hand: the loop time of its cause, and what that was."""

    def hinted(self, now: float) -> None:
        """Take note of a hint; the first one since the last look counts."""
        self._hinted = self._hinted or now

    def begin(self, now: float) -> None:
        """A look begins."""
        self.last = (self._hinted, INOTIFY) if self._hinted else (now, RESCAN)
        self._hinted = 0.0


def before(ticket: Ticket, made: Pass, now: float, wall: float) -> dict[str, str | float]:
    """Return what a response to a fence says of the time. `now` and `wall` are the same moment by two clocks."""
    moments = {"woken": ticket.woken, "read": ticket.read_at, **made.moments, "answered": now}
    return {
        "writer": WRITER,
        "clock": _CLOCK,
        "wall": round(wall, 6),
        "monotonic": round(now, 6),
        "hint": ticket.hint,
        "request_written": round(ticket.request.written, 6),
        **_rounded(moments),
    }


def after(moments: dict[str, float]) -> dict[str, str | float]:
    """Return what the detailed log says of the time after a response was made."""
    return {"writer": WRITER, "clock": _CLOCK, **_rounded(moments)}


def _rounded(moments: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in moments.items()}

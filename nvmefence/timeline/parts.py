"""What agent and watcher told of the time, each by its own clock: out of the response, and out of the logs.

All of it is read without trust: what is no moment is left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from nvmefence.eventlog import FILES
from nvmefence.spool.response import Response
from nvmefence.watcher import auditfiles, loose
from nvmefence.watcher.auditfiles import Unread
from nvmefence.watcher.timing import INOTIFY, RESCAN, WRITER

LOG: Final = FILES[-1]
"""The log in which agents and watcher tell what a response cannot have."""
AGENT: Final = ("began", "ready", "asked", "visible", "durable", "waiting", "seen", "judged")
"""Moments of the agent."""
BEFORE: Final = ("woken", "read", "begun", "found", "ended", "recorded", "answered")
"""Moments of the watcher that its response tells."""
AFTER: Final = ("audited", "visible", "durable")
"""Moments of the watcher that only its log can tell."""
_LATEST: Final = 1e10
"""Seconds. What is beyond is no time of a clock that began with this boot, or in 1970."""


@dataclass(slots=True)
class Part:
    """One writer's times."""

    writer: str
    clock: str
    """Equal for two writers whose times can be compared; empty: not known."""
    moments: dict[str, float] = field(default_factory=dict)
    """Monotonic seconds."""
    wall: float | None = None
    """Seconds since 1970, at `monotonic`."""
    monotonic: float | None = None
    hint: str = ""
    """Of the watcher: what woke it, "inotify" or "rescan"."""
    request_written: float | None = None
    """Of the watcher: the request's file time, in seconds since 1970 by its writer's or its file server's clock."""


@dataclass(slots=True)
class Parts:
    """All that is known of one request."""

    watcher: Part | None = None
    """From the response."""
    after: Part | None = None
    """What the watcher told when the response was visible."""
    agent: Part | None = None
    trouble: str = ""
    """Why the log could not be read, or not all of it."""


def part(value: object, names: tuple[str, ...]) -> Part | None:
    """Return what a writer told, as far as it is what it should be; None for what is no such thing."""
    found = loose.table(value)
    if not found:
        return None
    moments = {name: moment for name in names if (moment := _moment(found.get(name))) is not None}
    hint = loose.text(found.get("hint"), 20)
    return Part(
        writer=loose.text(found.get("writer"), 40),
        clock=loose.text(found.get("clock"), 100),
        moments=moments,
        wall=_moment(found.get("wall")),
        monotonic=_moment(found.get("monotonic")),
        hint=hint if hint in (INOTIFY, RESCAN) else "",
        request_written=_moment(found.get("request_written")),
    )


def of(response: Response, log_dir: str) -> Parts:
    """Return what the response tells, and what the log in a directory tells beside it."""
    parts = Parts(watcher=part(response.timeline, BEFORE))
    if not response.request_id:
        return parts
    for found in _told(log_dir, response, parts):
        by_watcher = found.get("writer") == WRITER
        if by_watcher and parts.after is None:
            parts.after = part(found, AFTER)
        elif not by_watcher and parts.agent is None:
            parts.agent = part(found, AGENT)
        if parts.after is not None and parts.agent is not None:
            break
    return parts


def _moment(value: object) -> float | None:
    found = loose.seconds(value)
    return found if found is not None and 0 < found < _LATEST else None


def _told(log_dir: str, response: Response, parts: Parts) -> Iterator[dict[str, Any]]:
    """Yield what lines about this request tell of the time."""
    # A line has the id as JSON has it; what would be written with escapes is no id of ours.
    mark = response.request_id.encode("ascii", "replace")
    for line in auditfiles.of_one(os.path.join(log_dir, LOG)):
        if isinstance(line, Unread):
            parts.trouble = parts.trouble or f"{line.path} cannot be read: {line.reason}"
            continue
        if line.data is None or mark not in line.data or b'"timeline"' not in line.data:
            continue
        try:
            event = loose.table(json.loads(line.data))
        except (ValueError, RecursionError):
            continue
        same = (event.get("request_id"), event.get("target_node")) == (response.request_id, response.target_node)
        if same and loose.table(event.get("timeline")):
            yield event["timeline"]

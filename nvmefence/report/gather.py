"""What a report tells, out of audit, responses, records and, if wanted, drives. Nothing of it is trusted."""

from __future__ import annotations

import json
import math
import os
import stat
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nvmefence.fencing.survey import Survey
from nvmefence.settings import Settings
from nvmefence.spool import response
from nvmefence.spool.errors import SpoolError
from nvmefence.spool.names import SUFFIX
from nvmefence.spool.response import RESPONSE_LIMIT, Response
from nvmefence.timeline import made as timelines
from nvmefence.timeline import parts
from nvmefence.timeline.made import Timeline
from nvmefence.watcher import loose, past, verdict
from nvmefence.watcher.past import Entry, History
from nvmefence.watcher.verdict import Explanation

FENCES: Final = 100
"""Fences that are shown drive by drive: the newest."""
ENTRIES: Final = 1000
"""Entries of the history that are shown: the newest."""
RESPONSES: Final = 200
"""Responses that are looked at: the newest."""
_EVIDENCE_BYTES: Final = 64 * 1024 * 1024
"""Of audit lines that are kept until it is known which of them are shown."""
_ENDS: Final = ("fenced", "not-fenced", "enforced", "not-enforced")
"""Results that a fence has."""
_NO_LOGS: Final = "what the logs add is not here: see nvmefence explain --timeline"
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Fence:
    """One fence that is on record, with what its evidence shows."""

    entry: Entry
    seen: Explanation
    timeline: Timeline


@dataclass(frozen=True, slots=True)
class Standing:
    """A response that lies there."""

    name: str
    seen: Explanation | None
    """None: it is not a response."""
    problem: str = ""


@dataclass(slots=True)
class Fleet:
    """The drives as read just now, and who is on record."""

    survey: Survey | None = None
    """None: they were not read."""
    hosts: Sequence[str] = ()
    why: str = ""
    """Why they were not read."""
    simulated: bool = False
    fenced: Sequence[str] = ()
    """Hosts that count as fenced."""
    back: Sequence[str] = ()
    """Those of them that were seen back."""
    on_record: Sequence[tuple[str, str]] = ()
    """In words how each host on record stands, and in which colour that is said."""
    unread: Sequence[str] = ()
    """What is wrong with records."""


@dataclass(slots=True)
class Gathered:
    """Everything."""

    history: History
    entries: list[Entry]
    """Those of the time that is asked for, the oldest first; at most ENTRIES."""
    left_out: int
    """Older ones of that time."""
    fences: list[Fence]
    """The newest first; at most FENCES."""
    fleet: Fleet
    responses: list[Standing] = field(default_factory=list)
    responses_left_out: int = 0
    trouble: str = ""
    """Why the responses could not be listed."""
    since: float | None = None


def gather(
    settings: Settings,
    fleet: Fleet,
    since: float | None,
    progress: Callable[[str], None] = lambda _text: None,
) -> Gathered:
    """Read what is there. Never raises for what is in it."""
    kept: deque[tuple[Entry, bytes]] = deque()
    size = 0

    def heard(entry: Entry, line: bytes) -> None:
        nonlocal size
        if entry.result not in _ENDS or (since is not None and entry.when < since):
            return
        kept.append((entry, line))
        size += len(line)
        while len(kept) > FENCES or size > _EVIDENCE_BYTES:
            size -= len(kept.popleft()[1])

    history = past.read(settings.audit, settings.response_dir, progress=progress, heard=heard)
    entries = [entry for entry in history.entries if since is None or entry.when >= since]
    made = Gathered(history, entries[-ENTRIES:], max(len(entries) - ENTRIES, 0), [], fleet, since=since)
    progress("reading evidence")
    for entry, line in sorted(kept, key=lambda one: -one[0].when):
        answer = of_audit(line)
        told = parts.Parts(watcher=parts.part(answer.timeline, parts.BEFORE), trouble=_NO_LOGS)
        made.fences.append(Fence(entry, verdict.explain(answer), timelines.make(answer, told)))
    _add_responses(made, settings.response_dir)
    return made


def of_audit(line: bytes) -> Response:
    """Return the response that an audit line tells of, with its evidence. The line was read once as JSON."""
    document = loose.table(json.loads(line))
    told = loose.table(document.get("response"))
    request = loose.table(document.get("request"))
    success = told.get("success") is True or document.get("result") == "enforced"
    return Response(
        request_id=loose.text(told.get("request_id") or request.get("request_id")),
        success=success,
        action_performed=loose.text(told.get("action_performed")) or "off",
        target_node=loose.text(document.get("target_node")),
        message=loose.text(document.get("message"), 2000),
        timestamp=loose.text(told.get("timestamp") or document.get("time")),
        action=loose.text(request.get("action") or document.get("action")),
        recorder_node=loose.text(request.get("recorder_node")),
        evidence=document.get("evidence"),
        timeline=told.get("timeline"),
    )


def _add_responses(made: Gathered, directory: str) -> None:
    try:
        with os.scandir(directory) as entries:
            found = [(_written(one), one.name) for one in entries if one.name.endswith(SUFFIX)]
    except FileNotFoundError:
        return
    except OSError as error:
        made.trouble = f"{directory} cannot be read: {error.strerror}"
        return
    found.sort(reverse=True)
    made.responses_left_out = max(len(found) - RESPONSES, 0)
    made.responses = [_standing(directory, name) for _, name in found[:RESPONSES]]


def _written(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return 0.0


def _standing(directory: str, name: str) -> Standing:
    try:
        return Standing(name, verdict.explain(response.parse(_content(os.path.join(directory, name)))))
    except SpoolError as error:
        return Standing(name, None, f"not a response: {error.reason}")
    except OSError as error:
        return Standing(name, None, error.strerror or str(error))


def _content(path: str) -> bytes:
    fd = os.open(path, _FLAGS)
    with open(fd, "rb") as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "not a regular file")
        data = stream.read(RESPONSE_LIMIT + 1)
    if len(data) > RESPONSE_LIMIT:
        raise OSError(0, f"more than {RESPONSE_LIMIT} bytes")
    return data


def quantile(values: Sequence[float], share: float) -> float:
    """Return the least of the values that so large a share of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def total(entry: Entry) -> float | None:
    """Return how long a fence took, from the reading of its request on, in seconds."""
    return entry.seconds.get("total", entry.seconds.get("fence"))


def is_fence(entry: Entry) -> bool:
    """Whether an entry tells of a fence that was tried."""
    return entry.result in _ENDS


def plain_data(made: Gathered) -> dict[str, Any]:
    """Return in numbers what a page shows."""
    fences = [entry for entry in made.entries if is_fence(entry)]
    return {
        "entries": len(made.entries),
        "entries_left_out": made.left_out,
        "fences": len(fences),
        "fences_not_confirmed": sum(entry.result.startswith("not-") for entry in fences),
        "fences_in_detail": len(made.fences),
        "responses": len(made.responses),
        "surveyed": made.fleet.survey is not None,
        "files": made.history.files,
        "unread": [{"file": one.path, "reason": one.reason} for one in made.history.unread],
        "bad_lines": made.history.bad_lines,
    }

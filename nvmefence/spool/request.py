"""A request: what the file says, and whether it is still to be acted upon."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from nvmefence.spool import json_strict
from nvmefence.spool.errors import Invalid
from nvmefence.spool.names import quoted

MAX_REQUEST_AGE: Final = 300.0
"""Seconds after which a request is not acted upon."""
CLOCK_TOLERANCE: Final = 30.0
"""Seconds that a request may be dated in the future, for clocks that differ a little."""
MAX_TIMEOUT: Final = 86400.0
_KNOWN: Final = frozenset(
    ("request_id", "timestamp", "action", "target_node", "gfs2_filesystems", "recorder_node", "timeout_s")
)
_REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")
_NODE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")
_TIMESTAMP: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}):([0-9]{2})(?:\.([0-9]{1,12}))?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)


class Action(enum.Enum):
    """What is asked for."""

    OFF = "off"
    REBOOT = "reboot"
    """As OFF: storage is cut, nobody power-cycles the node."""
    ON = "on"

    @property
    def fences(self) -> bool:
        """Whether the target is to lose its storage."""
        return self is not Action.ON


class Known(NamedTuple):
    """What could be read of a request, good or not: enough for an answer if `request_id` is there."""

    request_id: str = ""
    target_node: str = ""
    action: str = ""
    recorder_node: str = ""


class InvalidRequest(Invalid):
    """A request that breaks the contract. `known` holds what is good in it, for a failure response."""

    def __init__(self, reason: str, known: Known) -> None:
        super().__init__(reason)
        self.known = known


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as its file has it."""

    name: str
    """The file's name, and that of the response."""
    request_id: str
    action: Action
    target_node: str
    written: float
    """Seconds since 1970: the file's mtime."""
    dated: float
    """Seconds since 1970: its timestamp, or the mtime if it has none."""
    filesystems: tuple[str, ...] = ()
    recorder_node: str = ""
    timeout_s: float | None = None
    """Seconds that the agent waits, counted from the request's date."""
    unknown: Mapping[str, Any] = field(default_factory=dict)
    """Keys that the contract does not know; for the audit log."""

    def __str__(self) -> str:
        """Return one line of printable ASCII for logs."""
        return (
            f"request {self.name}: {self.action.value} {quoted(self.target_node)} id {quoted(self.request_id)}"
            f" from {quoted(self.recorder_node)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data for the audit log. Texts are as they were; JSON escapes them."""
        return {
            "file": self.name,
            "request_id": self.request_id,
            "action": self.action.value,
            "target_node": self.target_node,
            "written": self.written,
            "dated": self.dated,
            "gfs2_filesystems": list(self.filesystems),
            "recorder_node": self.recorder_node,
            "timeout_s": self.timeout_s,
            "unknown": dict(self.unknown),
        }


class Age(NamedTuple):
    """How old a request is, and what follows from that."""

    seconds: float
    """By whichever of timestamp, mtime and our own watch shows it oldest; never negative."""
    remaining: float
    """Seconds during which it may still be acted upon; never negative."""
    expired: str
    """Why it must not be acted upon any more; empty: it may."""


def parse(name: str, data: bytes, mtime: float) -> Request:
    """Return the request in a file's content. Raises Malformed (perhaps half written) and InvalidRequest."""
    document = json_strict.parse(data)
    try:
        dated = _timestamp(document.get("timestamp"), mtime)
        return Request(
            name=name,
            request_id=_matching(document, "request_id", _REQUEST_ID),
            action=_action(document.get("action")),
            target_node=_matching(document, "target_node", _NODE),
            written=mtime,
            dated=dated,
            filesystems=_texts(document.get("gfs2_filesystems")),
            recorder_node=_text(document, "recorder_node"),
            timeout_s=_seconds(document.get("timeout_s")),
            unknown={key: value for key, value in document.items() if key not in _KNOWN},
        )
    except Invalid as error:
        raise InvalidRequest(error.reason, _known(document)) from None


def judge(request: Request, now: float, max_age: float = MAX_REQUEST_AGE, seen_for: float = 0.0) -> Age:
    """Say whether a request may still be acted upon.

    `now` is seconds since 1970; `max_age` seconds; `seen_for` the seconds of a monotonic clock since it was first
    seen. A clock that was set, here or at the writer, can make a request look young but not by all three measures
    for long; one that is dated in the future by timestamp and mtime is not acted upon, its age being unknown.
    """
    by_clock = max(now - request.dated, now - request.written)
    seconds = max(by_clock, seen_for, 0.0)
    limit = max_age if request.timeout_s is None else min(max_age, request.timeout_s)
    if not math.isfinite(seconds):
        return Age(0.0, 0.0, "expired: its age is not known")
    if by_clock < -CLOCK_TOLERANCE:
        return Age(seconds, 0.0, f"expired: dated {-by_clock:.0f} s in the future, so its age is not known")
    if seconds >= limit:
        whose = "max_request_age_s" if limit == max_age else "its own timeout_s"
        return Age(seconds, 0.0, f"expired: {seconds:.0f} s old, and {whose} is {limit:g} s")
    return Age(seconds, limit - seconds, "")


def _known(document: Mapping[str, Any]) -> Known:
    """Return what is good in a bad request; what is not is left empty."""

    def good(key: str, pattern: re.Pattern[str]) -> str:
        value = document.get(key)
        return value if isinstance(value, str) and pattern.fullmatch(value) else ""

    action = document.get("action")
    return Known(
        good("request_id", _REQUEST_ID),
        good("target_node", _NODE),
        action if isinstance(action, str) and action in {member.value for member in Action} else "",
        good("recorder_node", _NODE),
    )


def _matching(document: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    if key not in document:
        raise Invalid(f"{key} is missing")
    value = document[key]
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise Invalid(f"{key} is not valid: {quoted(value)}")
    return value


def _action(value: object) -> Action:
    for action in Action:
        if action.value == value:
            return action
    raise Invalid(f"action must be off, reboot or on, is {quoted(value)}")


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Invalid(f"{key} must be text, is {quoted(value)}")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Invalid("gfs2_filesystems must be a list of texts")
    return tuple(value)


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_TIMEOUT:
        shown = value if isinstance(value, float) else quoted(value)
        raise Invalid(f"timeout_s must be more than 0 and at most {MAX_TIMEOUT:g} seconds, is {shown}")
    return float(value)


def _timestamp(value: object, mtime: float) -> float:
    """Return seconds since 1970: RFC 3339, or without an offset in this machine's own time zone."""
    if value is None:
        return mtime
    match = _TIMESTAMP.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Invalid(f"timestamp is not an RFC 3339 time: {quoted(value)}")
    day, minute, second, fraction, offset = match.groups()
    leap = second == "60"
    text = f"{day}T{minute}:{'59' if leap else second}.{(fraction or '0')[:6]:0<6}"
    try:
        if offset is None:
            seconds = _local(datetime.fromisoformat(text), mtime)
        else:
            seconds = datetime.fromisoformat(text + offset.upper().replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):
        raise Invalid(f"timestamp is not a time that exists: {quoted(value)}") from None
    return seconds + leap


def _local(moment: datetime, mtime: float) -> float:
    """Return the instant of a local time. In the hour that occurs twice, the file's mtime decides which."""
    both = [moment.replace(fold=fold).timestamp() for fold in (0, 1)]
    return min(both, key=lambda seconds: abs(seconds - mtime))

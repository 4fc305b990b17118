"""What the watcher answers: the response, the audit line and the line for the logs, from one result."""

from __future__ import annotations

import datetime
import enum
import os
from dataclasses import dataclass, field, replace
from typing import Any, Final

from nvmefence import __version__
from nvmefence.eventlog import Event
from nvmefence.fencing.evidence import FenceReport
from nvmefence.restoring import Ended
from nvmefence.spool.request import Action, Known, Request
from nvmefence.spool.response import Response, timestamp
from nvmefence.watcher import audit, loose, timing
from nvmefence.watcher.desk import Bad, Outgoing

_POWER: Final = " (reboot was asked for: the storage is cut, nobody power-cycled the node)"
_FILESYSTEMS: Final = 64
"""File systems, at most, that the event logs name."""
_UNCHANGED: Final = (
    "Nothing was changed for {node}: agents may not give storage back. "
    "If it was fenced, its storage is still cut and its fence is still on record"
)


class Result(enum.Enum):
    """How a request ended; the word in the audit."""

    FENCED = "fenced"
    NOT_FENCED = "not-fenced"
    EXPIRED = "expired"
    UNKNOWN_HOST = "unknown-host"
    REFUSED = "refused"
    """Well formed, and not to be done now."""
    REJECTED = "rejected"
    """Not a request."""
    UNCHANGED = "unchanged"
    """An `on` that succeeded without touching a drive."""
    RESTORED = "restored"
    """An `on` after which the host has everything again that is on record."""
    NOT_RESTORED = "not-restored"


SUCCESS: Final = frozenset({Result.FENCED, Result.UNCHANGED, Result.RESTORED})


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's end."""

    result: Result
    outgoing: Outgoing
    request: Request | None
    known: Known
    message: str
    times: dict[str, float] = field(default_factory=dict)
    """Seconds: waited (from its date to its reading), discovery, fence, total (from its reading)."""
    evidence: Any = None
    moments: dict[str, float] = field(default_factory=dict)
    """Monotonic times on the way out: audited, visible, durable."""

    @property
    def target(self) -> str:
        """The node that it is about, as the request names it; may be empty."""
        return self.known.target_node

    def audit_line(self, now: float) -> bytes:
        """Return the audit line. `now` is seconds since 1970."""
        response = self.outgoing.response
        visible = None
        if response is not None:
            visible = {k: v for k, v in response.to_json().items() if k != "evidence"}
        return audit.line(
            {
                "time": precise(now),
                "event": "answer",
                "result": self.result.value,
                "file": self.outgoing.name,
                "target_node": self.target,
                "message": self.message,
                "request": None if self.request is None else self.request.to_json(),
                "response": visible,
                "times": {name: round(value, 6) for name, value in self.times.items()},
                "watcher": watcher(),
                "evidence": self.evidence,
            }
        )

    def event(self) -> Event:
        """Return the event for the logs."""
        good = self.result in SUCCESS
        return Event(
            "INFO" if good else "ERROR",
            self.known.action or "-",
            self.target or "-",
            self.result.value,
            self.message,
            request_id=self.known.request_id or "-",
            recorder=self.known.recorder_node,
            filesystems=self._filesystems,
            timeline=self._way_out(),
        )

    def _way_out(self) -> dict[str, str | float] | None:
        """Return what came too late for a response that tells when what happened."""
        response = self.outgoing.response
        if response is None or response.timeline is None:
            return None
        return timing.after(self.moments)

    @property
    def _filesystems(self) -> list[str]:
        """As many as a log should name."""
        named = () if self.request is None else self.request.filesystems
        return [loose.text(one) for one in named[:_FILESYSTEMS]]

    def until(self, moment: float) -> Answer:
        """Return it so that it is not said after that moment (monotonic seconds), if it says that a host is cut."""
        if self.result is not Result.FENCED:
            return self
        return replace(self, outgoing=self.outgoing._replace(until=moment))

    def too_late(self, now: float) -> Answer:
        """Return what is said instead where it could not be said in time. `now` is seconds since 1970.

        Whoever asked has given up by then, and the host may have been readmitted since it was cut.
        """
        if self.request is None:
            return self
        mark = "SIMULATED: " if self.message.startswith("SIMULATED: ") else ""
        message = (
            f"{mark}NOT fenced {self.target}: it was cut, but the request's time was over before that could be "
            "said, and it may have been readmitted since"
        )
        answer = to_request(self.request, Result.EXPIRED, message, now, times=self.times)
        return replace(answer, evidence=self.evidence)  # for the audit alone: the response is about what is so now

    def light(self) -> Answer:
        """Return it without what only the audit needs, which can be a thousand times as much as the rest."""
        request = self.request
        if request is not None:
            request = replace(request, unknown={}, filesystems=tuple(self._filesystems))
        return replace(self, request=request, evidence=None)


def watcher() -> dict[str, Any]:
    """Return who writes."""
    return {"host": os.uname().nodename, "pid": os.getpid(), "version": __version__}


def precise(now: float) -> str:
    """Return seconds since 1970 as RFC 3339 in UTC, to the millisecond."""
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_request(
    request: Request,
    result: Result,
    message: str,
    now: float,
    *,
    times: dict[str, float] | None = None,
    evidence: Any = None,
    timeline: Any = None,
) -> Answer:
    """Return the answer to a well-formed request; only what `SUCCESS` has is success."""
    response = Response(
        request_id=request.request_id,
        success=result in SUCCESS,
        action_performed=request.action.value,
        target_node=request.target_node,
        message=message,
        timestamp=timestamp(now),
        recorder_node=request.recorder_node,
        evidence=evidence,
        timeline=timeline,
    )
    known = Known(request.request_id, request.target_node, request.action.value, request.recorder_node)
    moments: dict[str, float] = {}
    outgoing = Outgoing(request.name, response, moments=moments)
    return Answer(result, outgoing, request, known, message, times or {}, evidence, moments)


def fenced_or_not(
    request: Request,
    host: str,
    report: FenceReport | None,
    defect: str,
    now: float,
    times: dict[str, float],
    mark: str = "",
    unrecorded: str = "",
    timeline: Any = None,
) -> Answer:
    """Return the answer to a fence, from its report; without one nothing is confirmed, for `defect`.

    `mark` goes before the message where there is no report to say it. `unrecorded` is why what was taken is not on
    record; the audit has it all the same. `timeline` is what the response says of the time, see `timing`.
    """
    if report is None:
        message = f"{mark}NOT fenced {host}: {defect}"
        return to_request(request, Result.NOT_FENCED, message, now, times=times, timeline=timeline)
    confirmed = report.confirmed(host)
    message = report.message(host)
    if confirmed and request.action is Action.REBOOT:
        message += _POWER
    if unrecorded:
        message += f" (what was taken is not on record for a restore: {unrecorded})"
    result = Result.FENCED if confirmed else Result.NOT_FENCED
    evidence = report.to_json(host)
    return to_request(request, result, message, now, times=times, evidence=evidence, timeline=timeline)


def unchanged(request: Request, now: float, mark: str = "") -> Answer:
    """Return the answer to an `on` while agents may not give storage back. `mark` goes before the message."""
    return to_request(request, Result.UNCHANGED, mark + _UNCHANGED.format(node=request.target_node), now)


def restored_or_not(request: Request, ended: Ended, now: float, times: dict[str, float]) -> Answer:
    """Return the answer to an `on` that was to give storage back; a success only if all of it was."""
    result = Result.RESTORED if ended.complete else Result.NOT_RESTORED
    evidence = None if ended.report is None else ended.report.to_json()
    return to_request(request, result, ended.message(), now, times=times, evidence=evidence)


def to_bad(bad: Bad, now: float, mark: str = "") -> Answer:
    """Return what becomes of a file that is no request; it gets a response if it says whom that is for.

    `mark` goes before the message.
    """
    known = bad.known
    message = f"{mark}The request {bad.name} is rejected: {bad.reason}"
    response = None
    if known.request_id:
        response = Response(
            request_id=known.request_id,
            success=False,
            action_performed=known.action or "none",
            target_node=known.target_node,
            message=message,
            timestamp=timestamp(now),
            recorder_node=known.recorder_node,
        )
    return Answer(Result.REJECTED, Outgoing(bad.name, response, reject=bad.reason), None, known, message)

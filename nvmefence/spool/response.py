"""A response: what the watcher says, and what the agent may believe."""

from __future__ import annotations

import time

from nvmefence.spool import json_strict
from nvmefence.spool.errors import Invalid, NotThisRequest
from nvmefence.spool.names import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

RESPONSE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes. Larger than a request's limit, because the evidence names every namespace of every drive."""
SIMULATED: Final = "SIMULATED: "
"""How a message begins that is about emulated drives."""
_TEXTS: Final = ("request_id", "action_performed", "target_node", "message", "timestamp")


class Response:
    """One response. `success` is a bool and nothing that could be taken for one."""

    __slots__ = (
        "action", "action_performed", "evidence", "message", "recorder_node", "request_id", "success",
        "target_node", "timeline", "timestamp",
    )  # fmt: skip

    def __init__(
        self,
        *,
        request_id: str,
        success: bool,
        action_performed: str,
        target_node: str,
        message: str,
        timestamp: str,
        action: str = "",
        recorder_node: str = "",
        evidence: Any = None,
        timeline: Any = None,
    ) -> None:
        if success is not True and success is not False:
            raise TypeError("success must be True or False")
        self.request_id = request_id
        self.success: bool = success
        self.action_performed = action_performed
        self.target_node = target_node
        self.message = message
        self.timestamp = timestamp
        """RFC 3339."""
        self.action = action or action_performed
        """What was asked for."""
        self.recorder_node = recorder_node
        self.evidence = evidence
        """Plain data; None: there is none."""
        self.timeline = timeline
        """Plain data: when what happened on the way to this response; None: nobody says."""

    @property
    def simulated(self) -> bool:
        """Whether it is about emulated drives, so that no node has lost anything."""
        return self.message.startswith(SIMULATED)

    @property
    def status(self) -> str:
        """The word that the NNF node manager reads."""
        return "success" if self.success else "error"

    def to_json(self) -> dict[str, Any]:
        """Return plain data: the six fields of the contract, and those beside them."""
        times = {} if self.timeline is None else {"timeline": self.timeline}
        return {
            "request_id": self.request_id,
            "success": self.success,
            "action_performed": self.action_performed,
            "target_node": self.target_node,
            "message": self.message,
            "timestamp": self.timestamp,
            "action": self.action,
            "recorder_node": self.recorder_node,
            "status": self.status,
            **times,
            "evidence": {} if self.evidence is None else self.evidence,
        }

    def encode(self) -> bytes:
        """Return the file's content. Evidence that no reader would accept for its size is left out, and says so."""
        document = self.to_json()
        data = json_strict.encode(document)
        if len(data) > RESPONSE_LIMIT:
            document["evidence"] = {"omitted": f"too large ({len(data)} bytes)"}
            data = json_strict.encode(document)
        return data


def parse(data: bytes) -> Response:
    """Return the response that a file holds. Raises Malformed and Invalid."""
    document = json_strict.parse(data)
    for key in _TEXTS:
        if not isinstance(document.get(key), str):
            raise Invalid(f"{key} must be text, is {quoted(document.get(key))}")
    success = document.get("success")
    if success is not True and success is not False:
        raise Invalid(f"success must be true or false, is {quoted(success)}")
    if success and document.get("status", "success") != "success":
        raise Invalid(f"success is true and status is {quoted(document['status'])}")
    return Response(
        success=success,
        **{key: document[key] for key in _TEXTS},
        action=_text_or_none(document, "action"),
        recorder_node=_text_or_none(document, "recorder_node"),
        evidence=document.get("evidence"),
        timeline=document.get("timeline"),
    )


def answer_to(data: bytes, request_id: str, target_node: str) -> Response:
    """Return the response if it answers this request for this node; its `success` may be believed then.

    Raises Malformed (perhaps half written: read again), Invalid, and NotThisRequest.
    """
    response = parse(data)
    if response.request_id != request_id:
        raise NotThisRequest(f"the response is for the request {quoted(response.request_id)}")
    if response.target_node != target_node:
        raise NotThisRequest(f"the response is for the node {quoted(response.target_node)}")
    return response


def timestamp(now: float) -> str:
    """Return seconds since 1970 as RFC 3339 in UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))


def _text_or_none(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""

"""One hostile text at a time through parser, judge, answer, logs and audit: what must hold of each."""

from __future__ import annotations

import io
import json
import random
from typing import Any, Final

from nvmefence.agents import waiting
from nvmefence.cli import explain as page
from nvmefence.cli.text import Screen
from nvmefence.eventlog import Event
from nvmefence.plain import escaped
from nvmefence.spool import json_strict, request, response
from nvmefence.spool.errors import Invalid, Malformed, NotThisRequest
from nvmefence.spool.request import CLOCK_TOLERANCE, MAX_REQUEST_AGE, InvalidRequest, Known, Request
from nvmefence.watcher import answers, verdict
from nvmefence.watcher.answers import Answer, Result
from nvmefence.watcher.desk import Bad
from nvmefence.watcher.journal import Journal
from nvmefence.watcher.verdict import Verdict
from tests.fuzz.texts import ID, NODE, Fate, Requests, Responses, Text

NOW: Final = 1_800_000_000.0
NAME: Final = "hostile.json"
STYLES: Final = ("journal", "terminal", "plain", "json")
_WRITTEN: Final = (0.0, -3.0, 20.0)
"""Seconds from NOW to when a request's file was written."""
LINE_LIMIT: Final = 15_500
"""Characters that the agent may say to Pacemaker's log at most."""
_MAY_BE: Final = {
    Fate.GOOD: ("taken",),
    Fate.MALFORMED: ("malformed",),
    Fate.INVALID: ("invalid",),
    Fate.EXPIRED: ("expired",),
    Fate.STRANGER: ("taken", "expired"),
    Fate.ANY: ("malformed", "invalid", "expired", "taken"),
}


def make_request(seed: int, number: int) -> Text:
    """Return the request that a number stands for."""
    return Requests(random.Random(seed << 40 | number), NOW).any()


def make_response(seed: int, number: int) -> Text:
    """Return the response that a number stands for."""
    return Responses(random.Random(seed << 40 | number)).any()


def request_holds(text: Text, number: int) -> str:
    """Check what becomes of a request, and return how it ended. Raises AssertionError, or anything."""
    return judge_request(text, NOW + _WRITTEN[number % len(_WRITTEN)], STYLES[number & 3])


def response_holds(text: Text, number: int) -> str:
    """Do as `request_holds` with a response."""
    return judge_response(text, logged=number % 2 == 0, shown=number % 8 == 0)


def judge_request(text: Text, mtime: float, style: str) -> str:
    """Read a request as the watcher does, and answer it. Returns how it ended."""
    document = strict(text.data)
    try:
        parsed = request.parse(NAME, text.data, mtime)
    except Malformed as error:
        assert document is None, "refused as malformed, and it is not"
        end, answer = "malformed", answers.to_bad(Bad(NAME, error.reason, Known()), NOW)
        printable(error.reason)
    except InvalidRequest as error:
        assert document is not None, "believed to be JSON, and it is not"
        bad = Bad(NAME, error.reason, error.known)
        end, answer = "invalid", answers.to_bad(bad, NOW)
        printable(bad.reason)
        assert all(value in ("", document.get(key)) for key, value in bad.known._asdict().items())
    else:
        assert document is not None, "believed to be JSON, and it is not"
        end, answer = _taken(parsed, document, mtime)
    assert end in _MAY_BE[text.fate], f"{text.fate.value}, and taken for {end}"
    assert answer.outgoing.response is None or answer.outgoing.response.success is False
    if end != "malformed" or style == STYLES[0]:  # what is said of those says little of their content
        is_said_in_one_line(answer, style, text.data)
    return end


def _taken(parsed: Request, document: dict[str, Any], mtime: float) -> tuple[str, Answer]:
    """Check that a request says what its file says, and that it is young if it is to be acted upon."""
    assert parsed.request_id == document["request_id"]
    assert parsed.target_node == document["target_node"]
    assert parsed.action.value == document["action"]
    printable(parsed.request_id + parsed.target_node + str(parsed))
    age = request.judge(parsed, NOW)
    printable(age.expired)
    if age.expired:
        assert age.remaining == 0.0
        return "expired", answers.to_request(parsed, Result.EXPIRED, f"Nothing was done: {age.expired}", NOW)
    limit = min(MAX_REQUEST_AGE, document.get("timeout_s") or MAX_REQUEST_AGE)
    assert parsed.written == mtime
    assert max(NOW - parsed.dated, NOW - mtime) < limit
    assert max(NOW - parsed.dated, NOW - mtime) >= -CLOCK_TOLERANCE
    assert 0.0 < age.remaining <= limit
    return "taken", answers.to_request(parsed, Result.UNKNOWN_HOST, "Nothing was done: no such host", NOW)


def judge_response(text: Text, *, logged: bool, shown: bool) -> str:
    """Read a response as agent, watcher and `explain` do. Returns how it ended.

    `logged` and `shown`: check as well what goes to the logs, and the page that `explain` prints.
    """
    document = strict(text.data)
    true = (
        document is not None
        and (document.get("request_id"), document.get("target_node")) == (ID, NODE)
        and document.get("success") is True
        and document.get("status", "success") == "success"
    )
    verdicts = (_by_agent(text.data, logged), _by_spool(text.data))
    for believed in verdicts:
        assert true or not believed, "taken for a success, and it is none"
        assert believed or text.fate is not Fate.GOOD, "a true success is not believed"
        assert not believed or text.fate in (Fate.GOOD, Fate.ANY), f"{text.fate.value}, and taken for a success"
    if document is not None:
        _explained(text.data, shown)
    return "success" if verdicts[0] else "no success"


def _by_agent(data: bytes, logged: bool) -> bool:
    """Whether the agent takes it for the success of its fence; what it says of it is one short line."""
    try:
        made = waiting.judge(json_strict.parse(data), ID, NODE)
    except Malformed as error:
        printable(error.reason)
        return False
    complaint = escaped(f"off of {NODE} is not confirmed: {made.details}")
    assert complaint.isprintable()
    assert len(complaint) <= LINE_LIMIT, f"{len(complaint)} characters for Pacemaker's log"
    if logged:
        lines_hold(
            Event("ERROR", "off", NODE, made.status, made.details, request_id=ID, recorder="r1", filesystems=[])
        )
    return made.confirmed


def _by_spool(data: bytes) -> bool:
    try:
        return response.answer_to(data, ID, NODE).success
    except (Malformed, Invalid, NotThisRequest) as error:
        printable(error.reason)
        return False


def _explained(data: bytes, shown: bool) -> None:
    """Check that no evidence, whatever it holds, breaks `explain` or is taken for a proof that it is not."""
    try:
        answer = response.parse(data)
    except (Malformed, Invalid):
        return
    made = verdict.explain(answer)
    json.dumps(made.to_json(), allow_nan=False)
    if made.verdict is Verdict.FENCED:
        assert answer.success
        assert answer.evidence["confirmed"] is True
        assert answer.evidence["drives"]
        assert all(drive.confirmed for drive in made.drives)
    if shown:
        out = io.StringIO()
        page._print(made, NAME, Screen(out, io.StringIO()))
        assert all(line.isprintable() for line in out.getvalue().split("\n"))


def is_said_in_one_line(answer: Answer, style: str, raw: bytes) -> None:
    """Check every place that an answer goes to; in the journal, with some of the raw text beside it."""
    audit = answer.audit_line(NOW)
    one_line(audit)
    assert json.loads(audit)["file"] == NAME
    if style in ("journal", "json"):
        lines_hold(answer.event())
    said: list[str] = []
    Journal(said.append, style).warning(f"{answer.message} ({raw[:100].decode(errors='replace')})", file=NAME)
    (line,) = said
    assert line.endswith("\n")
    printable_line(line[:-1], style)
    if answer.outgoing.response is not None:
        data = answer.outgoing.response.encode()
        one_line(data)
        assert response.parse(data).to_json() == answer.outgoing.response.to_json()


def lines_hold(event: Event) -> None:
    """Check the lines of the three logs."""
    plain, readable, detailed = event.lines()
    assert plain.isprintable()
    assert readable.isprintable()
    assert detailed.isascii()
    assert detailed.isprintable()
    assert json.loads(detailed)["request_id"] == event.request_id


def printable_line(text: str, style: str) -> None:
    """Check a line of the journal; a terminal's may be in colour."""
    if style == "terminal":
        assert text.count("\x1b") in (0, 2)
        if text.startswith("\x1b"):
            text = text[text.index("m") + 1 : -len("\x1b[0m")]
    assert text.isprintable(), f"in the journal: {text!a}"
    if style == "json":
        assert json.loads(text)["file"] == NAME


def one_line(data: bytes) -> None:
    """Check that this is one line of printable ASCII and its end."""
    text = data.decode("ascii")
    assert text.endswith("\n")
    assert text[:-1].isprintable()


def printable(text: str) -> None:
    """Check a text that goes to a log or a terminal as it is."""
    assert text.isascii()
    assert text.isprintable()


def strict(data: bytes) -> dict[str, Any] | None:
    """What may be believed of a text by another way than the product's: one object without traps, else None."""
    try:
        document = json.loads(data.decode(), object_pairs_hook=_pairs, parse_constant=_refuse)
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
        return document if isinstance(document, dict) and _depth(document) <= json_strict.MAX_DEPTH else None
    except (ValueError, RecursionError):
        return None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("twice")
    return dict(pairs)


def _refuse(word: str) -> Any:
    raise ValueError(word)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0

"""Requests of every dialect are understood, everything else is refused, and an old one is not acted upon."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from nvmefence.spool import request
from nvmefence.spool.errors import Malformed
from nvmefence.spool.request import Action, InvalidRequest, Known, Request, judge

ID = "550e8400-e29b-41d4-a716-446655440000"
FOUNDING: dict[str, Any] = {
    "request_id": ID,
    "timestamp": "2025-10-20T14:30:00Z",
    "action": "reboot",
    "target_node": "compute-node-3",
    "gfs2_filesystems": ["lustre-fs1", "gfs2-storage"],
    "recorder_node": "rabbit-node-1",
}
WRITTEN = 1760970600.0
"""2025-10-20T14:30:00Z."""

WRONG: tuple[Any, ...] = (1, True, {}, ["\n", 1])


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "EST5EDT,M3.2.0,M11.1.0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def parsed(mtime: float = WRITTEN, **changes: Any) -> Request:
    return request.parse("x.json", json.dumps(FOUNDING | changes).encode(), mtime)


def test_the_founding_document_s_request_is_understood() -> None:
    assert parsed() == Request(
        "x.json", ID, Action.REBOOT, "compute-node-3", WRITTEN, WRITTEN, ("lustre-fs1", "gfs2-storage"),
        "rabbit-node-1",
    )  # fmt: skip


def test_what_is_optional_may_be_absent_or_null() -> None:
    few = {key: FOUNDING[key] for key in ("request_id", "action", "target_node")}
    expected = Request("x.json", ID, Action.REBOOT, "compute-node-3", 5.0, 5.0)
    assert request.parse("x.json", json.dumps(few).encode(), 5.0) == expected
    none = dict.fromkeys(("timestamp", "gfs2_filesystems", "recorder_node", "timeout_s"))
    assert request.parse("x.json", json.dumps(few | none).encode(), 5.0) == expected


@pytest.mark.parametrize("key", ["request_id", "action", "target_node"])
def test_what_is_required_may_not_be_absent(key: str) -> None:
    document = {name: value for name, value in FOUNDING.items() if name != key}
    with pytest.raises(InvalidRequest, match=key):
        request.parse("x.json", json.dumps(document).encode(), WRITTEN)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(key, value) for key in FOUNDING for value in WRONG],
        *[(key, "\0") for key in FOUNDING if key != "recorder_node"],
        ("request_id", ""), ("request_id", None), ("request_id", "a b"), ("request_id", "x" * 129),
        ("request_id", "é"), ("request_id", "x\n"),
        ("action", "Off"), ("action", ""), ("action", "status"), ("action", None),
        ("target_node", ""), ("target_node", None), ("target_node", "../x"), ("target_node", "-rf"),
        ("target_node", "a\n"), ("target_node", "$(reboot)"), ("target_node", "x" * 254),
        ("timeout_s", 0), ("timeout_s", -1), ("timeout_s", True), ("timeout_s", "60"), ("timeout_s", 86401),
        ("timeout_s", 10**400), ("gfs2_filesystems", "a"), ("gfs2_filesystems", [None]),
    ],
)  # fmt: skip
def test_a_wrong_type_or_value_is_invalid_and_shown_escaped(key: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=key) as caught:
        parsed(**{key: value})
    assert caught.value.reason.isascii()
    assert caught.value.reason.isprintable()


def test_what_is_good_in_a_bad_request_is_known_for_the_answer() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(target_node="a\nb")
    assert caught.value.known == Known(ID, "", "reboot", "rabbit-node-1")
    with pytest.raises(InvalidRequest) as caught:
        parsed(request_id=7, action=["off"])
    assert caught.value.known == Known("", "compute-node-3", "", "rabbit-node-1")


def test_half_a_request_is_malformed() -> None:
    whole = json.dumps(FOUNDING).encode()
    for length in range(len(whole)):
        with pytest.raises(Malformed):
            request.parse("x.json", whole[:length], WRITTEN)


def test_unknown_keys_are_kept_for_the_audit_log() -> None:
    kept = parsed(extra={"a": 1}, timeout_s=60)
    assert kept.unknown == {"extra": {"a": 1}}
    assert kept.timeout_s == 60.0
    assert json.loads(json.dumps(kept.to_json()))["unknown"] == {"extra": {"a": 1}}


def test_a_request_is_logged_in_printable_ascii() -> None:
    line = str(parsed(recorder_node="\x1b[31m\n\u202eé", request_id="'\"\\"))
    assert line.isascii()
    assert line.isprintable()
    assert "compute-node-3" in line


@pytest.mark.parametrize("action", list(Action))
def test_every_action_but_on_fences(action: Action) -> None:
    assert parsed(action=action.value).action is action
    assert action.fences is (action.value in ("off", "reboot"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2025-10-20T14:30:00Z", WRITTEN),
        ("2025-10-20t14:30:00z", WRITTEN),
        ("2025-10-20 14:30:00+00:00", WRITTEN),
        ("2025-10-20T08:30:00.5-06:00", WRITTEN + 0.5),
        ("2025-10-20T14:30:00.123456789Z", WRITTEN + 0.123456),
        ("2026-01-06T14:30:00.123456-06:00", 1767731400.123456),
        ("2016-12-31T23:59:60Z", 1483228800),
        ("2025-10-20T10:30:00", WRITTEN),
        ("2025-10-20T10:30:00.25", WRITTEN + 0.25),
        ("2026-01-06T15:30:00", 1767731400),
    ],
)
@pytest.mark.usefixtures("new_york")
def test_every_timestamp_in_the_field_is_understood(text: str, seconds: float) -> None:
    assert parsed(timestamp=text).dated == pytest.approx(seconds, abs=2e-6)


@pytest.mark.parametrize("mtime", [1762061400.0, 1762065000.0])
@pytest.mark.usefixtures("new_york")
def test_in_the_hour_that_occurs_twice_the_mtime_decides(mtime: float) -> None:
    assert parsed(timestamp="2025-11-02T01:30:00", mtime=mtime + 0.2).dated == mtime


@pytest.mark.parametrize(
    "text",
    ["", "now", "2025-10-20", "20251020T143000Z", "2025-W43-1T14:30:00Z", "2025-13-20T14:30:00Z",
     "2025-02-30T14:30:00Z", "2025-10-20T25:30:00Z", "2025-10-20T14:30:61Z", "2025-10-20T14:30:00+99:00",
     "2025-10-20T14:30:00Z ", "2025-10-20T14:30:00Z\n", "٢٠٢٥-10-20T14:30:00Z", "1760970600",
     "0000-01-01T00:00:00"],
)  # fmt: skip
def test_what_is_no_timestamp_is_invalid(text: str) -> None:
    with pytest.raises(InvalidRequest, match="timestamp") as caught:
        parsed(timestamp=text)
    assert caught.value.known.request_id == ID


def test_a_fresh_request_has_the_rest_of_its_time() -> None:
    assert judge(parsed(), WRITTEN + 10) == (10.0, 290.0, "")
    assert judge(parsed(timeout_s=60), WRITTEN + 10) == (10.0, 50.0, "")
    assert judge(parsed(timeout_s=600), WRITTEN + 10, max_age=100) == (10.0, 90.0, "")


@pytest.mark.parametrize(
    ("age", "timeout", "expired"),
    [(299.9, None, False), (300, None, True), (59.9, 60, False), (60, 60, True), (300, 600, True), (1e9, 60, True)],
)
def test_a_request_past_its_time_is_expired(age: float, timeout: float | None, expired: bool) -> None:
    judged = judge(parsed(timeout_s=timeout), WRITTEN + age)
    assert bool(judged.expired) is expired
    assert (judged.remaining == 0.0) is expired


@pytest.mark.parametrize(
    ("dated", "written", "seen_for"), [(-400, 0, 0), (0, -400, 0), (0, 0, 400), (100, -400, 0), (-400, 9999, 0)]
)
def test_the_oldest_of_timestamp_mtime_and_our_own_watch_counts(
    dated: float, written: float, seen_for: float
) -> None:
    sample = replace(parsed(), dated=WRITTEN + dated, written=WRITTEN + written)
    judged = judge(sample, WRITTEN, seen_for=seen_for)
    assert judged.seconds == 400
    assert judged.expired


def test_a_request_from_the_future_is_not_acted_upon() -> None:
    assert not judge(parsed(), WRITTEN - 29).expired
    assert judge(parsed(), WRITTEN - 29).remaining == 300
    assert "future" in judge(parsed(), WRITTEN - 31).expired


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf])
def test_a_clock_that_says_nothing_lets_nothing_through(now: float) -> None:
    assert judge(parsed(), now).expired

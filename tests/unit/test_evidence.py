"""Evidence: what counts as confirmed, and what is said of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest

from nvmefence.fencing.evidence import DriveEvidence, FenceReport, Outcome, Sent

ONE = {"a": (3, 4)}


def drive(serial: str = "S1", **facts: Any) -> DriveEvidence:
    given: dict[str, Any] = {"targets": ONE, "remaining": {}, "quiesced": {"a"}, "hosts": ("a",)} | facts
    return DriveEvidence(serial, f"nqn.{serial}", "M", **given)


def sent(nsid: int, *controllers: int, status: int = 0) -> Sent:
    return Sent(nsid, controllers, status, 0.0, 0.0)


def report(*drives: DriveEvidence, missing: Sequence[str] = (), hosts: Sequence[str] = ("a",)) -> FenceReport:
    return FenceReport(tuple(hosts), drives, missing, "ioctl", "2026-01-01T00:00:00.000Z", 0.25, False)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, Outcome.ALREADY),
        ({"sent": [sent(1, 3, 4)]}, Outcome.CUT),
        ({"sent": [sent(1, 4, status=0x11A)]}, Outcome.CUT),
        ({"sent": [sent(1, 9)]}, Outcome.ALREADY),
        ({"remaining": {1: (9,)}}, Outcome.ALREADY),
        ({"remaining": {1: (9, 4)}}, Outcome.ATTACHED),
        ({"remaining": {1: (4,)}, "sent": [sent(1, 3, 4), sent(2, 3)]}, Outcome.ATTACHED),
        ({"remaining": {1: (4,)}, "quiesced": {"b"}}, Outcome.ATTACHED),
        ({"remaining": None}, Outcome.UNKNOWN),
        ({"remaining": None, "sent": [sent(1, 3, 4)]}, Outcome.UNKNOWN),
        ({"quiesced": {"b"}}, Outcome.UNKNOWN),
        ({"quiesced": {"b"}, "sent": [sent(1, 3, 4)]}, Outcome.UNKNOWN),
        ({"targets": {}}, Outcome.UNKNOWN),
        ({"targets": {"a": ()}}, Outcome.UNKNOWN),
        ({"targets": {"b": (3,)}}, Outcome.UNKNOWN),
        ({"refused": {"a": "own"}}, Outcome.REFUSED),
        ({"refused": {"a": "own"}, "targets": {}, "remaining": None}, Outcome.REFUSED),
        ({"refused": {"b": "own"}}, Outcome.ALREADY),
    ],
)
def test_outcome_of_a_host_on_a_drive(facts: dict[str, Any], expected: Outcome) -> None:
    evidence = drive(**facts)
    assert evidence.outcome("a") is expected
    assert expected.confirmed == (expected in (Outcome.CUT, Outcome.ALREADY))
    assert (evidence.reason("a") == "") == expected.confirmed


def test_every_part_of_the_proof_is_needed() -> None:
    """Of all combinations only the one with everything is confirmed."""
    parts = itertools.product(({}, {"a": (3,)}), (None, {}, {1: (3,)}), (set(), {"a"}), ({}, {"a": "no"}))
    confirmed = [
        (targets, remaining, quiesced, refused)
        for targets, remaining, quiesced, refused in parts
        if drive(targets=targets, remaining=remaining, quiesced=quiesced, refused=refused).outcome("a").confirmed
    ]
    assert confirmed == [({"a": (3,)}, {}, {"a"}, {})]


GOOD, BAD = drive("S1"), drive("S2", remaining=None)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (report(GOOD), True),
        (report(GOOD, BAD), False),
        (report(GOOD, missing=["drive S9"]), False),
        (report(), False),
        (report(missing=["1 of 1 drives"]), False),
        (report(GOOD, hosts=["b"]), False),
    ],
)
def test_host_is_confirmed_only_on_all_expected_drives(result: FenceReport, expected: bool) -> None:
    assert result.confirmed("a") is expected
    assert result.message("a").startswith("Fenced a: " if expected else "NOT fenced a (")
    assert result.to_json("a")["confirmed"] is expected


def test_what_was_taken_counts_pairs_that_are_gone() -> None:
    evidence = drive(sent=[sent(2, 3, 4), sent(1, 3, 9), sent(1, 3)], remaining={2: (4,)})
    assert evidence.detached("a") == {1: (3,), 2: (3,)}
    assert evidence.detached("b") == {}


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"refused": {"a": "controller 3 is this machine's own"}}, "controller 3 is this machine's own"),
        (
            {"remaining": {1: (3,), 2: (9,), 7: (4,)}, "sent": [sent(7, 4, status=0x4006), sent(2, 9, status=2)]},
            "still attached to namespace 1, 7: Internal Error (006h)",
        ),
        ({"remaining": None, "problem": "no answer in 2.0 s"}, "no answer in 2.0 s"),
        ({"remaining": None}, "not confirmed before the deadline"),
    ],
)
def test_reason_says_what_stands_in_the_way(facts: dict[str, Any], reason: str) -> None:
    assert drive(**facts).reason("a") == reason


def test_message_names_drives_reasons_and_numbers() -> None:
    cut = drive("S1", sent=[sent(1, 3, 4), sent(2, 3)])
    assert report(cut, GOOD).message("a") == "Fenced a: detached 3 attachments on 2 drives in 0.250 s"
    assert report(GOOD).message("a") == "Fenced a: already detached on all of 1 drive in 0.250 s"
    failed = report(GOOD, drive("S2", remaining=None, problem="no answer"), missing=["drive S9 missing"]).message(
        "a"
    )
    assert failed == "NOT fenced a (1 of 2 drives cut): drive S9 missing; S2: no answer"
    assert "no expected drive is there" in report().message("a")


def test_message_of_many_failures_stays_short() -> None:
    many = report(*(drive(f"S{n}", remaining=None) for n in range(18)))
    assert "(0 of 18 drives cut): " in many.message("a")
    assert many.message("a").endswith("; and 14 more")


def test_json_of_a_drive_has_fixed_keys_and_every_host() -> None:
    keys = {
        "serial", "nqn", "model", "device", "own_controller", "hosts", "namespaces", "found", "sent", "read_back",
        "identities",
        "problem", "advice", "quiesce", "quiesce_reason", "secondaries", "managed", "escalated", "passes",
        "steps", "seconds",
    }  # fmt: skip
    unread = DriveEvidence("S1", "n", "M", ("a", "b"))
    for evidence in (drive(sent=[sent(1, 3)]), unread):
        plain = json.loads(json.dumps(evidence.to_json()))
        assert set(plain) == keys
    assert set(unread.to_json()["hosts"]) == {"a", "b"}
    assert unread.to_json()["read_back"] is None
    assert unread.to_json()["hosts"]["b"]["outcome"] == "unknown"
    assert drive().to_json()["read_back"] == {}


def test_json_of_a_command_says_what_was_sent_and_answered() -> None:
    plain = Sent(7, (3, 4), 0x411A, 0.5, 0.25).to_json()
    assert plain == {
        "nsid": 7, "controllers": [3, 4], "status": 0x411A, "status_text": "Namespace Not Attached (11Ah)",
        "started_s": 0.5, "seconds": 0.25,
    }  # fmt: skip

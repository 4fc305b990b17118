"""What `explain` makes of a response: only what its evidence shows, and nothing that could steer a terminal."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmefence.cli.explain import explain, ranges
from nvmefence.cli.text import Screen
from nvmefence.errors import Exit, FileError
from nvmefence.fencing.evidence import DriveEvidence, FenceReport, SecondaryEvidence, Sent
from nvmefence.settings import Settings
from nvmefence.spool.response import RESPONSE_LIMIT, Response
from nvmefence.watcher import verdict
from nvmefence.watcher.verdict import Verdict

EVIL = "S\x1b[2J\r\n\x9b31m\u202e\0tail"
KEYS = {
    "exit", "file", "verdict", "statement", "meaning", "advice", "success", "simulated", "request_id", "action",
    "action_performed", "target_node", "host", "recorder_node", "message", "answered_at", "evidence", "backend",
    "started_at", "seconds", "missing", "contradictions", "drives",
}  # fmt: skip


def drive(serial: str = "S1", **facts: Any) -> DriveEvidence:
    given: dict[str, Any] = {
        "hosts": ("c1", "c2"), "targets": {"c1": (3, 4), "c2": (5,)}, "found": {1: (3, 4, 5), 2: (3, 5)},
        "sent": [Sent(1, (3, 4, 5), 0, 0.1, 0.2), Sent(2, (3, 5), 0, 0.1, 0.2)], "remaining": {},
        "quiesced": {"c1", "c2"}, "quiesce": "wait:10", "namespaces": 2, "device": "/dev/nvme0",
        "own_controller": 1, "seconds": {"open": 0.001, "total": 10.5},
    } | facts  # fmt: skip
    return DriveEvidence(serial, f"nqn.{serial}", "M", **given)


def report(*drives: DriveEvidence, missing: tuple[str, ...] = (), simulated: bool = False) -> FenceReport:
    return FenceReport(("c1", "c2"), drives, missing, "ioctl", "2026-01-01T00:00:00.000Z", 10.51, simulated)


def response(evidence: Any = None, success: bool = True, **other: Any) -> dict[str, Any]:
    made = Response(
        request_id="id-1", success=success, action_performed="off", target_node="c1", message="Said",
        timestamp="2026-01-01T00:00:11Z", recorder_node="r1", evidence=evidence,
    )  # fmt: skip
    return made.to_json() | other


def of(made: FenceReport, success: bool | None = None) -> dict[str, Any]:
    return response(made.to_json("c1"), made.confirmed("c1") if success is None else success)


def shown(
    tmp_path: Path, document: Any, *, as_json: bool = False, given: str = "", directory: str = "/none"
) -> tuple[int, str]:
    path = tmp_path / "response.json"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    out = io.StringIO()
    arguments = argparse.Namespace(response=given or str(path), json=as_json, timeline=False, all=False, svg="")
    code = explain(arguments, Settings(response_dir=directory), Screen(out, io.StringIO()))
    return code, out.getvalue()


def test_success_says_what_was_proven_drive_by_drive(tmp_path: Path) -> None:
    code, text = shown(tmp_path, of(report(drive(), drive("S2"))))
    lines = text.splitlines()
    assert code == 0
    assert lines[0] == "c1 is fenced: cut from all of 2 expected drives"
    assert "read-back after the last detach showed none of c1's controllers" in lines[1]
    row = next(line for line in lines if line.startswith("S1 ")).split("  ")
    assert [cell.strip() for cell in row if cell] == [
        "S1", "/dev/nvme0 (controller 1)", "cut", "3,4", "namespace 1; 2 (controller 3)",
        "namespace 1; 2 (controller 3)", "not attached", "wait:10: met",
    ]  # fmt: skip
    assert "Commands to detach it: 4, with success: 4." in lines
    assert any(line.startswith("S1     1.0 ms") and line.endswith("10.50 s") for line in lines)
    assert "asked     off of c1, by r1, request id-1" in lines
    assert "What to do" not in text
    assert "SIMULATED" not in text


def test_failure_names_drives_reasons_and_what_to_do(tmp_path: Path) -> None:
    bad = drive("BAD", remaining={1: (3,)}, sent=[Sent(1, (3, 4, 5), 0x11A, 0.0, 0.0)], quiesced={"c2"})
    bad.problem, bad.advice = "trouble", "pull it"
    other = drive("OTHER", remaining=None, problem="no answer in 3.0 s", advice="power it off")
    code, text = shown(tmp_path, of(report(drive(), bad, other, missing=("1 of 4 drives missing",))))
    assert code == 0
    assert text.startswith("c1 is NOT fenced by this request: cut from 1 of 3 drives that are there\n")
    for words in (
        "  c1 may still be able to write.", "  1 of 4 drives missing", "  - BAD: pull it",
        "  - OTHER: power it off",
        "  BAD: still attached to namespace 1: Namespace Not Attached (11Ah)", "  OTHER: no answer in 3.0 s",
        "BAD: detach from namespace 1: Namespace Not Attached (11Ah)", "  - try again: nvmefence detach --host c1",
        "  - make the drives agree with [drives]", "or switch c1 off by its power",
    ):  # fmt: skip
        assert words in text
    assert "attached: namespace 1 (controller 3)" in text


def test_another_host_in_the_same_pass_is_not_mixed_in(tmp_path: Path) -> None:
    half = report(drive(remaining={1: (5,)}, quiesced={"c1"}))
    assert half.confirmed("c1")
    assert not half.confirmed("c2")
    assert shown(tmp_path, of(half))[1].startswith("c1 is fenced")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"confirmed": False}, "its evidence says that the fence is not confirmed"),
        ({"missing": ["1 of 2 drives missing"]}, "drives were missing: 1 of 2"),
        ({"drives": []}, "no drive is in its evidence"),
        ({"drives": [{}]}, "on (no serial) its outcome is unknown"),
        ({"host": "c9"}, "on S1 its outcome is unknown"),
        ({"host": None}, "on S1 its outcome is unknown"),
    ],
)
def test_success_that_its_evidence_denies_is_not_believed(
    tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    document = of(report(drive()))
    document["evidence"] |= change
    code, text = shown(tmp_path, document)
    assert code == Exit.BAD_FILE
    assert "DO NOT RELY on this response" in text.splitlines()[0]
    assert word in text
    assert "c1 may still be able to write" in text


@pytest.mark.parametrize(
    ("of_drive", "of_host"),
    [
        ({"read_back": None}, {}),
        ({"read_back": {"1": [4]}}, {}),
        ({}, {"quiesced": False}),
        ({}, {"quiesced": 1}),
        ({}, {"controllers": []}),
        ({}, {"controllers": "3"}),
        ({}, {"outcome": "attached"}),
    ],
)
def test_each_part_of_the_proof_is_looked_at(of_drive: dict[str, Any], of_host: dict[str, Any]) -> None:
    document = of(report(drive()))
    found = document["evidence"]["drives"][0]
    found.update(of_drive)
    found["hosts"]["c1"].update(of_host)
    assert verdict_of(document) is Verdict.DOUBTFUL


def verdict_of(document: dict[str, Any]) -> Verdict:
    from nvmefence.spool.response import parse

    return verdict.explain(parse(json.dumps(document).encode())).verdict


def test_failure_with_confirmed_evidence_is_a_contradiction_too() -> None:
    assert verdict_of(of(report(drive()), success=False)) is Verdict.DOUBTFUL


@pytest.mark.parametrize(
    ("document", "expected", "kind"),
    [
        ({k: response()[k] for k in ("request_id", "success", "action_performed", "target_node", "message",
          "timestamp")}, Verdict.CLAIMED, "none"),
        (response(success=False), Verdict.NOT_FENCED, "none"),
        (response({"omitted": "too large"}), Verdict.CLAIMED, "omitted"),
        (response({"omitted": "too large"}, success=False), Verdict.NOT_FENCED, "omitted"),
        (response({"mine": 1}), Verdict.CLAIMED, "foreign"),
        (response("text"), Verdict.CLAIMED, "foreign"),
        (response(action_performed="on"), Verdict.NO_FENCE, "none"),
        (response(action_performed="on", success=False, status="error"), Verdict.NO_FENCE, "none"),
        (response(action_performed="none"), Verdict.DOUBTFUL, "none"),
        (response(action_performed="reboot"), Verdict.CLAIMED, "none"),
    ],
)  # fmt: skip
def test_responses_without_our_evidence(tmp_path: Path, document: Any, expected: Verdict, kind: str) -> None:
    code, text = shown(tmp_path, document, as_json=True)
    made = json.loads(text)
    assert set(made) == KEYS
    assert (made["verdict"], made["evidence"], made["exit"]) == (expected.value, kind, code)
    assert code == (Exit.BAD_FILE if expected is Verdict.DOUBTFUL else Exit.OK)
    text = shown(tmp_path, document)[1]
    if expected is Verdict.CLAIMED:
        assert "Nothing in this file shows what was done on which drive" in text
        assert "by the word of this response alone" in text


@pytest.mark.parametrize("key", ["drives", "missing"])
def test_evidence_of_more_drives_than_there_can_be_is_not_laid_out(tmp_path: Path, key: str) -> None:
    ours = of(report(drive()))
    ours["evidence"][key] = [{"serial": "S", "hosts": {}, "quiesce_reason": str(n)} for n in range(50_000)]
    start = time.monotonic()
    code, text = shown(tmp_path, ours)
    assert time.monotonic() - start < 5
    assert "not in nvmefence's form" in text
    assert (code, len(text) < 2000) == (Exit.OK, True)


def test_simulated_is_said_first(tmp_path: Path) -> None:
    _code, text = shown(tmp_path, of(report(drive(), simulated=True)))
    assert text.startswith("SIMULATED: these drives were emulated.")
    assert "\nSIMULATED: c1 is fenced" in text
    assert shown(tmp_path, response(success=False, message="SIMULATED: NOT"))[1].startswith("SIMULATED")


def test_quiesce_none_and_nothing_attached_are_said(tmp_path: Path) -> None:
    _code, text = shown(tmp_path, of(report(drive(quiesce="none", sent=[], found={}))))
    assert "Quiesce was none: a write that a drive was already working on" in text
    assert "nothing had to be detached" in text
    assert "given time to land" not in text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a response: not JSON.*may be writing"),
        (b'{"a"', "not a response: not JSON.*may be writing"),
        (b"[]", "a JSON object is needed"),
        (b'{"a": 1, "a": 2}', "is there twice"),
        (b'{"request_id": "x", "action": "off", "target_node": "c1"}', "looks like a request"),
        (b'{"event": "answer"}', "looks like a line of the audit"),
        (json.dumps(response() | {"success": "true"}).encode(), "success must be true or false"),
        (json.dumps(response(status="error")).encode(), "success is true and status is 'error'"),
        (b" " * (RESPONSE_LIMIT + 1), "more than 4194304 bytes"),
    ],
)
def test_what_is_no_response_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(FileError, match=reason):
        shown(tmp_path, data)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"a text", b"{}", b'{"a": 1, "a": 2}', b"[" * 9000, b"\xff", b" " * (RESPONSE_LIMIT + 1)]
)
def test_who_names_another_file_is_told_what_to_do(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FileError) as refused:
        shown(tmp_path, data)
    assert refused.value.advice


def test_who_names_what_is_no_file_is_told_what_to_do(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", ".", "none", "/dev/zero"):
        with pytest.raises(FileError) as refused:
            shown(tmp_path, b"", given=str(tmp_path / name))
        assert refused.value.advice, name


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(response()).encode())))
    assert "file      standard input" in shown(tmp_path, b"", given="-")[1]


def test_a_request_id_is_looked_for_among_the_responses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "id-6").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "res" / "archive").mkdir(parents=True)
    for name in (
        "res/id-1.json",
        "res/archive/id-2.json",
        "res/c1-id-3.json",
        "res/archive/id-4.json.0af",
        "res/id-6.json",
    ):
        (tmp_path / name).write_text(json.dumps(response(message=name)))
    directory = str(tmp_path / "res")
    for word, name in (
        ("id-1", "res/id-1.json"), ("id-1.json", "res/id-1.json"), ("id-2", "res/archive/id-2.json"),
        ("id-3", "res/c1-id-3.json"), ("id-4.json.0af", "res/archive/id-4.json.0af"), ("id-6", "res/id-6.json"),
    ):  # fmt: skip
        assert f"message   {name}\n" in shown(tmp_path, b"", given=word, directory=directory)[1]
    for word in ("id-5", "", "..", "id-1\0"):
        with pytest.raises(FileError):
            shown(tmp_path, b"", given=word, directory=directory)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "fifo")
    for name in ("/dev/zero", str(tmp_path), str(tmp_path / "fifo"), str(tmp_path / "none.json")):
        with pytest.raises(FileError):
            shown(tmp_path, b"", given=name)


def test_nothing_from_a_file_reaches_the_terminal_as_it_is(tmp_path: Path) -> None:
    made = FenceReport((EVIL,), [drive(EVIL, hosts=(EVIL,), device=EVIL, quiesce=EVIL, problem=EVIL, advice=EVIL)],
                       (EVIL,), EVIL, EVIL, 1.0, False)  # fmt: skip
    document = response(made.to_json(EVIL), False, target_node=EVIL, message=EVIL, recorder_node=EVIL, action=EVIL,
                        timestamp=EVIL, request_id=EVIL)  # fmt: skip
    _code, text = shown(tmp_path, document)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert shown(tmp_path, document, as_json=True)[1].isascii()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.just("c1"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["1", "c1", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
GOOD = of(report(drive()))["evidence"]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.sampled_from(sorted(GOOD["drives"][0])), JSON, st.booleans())
def test_no_evidence_is_fatal(tmp_path_factory: pytest.TempPathFactory, key: str, of_drive: str, value: Any,
                              inside: bool) -> None:  # fmt: skip
    evidence = {**GOOD, "drives": [{**GOOD["drives"][0], of_drive: value}]} if inside else {**GOOD, key: value}
    place = tmp_path_factory.getbasetemp() / "fatal"
    place.mkdir(exist_ok=True)
    assert shown(place, response(evidence))[0] in (Exit.OK, Exit.BAD_FILE)
    assert shown(place, response(evidence, success=False))[0] in (Exit.OK, Exit.BAD_FILE)
    json.loads(shown(place, response(evidence), as_json=True)[1])


def test_ranges() -> None:
    assert ranges([4, 1, 2, 3, 9, 9]) == "1-4, 9"
    assert ranges([]) == ""


def test_a_drain_is_explained_with_what_stayed_offline_and_why_it_is_not_done_elsewhere(tmp_path: Path) -> None:
    drained = drive(
        "S1", quiesce="drain",
        secondaries={3: SecondaryEvidence(2, 2, True, True), 4: SecondaryEvidence(2, 2, True, False, "stays: x")},
    )  # fmt: skip
    waited = drive("S2", quiesce_reason="our controller is not a primary controller")
    _, found = shown(tmp_path, of(report(drained, waited)))
    assert "Its secondary controllers were offline during the cut" in found
    assert "(wait:10)" in found
    assert "S1: controller 4 stays: x" in found
    assert "controller 3 " not in found
    assert "S2: quiesce is what it is because our controller is not a primary controller" in found

"""What `history` makes of audit files: whole, torn, rotated, hostile, and of fences without an end."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmefence.cli import when
from nvmefence.cli.history import duration, history
from nvmefence.cli.main import main
from nvmefence.cli.text import Screen
from nvmefence.errors import Exit, FileError, NvmefenceError
from nvmefence.settings import Settings
from nvmefence.watcher import auditfiles, past
from nvmefence.watcher.auditfiles import Unread
from nvmefence.watcher.past import History, Watcher

EVIL = "S\x1b[2J\r\n\x9b31m\u202e\0tail"
KEYS = {
    "time", "result", "action", "target_node", "hosts", "recorder_node", "request_id", "file", "message",
    "simulated", "drives", "seconds", "answered_later", "watcher", "source",
}  # fmt: skip


def drive(host: str = "c1", outcome: str = "cut", **seconds: float) -> dict[str, Any]:
    return {"serial": "S", "hosts": {host: {"outcome": outcome}}, "seconds": seconds}


def answer(second: int = 0, **other: Any) -> dict[str, Any]:
    file = other.pop("file", "a.json")
    target = other.pop("target_node", "c1")
    return {
        "time": f"2026-11-24T04:09:{second:02d}.000Z",
        "event": "answer",
        "result": "fenced",
        "file": file,
        "target_node": target,
        "message": "Fenced",
        "request": {"action": "off", "recorder_node": "r1", "request_id": "id-1"},
        "response": None,
        "times": {},
        "watcher": {"host": "h", "pid": 7, "version": "1"},
        "evidence": {"host": "c1", "simulated": False, "drives": [drive()]},
    } | other


def begun(
    second: int = 0, pid: int = 7, files: tuple[str, ...] = ("a.json",), hosts: tuple[str, ...] = ("c1",)
) -> Any:
    return {
        "time": f"2026-11-24T04:09:{second:02d}.000Z",
        "event": "begun",
        "hosts": list(hosts),
        "files": list(files),
        "watcher": {"host": "h", "pid": pid, "version": "1"},
    }


def written(path: Path, *documents: Any) -> None:
    path.write_bytes(b"".join(d if isinstance(d, bytes) else json.dumps(d).encode() + b"\n" for d in documents))


def read(tmp_path: Path, *documents: Any, alive: bool = False) -> History:
    if documents:
        written(tmp_path / "audit.jsonl", *documents)
    return past.read(str(tmp_path / "audit.jsonl"), str(tmp_path / "res"), lambda _watcher, _begun: alive)


def results(found: History) -> list[tuple[str, str]]:
    return [(entry.file, entry.result) for entry in found.entries]


def shown(tmp_path: Path, *words: str, as_json: bool = False) -> tuple[int, str]:
    arguments = argparse.Namespace(host=list(words) or None, last=None, since=None, json=as_json)
    out = io.StringIO()
    places = Settings(audit=str(tmp_path / "audit.jsonl"), response_dir=str(tmp_path / "res"))
    return history(arguments, places, Screen(out, io.StringIO())), out.getvalue()


def test_each_step_is_that_of_the_slowest_drive(tmp_path: Path) -> None:
    first = drive(open=1, look=2, read=3, cut=4, quiesce=10, total=20) | {"seconds": {
        "open": 1, "look": 2, "read": 3, "cut": 4, "read-back": 0.5, "quiesce": 10}}  # fmt: skip
    second = drive(outcome="unknown", open=0.5, look=9, cut=1)
    evidence = {"host": "c1", "drives": [first, second], "simulated": True}
    times = {"waited": 0.1, "discovery": 0.2, "fence": 19.0, "total": 20.0}
    (entry,) = read(tmp_path, answer(evidence=evidence, times=times)).entries
    assert entry.seconds == {
        "waited": 0.1, "discovery": 0.2, "fence": 19.0, "total": 20.0, "reading": 9.5, "cut": 4, "read_back": 0.5,
        "quiesce": 10,
    }  # fmt: skip
    assert (entry.drives, entry.simulated, entry.hosts) == ((1, 2), True, ("c1",))
    assert set(entry.to_json()) == KEYS
    assert set(entry.to_json()["seconds"]) == set(past.PHASES)


def test_what_follows_a_fence_and_what_the_guard_did_are_told_in_words(tmp_path: Path) -> None:
    base = {"time": "2026-11-24T04:09:00.000Z", "watcher": {"host": "h", "pid": 7, "version": "1"}}
    after = {"event": "after", "host": "c1", "target_node": "c1-ib", "request_id": "id-1", "exit": 1, "output": ""}
    guard = {"event": "mass-fence", "hosts": ["c1", "c2", "c3"], "held": ["c4"], "limit": 2, "seconds": 60.0}
    found = read(
        tmp_path,
        {**base, **after, "what": "dlm", "good": True, "text": "done", "seconds": 0.25},
        {**base, **after, "what": "hook 10-a", "good": False, "text": "exit code 1", "seconds": 1},
        {**base, **guard, "action": "alarm", "held": []},
        {**base, **guard, "action": "hold"},
        {**base, "event": "mass-fence", "action": "allowed", "by": "root", "seconds": 600},
    )
    assert (found.unknown_events, found.bad_lines) == (0, 0)
    assert [(entry.result, entry.action, entry.message) for entry in found.entries] == [
        ("after-done", "dlm", "done"),
        ("after-failed", "hook 10-a", "exit code 1"),
        ("mass-fence", "guard", "3 hosts within 60 s, more than 2"),
        ("mass-fence-held", "guard", "3 hosts within 60 s, more than 2; held: c4"),
        ("mass-fence-allowed", "guard", "root allows any number of hosts for 600 s"),
    ]
    assert [entry.target_node for entry in found.about(["c1"])] == ["c1-ib", "c1-ib", "", ""]
    assert found.entries[0].seconds == {"total": 0.25}
    _, text = shown(tmp_path)
    assert "c1-ib (c1): exit code 1" in text
    assert "of a kind" not in text


def test_a_line_in_several_files_counts_once_and_rotated_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "res").mkdir()
    packed = json.dumps(answer(1, file="1")).encode() + b"\n"
    (tmp_path / "audit.jsonl-20261122.gz").write_bytes(gzip.compress(packed))
    written(tmp_path / "audit-20261123.jsonl", answer(2, file="2"))
    written(tmp_path / "audit.jsonl.1", answer(2, file="2"), answer(3, file="3"))
    written(tmp_path / "res" / ".audit.jsonl", answer(5, file="5"), answer(4, file="4"))
    for other in ("audit.jsonl.bak", "audit.jsonl~", "my-audit.jsonl.1", "audit-notes.jsonl"):
        written(tmp_path / other, answer(9, file="no"))
    found = read(tmp_path, answer(4, file="4"))
    assert [entry.file for entry in found.entries] == ["1", "2", "3", "4", "5"]
    assert len(found.files) == 5
    assert (found.unread, found.bad_lines) == ([], 0)


def test_bad_lines_are_named_and_the_others_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditfiles, "LINE_LIMIT", 1000)
    lines = [
        b'{"time":"2026\n', answer(file="good"), b"[1]\n", b"\xff\xfe\n", b"\n", {"event": "answer", "time": "x"},
        {"time": "2026-11-24T04:09:00Z"}, answer(result=None), b"9" * 5000 + b"\n", b"[" * 900 + b"\n",
        b"9" * 900 + b"\n", begun(files=()), {"time": "2026-11-24T04:09:00Z", "event": "unfenced"},
        {"time": "2026-11-24T04:09:00Z", "event": []},
        {"time": "0001-01-01T00:00:00+14:00", "event": "answer", "result": "fenced"}, answer(9, file="last"),
        b'{"time":"2026-11',
    ]  # fmt: skip
    found = read(tmp_path, *lines)
    assert [entry.file for entry in found.entries] == ["good", "last"]
    assert [bad.number for bad in found.bad] == [1, 3, 4, 6, 7, 8, 9, 10, 11, 12, 14, 15, 17]
    assert found.bad[-1].reason == "the last line, not finished"
    assert found.unknown_events == 1
    code, text = shown(tmp_path)
    assert code == Exit.OK
    assert f"{tmp_path / 'audit.jsonl'}: not used: line 1, 3, 4, 6, 7, 8, 9, 10 ...: not JSON" in text


def test_only_so_many_bad_lines_are_kept(tmp_path: Path) -> None:
    found = read(tmp_path, *(f"x{number}\n".encode() for number in range(500)))
    assert (len(found.bad), found.bad_lines) == (100, 500)


def test_a_begin_without_an_answer_is_interrupted(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, begun()).entries
    assert (entry.result, entry.hosts, entry.target_node, entry.answered_later) == ("interrupted", ("c1",), "", "")
    assert "no answer, and there is none since" in entry.message
    assert read(tmp_path, begun(), alive=True).entries[0].result == "under-way"


def test_the_answer_of_the_next_watcher_does_not_end_it(tmp_path: Path) -> None:
    after = answer(9, watcher={"host": "h", "pid": 8}, target_node="C1-ib")
    found = read(tmp_path, begun(), begun(8, pid=8), after, alive=True)
    assert results(found) == [("a.json", "interrupted"), ("a.json", "fenced")]
    first = found.entries[0]
    assert (first.answered_later, first.target_node, first.recorder_node) == ("fenced", "C1-ib", "r1")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([begun(1), answer(2)], []),
        ([answer(2), begun(1)], []),
        ([begun(5), answer(2)], []),
        ([begun(1), begun(3), answer(4)], [1]),
        ([begun(1), answer(2), begun(3)], [3]),
        ([begun(1), answer(2), begun(3), answer(4)], []),
        ([begun(1), answer(2, result="rejected")], [1]),
        ([begun(1), answer(2, file="b.json")], [1]),
        ([begun(1), answer(2, watcher={"host": "other", "pid": 7})], [1]),
    ],
    ids=["answered", "order", "clock set back", "same pid", "again", "twice", "not a fence", "file", "machine"],
)
def test_which_begin_has_no_answer(tmp_path: Path, lines: list[Any], expected: list[int]) -> None:
    found = [entry for entry in read(tmp_path, *lines).entries if entry.result == "interrupted"]
    assert [int(past.rfc3339(entry.when)[17:19]) for entry in found] == expected


def test_each_file_of_a_pass_has_its_own_end(tmp_path: Path) -> None:
    found = read(tmp_path, begun(files=("a.json", "b.json"), hosts=("c1", "c2")), answer(2))
    assert [(e.file, e.result, e.hosts) for e in found.entries] == [
        ("b.json", "interrupted", ("c2",)),
        ("a.json", "fenced", ("c1",)),
    ]
    three = begun(files=("x", "y", "z"), hosts=("c1", "c2"))
    assert {entry.hosts for entry in read(tmp_path, three).entries} == {("c1", "c2")}


def test_a_watcher_that_runs_is_told_from_one_that_ran() -> None:
    host, now = os.uname().nodename, time.time()
    own: Watcher = (host, os.getpid())
    assert past.still_runs(own, now)
    assert not past.still_runs(own, now - 3000)  # it was not there yet
    assert not past.still_runs(own, now - 7200)
    assert not past.still_runs(("elsewhere", os.getpid()), now)
    for pid in (0, -1, 1 << 40):
        assert not past.still_runs((host, pid), now)


@pytest.mark.parametrize("name", ["c1", "C1", "c1.", "c1.example.org", "c1-ib", "C1-IB.example.org"])
def test_a_host_is_found_by_any_name_that_is_on_record(tmp_path: Path, name: str) -> None:
    found = read(
        tmp_path, answer(1), answer(2, file="b", target_node="c1-ib"), begun(3, files=("c",)),
        answer(4, file="d", target_node="c2", evidence={"host": "c2"}),
        answer(5, file="e", target_node="", result="rejected", evidence=None),
    )  # fmt: skip
    assert [entry.file for entry in found.about([name])] == ["a.json", "b", "c"]
    assert [entry.file for entry in found.about([name, "c2"])] == ["a.json", "b", "c", "d"]
    assert found.about(["c"]) == []


def test_a_host_that_is_not_on_record_is_no_error(tmp_path: Path) -> None:
    written(tmp_path / "audit.jsonl", answer())
    assert shown(tmp_path, "c11") == (0, "nothing is on record about c11 (did you mean 'c1'?)\n")
    written(tmp_path / "audit.jsonl")
    assert shown(tmp_path) == (0, "no fence is on record\n")


def test_nothing_from_a_file_reaches_the_terminal_as_it_is(tmp_path: Path) -> None:
    request = {"action": EVIL, "recorder_node": EVIL, "request_id": EVIL}
    written(tmp_path / "audit.jsonl", answer(target_node=EVIL, result=EVIL, message=EVIL, request=request))
    _code, text = shown(tmp_path)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "S\\x1b[2J" in text
    _code, text = shown(tmp_path, as_json=True)
    assert text.isascii()
    assert json.loads(text)["records"][0]["target_node"] == EVIL


def test_no_audit_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"there is no audit: neither .*none has answered"):
        shown(tmp_path)


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "audit.jsonl").mkdir()
    with pytest.raises(FileError, match="not a regular file"):
        shown(tmp_path)
    (tmp_path / "audit.jsonl.1.gz").write_bytes(gzip.compress(json.dumps(answer()).encode() * 1000)[:60])
    (tmp_path / "audit.jsonl.2.xz").touch()
    written(tmp_path / "audit.jsonl.3", answer())
    code, text = shown(tmp_path)
    assert code == Exit.BAD_FILE
    assert text.count("cannot be read, so this may not be all") == 3
    code, text = shown(tmp_path, as_json=True)
    document = json.loads(text)
    assert (code, document["exit"], len(document["unread"]), len(document["records"])) == (11, 11, 3, 1)
    monkeypatch.setattr(auditfiles, "lines", lambda *_a: iter([Unread("/x", "Permission denied", 13)]))
    with pytest.raises(NvmefenceError) as caught:
        shown(tmp_path)
    assert caught.value.exit_code is Exit.NO_ACCESS


def test_a_file_that_is_rotated_meanwhile_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, answer(1, file="1"), answer(2, file="2"))

    def rotate(_path: str) -> None:
        if not (tmp_path / "audit.jsonl.1").exists():
            path.rename(tmp_path / "audit.jsonl.1")
            written(path, answer(3, file="3"))

    found = past.read(str(path), str(tmp_path), lambda *_a: False, rotate)
    assert [entry.file for entry in found.entries] == ["1", "2", "3"]


def test_an_entry_stays_small(tmp_path: Path) -> None:
    long = "x" * 100_000
    (entry,) = read(tmp_path, answer(message=long, target_node=long, file=long, request={"action": long})).entries
    assert len(json.dumps(entry.to_json())) < 10_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["answer", "begun"]),
    st.sampled_from(sorted({*answer(), *begun()} - {"event"})),
    JSON
    | st.fixed_dictionaries({"drives": JSON | st.lists(st.fixed_dictionaries({"hosts": JSON, "seconds": JSON}))}),
)
def test_no_content_is_fatal(tmp_path_factory: pytest.TempPathFactory, event: str, key: str, value: Any) -> None:
    place = tmp_path_factory.getbasetemp() / "fatal"
    place.mkdir(exist_ok=True)
    written(place / "audit.jsonl", {**(answer() if event == "answer" else begun()), key: value})
    assert shown(place)[0] == 0
    assert shown(place, as_json=True)[0] == 0


def test_points_in_time() -> None:
    for text, seconds in (
        ("90s", 90),
        ("15m", 900),
        ("15min", 900),
        ("2h", 7200),
        ("1.5d", 129600),
        ("1w", 604800),
    ):
        assert when.since(text) == pytest.approx(time.time() - seconds, abs=5)
    assert when.since("2026-11-24T04:09:25Z") == 1795493365
    assert when.since("2026-11-24 04:09") == time.mktime((2026, 11, 24, 4, 9, 0, 0, 0, -1))
    assert (duration(0.0123), duration(12.3456), duration(None)) == ("12.3 ms", "12.35 s", "-")


@pytest.mark.parametrize(
    "words", [["--since", "yesterday"], ["--since", "5"], ["--since", ""], ["--last", "0"], ["--last", "x"], ["x"]]
)
def test_wrong_arguments_are_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["history", *words])
    assert caught.value.code == Exit.USAGE


def test_last_and_since(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "audit.jsonl", *(answer(n, file=str(n)) for n in (3, 1, 2)))
    words = ["history", "--audit", str(tmp_path / "audit.jsonl"), "--response-dir", str(tmp_path), "--json"]

    def files(*more: str) -> list[str]:
        assert main([*words, *more]) == 0
        return [record["file"] for record in json.loads(capsys.readouterr().out)["records"]]

    assert files() == ["1", "2", "3"]
    assert files("--last", "2") == ["2", "3"]
    assert files("--since", "2026-11-24T04:09:02Z") == ["2", "3"]
    assert files("--since", "2026-11-24T04:09:02Z", "--last", "1", "--host", "c1") == ["3"]

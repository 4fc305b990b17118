"""Whatever lies in a spool directory: documented errors only, nothing outside touched, no success made up."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from nvmefence.spool import files, json_strict, names, request, response
from nvmefence.spool.directory import RequestDirectory, ResponseDirectory
from nvmefence.spool.errors import Gone, Invalid, Malformed, NotThisRequest, SpoolError, Unsettled
from nvmefence.spool.request import InvalidRequest, Known, Request, judge
from nvmefence.spool.response import Response, answer_to

ID: Final = "550e8400"
NODE: Final = "n1"
NOW: Final = 1_800_000_000.0

REQUEST: Final[dict[str, Any]] = {
    "request_id": ID,
    "timestamp": "2027-01-15T08:00:00Z",
    "action": "off",
    "target_node": NODE,
    "gfs2_filesystems": ["a"],
    "recorder_node": "r1",
    "timeout_s": 60,
}
ANSWER: Final[dict[str, Any]] = Response(
    request_id=ID, success=True, action_performed="off", target_node=NODE, message="m", timestamp="t"
).to_json()

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(),
    st.sampled_from(["true", "success", "error", "off", ID, NODE, "\0", "\x1b[31m", "../x", "1e999"]),
)  # fmt: skip
values = st.recursive(scalars, lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=5)


@st.composite
def spoiled(draw: st.DrawFn, good: dict[str, Any]) -> bytes:
    """A good document with some fields changed, dropped or doubled, and its bytes cut or replaced."""
    document = dict(good)
    for key in draw(st.lists(st.sampled_from(sorted(good)), max_size=2)):
        if draw(st.booleans()):
            document[key] = draw(values)
        else:
            document.pop(key, None)
    data = json.dumps(document).encode()
    kind = draw(st.sampled_from(["whole", "whole", "cut", "byte", "doubled", "deep", "junk"]))
    if kind == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if kind == "byte":
        at = draw(st.integers(0, len(data) - 1))
        return data[:at] + draw(st.binary(max_size=3)) + data[at + 1 :]
    if kind == "doubled":
        key, value = draw(st.sampled_from(sorted(good))), draw(scalars)
        return data[:-1] + b", " + json.dumps({key: value}).encode()[1:-1] + b"}"
    if kind == "deep":
        depth = draw(st.integers(1, 20_000))
        return data[:-1] + b', "x": ' + b"[" * depth + b"]" * depth + b"}"
    return draw(st.binary(max_size=200)) if kind == "junk" else data


def printable(text: str) -> None:
    """Fail for a text that must not go to a terminal as it is."""
    assert text.isascii()
    assert text.isprintable()


def independent(data: bytes) -> Any:
    """What the standard library's parser makes of it, and None where it makes nothing."""
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError):
        return None


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300) | spoiled(REQUEST) | values.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_an_object_or_malformed(data: bytes) -> None:
    try:
        parsed = json_strict.parse(data)
    except Malformed as error:
        printable(error.reason)
    else:
        assert parsed == independent(data)
        assert json_strict.parse(json_strict.encode(parsed)) == parsed


@settings(max_examples=400, deadline=None)
@given(spoiled(REQUEST), st.floats(0, 4e9), st.floats(0, 4e9))
def test_any_bytes_are_a_good_request_or_a_documented_error(data: bytes, mtime: float, now: float) -> None:
    document = independent(data)
    try:
        parsed = request.parse("x.json", data, mtime)
    except Malformed as error:
        printable(error.reason)
    except InvalidRequest as error:
        printable(error.reason)
        printable("".join(error.known))
        known_is_true(error.known, document)
    else:
        assert parsed.request_id == document["request_id"]
        assert parsed.target_node == document["target_node"]
        assert parsed.action.value == document["action"]
        printable(str(parsed))
        printable(parsed.target_node + parsed.request_id)
        assert json.loads(json.dumps(parsed.to_json()))["unknown"] == {
            key: value for key, value in document.items() if key not in REQUEST
        }
        age_is_sound(parsed, now)


def known_is_true(known: Known, document: dict[str, Any]) -> None:
    """What is said to be known stands in the file."""
    assert all(value in ("", document.get(key)) for key, value in known._asdict().items())


def age_is_sound(parsed: Request, now: float) -> None:
    """A request that may be acted upon is young by every measure."""
    judged = judge(parsed, now)
    printable(judged.expired)
    assert judged.remaining >= 0.0
    if judged.expired:
        assert judged.remaining == 0.0
        return
    limit = min(300.0, parsed.timeout_s or 300.0)
    assert now - parsed.written < limit
    assert now - parsed.dated < limit
    assert max(now - parsed.written, now - parsed.dated) >= -request.CLOCK_TOLERANCE
    assert 0.0 < judged.remaining <= limit


@given(
    st.floats(-1e4, 1e4),
    st.floats(-1e4, 1e4),
    st.floats(0, 1e4),
    st.none() | st.floats(0.1, 1e3),
    st.floats(0, 1e3),
)
def test_a_request_does_not_become_young_again(
    dated: float, written: float, seen_for: float, timeout: float | None, later: float
) -> None:
    sample = Request("x.json", ID, request.Action.OFF, NODE, NOW + written, NOW + dated, timeout_s=timeout)
    age_is_sound(sample, NOW)
    first, second = judge(sample, NOW, seen_for=seen_for), judge(sample, NOW + later, seen_for=seen_for + later)
    if first.expired and "future" not in first.expired:
        assert second.expired
    assert second.seconds >= first.seconds


@settings(max_examples=600, deadline=None)
@given(spoiled(ANSWER))
def test_success_is_believed_only_where_it_stands(data: bytes) -> None:
    try:
        believed = answer_to(data, ID, NODE)
    except (Malformed, Invalid, NotThisRequest) as error:
        printable(error.reason)
        return
    document = independent(data)
    assert document["request_id"] == ID
    assert document["target_node"] == NODE
    assert document["success"] is believed.success
    assert believed.success is False or document.get("status", "success") == "success"
    # No key twice, at the top where it matters: the pairs are counted by another way than the parser's own.
    keys = [pair[0] for pair in json.loads(data, object_pairs_hook=tuple)]
    assert len(keys) == len(set(keys))


@contextmanager
def place() -> Iterator[Path]:
    """A directory with a spool in it, and something outside the spool that must stay as it is."""
    with tempfile.TemporaryDirectory() as root:
        path = Path(root)
        (path / "spool").mkdir()
        (path / "x.json").write_bytes(b"outside")
        (path / "dir").mkdir()
        yield path
        assert sorted(os.listdir(path)) == ["dir", "spool", "x.json"]
        assert (path / "x.json").read_bytes() == b"outside"
        assert os.listdir(path / "dir") == []


KINDS: Final = ("file", "file", "link", "loop", "linked directory", "fifo", "directory", "socket", "open", "large")
raw_names = st.one_of(
    st.binary(min_size=1, max_size=60).map(lambda name: name + b".json"),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).map(lambda name: f"{name}.json".encode()),
    st.sampled_from([b"x.json", b"rejected", b"archive", b"rejected.json", b".x.json", b".x.json.tmp", b"-.json"]),
    st.integers(190, 250).map(lambda length: b"a" * length + b".json"),
).filter(lambda name: b"/" not in name and b"\0" not in name)


def make(spool: Path, name: bytes, kind: str, data: bytes, mtime: float) -> None:
    path = os.path.join(os.fsencode(spool), name)
    if kind == "link":
        os.symlink("../x.json", path)
    elif kind == "loop":
        os.symlink(name, path)
    elif kind == "linked directory":
        os.symlink("../dir", path)
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "directory":
        os.mkdir(path, 0o700)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path)
    else:
        with open(path, "wb") as file:
            file.write(data + b" " * 70_000 if kind == "large" else data)
        os.chmod(path, 0o666 if kind == "open" else 0o640)
        os.utime(path, (mtime, mtime))


entries = st.lists(
    st.tuples(
        raw_names, st.sampled_from(KINDS), st.binary(max_size=50) | spoiled(REQUEST), st.floats(NOW - 10, NOW + 10)
    ),
    max_size=5,
    unique_by=lambda entry: entry[0],
)


@settings(max_examples=150, deadline=None)
@given(entries)
def test_any_request_directory_is_worked_off(content: list[tuple[bytes, str, bytes, float]]) -> None:
    with place() as root:
        spool = root / "spool"
        for entry in content:
            with suppress(OSError):  # a name or a socket's path too long for the system
                make(spool, *entry)
        requests = RequestDirectory(str(spool))
        try:
            work_off(requests)
        finally:
            requests.close()


def work_off(requests: RequestDirectory) -> None:
    listing = requests.scan(0.0)
    printable("".join(listing.ignored))
    for name in listing.pending:
        assert names.is_safe(name)
        try:
            requests.read(name, NOW, 0.0)
        except Unsettled:
            with suppress(SpoolError):
                requests.read(name, NOW + 100, 100.0)
            requests.remove(name)
        except SpoolError as error:
            printable(error.reason)
            try:
                printable(requests.reject(name, error.reason))
            except SpoolError as failed:
                # Only where something else sits in the place of `rejected/`.
                assert not os.path.isdir(f"{requests.directory.path}/rejected") or os.path.islink(
                    f"{requests.directory.path}/rejected"
                )
                printable(failed.reason)
                requests.remove(name)
        else:
            assert requests.remove(name)
    assert requests.scan(1.0).pending == ()


@settings(max_examples=300, deadline=None)
@given(
    raw_names.map(os.fsdecode) | st.text(st.characters(), max_size=30) | st.sampled_from(["../x.json", "/etc/x"])
)
def test_any_name_is_safe_and_used_inside_or_refused(name: str) -> None:
    with place() as root:
        responses = ResponseDirectory(str(root / "spool"))
        answer = response.parse(json.dumps(ANSWER).encode())
        try:
            responses.publish(name, answer)
        except SpoolError as error:
            assert not (names.is_safe(name) and name.endswith(".json"))
            printable(error.reason)
            assert os.listdir(root / "spool") == []
        else:
            assert os.listdir(root / "spool") == [name]
            assert responses.read(name).to_json() == answer.to_json()
            responses.archive(name)
            assert os.listdir(root / "spool") == ["archive"]
        finally:
            responses.close()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), spoiled(ANSWER), st.sampled_from([b"a.json", b".a.json.tmp", b"archive"]))
def test_whatever_is_in_the_way_a_response_is_published_whole_or_not(kind: str, data: bytes, name: bytes) -> None:
    with place() as root:
        spool = root / "spool"
        make(spool, name, kind, data, NOW)
        responses = ResponseDirectory(str(spool))
        answer = response.parse(json.dumps(ANSWER).encode())
        before = None if name != b"a.json" else os.lstat(spool / "a.json")
        try:
            responses.publish("a.json", answer)
        except SpoolError as error:
            printable(error.reason)
            assert before is None or os.lstat(spool / "a.json").st_ino == before.st_ino
        else:
            assert files.read(responses.directory, "a.json").data == answer.encode()
        with suppress(SpoolError):
            responses.archive("a.json")
        responses.close()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 12))
def test_a_writer_that_dies_at_any_step_leaves_all_or_nothing(steps: int) -> None:
    """Every call to the system from step `steps` on fails, as after a kill: then a new process does the same."""
    answer = response.parse(json.dumps(ANSWER).encode())
    with place() as root:
        responses = ResponseDirectory(str(root / "spool"))
        with dying(steps), suppress(Dead):
            responses.publish("a.json", answer)
        with suppress(Gone):
            assert responses.read("a.json").to_json() == answer.to_json()
        responses.publish("a.json", answer)
        assert os.listdir(root / "spool") == ["a.json"]
        responses.close()


class Dead(BaseException):
    """The process is no more."""


@contextmanager
def dying(steps: int) -> Iterator[None]:
    calls = ("open", "fchmod", "write", "fsync", "stat", "rename", "unlink")
    real = {name: getattr(os, name) for name in calls}
    left = [steps]

    def counted(name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if left[0] <= 0:
                raise Dead
            left[0] -= 1
            return real[name](*arguments, **named)

        return call

    for name in calls:
        setattr(os, name, counted(name))
    try:
        yield
    finally:
        for name in calls:
            setattr(os, name, real[name])

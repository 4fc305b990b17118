"""fence_gfs2_recorder as a process, and every response that must not be taken for a fence: its exit code is 1."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.system.recording import LOGS, Answerer, Cluster, Request, Result, response, saying

ROOT: Final = os.geteuid() == 0
STDERR_LIMIT: Final = 20_000


def whole(request: Request, **changes: object) -> str:
    return json.dumps(response(request, **changes))


def placed(path: Path, text: str | bytes, mode: int = 0o640) -> None:
    """Put a file there at once, with everything about it as it is to be."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(text.encode() if isinstance(text, str) else text)
    draft.chmod(mode)
    draft.rename(path)


def linked(target: str) -> Answerer:
    """Answer with a symbolic link; TRUE is a file that holds a true success."""

    def answerer(request: Request, path: Path) -> None:
        true = path.parents[1] / "true.json"
        placed(true, whole(request))
        path.symlink_to({"TRUE": str(true), "SELF": path.name}.get(target, target))

    return answerer


def socketed(_request: Request, path: Path) -> None:
    """Answer with a socket."""
    directory = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{directory}/{path.name}")
    os.close(directory)


def device(_request: Request, path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))


def foreign(request: Request, path: Path) -> None:
    draft = path.with_name(".draft")
    draft.write_text(whole(request))
    os.chown(draft, 65534, 65534)
    draft.rename(path)


def of_mode(mode: int) -> Answerer:
    return lambda request, path: placed(path, whole(request), mode)


def text_of(change: Callable[[str], str | bytes]) -> Answerer:
    """Answer with the text of a true success, changed."""
    return lambda request, path: placed(path, change(whole(request)))


AT_ONCE: Final[dict[str, tuple[Answerer, str]]] = {
    "another request's id": (saying(request_id="550e8400-e29b-41d4-a716-446655440000"), "request_id is '550e"),
    "no id": (saying(request_id=None), "request_id is None"),
    "an id in a list": (lambda r, p: saying(request_id=[r["request_id"]])(r, p), "request_id is <list>"),
    "an id in capitals": (lambda r, p: saying(request_id=r["request_id"].upper() + "A")(r, p), "request_id is '"),
    "another node": (saying(target_node="node2"), "target_node is 'node2'"),
    "a node with a domain": (saying(target_node="node1.example"), "target_node is 'node1.example'"),
    "a node and a line's end": (saying(target_node="node1\n"), r"target_node is 'node1\n'"),
    "an id of a megabyte": (saying(request_id="i" * 1_000_000), "request_id is 'iii"),
    "a true that is text": (saying(success="true"), "neither true nor false"),
    "a true that is a number": (saying(success=1.0), "neither true nor false"),
    "a true in a list": (saying(success=[True]), "neither true nor false"),
    "false, and a success in words": (saying(success=False, status="success"), "detached 36 namespaces"),
    "a success that calls itself an error": (saying(status="error"), "contradicts itself"),
    "nested 31 times where a text belongs": (saying(message=json.loads("[" * 30 + "]" * 30)), "not a string"),
    "more than may be": (saying(evidence="x" * (4 << 20)), "has more than 4194304 bytes"),
    "a link to a success": (linked("TRUE"), "not a regular file"),
    "a link to itself": (linked("SELF"), "not a regular file"),
    "a link to nowhere": (linked("nowhere"), "not a regular file"),
    "a link to a directory": (linked(".."), "not a regular file"),
    "a link to endless zeros": (linked("/dev/zero"), "not a regular file"),
    "a pipe": (lambda _r, p: os.mkfifo(p, 0o600), "not a regular file"),
    "a socket": (socketed, "not a regular file"),
    "a directory": (lambda _r, p: p.mkdir(), "not a regular file"),
    "a file that its group may write": (of_mode(0o660), "may be written by others"),
    "a file that all may write": (of_mode(0o666), "may be written by others"),
}
if ROOT:
    AT_ONCE["a device"] = device, "not a regular file"
    AT_ONCE["somebody else's file"] = foreign, "belongs to user 65534"

SETTLED: Final[dict[str, Answerer]] = {
    "half of it": text_of(lambda text: text[: len(text) // 2]),
    "all but its end": text_of(lambda text: text[:-1]),
    "nothing": text_of(lambda _: ""),
    "it twice": text_of(lambda text: text + text),
    "success false, then true": text_of(lambda text: text.replace('"success"', '"success": false, "success"')),
    "success true, then true": text_of(lambda text: text[:-1] + ', "success": true}'),
    "success spelled twice": text_of(lambda text: text[:-1] + ', "\\u0073uccess": true}'),
    "True": text_of(lambda text: text.replace("true", "True")),
    "a list of it": text_of(lambda text: f"[{text}]"),
    "a NaN in it": text_of(lambda text: text[:-1] + ', "n": NaN}'),
    "depth": text_of(lambda text: text[:-1] + ', "n": ' + "[" * 40 + "]" * 40 + "}"),
    "great depth": text_of(lambda text: text[:-1] + ', "n": ' + "[" * 500_000),
    "a byte that is no UTF-8": text_of(
        lambda text: text.replace("detached", "\udcff").encode(errors="surrogateescape")
    ),
    "half a surrogate pair": text_of(lambda text: text.replace("detached", "\\ud800")),
    "a NUL in it": text_of(lambda text: text.replace("detached", "\0")),
    "NULs after it": text_of(lambda text: text + "\0" * 4096),
    "UTF-16": text_of(lambda text: text.encode("utf-16")),
    "a mark of byte order": text_of(lambda text: "\ufeff" + text),
    "a number of 5000 digits": text_of(lambda text: text[:-1] + ', "n": ' + "9" * 5000 + "}"),
}


def is_refused(cluster: Cluster, word: str) -> float:
    """Check that a fence fails with one short line that has a word in it; return how long that took."""
    start = time.monotonic()
    result = cluster.fence(fence_timeout=25)
    assert (result.code, result.out) == (1, "")
    assert word in result.err
    assert result.err.count("\n") == 1
    assert result.err[:-1].isprintable()
    assert len(result.err) < STDERR_LIMIT
    assert cluster.left() == []
    for name in LOGS:
        lines = (cluster.logs / name).read_text().splitlines()
        assert len(lines) == 2, f"{name} has no line about the end"
        assert all(line.isprintable() for line in lines)
    return time.monotonic() - start


@pytest.mark.parametrize("what", AT_ONCE)
def test_what_is_no_success_of_this_fence_fails_it_at_once(cluster: Cluster, what: str) -> None:
    answerer, word = AT_ONCE[what]
    cluster.answer(answerer)
    assert is_refused(cluster, word) < 20


def test_what_does_not_become_one_response_fails_it_after_two_seconds(cluster: Cluster) -> None:
    by_node = {f"node{number}": what for number, what in enumerate(SETTLED)}
    cluster.answer(lambda request, path: SETTLED[by_node[str(request["target_node"])]](request, path))
    start = time.monotonic()
    agents = {
        what: cluster.start(cluster.options(action="off", port=node, log_dir=cluster.path / node, fence_timeout=29))
        for node, what in by_node.items()
    }
    for what, process in agents.items():
        result = Result(process)
        assert (result.code, result.out) == (1, ""), what
        assert "the response cannot be read" in result.err, what
        assert result.err[:-1].isprintable(), what
        assert time.monotonic() - start > 1.9, what
    assert time.monotonic() - start < 25
    assert cluster.left() == []


def test_the_true_success_that_all_of_these_are_made_of_is_one(cluster: Cluster) -> None:
    cluster.answer(text_of(lambda text: text))
    assert cluster.fence().code == 0


def test_a_response_that_is_never_finished_fails_it_at_its_deadline(cluster: Cluster) -> None:
    over = threading.Event()

    def answerer(request: Request, path: Path) -> None:
        with path.open("w") as file:
            file.write(whole(request)[:-1])
            while not over.wait(0.1):
                file.write(" ")
                file.flush()

    cluster.answer(answerer)
    start = time.monotonic()
    try:
        result = cluster.fence(fence_timeout=4)
    finally:
        over.set()
    assert result.code == 1
    assert "no response within 4 s" in result.err
    assert 4 <= time.monotonic() - start < 20
    assert cluster.left() == []


def test_a_response_that_is_taken_away_again_is_none(cluster: Cluster) -> None:
    def answerer(request: Request, path: Path) -> None:
        placed(path, whole(request)[:-1])
        time.sleep(0.2)
        path.unlink()

    cluster.answer(answerer)
    result = cluster.fence(fence_timeout=1)
    assert (result.code, "no response within 1 s" in result.err) == (1, True)


def test_a_refused_response_is_not_waited_for_to_become_better(cluster: Cluster) -> None:
    def answerer(request: Request, path: Path) -> None:
        placed(path, whole(request, success="true"))
        time.sleep(0.5)
        placed(path, whole(request))

    cluster.answer(answerer)
    assert cluster.fence().code == 1


@pytest.mark.parametrize("text", ["\U000e0001", "\x1b]0;x\x07", "\u202e", "\n", "\x9b2J", "\u00e9", "x"])
def test_a_message_of_any_length_is_one_short_line_and_on_record(cluster: Cluster, text: str) -> None:
    cluster.answer(saying(success=False, message=text * (300_000 // len(text))))
    is_refused(cluster, "...")
    event = json.loads((cluster.logs / LOGS[2]).read_text().splitlines()[1])
    assert event["details"].startswith(text)


def test_a_hard_link_to_a_success_is_that_file(cluster: Cluster) -> None:
    """It is a regular file of root's that nobody else may write: there is nothing to tell it by."""

    def answerer(request: Request, path: Path) -> None:
        placed(cluster.path / "true.json", whole(request))
        os.link(cluster.path / "true.json", path)

    cluster.answer(answerer)
    assert cluster.fence().code == 0

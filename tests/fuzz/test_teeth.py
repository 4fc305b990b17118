"""The fuzzer finds what it is there for: each of these breaks the product in one place, and must be noticed."""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from nvmefence import errors, settings, tomlfile
from nvmefence.agents import waiting
from nvmefence.errors import ConfigError
from nvmefence.inventory import hostfile
from nvmefence.inventory.hostmap import Expected, Host, HostMap
from nvmefence.spool import files, json_strict, names, request, response
from nvmefence.spool.directory import RequestDirectory, ResponseDirectory
from nvmefence.spool.errors import Gone, Malformed
from nvmefence.spool.request import Age
from nvmefence.watcher import desk, journal, loose, verdict
from tests.fuzz import runs
from tests.fuzz.runs import Found
from tests.fuzz.test_fuzz import TOML

_SEED: Final = 5
_TEXTS: Final = 4000
_DIRECTORIES: Final = 12
_MAPS: Final = 800
Break = Callable[[pytest.MonkeyPatch], object]


def _lenient(data: bytes) -> dict[str, Any]:
    """A parser as one writes it at first."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if not isinstance(document, dict):
        raise Malformed("no object")
    return document


def _sloppy(answer: dict[str, object], request_id: str, target: str) -> waiting.Verdict:
    if answer.get("request_id") != request_id or answer.get("target_node") != target:
        return waiting.Verdict("refused", "not ours")
    return waiting.Verdict("done", str(answer.get("message")), confirmed=bool(answer.get("success")))


def _anyone(answer: dict[str, object], request_id: str, target: str) -> waiting.Verdict:
    return waiting.Verdict("done", "", confirmed=answer.get("success") is True)


def _chatty(answer: dict[str, object], request_id: str, target: str) -> waiting.Verdict:
    return waiting.Verdict("refused", f"not a response: {answer}")


def _answer_to(data: bytes, request_id: str, target_node: str) -> response.Response:
    return response.parse(data)


def _believing(_data: bytes) -> response.Response:
    raise RuntimeError("undocumented")


def _naive(data: bytes, path: str, error_class: type[ConfigError] = ConfigError) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise error_class(f"{path}: {error}") from None


def _names(_self: object, hosts: dict[str, Host]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    return {name.lower(): host.name for host in hosts.values() for name in (host.name, *host.aliases)}, {}


TEXTS: dict[str, tuple[str, Break]] = {
    "a lenient parser": ("requests", lambda patch: patch.setattr(json_strict, "parse", _lenient)),
    "a lenient parser of responses": ("responses", lambda patch: patch.setattr(json_strict, "parse", _lenient)),
    "no limit of depth": ("requests", lambda patch: patch.setattr(json_strict, "_check_inside", lambda _: None)),
    "any node": ("requests", lambda patch: patch.setattr(request, "_NODE", re.compile(r".*"))),
    "any id": ("requests", lambda patch: patch.setattr(request, "_REQUEST_ID", re.compile(r"(?s).*"))),
    "a node's name and more": (
        "requests", lambda patch: patch.setattr(request, "_NODE", re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\s*")),
    ),
    "no age": ("requests", lambda patch: patch.setattr(request, "judge", lambda *_: Age(0.0, 60.0, ""))),
    "unescaped reasons": ("requests", lambda patch: patch.setattr(request, "quoted", str)),
    "an unescaped journal": ("requests", lambda patch: patch.setattr(journal, "escaped", str)),
    "unescaped logs": ("responses", lambda patch: patch.setattr("nvmefence.eventlog.escaped", str)),
    "truth by truthiness": ("responses", lambda patch: patch.setattr(waiting, "judge", _sloppy)),
    "anyone's response": ("responses", lambda patch: patch.setattr(waiting, "judge", _anyone)),
    "a whole response in the log": ("responses", lambda patch: patch.setattr(waiting, "judge", _chatty)),
    "anyone's response, in the spool": (
        "responses", lambda patch: patch.setattr(response, "answer_to", _answer_to),
    ),
    "an undocumented error": ("responses", lambda patch: patch.setattr(response, "answer_to", _believing)),
    "no judge of evidence": ("responses", lambda patch: patch.setattr(verdict, "_contradictions", lambda *_: ())),
    "endless patience": ("responses", lambda patch: patch.setattr(waiting, "MESSAGE_LIMIT", 10**9)),
}  # fmt: skip
WRITTEN: dict[str, tuple[str, Break]] = {
    "a parser's errors let through": ("host-maps", lambda patch: patch.setattr(tomlfile, "parse_toml", _naive)),
    "a parser's errors let through, of settings": (
        "settings", lambda patch: patch.setattr(tomlfile, "parse_toml", _naive),
    ),
    "numbers of any size": ("host-maps", lambda patch: patch.setattr(tomlfile, "_wrong_inside", lambda _: "")),
    "numbers of any size, in settings": (
        "settings", lambda patch: patch.setattr(tomlfile, "_wrong_inside", lambda _: ""),
    ),
    "numbers of any size, of drives": (
        "fleets", lambda patch: patch.setattr(tomlfile, "_wrong_inside", lambda _: ""),
    ),
    "unescaped errors": ("host-maps", lambda patch: patch.setattr(errors, "_line", str)),
    "the first of two hosts": (
        "host-maps", lambda patch: patch.setattr(hostfile._Parser, "refuse_overlap", lambda *_: None),
    ),
    "two hosts on one drive": ("host-maps", lambda patch: patch.setattr(HostMap, "_owners", lambda *_: {})),
    "our own": ("host-maps", lambda patch: patch.setattr(HostMap, "_own_ids", lambda *_: frozenset())),
    "any drives": (
        "host-maps", lambda patch: patch.setattr(hostfile._Parser, "expected", lambda *_: Expected(count=1)),
    ),
    "one name of two": ("host-maps", lambda patch: patch.setattr(hostfile._Parser, "names", _names)),
    "a slot too far": ("host-maps", lambda patch: patch.setattr(hostfile, "NNF_FIRST_COMPUTE_VF", 3)),
    "seconds without end": ("settings", lambda patch: patch.setitem(settings._PARSERS, "deadline", float)),
    "a wait without end": ("settings", lambda patch: patch.setattr(math, "isinf", lambda _: False)),
    "relative directories": ("settings", lambda patch: patch.setitem(settings._PARSERS, "audit", settings._text)),
}  # fmt: skip


_leaked: Final[list[int]] = []


def _leaking(real: Callable[..., files.Content]) -> Callable[..., files.Content]:
    def read(directory: files.Directory, *more: Any, **named: Any) -> files.Content:
        _leaked.append(os.dup(directory.fd))
        return real(directory, *more, **named)

    return read


@pytest.fixture(autouse=True)
def no_descriptor_stays() -> Iterator[None]:
    """Close what a test leaked: select() in later tests knows the first 1024 descriptors only."""
    yield
    while _leaked:
        os.close(_leaked.pop())


def _dropped(self: RequestDirectory, name: str, reason: str) -> str:
    self.remove(name)
    return reason


def _through(directory: files.Directory, name: str, **_named: Any) -> files.Content:
    """Read a file as one does at first."""
    path = os.path.join(directory.path, name)
    if not os.path.isfile(path):
        raise Gone("no file")
    with open(path, "rb") as stream:
        return files.Content(stream.read(100_000), os.stat(path).st_mtime)


FILES: dict[str, tuple[str, Break]] = {
    "any mode, owner and size": ("request-files", lambda patch: patch.setattr(files, "_judge", lambda *_: None)),
    "any mode of a response": ("response-files", lambda patch: patch.setattr(files, "_judge", lambda *_: None)),
    "any name": ("request-files", lambda patch: patch.setattr(names, "is_safe", lambda _: True)),
    "links followed": ("request-files", lambda patch: patch.setattr(files, "read", _through)),
    "links to responses followed": ("response-files", lambda patch: patch.setattr(files, "read", _through)),
    "descriptors leaked": ("request-files", lambda patch: patch.setattr(files, "read", _leaking(files.read))),
    "bad files dropped": ("request-files", lambda patch: patch.setattr(RequestDirectory, "reject", _dropped)),
    "replays executed": (
        "request-files",
        lambda patch: [patch.setattr(ResponseDirectory, name, lambda *_: False) for name in ("exists", "archived")],
    ),
    "the old served": ("request-files", lambda patch: patch.setattr(desk, "judge", lambda *_: Age(0.0, 60.0, ""))),
    "bad lines in history": ("audit-files", lambda patch: patch.setattr(loose, "table", lambda value: value)),
}  # fmt: skip


@pytest.mark.parametrize("kind", runs.KINDS)
def test_nothing_is_found_in_what_is_not_broken(kind: str) -> None:
    number = _TEXTS if kind in ("requests", "responses") else _MAPS if kind in TOML else _DIRECTORIES
    assert runs.KINDS[kind](_SEED, range(number), runs.quiet).inputs >= number


@pytest.mark.parametrize("what", TEXTS)
def test_a_broken_reader_of_texts_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, spoil = TEXTS[what]
    spoil(monkeypatch)
    with pytest.raises(
        Found, match=rf"(?s)the same again: python -m tests.fuzz --seed {_SEED} --only {kind}:\d+\n"
    ):
        runs.KINDS[kind](_SEED, range(_TEXTS), runs.quiet)


@pytest.mark.parametrize("what", WRITTEN)
def test_a_broken_reader_of_maps_and_settings_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, spoil = WRITTEN[what]
    spoil(monkeypatch)
    with pytest.raises(Found, match=rf"--only {kind}:\d+\n"):
        runs.KINDS[kind](_SEED, range(_TEXTS), runs.quiet)


@pytest.mark.parametrize("what", FILES)
def test_a_broken_reader_of_files_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, spoil = FILES[what]
    spoil(monkeypatch)
    with pytest.raises(AssertionError, match=r"the same again|descriptors: \d+ before"):
        runs.KINDS[kind](_SEED, range(_DIRECTORIES), runs.quiet)


def test_a_failure_can_be_had_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("FUZZ_KEEP", str(tmp_path))
    monkeypatch.setattr(json_strict, "parse", _lenient)
    with pytest.raises(Found) as first:
        runs.KINDS["requests"](_SEED, range(_TEXTS), runs.quiet)
    number = int(str(first.value).split("--only requests:")[1].split()[0])
    with pytest.raises(Found) as second:
        runs.KINDS["requests"](_SEED, range(number, number + 1), runs.quiet)
    assert str(first.value) == str(second.value)
    (kept,) = tmp_path.iterdir()
    assert kept.read_bytes()
    monkeypatch.undo()
    assert runs.KINDS["requests"](_SEED, range(number, number + 1), runs.quiet).inputs == 1

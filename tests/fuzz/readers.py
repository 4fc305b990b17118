"""Who reads responses and the audit: agent, `status`, watcher and `history`, with hostile files to read."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from nvmefence.agents import standing, waiting
from nvmefence.spool.directory import ResponseDirectory
from nvmefence.spool.errors import Refused
from nvmefence.watcher import answers, past
from tests.fuzz.changing import changed_while_read
from tests.fuzz.entries import CHANGES, LINKS, End, Entry, Surroundings, make
from tests.fuzz.reading import NOW, strict
from tests.fuzz.siege import MEMORY
from tests.fuzz.texts import ID, NODE, Requests, Responses, mutated

_KINDS: Final = ("file",) * 12 + (
    "link", "link", "pipe", "socket", "device", "folder", "hard link", "open", "foreign", "changing", "changing",
    "large",
)  # fmt: skip
_LIMIT: Final = 4 * 1024 * 1024


class Met(NamedTuple):
    """A response file, and whether an agent may take it for its success."""

    entry: Entry
    true: bool


class Answers:
    """A directory of responses, all to the same request, under as many names."""

    def __init__(self, seed: int, number: int, size: int = 32) -> None:
        self._rng = random.Random(seed << 40 | number | 1 << 38)
        self.met = [self._one(n) for n in range(size)]

    def hold(self) -> None:
        """Read each as its agent does, and all as everybody else does. Raises AssertionError, or anything."""
        with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
            root = Path(directory)
            place = root / "responses"
            place.mkdir()
            around = Surroundings(root, Responses(self._rng).success().data, NOW)
            for one in self.met:
                make(one.entry, place, NOW)
            changes = {n.entry.name.decode(): n.entry.detail for n in self.met if n.entry.kind == "changing"}
            with changed_while_read(place, changes, NOW):
                for one in self.met:
                    self._agent(place, one)
            self._others(place)
            around.hold()

    def _one(self, number: int) -> Met:
        rng = self._rng
        kind = rng.choice(_KINDS)
        if os.geteuid() and kind in ("device", "foreign"):
            kind = "open"
        texts = Responses(rng)
        name = f"{number}.json".encode()
        if kind == "file":
            text = texts.any()
            return Met(Entry(name, kind, text.data, End.STAYS), _true(text.data))
        good = texts.success().data
        detail = {
            "link": rng.choice(LINKS), "device": rng.choice(("c 1 3", "c 1 5")), "hard link": "open",
            "changing": rng.choice(CHANGES), "folder": rng.choice(("", "x.json")),
        }.get(kind, "")  # fmt: skip
        if kind == "large":
            good = good.rstrip()[:-1] + b', "pad": "' + b"x" * _LIMIT + b'"}'
        mode = 0o666 if kind == "open" else 0o600
        made_as = "file" if kind in ("open", "large") else kind
        return Met(Entry(name, made_as, good, End.STAYS, 0.0, mode, detail), False)

    def _agent(self, place: Path, one: Met) -> None:
        name = one.entry.name.decode()
        verdict = waiting.wait(str(place), name, ID, NODE, since=0.0, within_s=0.0, poll_s=0.1)
        what = f"{name} ({one.entry.kind}, {one.entry.detail!a}): {verdict.status}: {verdict.details}"
        # Of a file that changes, what was there when it was opened may be true still.
        assert one.true or one.entry.kind == "changing" or not verdict.confirmed, f"taken for a success: {what}"
        assert verdict.confirmed or not one.true, f"not taken for the success that it is: {what}"
        if verdict.status == "timeout" and one.entry.kind != "changing":
            self._given_up(place, name)

    def _given_up(self, place: Path, name: str) -> None:
        """Check that what is no response, and does not become one, is given up after a while."""
        looker = waiting._Looker(str(place), name)
        assert looker.look(100.0) is None
        try:
            assert looker.look(100.0 + waiting.SETTLE_S) is None
        except Refused:
            return
        raise AssertionError(f"{name} is waited for, though nothing will come of it")

    def _others(self, place: Path) -> None:
        names = standing.fenced_nodes(str(place))
        assert all(isinstance(name, str) for name in names)
        assert NODE in names or not any(one.true for one in self.met if one.entry.kind == "file")
        responses = ResponseDirectory(str(place))
        try:
            found = responses.for_target(NODE)
            believed = {name for name, answer in found if answer.success and answer.request_id == ID}
            true = {one.entry.name.decode() for one in self.met if one.true and one.entry.kind == "file"}
            changed = {one.entry.name.decode() for one in self.met if one.entry.kind == "changing"}
            assert believed - changed <= true, f"taken for successes: {sorted(believed - changed - true)}"
        finally:
            responses.close()


def _true(data: bytes) -> bool:
    document = strict(data) or {}
    texts = ("message", "action_performed", "timestamp", "status")
    return (
        (document.get("request_id"), document.get("target_node"), document.get("success")) == (ID, NODE, True)
        and document["success"] is True
        and document.get("status", "success") == "success"
        and all(isinstance(document.get(key, ""), str) for key in texts)
    )


class Audit:
    """An audit whose lines are hostile, and what `history` makes of it."""

    def __init__(self, seed: int, number: int, size: int = 50) -> None:
        rng = random.Random(seed << 40 | number | 1 << 37)
        self.lines = [self._line(rng) for _ in range(size)]

    def hold(self) -> None:
        """Read it. Raises AssertionError, or anything."""
        with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
            path = Path(directory, "audit.jsonl")
            path.write_bytes(b"".join(self.lines))
            history = past.read(str(path), directory, lambda _watcher, _begun: False)
        for entry in history.entries:
            json.dumps(entry.to_json(), allow_nan=False)
        assert history.about(["n1"]) is not None
        assert history.bad_lines >= len(history.bad)

    @staticmethod
    def _line(rng: random.Random) -> bytes:
        kind = rng.randrange(4)
        if kind == 0:
            return Requests(rng, NOW).any().data.replace(b"\n", b" ") + b"\n"
        evidence = Responses(rng)._evidence()
        response = Responses(rng).success().data.strip()
        hosts = rng.choice((b'["n1"]', b'["n1", "n2"]', b"[1]", b"{}", b'"n1"'))
        line = (
            b'{"time": "%s", "event": %s, "result": "fenced", "file": "r.json", "target_node": "n1", '
            b'"message": "m", "hosts": %s, "files": ["r.json"], "response": %s, "times": {"total": 1}, '
            b'"watcher": {"host": "h", "pid": 7, "version": "1"}, "evidence": %s}'
        ) % (answers.precise(NOW).encode(), rng.choice((b'"answer"', b'"begun"')), hosts, response, evidence)
        line = b" ".join(line.split())
        return (mutated(rng, line) if kind > 1 else line) + rng.choice((b"\n", b"\n", b"", b"\0\n", b"\r\n"))

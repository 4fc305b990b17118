"""A real watcher on simulated drives, and many requests at once: who was answered when, and what."""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nvmefence.watcher.kernel import Inotify
from tests.bench.turns import WrongResult
from tests.system.watching import Running, Watching

PATIENCE_S: Final = 120.0
_MORE: Final = ("fleet.toml.fenced", "run")
_EVENT: Final = struct.Struct("iIII")


@dataclass(frozen=True)
class Request:
    """One request file that lies ready."""

    name: str
    document: Mapping[str, Any]


@dataclass
class Asked:
    """Requests that were made at once."""

    requests: list[Request]
    renamed: dict[str, float] = field(default_factory=dict)
    visible: dict[str, float] = field(default_factory=dict)

    @property
    def latencies(self) -> list[float]:
        """Seconds from each request's rename until its response was visible."""
        return [self.visible[name] - at for name, at in self.renamed.items()]

    @property
    def whole(self) -> float:
        """Seconds from the first request to the last response."""
        return max(self.visible.values()) - min(self.renamed.values())


class _Answers:
    """Notes when each response becomes visible, in a thread of its own."""

    def __init__(self, directory: Path, asked: Asked) -> None:
        self._asked = asked
        self._wanted = {request.name for request in asked.requests}
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._inotify = Inotify()
        self._inotify.follow(self._fd)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while self._wanted and time.monotonic() < until:
            if not select.select([self._inotify.fd], [], [], 1.0)[0]:
                continue
            data = os.read(self._inotify.fd, 1 << 20)
            now, offset = time.monotonic(), 0
            while offset < len(data):
                length = _EVENT.unpack_from(data, offset)[3]
                start = offset + _EVENT.size
                name = data[start : start + length].rstrip(b"\0").decode()
                offset = start + length
                if name in self._wanted:
                    self._wanted.discard(name)
                    self._asked.visible[name] = now

    def wait(self) -> None:
        """Wait for the last one. Raises WrongResult."""
        self._thread.join()
        self._inotify.close()
        os.close(self._fd)
        if self._wanted:
            raise WrongResult(f"{len(self._wanted)} requests without a response after {PATIENCE_S:g} s")


class Station:
    """Directories, a fleet whose state is in memory, and a watcher."""

    def __init__(self, folder: Path, memory: Path, program: Path, fleet: str, hosts: str) -> None:
        self.place = Watching(folder)
        self.state = memory / "state.json"
        self.place.write(f'{fleet}state = "{self.state}"\n', hosts)
        self._program = program
        self._drafts = folder / "drafts"
        self._drafts.mkdir()

    @contextlib.contextmanager
    def served(self, *more: str) -> Iterator[int]:
        """Have the watcher running; gives its process id."""
        run = ["--run-dir", str(self.place.path / "run")]
        running = Running([str(self._program), *self.place.arguments(*more, *run)], self.place.path)
        try:
            running.hears("serving")
            yield running.process.pid
            running.stop()
        finally:
            running.kill()

    def draft(self, target: str, action: str = "off", request_id: str = "", name: str = "") -> Request:
        """Write a request where the watcher does not look."""
        request_id = request_id or str(uuid.uuid4())
        document = {"request_id": request_id, "action": action, "target_node": target, "timeout_s": PATIENCE_S}
        request = Request(name or f"{request_id}.json", document)
        path = self._drafts / request.name
        path.write_text(json.dumps(document))
        path.chmod(0o600)
        return request

    def ask(self, requests: list[Request]) -> Asked:
        """Put all of them there at once, and wait for the responses. Raises WrongResult."""
        asked = Asked(requests)
        answers = _Answers(self.place.answers, asked)
        for request in requests:
            asked.renamed[request.name] = time.monotonic()
            os.rename(self._drafts / request.name, self.place.requests / request.name)
        answers.wait()
        return asked

    def answer(self, request: Request) -> dict[str, Any]:
        """Return a response. Raises WrongResult for one that is not to this request."""
        document: dict[str, Any] = json.loads((self.place.answers / request.name).read_text())
        for key in ("request_id", "target_node"):
            if document[key] != request.document[key]:
                raise WrongResult(f"{request.name}: {key} is {document[key]}")
        return document

    def changed(self) -> dict[str, Any]:
        """Return what of the drives' first state is changed."""
        found: dict[str, Any] = json.loads(self.state.read_text())["drives"] if self.state.exists() else {}
        return found

    def directories(self) -> list[Path]:
        """Return where the watcher leaves files."""
        return [
            self.place.requests,
            self.place.answers,
            self.place.logs,
            *(self.place.path / name for name in _MORE),
        ]

"""A watcher process on a simulated fleet, with its directories, and what agents do there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.system.place import CLEAN, MAIN, Place

T = TypeVar("T")
AGENT: Final = [sys.executable, "-m", "nvmefence.agents.fence_gfs2_recorder"]
PATIENCE_S: Final = 20.0


def until(look: Callable[[], T], what: str, within: float = PATIENCE_S) -> T:
    """Return what `look` returns as soon as that is true; fail after `within` seconds."""
    end = time.monotonic() + within
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"not within {within:g} s: {what}"
        time.sleep(0.005)


class Watching(Place):
    """A place with request, response and log directories."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.requests = path / "requests"
        self.answers = path / "responses"
        self.logs = path / "log"
        self.audit = path / "audit.jsonl"
        for directory in (self.requests, self.answers, self.logs):
            directory.mkdir()

    def arguments(self, *more: str, quiesce: str = "none") -> list[str]:
        """The command line of the watcher, without the program."""
        return [
            "watch", "--simulate", "fleet.toml", "--hosts", "hosts.toml", "--quiesce", quiesce,
            "--request-dir", str(self.requests), "--response-dir", str(self.answers), "--log-dir", str(self.logs),
            "--audit", str(self.audit), *more,
        ]  # fmt: skip

    @contextmanager
    def watcher(self, *more: str, ready: bool = True, **options: Any) -> Iterator[Running]:
        """A running watcher; it is killed at the end if it still runs."""
        running = Running([*MAIN, *self.arguments(*more)], self.path, **options)
        try:
            if ready:
                running.hears("serving")
            yield running
        finally:
            running.kill()

    def ask(self, name: str, **fields: Any) -> Path:
        """Write a request as the agent does; returns where the response will be."""
        document = {"request_id": name.removesuffix(".json"), "action": "off", "target_node": "c1", **fields}
        return self.put(name, json.dumps({key: value for key, value in document.items() if value is not None}))

    def put(self, name: str, text: str | bytes) -> Path:
        """Put a file into the request directory at once."""
        temporary = self.path / f"{name}.new"
        temporary.write_bytes(text.encode() if isinstance(text, str) else text)
        temporary.chmod(0o600)
        temporary.rename(self.requests / name)
        return self.answers / name

    def answered(self, response: Path, within: float = PATIENCE_S) -> Any:
        """Wait for a response and return it."""
        until(response.exists, f"response {response.name}", within)
        return json.loads(response.read_text())

    def agent(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the agent here."""
        directories = [
            "--request-dir", str(self.requests), "--response-dir", str(self.answers), "--log-dir", str(self.logs),
        ]  # fmt: skip
        return self.spawn([*AGENT, *words, *directories], **variables)

    def pending(self) -> list[str]:
        return sorted(path.name for path in self.requests.glob("*.json"))

    def lines(self, event: str = "answer") -> list[dict[str, Any]]:
        """The audit's lines of a kind."""
        if not self.audit.is_file():
            return []
        found = [json.loads(line) for line in self.audit.read_text().splitlines()]
        return [line for line in found if line["event"] == event]


class Running:
    """A watcher process and what it says."""

    def __init__(self, command: list[str], cwd: Path, env: Mapping[str, str] | None = None, **options: Any) -> None:
        self.said = cwd / f"said-{time.monotonic_ns()}.log"
        with self.said.open("wb") as stream:
            self.process = subprocess.Popen(
                command, cwd=cwd, env={**CLEAN, **(env or {})}, stderr=stream, stdout=stream, **options
            )

    def text(self) -> str:
        return self.said.read_text()

    def hears(self, what: str, times: int = 1, within: float = PATIENCE_S) -> None:
        """Wait until the watcher has said something so many times."""

        end = time.monotonic() + within
        while True:
            alive = self.process.poll() is None
            if self.text().count(what) >= times:
                return
            assert alive, f"the watcher ended ({self.process.returncode}): {self.text()}"
            assert time.monotonic() < end, f"not said within {within:g} s: {what!r}: {self.text()}"
            time.sleep(0.005)

    def stop(self, number: int = signal.SIGTERM, within: float = PATIENCE_S) -> int:
        """End it, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(within)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()
            self.process.wait(PATIENCE_S)

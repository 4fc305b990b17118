"""The watcher and the agent as processes, as the lab's tests start them, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import faults, observer

READY_S = 60.0
"""Seconds in which the watcher must serve, and end, on a busy emulated processor."""
WATCHER = "nvmefence.cli.main"
_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("NVMEFENCE_")}


@dataclass(frozen=True)
class Ended:
    """An agent that ended."""

    code: int
    err: str
    seconds: float
    """From its start."""


class Agent:
    """One call of the fence agent, the way Pacemaker makes it."""

    def __init__(self, place: Place, action: str, node: str, timeout: float) -> None:
        self.started = time.monotonic()
        options = {
            "action": action,
            "nodename": node,
            "plug": node,
            "request_dir": place.requests,
            "response_dir": place.responses,
            "log_dir": place.logs,
            "fence_timeout": timeout,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nvmefence.agents.fence_gfs2_recorder"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_ENVIRONMENT,
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{name}={value}\n" for name, value in options.items()))
        self._process.stdin.close()
        self._process.stdin = None

    def kill(self) -> None:
        """End it by SIGKILL, as Pacemaker does at its own limit."""
        self._process.kill()

    def end(self, timeout: float = 80) -> Ended:
        """Wait for its end."""
        _, err = self._process.communicate(timeout=timeout)
        return Ended(self._process.returncode, err, time.monotonic() - self.started)


class Place:
    """A watcher's directories, its host map, and at most one watcher."""

    def __init__(self, folder: Path, hosts_toml: str, program: Sequence[str] = (WATCHER,)) -> None:
        """`program` is the module that is run as the watcher, and words for it."""
        self.folder = folder
        self._program = program
        self.requests, self.responses, self.logs = (folder / name for name in ("requests", "responses", "logs"))
        for directory in (self.requests, self.responses, self.logs):
            directory.mkdir(mode=0o755, exist_ok=True)
        self.records = folder / "fenced"
        self.hosts = folder / "hosts.toml"
        self.hosts.write_text(hosts_toml)
        self.audit_file = folder / "audit.jsonl"
        self._said = folder / "watcher.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The watcher's process id."""
        assert self._process is not None
        return self._process.pid

    def start(
        self,
        backend: str = "io_uring",
        quiesce: str = "wait:0.5",
        deadline: float = 30,
        *more: str,
        within: Sequence[str] = (),
    ) -> None:
        """Start the watcher, and return when it serves. `more` are options, `within` is a command that runs it."""
        before = len(self.said())
        with self._said.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *within, sys.executable, "-m", *self._program, "watch", "--json", "--hosts", self.hosts,
                    "--backend", backend, "--quiesce", quiesce, "--deadline", str(deadline),
                    "--request-dir", self.requests, "--response-dir", self.responses, "--log-dir", self.logs,
                    "--audit", self.audit_file, "--records", self.records, *more,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_ENVIRONMENT,
            )  # fmt: skip
        faults.wait_for(
            "the watcher serving", lambda: "serving " in self.said()[before:] or self._process_ended(), READY_S
        )
        assert not self._process_ended(), self.said()

    def _process_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def said(self) -> str:
        """Return all that the watcher has said so far."""
        return self._said.read_text(errors="replace") if self._said.exists() else ""

    def told(self) -> str:
        """Return what the watcher has said for a person to read."""
        return "\n".join(f"   {json.loads(line)['message']}" for line in self.said().splitlines())

    def kill(self) -> None:
        """End the watcher by SIGKILL."""
        assert self._process is not None
        self._process.kill()
        assert self._process.wait(READY_S) == -signal.SIGKILL

    def send(self, number: signal.Signals) -> None:
        """Send the watcher a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> int:
        """End the watcher as a service manager does; return its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(READY_S)

    def close(self) -> None:
        """Leave no watcher behind."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(READY_S)

    def agent(self, action: str, node: str, timeout: float = 60) -> Agent:
        """Start the agent."""
        return Agent(self, action, node, timeout)

    def fence(self, node: str, timeout: float = 60) -> Ended:
        """Run the agent to its end."""
        return self.agent("off", node, timeout).end()

    def drop(self, nodes: Iterable[str], timeout: float = 60) -> dict[str, str]:
        """Put a request for each node into the directory within the same instant; return their file names."""
        names = {}
        for node in nodes:
            name = f"{uuid.uuid4()}.json"
            request = {"request_id": name.removesuffix(".json"), "action": "off", "target_node": node}
            draft = self.requests / f".{name}.tmp"
            draft.write_text(json.dumps({**request, "timeout_s": timeout}))
            draft.chmod(0o640)
            names[node] = name
        for name in names.values():
            (self.requests / f".{name}.tmp").rename(self.requests / name)
        return names

    def pending(self) -> set[str]:
        """Return the names of the requests that are there."""
        return {path.name for path in self.requests.glob("[!.]*.json")}

    def response(self, name: str) -> Any:
        """Return a response."""
        return json.loads((self.responses / name).read_bytes())

    def archive(self, but: Collection[str] = ()) -> None:
        """Put the responses away, as for hosts that are given their storage back; `but` are hosts that are not."""
        (self.responses / "archive").mkdir(exist_ok=True)
        for path in self.responses.glob("[!.]*.json"):
            if but and json.loads(path.read_bytes())["target_node"] in but:
                continue
            path.rename(self.responses / "archive" / path.name)

    def audit(self, event: str) -> list[Any]:
        """Return the audit's lines of a kind, the oldest first."""
        lines = self.audit_file.read_text().splitlines() if self.audit_file.exists() else []
        return [found for found in map(json.loads, lines) if found["event"] == event]

    def on_record(self, name: str) -> bool:
        """Whether the audit tells how this request ended."""
        return any(line["file"] == name for line in self.audit("answer"))


class Observed:
    """The drives' attachments by the observer's eyes, through descriptors that stay open."""

    def __init__(self, drives: Iterable[observer.Drive]) -> None:
        self._devices = {drive.serial: observer.Device(drive.primary.path) for drive in drives}

    def __call__(self) -> dict[str, dict[int, frozenset[int]]]:
        """Look now: the controllers by serial number and namespace."""
        return {serial: device.attachments() for serial, device in self._devices.items()}

    def close(self) -> None:
        """Close the descriptors."""
        for device in self._devices.values():
            device.close()


def reaches(seen: dict[str, dict[int, frozenset[int]]], target: dict[str, int]) -> dict[str, list[int]]:
    """Return, by serial number, the namespaces to which the controllers of `target` are attached."""
    found = {
        serial: [nsid for nsid, ids in by_nsid.items() if target[serial] in ids]
        for serial, by_nsid in seen.items()
        if serial in target
    }
    return {serial: nsids for serial, nsids in found.items() if nsids}

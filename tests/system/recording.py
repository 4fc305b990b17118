"""An agent as Pacemaker runs it, the two directories and the logs, and a responder that answers as told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

AGENT = [sys.executable, "-m", "nvmefence.agents.fence_gfs2_recorder"]
ROOT = Path(__file__).resolve().parents[2]
LOGS = ("fence-events.log", "fence-events-readable.log", "fence-events-detailed.jsonl")
Request = dict[str, Any]
Answerer = Callable[[Request, Path], None]


class Cluster:
    """The two directories, the logs, an agent to call, and a responder that answers as told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests = path / "requests"
        self.responses = path / "responses"
        self.logs = path / "logs"
        self.requests.mkdir()
        self.responses.mkdir()
        self.seen: list[Request] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def answer(self, answerer: Answerer) -> None:
        self._thread = threading.Thread(target=self._respond, args=(answerer,), daemon=True)
        self._thread.start()

    def _respond(self, answerer: Answerer) -> None:
        done = set()
        while not self._stop.is_set():
            for file in self.requests.glob("[!.]*.json"):
                if file.name not in done:
                    done.add(file.name)
                    request = json.loads(file.read_text())
                    self.seen.append(request)
                    answerer(request, self.responses / file.name)
            time.sleep(0.002)

    def close(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def options(self, **changes: object) -> str:
        given: dict[str, object] = {
            "request_dir": self.requests,
            "response_dir": self.responses,
            "log_dir": self.logs,
            "fence_timeout": 10,
            **changes,
        }
        return "".join(f"{name}={value}\n" for name, value in given.items() if value is not None)

    def start(self, text: str = "", *words: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*AGENT, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment},
            cwd=self.path,
            umask=0o026,
        )
        assert process.stdin is not None
        process.stdin.write(text)
        process.stdin.close()
        process.stdin = None
        return process

    def call(self, action: str, **options: object) -> Result:
        return Result(self.start(self.options(action=action, **options)))

    def fence(self, action: str = "off", **options: object) -> Result:
        return Result(self.start(self.options(action=action, nodename="node1", port="node1", **options)))

    def left(self) -> list[str]:
        return os.listdir(self.requests)


class Result:
    """What an agent said, and its exit code."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.out, self.err = process.communicate(timeout=30)
        self.code = process.returncode
        assert "Traceback" not in self.err
        assert "defect" not in self.err


def response(request: Request, **changes: object) -> dict[str, object]:
    return {
        "request_id": request["request_id"],
        "success": True,
        "action_performed": request["action"],
        "target_node": request["target_node"],
        "message": "detached 36 namespaces",
        "timestamp": "2025-10-20T14:30:15Z",
        **changes,
    }


def saying(**changes: object) -> Answerer:
    """Answer like the watcher: whole or not at all, the request removed."""

    def answerer(request: Request, path: Path) -> None:
        draft = path.with_name(f".{path.name}.tmp")
        draft.write_text(json.dumps(response(request, **changes)))
        draft.chmod(0o640)
        draft.rename(path)
        (path.parents[1] / "requests" / path.name).unlink(missing_ok=True)

    return answerer

"""fence_nvmefence as Pacemaker runs it: a process, on a node with simulated drives."""

from __future__ import annotations

import fcntl
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.system.place import STATE, Place

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ["-m", "nvmefence.agents.fence_nvmefence"]
LOGS = ("fence-events.log", "fence-events-readable.log", "fence-events-detailed.jsonl")
LIMIT_S = 30
LATE = re.compile(r"did not take (it|the log) within \d")


class Result:
    """A finished agent. A busy machine may be late with its records, so `err` is without what is said of that."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.out, self.said = process.communicate(timeout=LIMIT_S)
        self.err = "".join(line for line in self.said.splitlines(True) if not LATE.search(line))
        self.code = process.returncode
        assert "Traceback" not in self.err
        assert "defect" not in self.err


class Node(Place):
    """A node with drives, and the agent to call there."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.logs = path / "logs"
        self.audit = path / "records" / "audit.jsonl"

    def options(self, **changes: object) -> str:
        given: dict[str, object] = {
            "hosts_file": "hosts.toml",
            "simulate": "fleet.toml",
            "quiesce": "none",
            "deadline": 10,
            "log_dir": self.logs,
            "audit": self.audit,
            **changes,
        }
        return "".join(f"{name}={value}\n" for name, value in given.items() if value is not None)

    def start(
        self, text: str = "", *words: str, program: list[str] = PROGRAM, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *program, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **(environment or {})},
            cwd=self.path,
            umask=0o026,
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(text)
        process.stdin.close()
        process.stdin = None
        return process

    def call(self, action: str, **options: object) -> Result:
        return Result(self.start(self.options(action=action, **options)))

    def fence(self, action: str = "off", target: str = "c1", **options: object) -> Result:
        return self.call(action, nodename=target, port=target, **options)

    def cut_off(self) -> set[int]:
        """The controllers that are attached to nothing."""
        left = {cntlid for drive in self.attached().values() for ids in drive.values() for cntlid in ids}
        return {1, 2, 3, 4, 5} - left

    def events(self, count: int = 0) -> list[dict[str, Any]]:
        """What is in the log, as soon as there are so many."""
        return self.found(self.logs / LOGS[2], count)

    def lines(self, count: int = 1) -> list[dict[str, Any]]:
        """What is in the audit, as soon as there are so many."""
        return self.found(self.audit, count)

    def found(self, path: Path, count: int) -> list[dict[str, Any]]:
        end = time.monotonic() + LIMIT_S
        while True:
            found = path.read_text().splitlines() if path.exists() else []
            if len(found) >= count or time.monotonic() > end:
                return [json.loads(line) for line in found]
            time.sleep(0.01)

    @contextmanager
    def stuck(self) -> Iterator[None]:
        """While inside, whoever cuts on these drives hangs: not a command that has a deadline, the process."""
        with open(self.path / f"{STATE}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @staticmethod
    def until_it_keeps(process: subprocess.Popen[str], number: signal.Signals) -> None:
        """Wait until the process keeps a signal pending, to take it when it suits."""
        end = time.monotonic() + LIMIT_S
        kept = 0
        while not kept & 1 << number - 1:
            assert time.monotonic() < end
            time.sleep(0.01)
            (line,) = re.findall(r"^SigBlk:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.M)
            kept = int(line, 16)

    def until_it_cuts(self) -> None:
        end = time.monotonic() + LIMIT_S
        while not self.events():
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.3)

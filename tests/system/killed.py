"""Runs a watcher that is killed at its n-th step, again and again: `python -m tests.system.killed DIRECTORY STEPS`.

A step is a line of the product that is executed between the taking in of a request and the end of its service.
Each round forks a child that serves one request and kills itself at one step, judges what is visible at that
instant, and then lets a second child, unharmed, end the work. Prints one JSON object.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import struct
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final

from nvmefence.cli import main, watch
from nvmefence.nvme import simulation
from nvmefence.records.store import Store
from tests.system.watching import Watching

WATCHED: Final = tuple(f"nvmefence/{room}/" for room in ("watcher", "spool", "fencing", "records"))
STARTED: Final = "nvmefence/watcher/service.py", "_take"
ROUND_S: Final = 20.0
REQUEST: Final = "r-1.json"

_ = (watch, simulation)  # imported here, so that no child pays for it


class Steps:
    """Counts the steps of a child in memory that its parent sees, and kills it at one of them."""

    def __init__(self, memory: mmap.mmap, last: int) -> None:
        self.memory = memory
        self.last = last
        self.lock = threading.Lock()
        self.started = False

    def trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        name = frame.f_code.co_filename
        if not any(room in name for room in WATCHED):
            return None
        if not self.started and frame.f_code.co_name == STARTED[1] and name.endswith(STARTED[0]):
            self.started = bool(frame.f_locals["incoming"])
        if self.started and event == "line":
            with self.lock:
                (count,) = struct.unpack_from("<q", self.memory)
                struct.pack_into("<q", self.memory, 0, count + 1)
                if count + 1 == self.last:
                    os.kill(os.getpid(), signal.SIGKILL)
        return self.trace


def child(place: Watching, steps: Steps | None) -> int:
    """Fork a watcher; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.chdir(place.path)
        quiet = os.open("/dev/null", os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        if steps is not None:
            threading.settrace(steps.trace)
            sys.settrace(steps.trace)
        main.main([*place.arguments("--no-lock-memory"), "--deadline", "5"])
    finally:
        os._exit(0)


def ended(pid: int, done: Path) -> None:
    """Wait until a child is gone; once `done` is there and the request is not, ask it to go."""
    end = time.monotonic() + ROUND_S
    asked = False
    while True:
        gone, _state = os.waitpid(pid, os.WNOHANG)
        if gone:
            return
        if not asked and done.exists() and not (done.parent.parent / "requests" / done.name).exists():
            os.kill(pid, signal.SIGTERM)
            asked = True
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise SystemExit(f"a child did not end within {ROUND_S:g} s")
        time.sleep(0.001)


def judge(place: Watching, when: str) -> list[str]:
    """Return what is false at this instant."""
    wrong = []
    response = place.answers / REQUEST
    if response.exists():
        document = json.loads(response.read_text())
        if document["success"] is not True:
            wrong.append(f"{when}: {document['message']}")
        if [line["file"] for line in whole_lines(place) if line["event"] == "answer"].count(REQUEST) < 1:
            wrong.append(f"{when}: the response is visible before its audit line")
        if any(2 in ids for drive in place.attached().values() for ids in drive.values()):
            wrong.append(f"{when}: success is visible and the host is attached")
    return wrong


def judge_record(place: Watching) -> list[str]:
    """Return what is wrong with what is on record after the end of the work."""
    records, troubles = Store(str(place.path / "fleet.toml.fenced"), simulated=True).load_all()
    if troubles or [record.host for record in records] != ["c1"]:
        return [f"not one good record: {troubles}"]
    (record,) = records
    wrong = [] if record.confirmed and record.fenced_at else ["the fence is not on record as confirmed"]
    if any(one.controllers != (2,) for one in record.taken) or record.offline:
        wrong.append("something is on record that was not taken")
    return wrong


def whole_lines(place: Watching) -> list[dict[str, Any]]:
    if not place.audit.exists():
        return []
    found = []
    for line in place.audit.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n") and line.strip():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # the kill cut it, and the next line was begun after it
    return found


def round_of(base: Path, memory: mmap.mmap, last: int) -> tuple[int, list[str]]:
    """Do one round; return the steps that were counted, and what was wrong."""
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    place = Watching(base)
    response = place.ask(REQUEST)
    struct.pack_into("<q", memory, 0, 0)
    ended(child(place, Steps(memory, last)), response)
    (count,) = struct.unpack_from("<q", memory)
    wrong = judge(place, f"killed at step {last}")
    ended(child(place, None), response)
    wrong += judge(place, f"after step {last} and another start")
    if not response.exists() or place.pending():
        wrong.append(f"after step {last} the request is not answered")
    wrong += [f"after step {last} and another start: {trouble}" for trouble in judge_record(place)]
    leftovers = [path.name for path in (*place.answers.iterdir(), *place.requests.iterdir())]
    wrong += [f"after step {last} {name} is left" for name in leftovers if name.endswith(".tmp")]
    return count, wrong


def run(base: Path, rounds: int) -> dict[str, Any]:
    """Walk through all steps, in as many rounds."""
    memory = mmap.mmap(-1, 8)
    total, wrong = round_of(base, memory, -1)
    walked = sorted({1 + total * n // rounds for n in range(rounds)})
    for last in walked:
        count, found = round_of(base, memory, last)
        wrong += found
        if count < last:
            total = min(total, count)
    return {"steps": total, "rounds": len(walked), "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]))))

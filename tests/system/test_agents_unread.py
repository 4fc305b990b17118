"""Agents whose standard error nobody reads: a stopped terminal, a full pipe. They end in time."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.place import CLEAN, SLOT_0
from tests.system.watching import AGENT, Watching

DIRECT = [sys.executable, "-m", "nvmefence.agents.fence_nvmefence"]


@pytest.fixture
def place(tmp_path: Path) -> Watching:
    return Watching(tmp_path)


@contextlib.contextmanager
def unread(what: str) -> Iterator[int]:
    """A descriptor to write to that takes nothing."""
    ours, theirs = pty.openpty() if what == "terminal" else os.pipe()
    if what == "terminal":
        termios.tcflow(theirs, termios.TCOOFF)
    else:
        os.set_blocking(theirs, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(theirs, b"x" * 4096)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(theirs, b"x")
        os.set_blocking(theirs, True)
    try:
        yield theirs
    finally:
        os.close(ours)
        os.close(theirs)


def code_of(place: Watching, command: list[str], error: int) -> tuple[int, float]:
    start = time.monotonic()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=place.path, env=CLEAN, stdin=quiet, stdout=quiet, stderr=error)
    try:
        return process.wait(30), time.monotonic() - start
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("what", ["terminal", "pipe"])
def test_the_recorder_withdraws_its_request_and_ends_in_time(place: Watching, what: str) -> None:
    words = ["-o", "off", "-n", "c1", "--fence-timeout", "0.3", "-v", "--request-dir", str(place.requests),
             "--response-dir", str(place.answers), "--log-dir", str(place.logs)]  # fmt: skip
    with unread(what) as error:
        code, took = code_of(place, [*AGENT, *words], error)
    assert code == 1
    assert took < 15
    assert place.pending() == []


@pytest.mark.parametrize("what", ["terminal", "pipe"])
def test_the_direct_agent_cuts_and_ends_with_its_true_code(place: Watching, what: str) -> None:
    words = ["-o", "off", "-n", "c1", "-v", "--hosts-file", "hosts.toml", "--simulate", "fleet.toml",
             "--quiesce", "none", "--log-dir", str(place.logs), "--audit", str(place.audit)]  # fmt: skip
    with unread(what) as error:
        code, _took = code_of(place, [*DIRECT, *words], error)
    assert code == 0
    assert all(SLOT_0 not in ids for drive in place.attached().values() for ids in drive.values())

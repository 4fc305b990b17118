"""SIGKILL at every step of a fence: what is visible is true at each instant, and the next start ends the work."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.system.place import CLEAN

ROUNDS = 250
"""Evenly over some 4000 executed lines; all of them take six minutes: `python -m tests.system.killed DIR 5000`."""
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def test_a_watcher_killed_at_any_step_leaves_nothing_false_and_the_next_one_ends_its_work() -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as base:
        done = subprocess.run(
            [sys.executable, "-m", "tests.system.killed", f"{base}/rounds", str(ROUNDS)],
            env={name: value for name, value in CLEAN.items() if not name.startswith("COVERAGE")},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] == []
    assert result["rounds"] >= ROUNDS / 2
    assert result["steps"] > 1000

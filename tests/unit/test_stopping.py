"""The end of an agent that hangs: whatever it hangs in, and only if it does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

PROGRAM = """
import os, sys, time
from nvmefence.agents import stopping
stopping.HANGS_S = {limit}
in_time = stopping.end_after({limit}, lambda: print("hangs", flush=True))
print("begun", flush=True)
{then}
"""


def started(then: str, limit: float = 2.0) -> subprocess.Popen[str]:
    program = PROGRAM.format(then=then, limit=limit)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_what_hangs_beyond_its_time_says_so_and_ends_with_1() -> None:
    begun = time.monotonic()
    process = started("time.sleep(60)", limit=1.0)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "hangs\n")
    assert time.monotonic() - begun >= 2.0


def test_what_was_done_in_time_is_left_alone() -> None:
    process = started("in_time(); time.sleep(5); sys.exit(7)")
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (7, "")


def test_what_was_stopped_beyond_its_time_and_goes_on_does_not_hang() -> None:
    process = started("time.sleep(0.05); in_time(); sys.exit(7)")
    process.send_signal(signal.SIGSTOP)
    time.sleep(5)
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (7, "")

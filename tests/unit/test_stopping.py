"""The end of an agent that hangs: whatever it hangs in, and only if it does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

PROGRAM = """
import os, sys, time
from nvmefence.agents import stopping
stopping.HANGS_S = 0.3
in_time = stopping.end_after(0.3, lambda: print("hangs", flush=True))
print("begun", flush=True)
{then}
"""


def started(then: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM.format(then=then)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_what_hangs_beyond_its_time_says_so_and_ends_with_1() -> None:
    process = started("time.sleep(60)")
    begun = time.monotonic()
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "hangs\n")
    assert time.monotonic() - begun > 0.5


def test_what_was_done_in_time_is_left_alone() -> None:
    process = started("in_time(); time.sleep(1); sys.exit(7)")
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (7, "")


def test_what_was_stopped_beyond_its_time_and_goes_on_does_not_hang() -> None:
    process = started("time.sleep(0.05); in_time(); sys.exit(7)")
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (7, "")

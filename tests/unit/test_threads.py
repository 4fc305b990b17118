"""A thread that finds no memory to begin with: nobody waits for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

STARTING = """
import os, resource
from nvmefence import {module}
def size():
    return int(open("/proc/self/statm").read().split()[0]) * 4096
for more in range(0, 400):
    # The stack of a thread fits in, and what it needs to begin hardly does.
    resource.setrlimit(resource.RLIMIT_AS, (size() + 8 * 1024 * 1024 + more * 512, -1))
    try:
        {start}
    except (RuntimeError, MemoryError):
        pass
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
os.write(1, b"done")
os._exit(0)
"""


@pytest.mark.parametrize(
    ("module", "start"),
    [("threads", "threads.start(int)"), ("lines", "lines.LineWriter(2).put('')")],
)
def test_starting_threads_in_hardly_any_memory_ends(module: str, start: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTING.format(module=module, start=start)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done"), done.stderr[-2000:]

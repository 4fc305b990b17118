"""Measuring several ways in the same run: taking turns, and timing a process from its start to its end."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

PATIENCE_S = 240.0
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""For processes that are compared with one another: nothing in it changes what they do."""


class WrongResult(Exception):
    """A fence that did not cut, or a restore that did not restore: figures of it are worth nothing."""


def take_turns(
    ways: Mapping[str, Callable[[], float]], rounds: Mapping[str, int], after: Callable[[str, int, float], None]
) -> dict[str, list[float]]:
    """Call the ways in turn, so that a slow moment of the machine falls on all of them; return each one's seconds.

    The turns go in one direction in one round and in the other in the next. A way with fewer `rounds` takes part
    in some, evenly spread. `after` is called with the way's name, the round and the seconds; it is not measured.
    """
    most = max(rounds.values())
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(most):
        todo = [name for name in ways if (number + 1) * rounds[name] // most > number * rounds[name] // most]
        for name in todo if number % 2 == 0 else reversed(todo):
            seconds[name].append(ways[name]())
            after(name, number, seconds[name][-1])
    return seconds


def timed(
    command: Sequence[str], stdin: IO[bytes] | int = subprocess.DEVNULL, env: Mapping[str, str] | None = None
) -> float:
    """Run a command that must succeed; return its seconds from start to exit. Raises WrongResult.

    Its output goes to a file, and its end is waited for in the kernel, so that nothing but the command takes time.
    """
    with tempfile.TemporaryFile() as said:
        started = time.monotonic()
        process = subprocess.Popen(command, stdin=stdin, stdout=said, stderr=said, env=env)
        patience = threading.Timer(PATIENCE_S, process.kill)
        patience.start()
        code = process.wait()
        seconds = time.monotonic() - started
        patience.cancel()
        if code:
            said.seek(0)
            raise WrongResult(f"{command[0]} ended with {code}:\n{said.read().decode(errors='replace')}")
    return seconds

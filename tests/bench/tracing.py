"""What Linux sends to a drive by itself, seen through a tracepoint: rescans of a controller's namespaces."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.turns import WrongResult

TRACEFS = Path("/sys/kernel/tracing")
_EVENT = TRACEFS / "events" / "nvme" / "nvme_setup_cmd"
_IDENTIFY = re.compile(r"nvme_setup_cmd: (\w+): .*nsid=(\d+), .*nvme_admin_identify cns=(\d+)")
_TIME = re.compile(r" (\d+\.\d+): nvme_setup_cmd: ")
_ACTIVE_NAMESPACES = 2
_OURS = frozenset({0x01, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15})
"""CNS values of the fence and of the observer. The driver's scan of namespaces uses others."""
_QUIET_S = 0.3


@dataclass
class Seen:
    """What the driver sent while it was looked at."""

    rescans: int = 0
    """Lists of active namespaces that it began to read: one for each scan."""
    identifies: int = 0
    """All Identify commands of such scans."""


@contextlib.contextmanager
def driver(buffer_kib: int = 8192) -> Iterator[Seen]:
    """Look at the driver of all controllers; the result is there at the end. Only in the guest."""
    seen = Seen()
    with _traced(buffer_kib):
        yield seen
    count((TRACEFS / "trace").read_text(), seen)


def until_first_command(process: Callable[[], object]) -> float:
    """Have a process run; return the seconds from before its start to the first command that any drive got."""
    with _traced():
        started = time.monotonic()
        process()
    return first((TRACEFS / "trace").read_text()) - started


@contextlib.contextmanager
def _traced(buffer_kib: int = 8192) -> Iterator[None]:
    """Have the tracepoint write, by CLOCK_MONOTONIC."""
    if not _EVENT.exists():
        subprocess.run(["mount", "-t", "tracefs", "tracefs", str(TRACEFS)], check=True, timeout=60)
    time.sleep(_QUIET_S)
    (TRACEFS / "trace_clock").write_text("mono")
    (TRACEFS / "buffer_size_kb").write_text(str(buffer_kib))
    (TRACEFS / "trace").write_text("")
    (_EVENT / "enable").write_text("1")
    try:
        yield
        time.sleep(_QUIET_S)  # a scan that nobody waits for
    finally:
        (_EVENT / "enable").write_text("0")


def first(trace: str) -> float:
    """Return the time of the first command that the tracepoint wrote. Raises WrongResult."""
    found = _TIME.search(trace)
    if found is None:
        raise WrongResult("the drives got no command")
    return float(found[1])


def count(trace: str, seen: Seen) -> None:
    """Take in what the tracepoint wrote."""
    for _, nsid, cns in _IDENTIFY.findall(trace):
        if int(cns) not in _OURS:
            seen.identifies += 1
            seen.rescans += int(cns) == _ACTIVE_NAMESPACES and nsid == "0"

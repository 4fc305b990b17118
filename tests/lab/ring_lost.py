"""Fences a host in a process whose ring stops to work in the middle of the fence, then once more with a new queue.

    python -m tests.lab.ring_lost MAP HOST SERIAL PHASE WAY

At PHASE of the drive with SERIAL the ring is lost in one of the `WAYS`. A line of JSON on standard output tells
what came of the fence; a line of standard input starts the second one, of which another line tells.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nvmefence.fencing.evidence import DriveEvidence
from tests.lab.guest.product import fence_here
from tests.lab.no_ring import deny

DEADLINE_S: Final = 10
_RING: Final = "anon_inode:[io_uring]"


def _replace() -> None:
    """Put another file in the place of the ring's descriptor, as a stray close and open do."""
    rings = [int(fd.name) for fd in Path("/proc/self/fd").iterdir() if os.path.islink(fd) and _links(fd) == _RING]
    assert len(rings) == 1, f"the rings of this process: {rings}"
    other = os.open(os.devnull, os.O_RDWR)
    os.dup2(other, rings[0])
    os.close(other)


def _links(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:  # the descriptor with which the directory is read
        return ""


WAYS: Final[dict[str, Callable[[], None]]] = {"denied": deny, "replaced": _replace}
"""The kernel refuses every call on a ring; the ring's descriptor is another file."""


def main() -> int:
    """Do what the command line says."""
    map_file, host, serial, phase, way = sys.argv[1:]
    lost: list[str] = []

    def heard(drive: DriveEvidence, now: str) -> None:
        if (drive.serial, now) == (serial, phase) and not lost:
            lost.append(now)
            WAYS[way]()

    for listener in (heard, lambda _drive, _phase: None):
        report = fence_here(Path(map_file), "auto", [host], listener, deadline=DEADLINE_S)
        told = {"lost": lost, "confirmed": report.confirmed(host), "backend": report.backend}
        sent = [entry.status for drive in report.drives for entry in drive.sent]
        print(json.dumps({**told, "message": report.message(host), "sent": sent}), flush=True)
        sys.stdin.readline()
    return 0


if __name__ == "__main__":
    sys.exit(main())

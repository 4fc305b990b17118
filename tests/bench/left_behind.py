"""What a process holds on to: descriptors, threads, memory, files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_KIB = 1024
ARCHIVE = "archive"
"""What is put away on purpose lies in folders of this name, and grows."""


@dataclass(frozen=True)
class Holding:
    """What a process has at one moment."""

    descriptors: int
    threads: int
    memory: int
    """Bytes resident."""
    files: int
    """In its directories, but not archived."""


def holding(pid: int, directories: Iterable[Path]) -> Holding:
    """Look at a process, this one or another."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    found = sum(
        len(names)
        for top in directories
        for folder, _, names in os.walk(top)
        if ARCHIVE not in Path(folder).relative_to(top).parts
    )
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    if pid == os.getpid():
        descriptors -= 1  # the one that just listed them
    return Holding(descriptors, int(fields["Threads"]), _KIB * int(fields["VmRSS"].split()[0]), found)

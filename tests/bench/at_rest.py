"""What a process costs that has nothing to do: its memory, and how often it wakes."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path

from nvmefence.spool.heartbeat import EVERY_S
from nvmefence.watcher.service import RESCAN_S
from tests.bench.figures import Rest

_SAMPLE_S = 0.01
_KIB = 1024


def rest(pid: int, seconds: float) -> Rest:
    """Watch a watcher for some seconds.

    A moment at which it wakes is one or more samples in a row, 10 ms apart, in each of which some thread of it gave
    up the processor since the one before. A rescan wakes two threads, one after the other, within one moment.
    """
    before = seen = _switches(pid)
    moments, was_awake = 0, False
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(_SAMPLE_S)
        now = _switches(pid)
        moments += now != seen and not was_awake
        was_awake, seen = now != seen, now
    woken = [seen[thread] - before.get(thread, 0) for thread in seen]
    memory = _table(Path(f"/proc/{pid}/smaps_rollup"))
    return Rest(
        resident=_KIB * memory["Rss"],
        private=_KIB * (memory["Private_Clean"] + memory["Private_Dirty"]),
        seconds=seconds,
        moments=moments,
        explained=math.ceil(seconds / RESCAN_S) + math.ceil(seconds / EVERY_S),
        switches=sum(woken),
        awake=sum(count > 0 for count in woken),
        threads=len(woken),
    )


def _switches(pid: int) -> dict[str, int]:
    """Return the voluntary context switches so far, by thread; a thread that ends meanwhile has none."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[task.name] = _table(task / "status")["voluntary_ctxt_switches"]
    return found


def _table(path: Path) -> dict[str, int]:
    """Return the numbers of a file of /proc that has a name and a value a line; those of memory are in KiB."""
    rows = (line.partition(":") for line in path.read_text().splitlines())
    numbers = ((name, value.split()) for name, _, value in rows)
    return {name: int(value[0]) for name, value in numbers if value and value[0].isdigit()}

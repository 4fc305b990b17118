"""Writers on computes' views of the drives, and what of theirs is on the medium, read by another controller."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.lab import faults, observer, ring, writer
from tests.lab.guest.watching import Observed
from tests.lab.sentinel import Moment, Sentinel


@dataclass(frozen=True)
class Sample:
    """The numbers on the medium by stream, and right after that the controllers by serial number and namespace."""

    numbers: dict[str, tuple[int, ...]]
    attached: dict[str, dict[int, frozenset[int]]]


class Streams:
    """Writers by name, each in a region of its own of namespace 1."""

    def __init__(self, folder: Path, drives: list[observer.Drive]) -> None:
        self._folder = folder
        self._readers: dict[str, ring.Reader] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._observed = Observed(drives)

    def start(self, name: str, drive: observer.Drive, function: int, *, size: int = 4096, depth: int = 1) -> None:
        """Start a writer on a virtual function's view of a drive."""
        self.start_all({name: drive}, function, size=size, depth=depth)

    def start_all(
        self,
        drives: Mapping[str, observer.Drive],
        function: int,
        *,
        size: int = 4096,
        depth: int = 1,
        interval: float = 0.004,
    ) -> None:
        """Start writers by name, each on the same virtual function's view of a drive, in one process."""
        targets: list[ring.Target] = []
        now = {found.serial: found for found in observer.drives()}
        for name, drive in drives.items():
            view = now[drive.serial].function(function)
            faults.wait_for("a block device", lambda view=view: observer.blocks(view).get(1))  # type: ignore[misc]
            region = len(self._readers)
            self._readers[name] = ring.Reader(observer.blocks(drive.primary)[1], region, size)
            targets.append((view, region, self._log(name)))
        command = ring.command(targets, size=size, depth=depth, interval=interval)
        self._processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def lines(self, name: str) -> list[writer.Line]:
        """Return what a writer did."""
        return writer.read_log(self._log(name))

    def ok(self, name: str, since: float, until: float = float("inf")) -> list[writer.Line]:
        """Return its writes that were begun within a time and succeeded."""
        return [line for line in self.lines(name) if line.ok and since <= line.started < until]

    def sample(self) -> Sample:
        """Read now."""
        return Sample({name: reader.numbers() for name, reader in self._readers.items()}, self._observed())

    def wait(self, count: int, seconds: float = 60) -> None:
        """Wait until each writer has written a few blocks from now on."""
        since = time.monotonic()
        faults.wait_for(
            "writes", lambda: all(len(self.ok(name, since)) >= count for name in self._readers), seconds
        )

    def close(self) -> None:
        """End the writers when what they have under way has ended."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(60)
        for reader in self._readers.values():
            reader.close()
        self._observed.close()


def appeared(name: str, moments: list[Moment[Sample]]) -> set[int]:
    """Return the numbers of a stream that came to the medium after the first of these moments' samples."""
    first, *later = (set(moment.sample.numbers[name]) for moment in moments)
    return set().union(*later) - first


def late(name: str, sentinel: Sentinel[Sample]) -> set[int]:
    """Return the numbers that came to the medium since the last sample that is older than the response.

    This is more than what must not happen: it leaves no gap between the response and the first look after it.
    """
    start = sentinel.moments.index(sentinel.before())
    return appeared(name, sentinel.moments[start:])

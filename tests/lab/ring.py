"""Writes numbered blocks round and round into a small region of a namespace, and reads such a region back.

    python -m tests.lab.ring 0000:01:00.2=0=LOG ... [--size BYTES] [--depth N] [--interval SECONDS]

Writes go past the page cache through the controller at a PCI address to its namespace 1, region 0. Number n is in
the first bytes of slot n % `SLOTS` of the region, so that one read of the region, through any controller, shows
which numbers the medium holds. `--depth` writes are under way at once. LOG is that of `writer`, in the order in
which the writes ended. A failed write is followed by the next number; the block device is looked up anew, for it
may go and come back under another name. SIGTERM ends it when the writes under way have ended.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.lab import observer
from tests.lab.writer import BLOCK, Line

SLOTS = 16
REGION = 1 << 20
"""Bytes from one region to the next."""
NSID = 1
PAUSE_S = 0.05
"""Seconds before the next try after a write that failed."""


Target = tuple[observer.Controller, int, Path]
"""Where a writer writes, and its log: the controller, the region, the file."""


def command(targets: Iterable[Target], *, size: int = BLOCK, depth: int = 1, interval: float = 0.004) -> list[str]:
    """Return the command line that starts a writer on namespace 1 of each controller, all in one process."""
    return [
        sys.executable, "-m", "tests.lab.ring", f"--size={size}", f"--depth={depth}", f"--interval={interval}",
        *(f"{view.address}={region}={log}" for view, region, log in targets),
    ]  # fmt: skip


class Reader:
    """Reads a region past the page cache through a block device that stays attached."""

    def __init__(self, device: Path, region: int, size: int = BLOCK) -> None:
        self._fd = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        self._start = region * REGION
        self._size = size
        self._buffer = mmap.mmap(-1, SLOTS * size)

    def numbers(self) -> tuple[int, ...]:
        """Return the number in each slot."""
        if os.preadv(self._fd, [self._buffer], self._start) != len(self._buffer):
            raise OSError(errno.EIO, "short read of the medium")
        starts = range(0, len(self._buffer), self._size)
        return tuple(int.from_bytes(self._buffer[at : at + 16], "little") for at in starts)

    def close(self) -> None:
        """Close the block device."""
        os.close(self._fd)
        self._buffer.close()


class Ring:
    """What the writing threads share: the next number, the log, and whether to go on."""

    def __init__(self, address: str, region: int, log: Path, size: int, interval: float) -> None:
        self._address = address
        self._start = region * REGION
        self._size = size
        self._interval = interval
        self._numbers = itertools.count(time.monotonic_ns() // 1000)  # higher than those of a writer before
        self._log = log.open("a", buffering=1)
        self._lock = threading.Lock()
        self.stopping = threading.Event()

    def write(self) -> None:
        """Write until told to stop."""
        buffer = mmap.mmap(-1, self._size)
        fd = -1
        while not self.stopping.is_set():
            with self._lock:
                number = next(self._numbers)
            buffer[:16] = number.to_bytes(16, "little")
            started = time.monotonic()
            try:
                fd = self._open() if fd < 0 else fd
                written = os.pwrite(fd, buffer, self._start + number % SLOTS * self._size)
                outcome = "ok" if written == self._size else "SHORT"
            except OSError as error:
                outcome = errno.errorcode.get(error.errno or 0, "UNKNOWN")
                if fd >= 0:
                    os.close(fd)
                fd = -1
            line = Line(number, started, time.monotonic(), outcome)
            with self._lock:
                self._log.write(f"{line.number} {line.started:.6f} {line.ended:.6f} {line.outcome}\n")
            self.stopping.wait(self._interval if line.ok else PAUSE_S)

    def _open(self) -> int:
        device = observer.blocks_at(self._address).get(NSID)
        if device is None:
            raise OSError(errno.ENODEV, "no block device")
        return os.open(device, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.ring", description="Write numbers round and round.")
    parser.add_argument("targets", metavar="ADDRESS=REGION=LOG", nargs="+")
    parser.add_argument("--size", type=int, default=BLOCK, help="bytes of a slot, written at once")
    parser.add_argument("--depth", type=int, default=1, help="writes under way at once, fewer than the slots")
    parser.add_argument("--interval", type=float, default=0.004, help="seconds between two writes of a thread")
    options = parser.parse_args(arguments)
    rings = []
    for target in options.targets:
        address, region, log = target.split("=", 2)
        rings.append(Ring(address, int(region), Path(log), options.size, options.interval))

    def stop(*_: object) -> None:
        for ring in rings:
            ring.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    threads = [threading.Thread(target=ring.write) for ring in rings for _ in range(options.depth)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())

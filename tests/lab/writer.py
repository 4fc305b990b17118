"""Writes numbered 4 KiB blocks to a block device, past the page cache, and logs what became of each.

    python -m tests.lab.writer /dev/nvme3n1 LOG [--interval SECONDS] [--count N]

Each line of LOG: number, seconds of CLOCK_MONOTONIC when it was submitted and when it ended, "ok" or the
errno's name. A failed write is followed by the next number on the device opened anew. SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import errno
import mmap
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BLOCK = 4096


@dataclass(frozen=True)
class Line:
    """One write."""

    number: int
    started: float
    ended: float
    outcome: str

    @property
    def ok(self) -> bool:
        """Whether the write succeeded."""
        return self.outcome == "ok"


def read_log(path: Path) -> list[Line]:
    """Return the complete lines of a log."""
    lines = []
    for text in path.read_text().splitlines(keepends=True) if path.exists() else []:
        fields = text.split()
        if text.endswith("\n") and len(fields) == 4:
            lines.append(Line(int(fields[0]), float(fields[1]), float(fields[2]), fields[3]))
    return lines


def command(device: Path, log: Path, interval: float = 0.02) -> list[str]:
    """Return the command line that starts a writer."""
    return [sys.executable, "-m", "tests.lab.writer", str(device), str(log), f"--interval={interval}"]


class Writer:
    """Writes blocks one after another."""

    def __init__(self, device: Path) -> None:
        self.device = device
        self._fd = -1
        self._buffer = mmap.mmap(-1, BLOCK)

    def write(self, number: int) -> str:
        """Write block `number` (modulo the device's size); return "ok" or the errno's name."""
        try:
            if self._fd < 0:
                self._open()
            self._buffer[:16] = number.to_bytes(16, "little")
            size = os.lseek(self._fd, 0, os.SEEK_END)
            offset = number * BLOCK % max(size - size % BLOCK, BLOCK)
            written = os.pwrite(self._fd, self._buffer, offset)
        except OSError as error:
            self.close()
            return errno.errorcode.get(error.errno or 0, "UNKNOWN")
        return "ok" if written == BLOCK else "SHORT"

    def _open(self) -> None:
        self._fd = os.open(self.device, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        if not stat.S_ISBLK(os.fstat(self._fd).st_mode):
            raise OSError(errno.ENOTBLK, "not a block device", str(self.device))

    def close(self) -> None:
        """Close the device."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def run(device: Path, interval: float, count: int) -> Iterator[Line]:
    """Write for ever, or `count` blocks."""
    writer = Writer(device)
    number = 0
    while not count or number < count:
        started = time.monotonic()
        outcome = writer.write(number)
        yield Line(number, started, time.monotonic(), outcome)
        number += 1
        time.sleep(interval)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.writer", description="Write numbered blocks.")
    parser.add_argument("device", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--interval", type=float, default=0.02, help="seconds between writes")
    parser.add_argument("--count", type=int, default=0, help="blocks to write; 0: until SIGTERM")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with options.log.open("a", buffering=1) as log:
        for line in run(options.device, options.interval, options.count):
            log.write(f"{line.number} {line.started:.6f} {line.ended:.6f} {line.outcome}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

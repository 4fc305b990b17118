"""The test's end of `shim.c`: builds it, and changes what it does to the system calls of a running process."""

from __future__ import annotations

import atexit
import contextlib
import errno
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

SOURCE: Final = Path(__file__).with_name("shim.c")
OPEN, WRITE, SYNC, RENAME, UNLINK, MKDIR, STAT, READ, LIST = (1 << n for n in range(9))
CHANGING: Final = OPEN | WRITE | SYNC | RENAME | UNLINK | MKDIR
ALL: Final = CHANGING | STAT | READ | LIST
_FIELDS: Final = (
    "clock_ns", "calls", "fail_at", "fail_calls", "error", "delay_ns", "kinds", "failed", "generation",
    "stale_before", "cached", "deaf", "silly", "tracing", "traced",
)  # fmt: skip
_PREFIX: Final = 256
_TRACE: Final = 1 << 20
_ALWAYS: Final = 1 << 40


def missing() -> str:
    """Return why there can be no shim here, else an empty string."""
    return "" if shutil.which("gcc") else "there is no C compiler"


@cache
def library() -> Path:
    """Build it, once in a process."""
    place = tempfile.mkdtemp(prefix="chaos-shim-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    path = Path(place) / "shim.so"
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(path), str(SOURCE), "-ldl"], check=True, timeout=60)
    return path


class Call(NamedTuple):
    """One system call that was made."""

    what: str
    result: int
    fd: int
    path: str


class Control:
    """What happens to the calls of all processes that were started with `environment`."""

    def __init__(self, file: Path, prefix: Path) -> None:
        """`file` is made; calls on paths under `prefix` are meant."""
        size = 8 * len(_FIELDS) + _PREFIX + _TRACE
        file.write_bytes(bytes(size))
        with file.open("r+b") as stream:
            self._memory = mmap.mmap(stream.fileno(), size)
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(library()), "CHAOS_CONTROL": str(file)}
        self.within(prefix)
        self["generation"] = 1

    def __getitem__(self, field: str) -> int:
        (value,) = struct.unpack_from("<q", self._memory, 8 * _FIELDS.index(field))
        return int(value)

    def __setitem__(self, field: str, value: int) -> None:
        struct.pack_into("<q", self._memory, 8 * _FIELDS.index(field), value)

    def within(self, prefix: Path) -> None:
        """Have calls on other paths meant."""
        raw = os.fsencode(prefix) + b"\0"
        assert len(raw) <= _PREFIX
        self._memory[8 * len(_FIELDS) : 8 * len(_FIELDS) + len(raw)] = raw

    def set_clock(self, shift_s: float) -> None:
        """Shift the wall clock, and what is stamped by it."""
        self["clock_ns"] = round(shift_s * 1e9)

    def fail(self, number: int, at: int = 1, calls: int = _ALWAYS, kinds: int = CHANGING) -> None:
        """Have `calls` calls of these kinds, from the `at`-th from now on, fail with an errno."""
        self["fail_at"] = 0
        self["failed"] = self["calls"] = self["delay_ns"] = 0
        self["error"], self["kinds"], self["fail_calls"] = number, kinds, calls
        self["fail_at"] = at

    def hang(self, seconds: float, at: int = 1, kinds: int = CHANGING) -> None:
        """Have one call take so long, and then succeed."""
        self.fail(0, at, 1, kinds)
        self["delay_ns"] = round(seconds * 1e9)

    def mend(self) -> int:
        """Have nothing fail any more; return how many calls have."""
        self["fail_at"] = 0
        return self["failed"]

    def go_stale(self) -> None:
        """Have everything that is open now fail with ESTALE; what is opened from now on is good."""
        self["generation"] += 1
        self["stale_before"] = self["generation"]

    @contextlib.contextmanager
    def traced(self) -> Iterator[list[Call]]:
        """Write calls down; they are in the list after the end."""
        calls: list[Call] = []
        self["traced"], self["tracing"] = 0, 1
        try:
            yield calls
        finally:
            self["tracing"] = 0
            start = 8 * len(_FIELDS) + _PREFIX
            text = self._memory[start : start + min(self["traced"], _TRACE)].rstrip(b"\0")
            for line in text.decode(errors="replace").splitlines():
                what, result, fd, path = line.split("\t")
                calls.append(Call(what, int(result), int(fd), path))


ERRORS: Final = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EDQUOT, errno.EACCES)
"""What a file system says that is broken, full, read-only, gone, or not ours any more."""

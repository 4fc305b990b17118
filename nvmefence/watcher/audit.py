"""The audit: one line of JSON for everything that was answered, on disk before the answer is visible."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from typing import Any, Final

FALLBACK: Final = ".audit.jsonl"
"""In the response directory: takes the lines that the audit file did not. A response can only appear where this
file can be written as well, so that an audit disk which is full or hangs costs no fence its record."""
_MODE: Final = 0o640
_settled: Final[dict[str, tuple[int, int]]] = {}
"""By path: the device and inode whose entry in its directory this process has made durable."""
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def line(document: dict[str, Any]) -> bytes:
    """Return a document as one line of ASCII."""
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


def append(path: str, lines: Iterable[bytes], directory: int | None = None) -> None:
    """Append lines, durable at the return. `path` may be relative to a `directory` descriptor. Raises OSError.

    The file is opened anew each time, so that logrotate may move it away. A line that a crash left unfinished is
    ended first, so that it spoils no other.
    """
    try:
        fd = os.open(path, _FLAGS, dir_fd=directory)
        fresh = False
    except FileNotFoundError:
        fd = os.open(path, _FLAGS | os.O_CREAT, _MODE, dir_fd=directory)
        fresh = True
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "not a regular file")
        data = b"".join(lines)
        if found.st_size and os.pread(fd, 1, found.st_size - 1) != b"\n":
            data = b"\n" + data
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    # A file that was there may be one whose maker died, or failed, before its entry was durable.
    identity = found.st_dev, found.st_ino
    if fresh or _settled.get(path) != identity:
        _settled.pop(path, None)
        _sync_parent(path, directory)
        _settled[path] = identity


def _sync_parent(path: str, directory: int | None) -> None:
    if directory is not None:
        os.fsync(directory)
        return
    parent = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)

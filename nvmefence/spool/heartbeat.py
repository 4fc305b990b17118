"""The watcher's sign of life: a file in the request directory that it writes anew every few seconds."""

from __future__ import annotations

import os
import stat
import time

from nvmefence.spool import files, json_strict

NAME = ".watcher"
FRESH_S = 30.0
"""Seconds; a watcher whose sign is older is taken for dead."""
EVERY_S = 5.0
"""Seconds between two signs."""


def beat(directory: files.Directory, now: float) -> None:
    """Write the sign: who serves the directory, and `now` (seconds since 1970). Raises OSError.

    Not durable and not renamed into place: a sign of life that a power cut removes says the right thing, and what
    counts is the file's mtime.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(NAME, flags, 0o644, dir_fd=directory.fd)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise OSError(0, f"{NAME} is not a regular file, or has another name besides")
        sign = json_strict.encode({"pid": os.getpid(), "host": os.uname().nodename, "time": now})
        os.ftruncate(fd, os.pwrite(fd, sign, 0))
        os.utime(fd)
    finally:
        os.close(fd)


def missing(request_dir: str) -> str:
    """Return why no watcher seems to serve the request directory, else an empty string."""
    path = os.path.join(request_dir, NAME)
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return f"no watcher serves {request_dir}: there is no {NAME}; start it with: nvmefence watch"
    except OSError as error:
        return f"{path}: {error.strerror}"
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is not a regular file"
    age = time.time() - found.st_mtime
    if age >= FRESH_S:
        return f"the watcher of {request_dir} gave its last sign of life {age:.0f} s ago"
    if age < -FRESH_S:
        return f"{path} is {-age:.0f} s in the future: a clock is wrong"
    return ""

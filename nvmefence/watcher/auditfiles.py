"""The files of the audit: the one that is written, what was rotated away from it, and its stand-in."""

from __future__ import annotations

import errno
import gzip
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Final, NamedTuple, cast

from nvmefence.watcher.audit import FALLBACK

LINE_LIMIT: Final = 16 * 1024 * 1024
"""Bytes. What is longer is no line of the audit."""
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PACKED: Final = (".bz2", ".xz", ".zst")
_BROKEN: Final = (OSError, EOFError, zlib.error)


class Line(NamedTuple):
    """One line."""

    path: str
    number: int
    """From 1."""
    data: bytes | None
    """None: it is longer than LINE_LIMIT."""


class Unread(NamedTuple):
    """A file that cannot be read, or not to its end."""

    path: str
    reason: str
    errno: int = 0

    @property
    def denied(self) -> bool:
        """Whether another user could read it."""
        return self.errno in (errno.EACCES, errno.EPERM)


def lines(
    audit_file: str, response_dir: str, read: list[str], progress: Callable[[str], None] = lambda _path: None
) -> Iterator[Line | Unread]:
    """Read all there is, the oldest file first. `read` takes the paths of the files that were there.

    A file that is rotated meanwhile is found again under its new name.
    """
    seen: set[tuple[int, int]] = set()
    stand_in = os.path.join(response_dir, FALLBACK)
    while True:
        before = len(seen)
        rotated, trouble = _rotated(audit_file)
        for path in [*rotated, audit_file, stand_in]:
            yield from _file(path, seen, read, progress)
        if len(seen) == before:
            break
    if trouble is not None:
        yield trouble


def of_one(path: str) -> Iterator[Line | Unread]:
    """Read one log, then what was rotated away from it, the newest file first."""
    seen: set[tuple[int, int]] = set()
    rotated, trouble = _rotated(path)
    for one in [path, *reversed(rotated)]:
        yield from _file(one, seen, [], lambda _path: None)
    if trouble is not None:
        yield trouble


def _file(
    path: str, seen: set[tuple[int, int]], read: list[str], progress: Callable[[str], None]
) -> Iterator[Line | Unread]:
    try:
        fd = os.open(path, _FLAGS)
    except FileNotFoundError:
        return
    except OSError as error:
        if (key := (-1, hash(path))) not in seen:
            seen.add(key)
            yield Unread(path, error.strerror or str(error), error.errno or 0)
        return
    try:
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) in seen:
            return
        seen.add((found.st_dev, found.st_ino))
        if not stat.S_ISREG(found.st_mode):
            yield Unread(path, "not a regular file")
            return
        progress(path)
        read.append(path)
        with open(fd, "rb", closefd=False) as raw:
            yield from _lines(path, raw)
    finally:
        os.close(fd)


def _lines(path: str, raw: IO[bytes]) -> Iterator[Line | Unread]:
    try:
        with _unpacked(path, raw) as stream:
            number = 0
            while data := stream.readline(LINE_LIMIT):
                number += 1
                if len(data) < LINE_LIMIT or data.endswith(b"\n"):
                    yield Line(path, number, data)
                    continue
                while data and not data.endswith(b"\n"):
                    data = stream.readline(LINE_LIMIT)
                yield Line(path, number, None)
    except _BROKEN as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        yield Unread(path, words, getattr(error, "errno", None) or 0)


def _unpacked(path: str, raw: IO[bytes]) -> IO[bytes]:
    if path.endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    if path.endswith(_PACKED):
        raise OSError(0, "compressed in a way that is not read here: unpack it")
    return raw


def _rotated(audit_file: str) -> tuple[list[str], Unread | None]:
    """Return what logrotate made of the file, the oldest first: NAME.1, NAME-20261124.gz, and alike."""
    directory, name = os.path.split(audit_file)
    stem, extension = os.path.splitext(name)
    date = r"[.-]\d[\d.-]*"
    pattern = re.compile(
        rf"(?:{re.escape(name)}{date}|{re.escape(stem)}{date}{re.escape(extension)})(?:\.(?:gz|bz2|xz|zst))?"
    )
    try:
        names = [one for one in os.listdir(directory or ".") if one != name and pattern.fullmatch(one)]
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], Unread(directory, f"cannot be listed: {error.strerror}", error.errno or 0)
    paths = [os.path.join(directory, one) for one in names]
    return sorted(paths, key=lambda path: (_written(path), path)), None


def _written(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0

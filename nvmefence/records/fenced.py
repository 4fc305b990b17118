"""Which hosts count as fenced, by their records: these are read anew only when something about them has changed."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from nvmefence.records.record import Record
from nvmefence.records.store import Store
from nvmefence.spool import files, names
from nvmefence.spool.errors import DirectoryLost, SpoolError
from nvmefence.spool.names import quoted

_SETTLED_S: Final = 2.0
"""Seconds after a change until a look that shows the same can be believed: file systems date changes coarsely."""
Follow = Callable[[int], None]
"""Has whatever happens in the directory open under this descriptor told from now on. Raises OSError."""
_Signature = tuple[tuple[str, int, int, int, int], ...]


def counts(record: Record) -> bool:
    """Whether a host counts as fenced: a fence of it was confirmed, and it was given nothing back since.

    It goes on counting when a later fence is under way, or is not confirmed.
    """
    return record.fenced_at is not None


class Fenced(NamedTuple):
    """What the records say."""

    records: tuple[Record, ...] = ()
    """Of the hosts that count as fenced."""
    troubles: tuple[str, ...] = ()
    """What cannot be read or believed, in words."""
    followed: bool = False
    """Whatever changes will be told, so there is no need to look often."""


class FencedHosts:
    """Reads the records, again and again at little cost. Waits for the disk; for one thread."""

    def __init__(self, store: Store, follow: Follow | None = None, wall: Callable[[], float] = time.time) -> None:
        """`wall` is the clock by which files are dated."""
        self._store = store
        self._follow = follow
        self._wall = wall
        self._followed: tuple[int, int] | None = None
        self._seen: _Signature | None = None
        self._known = Fenced()

    def read(self) -> Fenced:
        """Return what the records say now. A directory that is missing is made, so that it can be followed."""
        try:
            with self._open() as directory:
                followed = self._has_followed(directory.fd)
                signature = _signature(directory.fd)
        except DirectoryLost as error:
            self._seen = self._followed = None
            return Fenced(troubles=() if error.errno == errno.ENOENT else (error.reason,))
        except SpoolError as error:
            self._seen = None
            return Fenced(troubles=(error.reason,))
        except OSError as error:
            self._seen = None
            return Fenced(troubles=(f"cannot list {quoted(self._store.path)}: {error.strerror}",))
        if self._seen is None or signature != self._seen:
            self._load()
            self._seen = None if self._known.troubles or self._is_fresh(signature) else signature
        return self._known._replace(followed=followed)

    def _open(self) -> files.Directory:
        try:
            return files.open_directory(self._store.path)
        except DirectoryLost:
            try:
                os.makedirs(self._store.path, 0o750, exist_ok=True)
            except OSError:
                raise DirectoryLost(f"{quoted(self._store.path)} is not there", errno.ENOENT) from None
            return files.open_directory(self._store.path)

    def _has_followed(self, fd: int) -> bool:
        """Follow the directory, before it is looked at, unless it is the one that is followed already."""
        if self._follow is None:
            return False
        found = os.fstat(fd)
        identity = found.st_dev, found.st_ino
        if identity != self._followed:
            self._followed = None
            try:
                self._follow(fd)
            except OSError:
                return False
            self._followed = identity
        return True

    def _load(self) -> None:
        records, troubles = self._store.load_all()
        self._known = Fenced(tuple(filter(counts, records)), tuple(troubles))

    def _is_fresh(self, signature: _Signature) -> bool:
        """Whether something may have changed since, and have been given the same date."""
        newest = max(mtime for *_, mtime, _size in signature) / 1e9
        return self._wall() - newest < _SETTLED_S


def _signature(fd: int) -> _Signature:
    """Return what changes when a record does: each is replaced by a new file. Raises OSError."""
    found = [_of("", os.fstat(fd))]
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.name.endswith(names.SUFFIX):
                try:
                    found.append(_of(entry.name, os.stat(entry.name, dir_fd=fd, follow_symlinks=False)))
                except FileNotFoundError:
                    continue
    return tuple(sorted(found))


def _of(name: str, found: os.stat_result) -> tuple[str, int, int, int, int]:
    return name, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

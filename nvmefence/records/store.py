"""The records of all hosts: a durable file for each in one directory, changed whole, by one process at a time."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from typing import Final

from nvmefence.records import record
from nvmefence.records.record import RECORD_LIMIT, Record
from nvmefence.spool import files, names
from nvmefence.spool.errors import DirectoryLost, Gone, Invalid, Malformed, Refused, SpoolError, WriteFailed
from nvmefence.spool.files import Directory
from nvmefence.spool.names import quoted

ARCHIVE: Final = "archive"
UNREADABLE: Final = "unreadable"
_LOCK: Final = ".lock"
_LOCK_TRIES: Final = 500
_LOCK_PAUSE_S: Final = 0.01
"""Seconds between two of them: another process may take five for its change."""
_MODE: Final = 0o640
_LONGEST_HOST: Final = names.MAX_NAME - len(names.SUFFIX)
_Identity = tuple[int, int, int, int]
Change = Callable[[Record | None], Record | None]
"""From what stands on record to what shall stand there; None: nothing."""


class RecordError(Exception):
    """A record cannot be read, or not be kept. `reason` is printable ASCII."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RealRecordError(RecordError):
    """A record of what a real node lost, which nobody with emulated drives may touch."""


class _Real(SpoolError):
    """The same, on its way."""


class Store:
    """The directory of the records. Its methods wait for the disk; nothing stays open between two calls.

    Any thread may read; changes are for one.
    """

    def __init__(self, path: str, *, simulated: bool = False) -> None:
        """`simulated`: whether the records are of emulated drives; those of the other kind are refused."""
        self.path = path
        self.simulated = simulated
        self._kept: dict[str, tuple[_Identity, Record]] = {}
        """Records that need not be read again while their files are the same, by the files' names."""

    def load(self, host: str) -> Record | None:
        """Return a host's record, None if there is none. Raises RecordError."""
        try:
            name = _name(host)
            with files.open_directory(self.path) as directory:
                return self._read(directory, name, host)
        except (Gone, DirectoryLost):
            return None
        except SpoolError as error:
            raise self._failed(host, error) from None

    def load_all(self) -> tuple[list[Record], list[str]]:
        """Return the records that can be believed, by host, and what is wrong with the others, in words."""
        try:
            with files.open_directory(self.path) as directory:
                return self._load_all(directory)
        except DirectoryLost as error:
            return [], [] if error.errno == errno.ENOENT else [error.reason]
        except SpoolError as error:
            return [], [error.reason]
        except OSError as error:
            return [], [f"cannot list {quoted(self.path)}: {error.strerror}"]

    def _load_all(self, directory: Directory) -> tuple[list[Record], list[str]]:
        found, troubles = [], []
        for name in sorted(os.listdir(directory.fd)):
            if not name.endswith(names.SUFFIX) or not names.is_safe(name):
                continue
            try:
                found.append(self._read(directory, name, ""))
            except Gone:
                continue
            except SpoolError as error:
                troubles.append(f"{quoted(self.path)}: {name}: {error.reason}")
        return found, troubles

    def _read(self, directory: Directory, name: str, host: str) -> Record:
        """Return the record in a file, which is `host`'s unless that is empty. Raises SpoolError."""
        found = record.parse(files.read(directory, name, limit=RECORD_LIMIT).data)
        if _name(found.host) != name or (host and found.host.lower() != host.lower()):
            raise Invalid(f"it is about the host {quoted(found.host)}")
        if self.simulated and not found.simulated:
            raise _Real("it is about real drives, and the drives here are emulated: it is left as it is")
        if found.simulated and not self.simulated:
            raise Invalid("it is about emulated drives")
        return found

    def update(self, host: str, change: Change, *, keep: bool = False) -> Record | None:
        """Change a host's record; return what is on record now, durably. Raises RecordError.

        With `keep` it stays in memory until the next change, which need not read it then. A record that cannot be
        believed is put aside, into `unreadable/`, and is as none for `change`. Where drives are emulated, one of
        real drives is a RealRecordError.
        """
        try:
            name = _name(host)
            with self._open() as directory, _locked(directory):
                before = self._believed(directory, name, host)
                after = change(before)
                self._kept.pop(name, None)
                if after is None and before is not None:
                    self._put_away(directory, name)
                elif after is not None and after != before:
                    if after.simulated != self.simulated:
                        raise Invalid("simulated and real drives do not go on one record")
                    files.replace(directory, name, after.encode(), _MODE)
                if keep and after is not None:
                    self._kept[name] = _identity(directory, name), after
                return after
        except SpoolError as error:
            raise self._failed(host, error) from None
        except OSError as error:
            raise RecordError(f"the record of {quoted(host)}: {error.strerror or error}") from None

    def clear(self, host: str) -> None:
        """Put a host's record away, into `archive/`; one that cannot be believed into `unreadable/`.

        Raises RecordError. That there is none is no error.
        """
        if os.path.isdir(self.path):
            self.update(host, lambda _found: None)

    def _believed(self, directory: Directory, name: str, host: str) -> Record | None:
        kept = self._kept.get(name)
        try:
            if kept is not None and kept[0] == _identity(directory, name):
                return kept[1]
            return self._read(directory, name, host)
        except Gone:
            return None
        except (Malformed, Invalid, Refused):
            with files.open_subdirectory(directory, UNREADABLE) as aside:
                files.move(directory, name, aside, _free_name(name))
            return None

    def _put_away(self, directory: Directory, name: str) -> None:
        with files.open_subdirectory(directory, ARCHIVE) as archive:
            files.move(directory, name, archive, _free_name(name))

    @contextlib.contextmanager
    def _open(self) -> Iterator[Directory]:
        if not os.path.isdir(self.path):
            os.makedirs(self.path, 0o750, exist_ok=True)
            _sync_directory(os.path.dirname(os.path.abspath(self.path)))
        with files.open_directory(self.path) as directory:
            yield directory

    def _failed(self, host: str, error: SpoolError) -> RecordError:
        kind = RealRecordError if isinstance(error, _Real) else RecordError
        return kind(f"the record of {quoted(host)} in {quoted(self.path)}: {error.reason}")


def _name(host: str) -> str:
    """Return the file's name for a host. Raises UnsafeName, and WriteFailed for a host's name that is too long."""
    if len(host) > _LONGEST_HOST:
        raise WriteFailed(f"a host's name of more than {_LONGEST_HOST} characters")
    return names.check(host.lower() + names.SUFFIX)


def _free_name(name: str) -> str:
    """Return a name for something that is put away, which nothing else has."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    tail = f".{stamp}.{os.urandom(4).hex()}{names.SUFFIX}"
    return f"{name.removesuffix(names.SUFFIX)[: names.MAX_NAME - len(tail)]}{tail}"


def _identity(directory: Directory, name: str) -> _Identity:
    """Return what tells a file from the one that takes its place. Raises Gone, OSError."""
    try:
        found = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
    except FileNotFoundError:
        raise Gone(f"{name} is not there") from None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _locked(directory: Directory) -> Iterator[None]:
    """Hold the lock of all who change records: an flock, which ends with its process. Raises WriteFailed."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(_LOCK, flags, 0o600, dir_fd=directory.fd)
    except OSError as error:
        raise WriteFailed(f"cannot lock it: {error.strerror}", error.errno or 0) from None
    try:
        for _try in range(_LOCK_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE_S)
        else:
            raise WriteFailed(f"another process has it in hand for {_LOCK_TRIES * _LOCK_PAUSE_S:g} s")
        yield
    finally:
        os.close(fd)

"""The two directories: requests that wait, and responses that stand."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, NamedTuple

from nvmefence.spool import files, names, request, response
from nvmefence.spool.errors import (
    AlreadyThere,
    Gone,
    Malformed,
    ReadFailed,
    SpoolError,
    Unsettled,
    WriteFailed,
)
from nvmefence.spool.files import Directory
from nvmefence.spool.names import quoted
from nvmefence.spool.request import Action, Request
from nvmefence.spool.response import RESPONSE_LIMIT, Response

REJECTED: Final = "rejected"
ARCHIVE: Final = "archive"
REJECTED_KEPT: Final = 1000
"""Files that stay in `rejected/`, the newest, with the reason for each: for a person, not for the record."""
_REJECTED_BEYOND: Final = 200
"""So many more may lie there for a while, so that not each rejection goes through all of them."""
SETTLE: Final = 2.0
"""Seconds during which an unparsable file may be one that its writer has not finished."""


class Listing(NamedTuple):
    """What waits in the request directory."""

    pending: tuple[str, ...]
    """Safe names ending in ".json", sorted; of files of any kind but directories."""
    ignored: tuple[str, ...]
    """Other entries ending in ".json", quoted for a log: directories, and names with unsafe characters."""


class _Entry(NamedTuple):
    name: str
    inode: int
    is_directory: bool


class _Spool:
    """An open directory that can be opened anew."""

    def __init__(self, path: str) -> None:
        """Open it. Raises DirectoryLost or ReadFailed."""
        self.directory: Directory = files.open_directory(path)

    def close(self) -> None:
        """Close the directory; again is harmless."""
        self.directory.close()

    def reopen(self) -> None:
        """Open what the path leads to now, after DirectoryLost. Raises the same, or ReadFailed: no change."""
        fresh = files.open_directory(self.directory.path)
        self.directory.close()
        self.directory = fresh

    def sweep(self, older_than: float) -> int:
        """Remove what dead writers left behind, see `files.sweep`; returns how many files."""
        return files.sweep(self.directory, older_than)

    def _entries(self) -> list[_Entry]:
        """Return the entries whose names end in ".json", without dot files. Raises DirectoryLost, ReadFailed."""
        fd = self.directory.open_again()
        try:
            with os.scandir(fd) as entries:
                return [
                    _Entry(e.name, e.inode(), _is_directory(e))
                    for e in entries
                    if e.name.endswith(names.SUFFIX) and not e.name.startswith(".")
                ]
        except OSError as error:
            raise ReadFailed(
                f"cannot list {quoted(self.directory.path)}: {error.strerror}", error.errno or 0
            ) from None
        finally:
            os.close(fd)

    def _move(self, name: str, subdirectory: str) -> str:
        """Move a file into a subdirectory under a name that is free there. Returns that name."""
        with files.open_subdirectory(self.directory, subdirectory) as target:
            new_name = name
            for _attempt in range(10):
                try:
                    files.move(self.directory, name, target, new_name)
                except AlreadyThere:
                    new_name = f"{name[: names.MAX_NAME - 17]}.{os.urandom(8).hex()}"
                else:
                    return new_name
        raise WriteFailed(f"cannot move {name}: no free name in {subdirectory}")


class RequestDirectory(_Spool):
    """The requests that wait. Not for several threads at once.

    `now` is seconds since 1970, `monotonic` seconds of a clock that nobody sets.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._first_seen: dict[tuple[str, int], float] = {}
        self._inode: dict[str, int] = {}
        self._rejections_left = 0
        """Rejections until `rejected/` is gone through again for what is too much."""

    def scan(self, monotonic: float) -> Listing:
        """List what waits, and remember since when. Raises DirectoryLost (then `reopen`) and ReadFailed."""
        pending: dict[str, int] = {}
        ignored = []
        for entry in self._entries():
            if not names.is_safe(entry.name) or entry.is_directory:
                ignored.append(quoted(entry.name))
            else:
                pending[entry.name] = entry.inode
        seen = self._first_seen
        self._first_seen = {key: seen.get(key, monotonic) for key in pending.items()}
        self._inode = pending
        return Listing(tuple(sorted(pending)), tuple(sorted(ignored)))

    def seen_for(self, name: str, monotonic: float) -> float:
        """Return the seconds since `scan` first listed this file; 0 for one that it has not listed."""
        first = self._first_seen.get((name, self._inode.get(name, -1)))
        return 0.0 if first is None else max(monotonic - first, 0.0)

    def read(self, name: str, now: float, monotonic: float) -> Request:
        """Return a request; the file stays.

        Raises Gone and ReadFailed (nothing is to be done, or later); Unsettled (look again); Refused, Malformed
        and InvalidRequest (to be rejected); UnsafeName.
        """
        content = files.read(self.directory, names.check_json(name))
        try:
            return request.parse(name, content.data, content.mtime)
        except Malformed as error:
            age = now - content.mtime
            # An mtime in the future says nothing about when the writer stopped; our own watch does.
            if age < 0:
                age = self.seen_for(name, monotonic)
            if age < SETTLE:
                raise Unsettled(error.reason) from None
            raise

    def exists(self, name: str) -> bool:
        """Whether a request of this name waits. Raises UnsafeName, ReadFailed (unknown)."""
        return files.exists(self.directory, names.check_json(name))

    def remove(self, name: str) -> bool:
        """Remove an answered request durably; returns whether it was there. Raises UnsafeName, WriteFailed."""
        return files.remove(self.directory, names.check_json(name))

    def reject(self, name: str, reason: str) -> str:
        """Move a file to `rejected/`, with the reason beside it if that can be written; return a line for the log.

        Of what lies there the newest `REJECTED_KEPT` stay, or a few more.
        Raises UnsafeName, Gone, ReadFailed, WriteFailed.
        """
        new_name = self._move(names.check_json(name), REJECTED)
        line = f"{name} is rejected, now {REJECTED}/{new_name}: {ascii(reason)[1:-1]}"
        try:
            with files.open_subdirectory(self.directory, REJECTED) as rejected:
                try:
                    files.write(rejected, _reason_of(new_name), f"{line}\n".encode("ascii"))
                finally:
                    self._forget_oldest(rejected)
        except SpoolError:
            pass  # the log has the reason; the file is a convenience
        return line

    def _forget_oldest(self, rejected: Directory) -> None:
        """Remove the oldest of what was rejected, as soon as there is too much. Raises SpoolError."""
        self._rejections_left -= 1
        if self._rejections_left >= 0:
            return
        found = files.ages(rejected)
        reasons = {_reason_of(name) for _age, name in found}
        kept = [name for _age, name in sorted(found, reverse=True) if name not in reasons]
        for name in kept[REJECTED_KEPT:]:
            files.discard(rejected, _reason_of(name))
            files.discard(rejected, name)
        self._rejections_left = _REJECTED_BEYOND + max(REJECTED_KEPT - len(kept), 0)


def _reason_of(name: str) -> str:
    """Return the name of the file that says why a file was rejected."""
    return f"{name[: names.MAX_NAME - 7]}.reason"


class ResponseDirectory(_Spool):
    """The responses that stand. Only one process may publish."""

    def __init__(self, path: str, *, simulated: bool = False) -> None:
        """`simulated`: who asks has emulated drives; a response that says a real node is fenced is left alone."""
        super().__init__(path)
        self._simulated = simulated

    def settle(self) -> None:
        """Make durable what a predecessor made visible and died before it was durable. Raises WriteFailed.

        A request is answered when its response is visible, and then it is removed.
        """
        files.settle(self.directory)

    def exists(self, name: str) -> bool:
        """Whether a request of this name is answered. Raises UnsafeName, DirectoryLost, ReadFailed (unknown)."""
        names.check_json(name)
        self.directory.verify()
        return files.exists(self.directory, name)

    def archived(self, name: str) -> bool:
        """Whether a response of this name was archived. Raises UnsafeName, ReadFailed, WriteFailed (unknown)."""
        names.check_json(name)
        if not files.exists(self.directory, ARCHIVE):
            return False
        with files.open_subdirectory(self.directory, ARCHIVE) as archive:
            return files.exists(archive, name)

    def read(self, name: str) -> Response:
        """Return a response. Raises UnsafeName, Gone, ReadFailed, Refused, Malformed, Invalid."""
        return response.parse(files.read(self.directory, names.check_json(name), limit=RESPONSE_LIMIT).data)

    def publish(self, name: str, answer: Response, last: Callable[[], None] | None = None) -> float | None:
        """Write a response durably. The same one again, after a failure, makes sure of it and is no error.

        `last` is called just before it becomes visible; what it raises keeps it from that.
        Returns the monotonic time just before it became visible; None for one that was there before.

        Raises AlreadyThere if another response stands under this name (it is left), WriteFailed and DirectoryLost
        (try again with the same `answer`, after `reopen` for the latter), UnsafeName, ReadFailed, Refused.
        """
        names.check_json(name)
        data = answer.encode()
        try:
            return files.write(self.directory, name, data, last=last)
        except AlreadyThere:
            if not files.exists(self.directory, name):
                # We alone publish, so what is in the way was left by a process, or by a write of ours, that failed.
                files.remove_temporary(self.directory, name)
                return files.write(self.directory, name, data, last=last)
            if files.read(self.directory, name, limit=RESPONSE_LIMIT).data != data:
                raise
            files.sync(self.directory, name)
            self.directory.verify()
            return None

    def archive(self, name: str) -> str:
        """Move a response to `archive/`: the node is no longer recorded as fenced. Returns its name there.

        Raises UnsafeName, Gone, ReadFailed, WriteFailed.
        """
        return self._move(names.check_json(name), ARCHIVE)

    def for_target(self, target_node: str) -> tuple[tuple[str, Response], ...]:
        """Return the responses that stand for a node, by name; what is not a response is passed over.

        Raises DirectoryLost, and ReadFailed if a file could not be read and the answer may thus be incomplete.
        """
        found = []
        for name in sorted(entry.name for entry in self._entries() if names.is_safe(entry.name)):
            try:
                answer = self.read(name)
            except ReadFailed:
                raise
            except SpoolError:
                continue
            if answer.target_node == target_node:
                found.append((name, answer))
        return tuple(found)

    def fences(self, of: Callable[[str], bool]) -> list[str]:
        """Return the names of the successful responses to fences of a node; `of` tells from the name in a response.

        They say that the node is fenced. Raises DirectoryLost, and ReadFailed if a file could not be read.
        """
        found = []
        for name in sorted(entry.name for entry in self._entries() if names.is_safe(entry.name)):
            try:
                answer = self.read(name)
            except ReadFailed:
                raise
            except SpoolError:
                continue
            if not answer.success or answer.action_performed == Action.ON.value or not of(answer.target_node):
                continue
            if answer.simulated or not self._simulated:
                found.append(name)
        return found

    def archive_fences(self, of: Callable[[str], bool]) -> list[str]:
        """Archive what `fences` finds; return the names. Raises the same, and WriteFailed."""
        done = []
        for name in self.fences(of):
            try:
                self.archive(name)
            except Gone:
                continue  # somebody else did
            done.append(name)
        return done


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False  # it vanished, or reading it will say what is wrong

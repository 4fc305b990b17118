"""One file in one open directory: read it without trust, write it so that it survives a power cut.

Everything is relative to a directory's descriptor; no path is ever built from a name.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from nvmefence.spool import names
from nvmefence.spool.errors import AlreadyThere, DirectoryLost, Gone, ReadFailed, Refused, WriteFailed
from nvmefence.spool.names import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import TracebackType
    from typing import Final

REQUEST_LIMIT: Final = 64 * 1024
"""Bytes that a file may have, unless the caller knows better."""
_MODES: Final = (0o600, 0o640)
_CHUNK: Final = 64 * 1024
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CLOSED: Final = -2
"""No descriptor. Not -1, which `os.listdir` and `os.scandir` take for the working directory."""
_LOST: Final = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)


class Directory:
    """An open directory. Use as a context manager, or `close` it."""

    __slots__ = ("_identity", "fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self._identity = _identity(os.fstat(fd))

    def __enter__(self) -> Directory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; again is harmless."""
        fd, self.fd = self.fd, _CLOSED
        if fd >= 0:
            os.close(fd)

    def verify(self) -> None:
        """Raise DirectoryLost unless the path still leads to this directory, ReadFailed if that is unknown."""
        try:
            same = _identity(os.stat(self.path)) == self._identity
        except OSError as error:
            raise _unopened(self.path, error) from None
        if not same:
            raise DirectoryLost(f"{quoted(self.path)} is another directory now")

    def open_again(self) -> int:
        """Return a fresh descriptor of this directory, by its path; raises as `verify`.

        For listing: an NFS client asks its server at an open (`nfs_lookup_verify_inode` in fs/nfs/dir.c), while
        through a descriptor that it has already it may list what was there half a minute ago (acdirmin in nfs(5)).
        """
        fd = -1
        try:
            fd = os.open(self.path, _DIRECTORY)
            same = _identity(os.fstat(fd)) == self._identity
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise _unopened(self.path, error) from None
        if not same:
            os.close(fd)
            raise DirectoryLost(f"{quoted(self.path)} is another directory now")
        return fd


class Content:
    """What a file held, and when it was last written."""

    __slots__ = ("data", "mtime")

    def __init__(self, data: bytes, mtime: float) -> None:
        self.data = data
        self.mtime = mtime
        """Seconds since 1970."""


def open_directory(path: str) -> Directory:
    """Open a directory. Raises DirectoryLost if there is none, ReadFailed if it cannot be opened."""
    if "\0" in path:
        raise DirectoryLost(f"not a path: {quoted(path)}")
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError as error:
        raise _unopened(path, error) from None
    return Directory(path, fd)


def open_subdirectory(parent: Directory, name: str, mode: int = 0o750) -> Directory:
    """Open a directory in a directory, made durably if missing; a symbolic link is not followed.

    Raises UnsafeName and WriteFailed.
    """
    names.check(name)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            os.mkdir(name, mode, dir_fd=parent.fd)
            os.fsync(parent.fd)
        except FileExistsError:
            pass
        fd = os.open(name, flags, dir_fd=parent.fd)
    except OSError as error:
        raise WriteFailed(f"cannot open the directory {name}: {_words(error)}", error.errno or 0) from None
    return Directory(f"{parent.path}/{name}", fd)


def read(
    directory: Directory, name: str, *, limit: int = REQUEST_LIMIT, owners: Collection[int] | None = None
) -> Content:
    """Read a regular file of at most `limit` bytes that only its owner may write.

    `owners` are the user ids that are believed: root and our own unless given. Never waits for a writer (FIFO,
    device). Raises UnsafeName, Gone, Refused, and ReadFailed when the system does not let us read.
    """
    names.check(name)
    believed = (0, os.geteuid()) if owners is None else owners
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        # Opening a device can have effects, so it is looked at first; the second look, at what was opened, counts.
        _judge(name, os.stat(name, dir_fd=directory.fd, follow_symlinks=False), limit, believed)
        fd = os.open(name, flags, dir_fd=directory.fd)
        try:
            found = os.fstat(fd)
            _judge(name, found, limit, believed)
            data = _read_all(fd, limit)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise Gone(f"{name} is not there", errno.ENOENT) from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise Refused(f"{name} is not a regular file", error.errno) from None
        raise ReadFailed(f"cannot read {name}: {_words(error)}", error.errno or 0) from None
    if len(data) > limit:
        raise Refused(f"{name} has more than {limit} bytes")
    return Content(data, found.st_mtime)


def write(
    directory: Directory, name: str, data: bytes, mode: int = 0o640, last: Callable[[], None] | None = None
) -> float:
    """Write a new file durably: after the return it survives a power cut, before it nobody sees a part of it.

    `last` is called when all is on disk and nothing is visible yet; what it raises keeps it so.
    Returns the monotonic time just before it became visible, in seconds.

    Raises UnsafeName; AlreadyThere, also while someone else writes the same name; WriteFailed; DirectoryLost if
    the path leads elsewhere. The last two say whether the file may be `visible`.
    """
    return _write(directory, name, data, mode, over=False, last=last)


def replace(directory: Directory, name: str, data: bytes, mode: int = 0o640) -> None:
    """Write a file durably in the place of the one, if any, that has its name: readers see that or this one, whole.

    The caller holds a lock that all have who write this name, so what a dead writer left is removed. Raises
    UnsafeName, WriteFailed and DirectoryLost, as `write`.
    """
    remove_temporary(directory, name)
    _write(directory, name, data, mode, over=True)


def _write(
    directory: Directory, name: str, data: bytes, mode: int, *, over: bool, last: Callable[[], None] | None = None
) -> float:
    names.check(name)
    if mode not in _MODES:
        raise ValueError(f"mode {mode:o}")
    temporary = f".{name}.tmp"
    try:
        fd = os.open(
            temporary,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            mode,
            dir_fd=directory.fd,
        )
    except FileExistsError:
        raise AlreadyThere(f"{temporary} exists: {name} is being written, or was by a process that died") from None
    except OSError as error:
        raise _unwritten(directory, name, error) from None
    try:
        visible = _write_and_rename(directory, fd, temporary, name, data, mode, over, last)
    except BaseException:
        _forget(directory, temporary)
        raise
    finally:
        os.close(fd)
    _settle(directory, name)
    try:
        directory.verify()
    except (DirectoryLost, ReadFailed) as error:
        raise DirectoryLost(f"{name} was written, but {error.reason}", error.errno, visible=True) from None
    return visible


def exists(directory: Directory, name: str) -> bool:
    """Whether the name is in use, by a file of any kind. Raises UnsafeName, and ReadFailed if that is unknown."""
    names.check(name)
    try:
        os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ReadFailed(f"cannot look for {name}: {_words(error)}", error.errno or 0) from None
    return True


def remove(directory: Directory, name: str) -> bool:
    """Remove a file (a link itself, not its target) durably. Returns whether it was there.

    Raises UnsafeName, and WriteFailed, also for a directory.
    """
    names.check(name)
    try:
        os.unlink(name, dir_fd=directory.fd)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise WriteFailed(f"cannot remove {name}: {_words(error)}", error.errno or 0) from None
    _settle(directory, name)
    return True


def remove_temporary(directory: Directory, name: str) -> None:
    """Remove what a writer of this name, known to be dead, left behind. Raises UnsafeName, WriteFailed."""
    names.check(name)
    try:
        os.unlink(f".{name}.tmp", dir_fd=directory.fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise WriteFailed(f"cannot remove .{name}.tmp: {_words(error)}", error.errno or 0) from None


def move(source: Directory, name: str, target: Directory, new_name: str) -> None:
    """Move a file durably, never over another. The caller is the only one who moves into `target`.

    Raises UnsafeName, Gone, AlreadyThere, ReadFailed, WriteFailed.
    """
    names.check(name)
    if exists(target, new_name):
        raise AlreadyThere(f"{new_name} exists")
    try:
        os.rename(name, new_name, src_dir_fd=source.fd, dst_dir_fd=target.fd)
    except FileNotFoundError:
        raise Gone(f"{name} is not there", errno.ENOENT) from None
    except OSError as error:
        raise WriteFailed(f"cannot move {name}: {_words(error)}", error.errno or 0) from None
    # The new place first: a power cut between the two may leave both names, never none.
    _settle(target, new_name)
    _settle(source, name)


def sync(directory: Directory, name: str) -> None:
    """Make durable what is already visible. Raises UnsafeName, Gone, WriteFailed."""
    names.check(name)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory.fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise Gone(f"{name} is not there", errno.ENOENT) from None
    except OSError as error:
        raise WriteFailed(f"cannot sync {name}: {_words(error)}", error.errno or 0, visible=True) from None
    _settle(directory, name)


def sweep(directory: Directory, older_than: float) -> int:
    """Remove what dead writers left: regular `.NAME.tmp` files last written before `older_than` (since 1970).

    Returns how many. The caller knows that no live writer can be that old. Raises ReadFailed, WriteFailed.
    """
    try:
        listed = os.listdir(directory.fd)
    except OSError as error:
        raise ReadFailed(f"cannot list {quoted(directory.path)}: {_words(error)}", error.errno or 0) from None
    removed = 0
    for name in listed:
        if not (name.startswith(".") and name.endswith(".tmp") and names.is_safe(name[1:-4])):
            continue
        try:
            found = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and found.st_mtime < older_than:
                os.unlink(name, dir_fd=directory.fd)
                removed += 1
        except FileNotFoundError:
            continue
        except OSError as error:
            raise WriteFailed(f"cannot remove {name}: {_words(error)}", error.errno or 0) from None
    return removed


def ages(directory: Directory) -> list[tuple[float, str]]:
    """Return of each file when (since 1970) it came into the directory, and its safe name. Raises ReadFailed."""
    found = []
    try:
        for name in os.listdir(directory.fd):
            if not names.is_safe(name):
                continue
            try:
                seen = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(seen.st_mode):
                found.append((seen.st_ctime, name))
    except OSError as error:
        raise ReadFailed(f"cannot list {quoted(directory.path)}: {_words(error)}", error.errno or 0) from None
    return found


def discard(directory: Directory, name: str) -> None:
    """Remove a file that nobody needs any more, if it is there; not durably. Raises UnsafeName, WriteFailed."""
    names.check(name)
    try:
        os.unlink(name, dir_fd=directory.fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise WriteFailed(f"cannot remove {name}: {_words(error)}", error.errno or 0) from None


def _judge(name: str, found: os.stat_result, limit: int, owners: Collection[int]) -> None:
    """Raise Refused if a file breaks a limit."""
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{name} is not a regular file")
    if found.st_uid not in owners:
        raise Refused(f"{name} belongs to user {found.st_uid}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Refused(f"{name} may be written by others (mode {stat.S_IMODE(found.st_mode):04o})")
    if found.st_size > limit:
        raise Refused(f"{name} has more than {limit} bytes")


def _read_all(fd: int, limit: int) -> bytes:
    """Return the file up to one byte more than the limit."""
    data = b""
    while len(data) <= limit:
        chunk = os.read(fd, min(_CHUNK, limit + 1 - len(data)))
        if not chunk:
            break
        data += chunk
    return data


def _write_and_rename(
    directory: Directory,
    fd: int,
    temporary: str,
    name: str,
    data: bytes,
    mode: int,
    over: bool,
    last: Callable[[], None] | None,
) -> float:
    try:
        os.fchmod(fd, mode)  # the mode given to open is subject to the umask
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
        # While `temporary` is ours no other writer of this name gets this far, so that looking first suffices.
        named = os.stat(temporary, dir_fd=directory.fd, follow_symlinks=False)
        if _identity(named) != _identity(os.fstat(fd)):
            raise WriteFailed(f"cannot write {name}: someone replaced {temporary}")
        if not over and exists(directory, name):
            raise AlreadyThere(f"{name} exists")
        if last is not None:
            last()
        visible = time.monotonic()  # before: whoever sees the file does so later, however long this process sleeps
        os.rename(temporary, name, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        return visible
    except OSError as error:
        raise _unwritten(directory, name, error) from None
    except ReadFailed as error:
        raise WriteFailed(f"cannot write {name}: {error.reason}", error.errno) from None


def _unwritten(directory: Directory, name: str, error: OSError) -> DirectoryLost | WriteFailed:
    """Return what a failure before the rename means."""
    number = error.errno or 0
    text = f"cannot write {name} in {quoted(directory.path)}: {_words(error)}"
    return DirectoryLost(text, number) if number in _LOST else WriteFailed(text, number)


def settle(directory: Directory) -> None:
    """Make durable what names are in a directory. Raises WriteFailed."""
    _settle(directory, quoted(directory.path))


def _settle(directory: Directory, name: str) -> None:
    """Make a changed entry durable."""
    try:
        os.fsync(directory.fd)
    except OSError as error:
        raise WriteFailed(
            f"cannot sync the directory of {name}: {_words(error)}", error.errno or 0, visible=True
        ) from None


def _forget(directory: Directory, temporary: str) -> None:
    try:
        os.unlink(temporary, dir_fd=directory.fd)
    except OSError:
        return  # the failure that brought us here is the one to report; `sweep` finds what stays


def _unopened(path: str, error: OSError) -> DirectoryLost | ReadFailed:
    number = error.errno or 0
    text = f"cannot open {quoted(path)}: {_words(error)}"
    return DirectoryLost(text, number) if number in _LOST else ReadFailed(text, number)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _words(error: OSError) -> str:
    return error.strerror or "no reason given"

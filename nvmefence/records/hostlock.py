"""Between processes: a restore of a host while nobody fences it, and a fence that a restore never holds up.

Each host has a file whose bytes are locked (fcntl(2), open file description locks, which end with their process and
are held against each other by two users in one process as well). A fence shares byte 0, a restore has it alone. A
fence also shares byte 1 from its beginning, and a restore looks at that before each of its commands.

A process can end while a drive has a command of its own in hand, which an io_uring lets it (an ioctl does not). So
who gives something notes in the file, before, that a command is on its way, and strikes that out after its answer;
who fences notes a command that has no answer. The other one believes such a note, of this boot, for as long as the
kernel may hold the command.

The directory belongs on a tmpfs: nothing here waits for a disk, and no lock outlives a start of the machine.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from nvmefence.clock import identity
from nvmefence.errors import UnderWayError
from nvmefence.plain import escaped
from nvmefence.spool.names import quoted

_FLOCK: Final = struct.Struct("hhqqi4x")
"""struct flock: l_type, l_whence, l_start, l_len, l_pid."""
_HELD, _WANTED = 0, 1
UNANSWERED_S: Final = 150.0
"""Seconds for which a command without an answer may still be carried out: Linux aborts it after 60, and resets the
controller after as many again (nvme_timeout)."""
_NOTES: Final = {"restore": 256, "fence": 512}
"""Where in the file it is noted that a command of a restore, or of a fence, has no answer."""
_SIGNED: Final = 200
_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOBODY_CAN: Final = (errno.ENOENT, errno.ENOTDIR, errno.EROFS)
"""Errors that say that nobody else has the lock either."""
_TRIES: Final = 3


class HostLocks:
    """The locks of all hosts in one directory, which is made when it is missing."""

    def __init__(self, directory: str, now: Callable[[], float] = time.monotonic) -> None:
        """`now` is a clock that all processes share, and that begins anew at each boot."""
        self.directory = directory
        self._now = now

    def fence(self) -> FenceLock:
        """Return the lock for one fence."""
        return FenceLock(self.directory, self._now)

    def restore(self, host: str, what: str = "a restore") -> RestoreLock:
        """Take a host's lock for a restore, or `what` else gives it something. Never waits.

        Raises UnderWayError when somebody fences or restores the host, and if the lock cannot be had.
        """
        return RestoreLock(self.directory, host, what, self._now)

    def restoring(self, host: str) -> str:
        """Say who is giving a host something now; empty: nobody, or it cannot be told. In nobody's way."""
        try:
            fd = self._look(host)
        except (OSError, ValueError):
            return ""
        try:
            asked = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _HELD, 1, 0)
            if _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0] == fcntl.F_UNLCK:
                return ""
            who = escaped(os.pread(fd, _SIGNED, 0).decode("utf-8", "replace").strip(" \n\0"))
            return f"{who or 'a restore'} of {host} is under way"
        except OSError:
            return ""
        finally:
            os.close(fd)

    def hindered(self, host: str) -> bool:
        """Whether a fence of this host would have to wait, for a restore or for what one left. In nobody's way."""
        if self.restoring(host):
            return True
        try:
            fd = self._look(host)
        except (OSError, ValueError):
            return False
        try:
            return _left(fd, "restore", self._now()) > 0
        except OSError:
            return False
        finally:
            os.close(fd)

    def _look(self, host: str) -> int:
        return os.open(f"{self.directory}/{host.lower()}.lock", os.O_RDONLY | _FLAGS)


class FenceLock:
    """A `fencing.guard.Guard`."""

    def __init__(self, directory: str, now: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._now = now
        self._files: dict[str, _File] = {}
        self._held: set[str] = set()
        self.trouble = ""
        """Why there is no lock, and so no restore either; empty: all is well."""

    def enter(self, host: str) -> str:
        """See Guard. Where nobody can make the lock, a restore cannot either, and nobody is in the way."""
        try:
            for _try in range(_TRIES):
                file = self._files.get(host)
                if file is None or not file.in_place():
                    self._forget(host)
                    file = self._files[host] = _File(self._directory, host, self._now, readable_will_do=True)
                elif host in self._held:
                    return ""
                if why := _restoring(file, host):
                    return why
                if file.in_place():
                    file.sign("a fence")
                    self._held.add(host)
                    self.trouble = ""
                    return ""
        except OSError as error:
            self._forget(host)
            self.trouble = f"the lock of {host} in {quoted(self._directory)}: {error.strerror or error}"
            return "" if error.errno in _NOBODY_CAN else self.trouble
        except ValueError as error:  # a name that is none
            return f"the lock of {host!a}: {error}"
        return f"the lock of {host} in {quoted(self._directory)} is replaced again and again"

    def enter_unless_restored(self, host: str) -> str:
        """As `enter`, but where somebody may be restoring the host, that is said and left in peace."""
        file: _File | None = None
        try:
            file = _File(self._directory, host, self._now, readable_will_do=True)
            if not file.lock(fcntl.F_RDLCK, _HELD):
                return f"{file.holder() or 'a restore'} of {host} is under way"
            self._forget(host)
            self._files[host], file = file, None
        except OSError:
            pass  # which `enter` meets as well
        finally:
            if file is not None:
                file.close()
        return self.enter(host)

    def note(self, there: bool) -> None:
        """Note whether a command has no answer, for who gives something when this process is gone."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a directory that cannot be written to has no restores either
                file.note("fence", there)

    def end(self) -> None:
        """Let go of all hosts; again is harmless."""
        for host in list(self._files):
            self._forget(host)

    def _forget(self, host: str) -> None:
        self._held.discard(host)
        file = self._files.pop(host, None)
        if file is not None:
            file.close()

    def __enter__(self) -> FenceLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def _restoring(file: _File, host: str) -> str:
    """Take the lock for a fence, and say who may be giving the host something; empty: nobody can from now on."""
    if not file.lock(fcntl.F_RDLCK, _WANTED) or not file.lock(fcntl.F_RDLCK, _HELD):
        return f"{file.holder() or 'a restore'} of {host} is under way"
    left = file.noted("restore")
    return f"a restore of {host} ended without an answer, which may still come for {left:.0f} s" if left else ""


class RestoreLock:
    """The right to give a host something, until `end` or the end of the process."""

    def __init__(self, directory: str, host: str, what: str, now: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        try:
            self._file = _File(directory, host, now)
        except OSError as error:
            raise UnderWayError(
                f"the lock of {host} in {quoted(directory)} cannot be had: {error.strerror or error}",
                "without it a fence that begins meanwhile would not be seen; make the directory, or name another "
                "with run_dir",
            ) from None
        try:
            if not self._file.lock(fcntl.F_WRLCK, _HELD):
                who = self._file.holder() or "a fence"
                raise UnderWayError(f"{who} of {host} is under way", "try again when that has ended")
            if left := self._file.noted("fence"):
                raise UnderWayError(
                    f"a fence of {host} ended without an answer from a drive, which may still cut for {left:.0f} s",
                    "try again then",
                )
            self._file.sign(what)
            if self.wanted():
                raise UnderWayError(self.wanted(), "try again when that has ended")
        except BaseException:
            self._file.close()
            raise

    def wanted(self) -> str:
        """Say why nothing more may be given to the host; empty: nothing stands in the way. Never waits."""
        try:
            if not self._file.is_free(_WANTED):
                return f"a fence of {self._host} has begun"
            if not self._file.in_place():
                return f"the lock of {self._host} was replaced"
        except OSError as error:
            return f"the lock of {self._host} cannot be looked at: {error.strerror or error}"
        return ""

    def note(self, there: bool) -> None:
        """Note whether something may be given that has no answer, for who fences when this process is gone.

        Raises OSError; then nothing may be given.
        """
        self._file.note("restore", there)

    def end(self) -> None:
        """Let go of it; again is harmless. Only when no command that gives something is without an answer."""
        self._file.close()


class _File:
    """A host's lock file, open. Raises OSError."""

    def __init__(
        self, directory: str, host: str, now: Callable[[], float], *, readable_will_do: bool = False
    ) -> None:
        self._now = now
        self._earlier: dict[str, bytes] = {}
        """Notes of others that stood when the first of ours was made: ours is struck out, theirs is not."""
        name = f"{host.lower()}.lock"
        if "/" in name or "\0" in name:
            raise OSError(errno.EINVAL, "not a host's name")
        self._path = f"{directory}/{name}"
        try:
            self._fd = os.open(self._path, os.O_RDWR | _FLAGS)
        except FileNotFoundError:
            os.makedirs(directory, 0o700, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | _FLAGS | os.O_CREAT, 0o600)
        except OSError as error:
            if error.errno != errno.EROFS or not readable_will_do:
                raise
            self._fd = os.open(self._path, os.O_RDONLY | _FLAGS)  # enough to share a lock
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            self.close()
            raise OSError(errno.EINVAL, f"{name} is not a regular file")

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def in_place(self) -> bool:
        """Whether whoever opens the path now gets this file."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def lock(self, kind: int, byte: int) -> bool:
        """Lock a byte; returns False if another has it."""
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
        except (BlockingIOError, PermissionError) as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return False
        return True

    def is_free(self, byte: int) -> bool:
        """Whether nobody else has locked a byte in any way."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        answer = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(answer)[0] == fcntl.F_UNLCK)

    def sign(self, what: str) -> None:
        """Say who has it; for a message only."""
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, f"{what} (process {os.getpid()})\n".encode().ljust(_SIGNED), 0)

    def note(self, what: str, there: bool) -> None:
        """Note that a command of `what` has no answer now, or strike that out."""
        if what not in self._earlier:
            self._earlier[what] = os.pread(self._fd, _SIGNED, _NOTES[what]) if self.noted(what) else b""
        text = f"{self._now():.3f} {identity()}\n".encode() if there else self._earlier[what]
        os.pwrite(self._fd, text.ljust(_SIGNED), _NOTES[what])

    def noted(self, what: str) -> float:
        """Return the seconds for which a command of `what` may still be carried out; 0: there is none."""
        return _left(self._fd, what, self._now())

    def holder(self) -> str:
        """Return who signed last, in words."""
        return escaped(os.pread(self._fd, _SIGNED, 0).decode("utf-8", "replace").strip(" \n\0"))


def _left(fd: int, what: str, now: float) -> float:
    """Return the seconds for which a note in a lock's file is to be believed; 0: there is none. Raises OSError."""
    words = os.pread(fd, _SIGNED, _NOTES[what]).decode("utf-8", "replace").strip(" \n\0").split()
    if not words:
        return 0.0
    try:
        passed = now - float(words[0])
    except ValueError:
        return 0.0
    clocks = {clock for clock in (*words[1:2], identity()) if clock}
    return UNANSWERED_S - passed if 0 <= passed < UNANSWERED_S and len(clocks) < 2 else 0.0

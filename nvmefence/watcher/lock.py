"""One watcher for one request directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import Final

from nvmefence.errors import BusyError
from nvmefence.plain import escaped
from nvmefence.spool.files import Directory
from nvmefence.spool.names import quoted

NAME: Final = ".watcher.lock"


class Lock:
    """The right to serve a directory, until `release` or the process ends.

    A lock of the kernel (flock(2); over NFS, Linux makes it one of the server) on a file in the directory, which
    stays: removing it would let two watchers hold two locks.
    """

    def __init__(self, directory: Directory) -> None:
        """Take it. Raises BusyError, which names who has it, and OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = os.open(NAME, flags, 0o600, dir_fd=directory.fd)
        try:
            found = os.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise OSError(0, f"{NAME} is not a regular file, or has another name besides")
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._sign()
        except BlockingIOError:
            holder = escaped(os.pread(self._fd, 200, 0).decode("utf-8", "replace").strip()) or "unknown"
            os.close(self._fd)
            raise BusyError(
                f"another watcher serves {quoted(directory.path)} ({holder})",
                "only one may; stop it first, or wait until the kernel has let go of it",
            ) from None
        except BaseException:
            os.close(self._fd)
            raise

    def _sign(self) -> None:
        """Say who has it. On a full disk that is left out: what waits there must be served all the same."""
        mine = f"process {os.getpid()} on {os.uname().nodename}\n".encode()
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, mine, 0)

    def release(self) -> None:
        """Give it up at once, also where a thread of this process is still held in the kernel."""
        with contextlib.suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        with contextlib.suppress(OSError):  # EIO where an NFS server was started anew and has forgotten the lock
            os.close(self._fd)

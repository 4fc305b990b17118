"""What the watcher wants of the kernel that Python does not offer: inotify, and memory that stays."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

_EVENT: Final = struct.Struct("iIII")
_CLOSE_WRITE: Final = 0x8
_MOVED_TO: Final = 0x80
_DELETE_SELF: Final = 0x400
_MOVE_SELF: Final = 0x800
_ABOUT_ITSELF: Final = 0x2000 | 0x4000 | 0x8000 | _DELETE_SELF | _MOVE_SELF
"""IN_UNMOUNT, IN_Q_OVERFLOW, IN_IGNORED, and the directory itself deleted or moved."""
_BUFFER: Final = 64 * 1024
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library; return its result. Raises OSError where that is negative."""
    result = int(getattr(_libc, name)(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


class Inotify:
    """Hints that something happened in one directory (inotify(7)). `fd` becomes readable for them."""

    def __init__(self) -> None:
        """Raises OSError where the kernel has no more instances to give."""
        self.fd = call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)
        self._watch = -1

    def follow(self, directory: int) -> None:
        """Watch the directory open under this descriptor from now on, and no other. Raises OSError."""
        if self._watch >= 0:
            _libc.inotify_rm_watch(self.fd, self._watch)
            self._watch = -1
        mask = _CLOSE_WRITE | _MOVED_TO | _DELETE_SELF | _MOVE_SELF
        self._watch = call("inotify_add_watch", self.fd, f"/proc/self/fd/{directory}".encode(), mask)

    def concerns(self, suffix: bytes) -> bool:
        """Take in what there is; return whether any of it is about the directory itself or a name that ends so."""
        concerned = False
        while True:
            try:
                data = os.read(self.fd, _BUFFER)
            except BlockingIOError:
                return concerned
            offset = 0
            while offset < len(data):
                _watch, mask, _cookie, length = _EVENT.unpack_from(data, offset)
                name = data[offset + _EVENT.size : offset + _EVENT.size + length].rstrip(b"\0")
                offset += _EVENT.size + length
                concerned |= bool(mask & _ABOUT_ITSELF) or name.endswith(suffix)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)


def lock_memory() -> None:
    """Keep this process in memory: a fence must work when the disk that it would be paged in from is gone.

    All that is mapped now is brought in and stays; what is mapped later stays from its first use on, so that the
    unused part of a thread's stack costs nothing (mlockall(2)). Raises OSError.
    """
    call("mlockall", _MCL_CURRENT)
    call("mlockall", _MCL_FUTURE | _MCL_ONFAULT)

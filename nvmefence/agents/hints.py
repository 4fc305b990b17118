"""Waiting with hints: inotify ends a wait when a directory changes, a descriptor for signals when one comes.

The standard library reaches both through ctypes only, which takes as long to load as a quick fence: so only who has
waited for a while already loads this. It hints at most: on NFS, and where the kernel has no more instances to give,
the wait ends with its time.
"""

from __future__ import annotations

import os
import select
from collections.abc import Mapping

from nvmefence.watcher.kernel import call

_CHANGES = 0x8 | 0x80
"""IN_CLOSE_WRITE, IN_MOVED_TO (inotify(7))."""
_SIGINFO = 128
"""Bytes of struct signalfd_siginfo, which begins with the signal's number."""
_SIGSET = 128
"""Bytes of the C library's sigset_t; signal n is bit n - 1."""
_BUFFER = 64 * 1024


class Hints:
    """Belongs to one wait; what it opens goes with the process."""

    def __init__(self, directory: str, signals: Mapping[int, str]) -> None:
        """`signals`: names by number; they are blocked. Raises OSError."""
        self._signals = signals
        self._changes = call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            call("inotify_add_watch", self._changes, os.fsencode(directory), _CHANGES)
            mask = sum(1 << number - 1 for number in signals).to_bytes(_SIGSET, "little")
            self._received = call("signalfd", -1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            os.close(self._changes)
            raise
        self._poll = select.poll()
        for fd in (self._changes, self._received):
            self._poll.register(fd, select.POLLIN)

    def pause(self, duration_s: float) -> str:
        """Wait, at most so long, for a change; return the name of a signal that ended it, else an empty string."""
        ready = {fd for fd, _events in self._poll.poll(max(0.0, duration_s) * 1000)}
        if self._changes in ready:
            os.read(self._changes, _BUFFER)
        if self._received not in ready:
            return ""
        return self._signals.get(int.from_bytes(os.read(self._received, _SIGINFO)[:4], "little"), "")

"""The process beside: it alone starts programs, so that the one that fences never forks and never waits for one.

A fork would share the lock on the request directory, and open drives, with a program that hangs; the start of a
program waits for the disk that it lies on, and would stop the whole interpreter meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import Any, Final, NamedTuple

from nvmefence.after.actions import Done, Fence, Options
from nvmefence.after.serving import serve

MESSAGE_LIMIT: Final = 128 * 1024
"""Bytes; less than what a socket takes at once."""


class Gone(EOFError):
    """The process beside has ended."""


class Report(NamedTuple):
    """What the process beside says about one fence."""

    job: int
    done: Done | None
    """None: that was all about this fence."""


class Helper:
    """This process's end. Nothing here ever waits."""

    def __init__(self, options: Options) -> None:
        """Start it. To be done while this process has one thread, no drive open, and no lock. Raises OSError."""
        self.options = options
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                mine.close()
                _settle(its)
                serve(options, its)
            finally:
                os._exit(0)
        its.close()
        mine.setblocking(False)
        self._socket = mine
        self._jobs = 0

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is a report."""
        return self._socket.fileno()

    def post(self, fence: Fence) -> int:
        """Have done what is to be done after this fence; returns the number of the job, 0 if it cannot be taken."""
        message = fence.encode(self._jobs + 1)
        if len(message) > MESSAGE_LIMIT:
            return 0
        try:
            self._socket.send(message)
        except OSError:  # its socket is full, or it has ended
            return 0
        self._jobs += 1
        return self._jobs

    def receive(self) -> Report | None:
        """Return a report; None if there is none now. Raises Gone."""
        try:
            data = self._socket.recv(MESSAGE_LIMIT)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            raise Gone
        document: dict[str, Any] = json.loads(data)
        done = document["done"]
        return Report(document["job"], None if done is None else Done.of(done))

    def close(self) -> None:
        """Give it no more to do; it ends what it has begun or was given, and then itself."""
        self._socket.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


def _settle(its: socket.socket) -> None:
    """Become a process of its own: no terminal, no descriptor of the other's but the socket."""
    os.setsid()
    os.chdir("/")
    quiet = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        descriptors = list(range(1024))
    for fd in descriptors:
        if fd > 2 and fd != its.fileno():
            with contextlib.suppress(OSError):
                os.close(fd)
    its.setblocking(False)

"""The logs of fence events, written by a child process so that no log can ever hold up a fence.

The log directory may be on the very file system that stands still until the fence is confirmed. So the agent hands
its lines to a child through a pipe that never blocks; the child appends them and is waited for only briefly.
"""

from __future__ import annotations

import os
import select
import time

from nvmefence.eventlog import FILES, Event, append, make_directory

CLOSE_WITHIN_S = 0.5


class Journal:
    """The way to the logs. No method raises for a log that cannot be written, and none blocks."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lines = -1
        self._trouble = -1

    def record(self, event: Event) -> None:
        """Hand an event to the child, which is started at the first."""
        try:
            if self._lines < 0:
                self._start()
            os.write(self._lines, "\0".join(event.lines()).encode() + b"\n")
        except OSError:
            pass  # no process or no room in the pipe: the fence goes on without this line

    def close(self, within_s: float = CLOSE_WITHIN_S) -> str:
        """Let the child finish, waiting `within_s` at most; return what went wrong, else an empty string."""
        if self._lines < 0:
            return ""
        os.close(self._lines)
        told = b""
        until = time.monotonic() + within_s
        while True:
            ready, _, _ = select.select([self._trouble], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                told = f"{self._directory} did not take the log within {within_s:g} s".encode()
                break
            more = os.read(self._trouble, 4096)
            if not more:
                break
            told += more
        os.close(self._trouble)
        self._lines = self._trouble = -1
        return told.decode(errors="replace")

    def _start(self) -> None:
        source, lines = os.pipe()
        trouble, report = os.pipe()
        try:
            child = os.fork()
        except OSError:
            for end in (source, lines, trouble, report):
                os.close(end)
            raise
        if child == 0:
            try:
                os.close(lines)
                os.close(trouble)
                _serve(self._directory, source, report)
            finally:
                os._exit(0)
        os.close(source)
        os.close(report)
        os.set_blocking(lines, False)
        self._lines, self._trouble = lines, trouble


def _serve(directory: str, source: int, report: int) -> None:
    """Be the child: append what comes, tell of the first failure. Keeps nothing of Pacemaker's open."""
    quiet = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    told = False
    with os.fdopen(source, "rb") as frames:
        for frame in frames:
            for name, line in zip(FILES, frame.decode().removesuffix("\n").split("\0"), strict=True):
                try:
                    make_directory(directory)
                    append(directory, name, line)
                except OSError as error:
                    if not told:
                        os.write(report, f"{directory}/{name}: {error.strerror}".encode())
                    told = True
    os.close(report)  # now: the agent waits for this, and not for the end of a process

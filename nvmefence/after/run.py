"""One program, bounded in time and output, whatever it does. For a process with one thread: it forks.

`subprocess` is not used because it waits, without a limit, until the kernel has read the program from its disk.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, NoReturn

TAIL: Final = 1000
"""Bytes of a program's output that are kept: the last ones."""
_GRACE_S: Final = 1.0
"""Seconds that a killed program is given to be gone."""
_PAUSE_S: Final = 0.01
"""Seconds between two looks at a program where the kernel has no pidfd (before 5.3)."""
_AT_ONCE: Final = 64 * 1024
_FLOOD: Final = 8
"""Reads that find something, one after another, until a flood is given a pause."""


class Ended(NamedTuple):
    """How a program ended."""

    exit: int | None
    """Exit code, or -n where signal n ended it; None: it did not end by itself."""
    seconds: float
    output: str
    """The end of what it wrote to standard output and standard error, in one line."""
    problem: str
    """Why this was no ordinary end; else empty."""


def run(argv: Sequence[str], environment: Mapping[str, str], limit_s: float, given: bytes = b"") -> Ended:
    """Run a program by its path in a session of its own, with `given` as its standard input, in /.

    At its end, or at the limit, what is left of its process group is killed. Raises nothing that the program, or a
    disk that does not answer, could bring about.
    """
    started = time.monotonic()
    try:
        source, (reader, writer) = _input(given), os.pipe()
    except OSError as error:
        return Ended(None, 0.0, "", f"cannot be started: {error.strerror}")
    try:
        os.set_blocking(reader, False)
        child = os.fork()
        if child == 0:
            _become(argv, environment, source, writer)
    except OSError as error:
        os.close(reader)
        return Ended(None, 0.0, "", f"cannot be started: {error.strerror}")
    finally:
        os.close(source)
        os.close(writer)
    output = _Output(reader)
    try:
        ended = _wait(child, output, started + limit_s)
        _kill(child)
        exit_code = _reap(child)
        output.take()
    finally:
        os.close(reader)
    problem = "" if ended else f"killed after {limit_s:g} s"
    if exit_code is None:
        problem += ", and not gone yet: the kernel holds it"
    elif not ended:
        exit_code = None
    return Ended(exit_code, time.monotonic() - started, output.text(), problem)


class _Output:
    """The last bytes of what comes out of a pipe."""

    def __init__(self, reader: int) -> None:
        self.reader = reader
        self.open = True
        self._tail = b""
        self._more = False

    def take(self) -> None:
        """Take in what is there now. A flood is slowed down: its pipe is full while this sleeps."""
        for _read in range(_FLOOD):
            try:
                data = os.read(self.reader, _AT_ONCE)
            except BlockingIOError:
                return
            if not data:
                self.open = False
                return
            kept = self._tail + data[-TAIL:]
            self._more = self._more or len(self._tail) + len(data) > TAIL
            self._tail = kept[-TAIL:]
        time.sleep(_PAUSE_S)

    def text(self) -> str:
        """Return it in one line."""
        lines = self._tail.decode("utf-8", "replace").split("\n")
        return ("..." if self._more else "") + "; ".join(line.strip() for line in lines if line.strip())


def _input(given: bytes) -> int:
    """Return a descriptor to read this from: in memory, so that nobody waits for a program that does not read."""
    if not given:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    fd = os.memfd_create("fence")
    os.write(fd, given)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _become(argv: Sequence[str], environment: Mapping[str, str], source: int, writer: int) -> NoReturn:
    try:
        os.setsid()
        os.dup2(source, 0)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.closerange(3, 1024)  # now, for the kernel closes them only once it has read the program from its disk
        for number in signal.valid_signals():
            with contextlib.suppress(OSError):  # SIGKILL, SIGSTOP
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.chdir("/")
        os.execve(argv[0], list(argv), dict(environment))
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode("utf-8", "replace"))
    finally:
        os._exit(127)


def _wait(child: int, output: _Output, until: float) -> bool:
    """Wait for the program's end and take in its output; returns whether it ended before `until`."""
    poller = select.poll()
    poller.register(output.reader, select.POLLIN)
    watch = _pidfd(child)
    if watch >= 0:
        poller.register(watch, select.POLLIN)
    listening = True
    try:
        while True:
            output.take()
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
            left = until - time.monotonic()
            if left <= 0:
                return False
            if listening and not output.open:
                poller.unregister(output.reader)
                listening = False
            poller.poll(1 + 1000 * (left if watch >= 0 else min(left, _PAUSE_S)))
    finally:
        if watch >= 0:
            os.close(watch)


def _pidfd(child: int) -> int:
    try:
        return os.pidfd_open(child)
    except OSError:
        return -1


def _kill(child: int) -> None:
    """Kill the program and its process group. It is not reaped yet, so that the number is still its own."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(child, signal.SIGKILL)


def _reap(child: int) -> int | None:
    until = time.monotonic() + _GRACE_S
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(_PAUSE_S)

"""A front process that can always leave, even while the kernel holds a thread of the worker.

A thread inside an NVMe ioctl cannot be killed, and a process is not gone before its last thread. So the work is
done in a child; the parent only waits for its verdict and exits with it. The child then gives its standard
streams up and ends when the kernel lets it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable

from nvmefence.errors import Exit
from nvmefence.lines import LineWriter

_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def run(work: Callable[[], int]) -> int:
    """Run `work` in a child process and return its result as soon as it is known.

    `work` returns an exit code from 0 to 255 and prints what there is to print. A child that ends without a
    verdict (killed, crashed) is `Exit.INTERNAL`, never success.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    # Until the handlers are there a signal must wait: it would end the front and leave the worker running.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(reader)
        _work(work, writer)
    os.close(writer)
    for number in _PASSED_ON:
        signal.signal(number, lambda received, _frame: _pass_on(child, received))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    verdict = _read_verdict(reader)
    os.close(reader)
    if verdict:
        return verdict[0]
    _, state = os.waitpid(child, 0)
    if os.WIFSIGNALED(state) and os.WTERMSIG(state) in _PASSED_ON:
        return Exit.INTERRUPTED
    _complain("nvmefence: the worker process ended without a result: nothing is confirmed\n")
    return Exit.INTERNAL


def _read_verdict(reader: int) -> bytes:
    while True:
        try:
            return os.read(reader, 1)
        except InterruptedError:
            continue


def _pass_on(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _work(work: Callable[[], int], writer: int) -> None:
    code: int = Exit.INTERNAL
    try:
        code = finish(work)
    finally:
        quiet = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        with contextlib.suppress(BrokenPipeError):
            os.write(writer, bytes([code]))
        os._exit(code)


def finish(work: Callable[[], int]) -> int:
    """Run `work` and flush what it printed; a defect is shown and is `Exit.INTERNAL`.

    Output that cannot be written (`nvmefence ... | head -1`, a full disk) changes nothing about the result.
    Standard output that takes nothing delays it; standard error does not, as only `nvmefence.lines` writes there,
    past the buffer of `sys.stderr`.
    """
    try:
        code = work()
    except KeyboardInterrupt:  # a second one, from the front, while the first was dealt with
        code = Exit.INTERRUPTED
    except Exception:
        _complain(f"{traceback.format_exc()}nvmefence: this is a defect in nvmefence; nothing is confirmed\n")
        code = Exit.INTERNAL
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the reader has left, the disk is full, the terminal is gone
            quiet = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(quiet, stream.fileno())
            os.close(quiet)
    return code


def _complain(text: str) -> None:
    """Write to standard error; give up after half a second if it takes nothing."""
    writer = LineWriter(sys.stderr.fileno(), encoding=sys.stderr.encoding)
    writer.put(text)
    writer.close()

"""Signals that end a wait and nothing else, the wait that they may end, and the end of a process that hangs.

Takes `_signal`, the interpreter's own part of the module `signal`, because the rest of that makes enums of numbers,
for which it imports eight modules: a quarter of the agent's start.
"""

from __future__ import annotations

import _thread
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    import _signal as signal

SIGNALS: dict[int, str] = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "SIGINT", signal.SIGHUP: "SIGHUP"}
"""Those that end a wait, by number: their names."""


HANGS_S = 3.0
"""Seconds beyond its time after which an agent counts as hanging."""


def end_after(duration_s: float, say: Callable[[], object]) -> Callable[[], None]:
    """End this process with 1 `HANGS_S` after so long, whatever it hangs in: an NFS mount without its server, say.

    A thread does it, after it has called `say`, unless what this returns was called before. A call on a hard mount
    takes no signal but one that kills. Where there is no memory for a thread, whoever waits for this process has to
    kill it.
    """
    going_on = _thread.allocate_lock()
    going_on.acquire()

    def end() -> None:
        # In two steps, for a process that was stopped (SIGSTOP) beyond its time and goes on, which does not hang.
        if going_on.acquire(timeout=duration_s) or going_on.acquire(timeout=HANGS_S):
            return
        try:
            say()
        finally:
            os._exit(1)

    try:  # noqa: SIM105 (contextlib costs an agent a part of its start)
        _thread.start_new_thread(end, ())
    except (RuntimeError, MemoryError):
        pass
    return going_on.release


def hold_signals() -> None:
    """Keep SIGTERM and the like pending until a `pause`: none of them ends the agent at an arbitrary place."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def pause(duration_s: float) -> str:
    """Wait; return the name of the signal that ended the wait early, else an empty string.

    A process that was stopped (SIGSTOP) until its time was over has the kernel say EINTR; CPython (up to 3.13 at
    least, signal_sigtimedwait_impl) then returns a signal's number out of memory that nobody has written.
    """
    received = signal.sigtimedwait(SIGNALS, max(0.0, duration_s))
    return SIGNALS.get(received.si_signo, "") if received else ""

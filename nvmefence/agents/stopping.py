"""Signals that end a wait and nothing else, and the wait that they may end.

Takes `_signal`, the interpreter's own part of the module `signal`, because the rest of that makes enums of numbers,
for which it imports eight modules: a quarter of the agent's start.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

_NAMES: dict[int, str] = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "SIGINT", signal.SIGHUP: "SIGHUP"}


def hold_signals() -> None:
    """Keep SIGTERM and the like pending until a `pause`: none of them ends the agent at an arbitrary place."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _NAMES)


def pause(duration_s: float) -> str:
    """Wait; return the name of the signal that ended the wait early, else an empty string.

    A process that was stopped (SIGSTOP) until its time was over has the kernel say EINTR; CPython (up to 3.13 at
    least, signal_sigtimedwait_impl) then returns a signal's number out of memory that nobody has written.
    """
    received = signal.sigtimedwait(_NAMES, max(0.0, duration_s))
    return _NAMES.get(received.si_signo, "") if received else ""

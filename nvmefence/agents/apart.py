"""Work in a child process, so that whoever waits for it can always leave.

A thread inside an NVMe ioctl cannot be killed, and a process is not gone before its last thread. So an agent has a
child work on the drives and waits for what it tells, never for its end. The child holds none of the agent's
standard streams: what it has to say goes through a pipe, and the agent says it.
"""

from __future__ import annotations

import os
import select
import time

from nvmefence.agents.running import defect
from nvmefence.plain import escaped

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

    Tell = Callable[..., None]
else:
    import _signal as signal  # the rest of the module costs an agent a quarter of its start

_NAMES: dict[int, str] = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "SIGINT", signal.SIGHUP: "SIGHUP"}
DEFECT = "defect"
_AT_ONCE = 65536


class Late(Exception):
    """Nothing was heard in time."""


class Stopped(Exception):
    """A signal asks this process to end; the text is its name."""


class Child:
    """A child process at work, from its start on.

    Takes SIGTERM, SIGINT and SIGHUP over for the rest of this process: `hear` raises Stopped for them.
    """

    def __init__(self, work: Callable[[Tell], object]) -> None:
        """Start `work` in a child; what it passes to its argument, texts, is heard here. Raises OSError.

        An error that it raises is heard as `DEFECT` and a line about it.
        """
        self._heard = b""
        self._reader, writer = os.pipe()
        # Until there are handlers a signal must wait: it would end this process and leave the child at work.
        signal.pthread_sigmask(signal.SIG_BLOCK, _NAMES)
        try:
            self._process = os.fork()
        except OSError:
            os.close(self._reader)
            os.close(writer)
            raise
        if not self._process:
            _be_the_child(work, self._reader, writer)
        os.close(writer)
        self._signals = _receive_signals()

    def hear(self, until: float) -> list[str] | None:
        """Return what the child tells next, None at its end. Raises Late at the monotonic time `until`, Stopped."""
        while b"\n" not in self._heard:
            left = max(0.0, until - time.monotonic())
            ready, _, _ = select.select([self._reader, self._signals], [], [], left)
            if self._signals in ready:
                raise Stopped(_NAMES.get(os.read(self._signals, 1)[0], "a signal"))
            if not ready:
                raise Late
            more = os.read(self._reader, _AT_ONCE)
            if not more:
                return None
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode().split("\0")

    def kill(self) -> None:
        """End it as soon as the kernel lets it go; does not wait for that."""
        os.kill(self._process, signal.SIGKILL)  # never waited for, so the number is still its own


def _receive_signals() -> int:
    """Have the numbers of signals come through a pipe and return its end."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _NAMES:
        signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NAMES)
    return reader


def _be_the_child(work: Callable[[Tell], object], reader: int, writer: int) -> None:
    try:
        signal.set_wakeup_fd(-1)
        for number in _NAMES:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _NAMES)
        os.close(reader)
        quiet = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)

        def tell(*texts: str) -> None:
            rest = "\0".join(map(escaped, texts)).encode("utf-8", "backslashreplace") + b"\n"
            while rest:
                rest = rest[os.write(writer, rest) :]

        try:
            work(tell)
        except BrokenPipeError:
            raise
        except Exception as error:
            tell(DEFECT, defect(error))
    except BrokenPipeError:  # nobody listens any more
        pass
    finally:
        os._exit(0)

"""Text to a descriptor whose reader may stop reading: a thread of its own waits for the reader, nobody else.

A write to a terminal that is stopped (Ctrl-S, a dead serial line), to a full pipe or to a hung journal blocks for
as long as the reader likes. Asking first does not help: a terminal reports room that is too little for the text.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
import weakref
from collections import deque

from nvmefence import threads

_PAUSE = 0.02
"""Seconds between attempts where a descriptor reports room and then takes nothing."""

_writers: weakref.WeakSet[LineWriter] = weakref.WeakSet()


class LineWriter:
    """Writes texts to a descriptor in the order in which they were put, without ever making `put` wait.

    `fd` stays the caller's: it is neither duplicated nor closed, and must stay open until `close`. `limit` is how
    many texts may wait. A text that finds no room is dropped, and so are those after it until half of what waits
    is written; with `tell_lost` a text that says how many there were then stands in their place. Text is written
    in `encoding`, with backslash escapes for what that cannot express. After an error of the descriptor (reader
    gone, terminal gone, disk full) the writer is silent for ever.

    The thread starts at the first text and is a daemon: one that is stuck does not hold up the end of the process,
    but what it has not written then is lost, so call `close` before. No stream buffers anything, so there is
    nothing that the interpreter would flush at its end. After a fork the texts that wait are the parent's to write;
    the child's copy starts empty, with a thread of its own at its first text.
    """

    def __init__(self, fd: int, limit: int = 1000, *, encoding: str = "utf-8", tell_lost: bool = False) -> None:
        self._fd = fd
        self._limit = limit
        self._encoding = encoding
        self._tell_lost = tell_lost
        self._lost = self._closed = False
        self._dropped = 0
        self._restart()
        _writers.add(self)

    def _restart(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[str] = deque()
        self._gap = 0
        self._busy = False
        self._started = False

    @property
    def lost(self) -> bool:
        """Whether the descriptor failed, so that nothing is written any more."""
        return self._lost

    @property
    def dropped(self) -> int:
        """How many texts were dropped so far because the reader did not keep up."""
        return self._dropped

    def put(self, text: str) -> None:
        """Have `text` written as soon as the reader takes it. Never waits and never fails."""
        with self._changed:
            if self._lost or self._closed:
                return
            if len(self._waiting) >= (self._limit // 2 + 1 if self._gap else self._limit):
                self._drop(1)
                return
            self._end_gap()
            self._waiting.append(text)
            self._changed.notify_all()
            if not self._started:
                self._started = True
                try:
                    threads.start(self._run)
                except (RuntimeError, MemoryError):  # no more threads to be had
                    self._fail()

    def drain(self, within_s: float = 0.5) -> bool:
        """Wait at most `within_s` seconds until all is written; what still waits then is dropped.

        Returns whether all was written. If not, the text that the thread is stuck with, or the rest of it, may
        still appear later.
        """
        with self._changed:
            done = self._changed.wait_for(lambda: self._lost or not (self._waiting or self._busy), within_s)
            if not done:
                self._drop(len(self._waiting))
                self._waiting.clear()
            return done and not self._lost

    def close(self, within_s: float = 0.5) -> bool:
        """Like `drain`; and end the thread as soon as it is not stuck. Later texts are ignored."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        return self.drain(within_s)

    def _drop(self, count: int) -> None:
        self._gap += count
        self._dropped += count

    def _end_gap(self) -> None:
        if self._gap and self._tell_lost:
            self._waiting.append(f"({self._gap} lines were lost: the reader did not keep up)\n")
        self._gap = 0

    def _fail(self) -> None:
        with self._changed:
            self._lost, self._busy = True, False
            self._waiting.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        # Signals are for the main thread. Besides, a terminal set to `tostop` would stop the whole process for a
        # write from the background, but lets a thread write that blocks SIGTTOU.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            while (text := self._next()) is not None:
                self._write(text.encode(self._encoding, "backslashreplace"))
        except OSError:
            self._fail()

    def _next(self) -> str | None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            while True:
                if not self._waiting:
                    self._end_gap()
                if self._waiting:
                    self._busy = True
                    return self._waiting.popleft()
                if self._closed:
                    return None
                self._changed.wait()

    def _write(self, data: bytes) -> None:
        while data:
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                room = select.poll()
                room.register(self._fd, select.POLLOUT)
                room.poll()
                time.sleep(_PAUSE)
            else:
                data = data[written:]


def _after_fork() -> None:
    for writer in list(_writers):  # the locks of a thread that is not there may be held
        writer._restart()


os.register_at_fork(after_in_child=_after_fork)

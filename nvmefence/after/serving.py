"""Inside the process beside: fences in, one process for each thing to be done, reports out."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, NoReturn

from nvmefence.after.actions import CLUSTER, Done, Fence, Options, run_hooks, tell_cluster

_BACKLOG: Final = 256
"""Fences that may wait, in each lane."""
_AT_ONCE: Final = {"cluster": 4, "hooks": 1}
"""Fences that are worked on side by side, by lane. Hooks need not cope with another run of themselves."""
_DO: Final[dict[str, Callable[[Options, Fence], Iterator[Done]]]] = {"cluster": tell_cluster, "hooks": run_hooks}
_MARGIN_S: Final = 5.0
"""Seconds beyond a program's own limit after which the process that runs it counts as stuck."""
_PATIENCE_MS: Final = 2000
"""For whoever reads the reports."""
_RECEIVE: Final = 256 * 1024
_LIVING: Final = b"."
_FINISHED: Final = b"!"


class _Running(NamedTuple):
    pid: int
    lane: str
    job: int
    fence: Fence
    until: float
    finished: bool = False


def serve(options: Options, its: socket.socket) -> None:
    """Do what is asked for until the other end is closed, and then what is left."""
    _Server(options, its).serve()


class _Server:
    """One thread, and no operation that waits for a disk: that is for the processes that it makes."""

    def __init__(self, options: Options, its: socket.socket) -> None:
        self._options = options
        self._its = its
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
        self._poller = select.poll()
        self._poller.register(its, select.POLLIN)
        self._listening = True
        self._waiting: dict[str, deque[tuple[int, Fence]]] = {lane: deque() for lane in _AT_ONCE}
        self._running: dict[int, _Running] = {}
        """By the descriptor at which the process shows that it lives."""

    def serve(self) -> None:
        while self._listening or self._running or any(self._waiting.values()):
            self._start()
            nearest = min((one.until for one in self._running.values()), default=None)
            pause = None if nearest is None else max(nearest - time.monotonic(), 0.0) * 1000 + 1
            for fd, _events in self._poller.poll(pause):
                if fd == self._its.fileno():
                    self._listen()
                else:
                    self._hear(fd)
            for fd, one in list(self._running.items()):
                if time.monotonic() > one.until:
                    self._give_up(fd, one)

    def _listen(self) -> None:
        try:
            data = self._its.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._listening = False
            self._poller.unregister(self._its)
            return
        job, fence = Fence.decode(data)
        self._queue("cluster" if set(CLUSTER) & set(self._options.what) else "hooks", job, fence)

    def _queue(self, lane: str, job: int, fence: Fence) -> None:
        if len(self._waiting[lane]) < _BACKLOG:
            self._waiting[lane].append((job, fence))
        else:
            self._report(job, Done(lane, False, "not done: too much is waiting"))
            self._after(lane, job, fence)

    def _after(self, lane: str, job: int, fence: Fence) -> None:
        """Go on with a fence for which a lane has done what it could."""
        if lane == "cluster" and "hooks" in self._options.what:
            self._queue("hooks", job, fence)
        else:
            self._report(job, None)

    def _start(self) -> None:
        for lane, waiting in self._waiting.items():
            busy = sum(one.lane == lane for one in self._running.values())
            while waiting and busy < _AT_ONCE[lane]:
                self._begin(lane, *waiting.popleft())
                busy += 1

    def _begin(self, lane: str, job: int, fence: Fence) -> None:
        try:
            reader, writer = os.pipe()
        except OSError as error:
            self._cannot(lane, job, fence, error)
            return
        try:
            pid = os.fork()
        except OSError as error:
            os.close(reader)
            os.close(writer)
            self._cannot(lane, job, fence, error)
            return
        if pid == 0:
            self._work(lane, job, fence, writer)
        os.close(writer)
        self._poller.register(reader, select.POLLIN)
        self._running[reader] = _Running(pid, lane, job, fence, self._limit())

    def _cannot(self, lane: str, job: int, fence: Fence, error: OSError) -> None:
        self._report(job, Done(lane, False, f"not done: no process to be had: {error.strerror}"))
        self._after(lane, job, fence)

    def _limit(self) -> float:
        return time.monotonic() + self._options.limit_s + _MARGIN_S

    def _work(self, lane: str, job: int, fence: Fence, writer: int) -> NoReturn:
        """Be the process that does it; a sign of life goes before each thing that is done."""
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _be_expendable()
            for done in _DO[lane](self._options, fence):
                self._report(job, done)
                os.write(writer, _LIVING)
            os.write(writer, _FINISHED)
        except Exception as error:
            self._report(job, Done(lane, False, f"defect in nvmefence: {type(error).__name__}: {error}"))
            os.write(writer, _FINISHED)
        finally:
            os._exit(0)

    def _hear(self, fd: int) -> None:
        if sign := os.read(fd, 4096):
            one = self._running[fd]
            self._running[fd] = one._replace(until=self._limit(), finished=sign.endswith(_FINISHED))
            return
        one = self._forget(fd)
        if not one.finished:
            self._report(one.job, Done(one.lane, False, "left undone: the process that does it was killed"))
        self._after(one.lane, one.job, one.fence)

    def _give_up(self, fd: int, one: _Running) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
        self._report(one.job, Done(one.lane, False, "left undone: something does not answer, perhaps a disk"))
        self._forget(fd)
        self._after(one.lane, one.job, one.fence)

    def _forget(self, fd: int) -> _Running:
        self._poller.unregister(fd)
        os.close(fd)
        return self._running.pop(fd)

    def _report(self, job: int, done: Done | None) -> None:
        """Say something; to nobody, where nobody takes it in time."""
        data = json.dumps({"job": job, "done": None if done is None else done.to_json()}).encode("ascii")
        ready = select.poll()
        ready.register(self._its, select.POLLOUT)
        ready.poll(_PATIENCE_MS)
        with contextlib.suppress(OSError):
            self._its.send(data)


def _be_expendable() -> None:
    """Undo what protects the fencing process from the kernel's search for memory."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("0")

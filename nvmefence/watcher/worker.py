"""A thread that does one thing after another for an event loop that must never wait for a disk."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from nvmefence import threads

T = TypeVar("T")
_PAUSE_S: Final = 0.05
_BACKLOG: Final = 1000
"""Pieces of work without a reader that may wait; more are dropped."""


class Stuck(Exception):
    """The worker did not finish within the time given, or is still busy with what did not finish earlier."""


class Worker(Protocol):
    """Does work in the order in which it came."""

    async def do(self, work: Callable[[], T], within: float) -> T:
        """Have work done and return its result, or raise what it raised.

        Raises Stuck after `within` seconds; the work may still be done later.
        """
        ...

    def post(self, work: Callable[[], object]) -> bool:
        """Have work done some time; returns whether it was taken. Never waits; what it raises is dropped."""
        ...


class Thread:
    """A Worker in a daemon thread: one that hangs in the kernel costs a thread, and holds up nobody's exit.

    The thread ends when nobody has this object any more, and its work is done.
    """

    def __init__(self, name: str) -> None:
        """`name` is for whoever looks into a process."""
        self.name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._stuck: asyncio.Future[Any] | None = None
        work = self._work  # not `self`: the thread must not hold it
        threads.start(lambda: _serve(work))

    def __del__(self) -> None:
        self._work.put(None)

    async def do(self, work: Callable[[], T], within: float) -> T:
        """See Worker. While an earlier piece has not finished in its time, raises Stuck at once."""
        if self._stuck is not None:
            if not self._stuck.done():
                raise Stuck("an earlier operation has not finished yet")
            self._stuck = None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            result, failed = None, None
            try:
                result = work()
            except BaseException as error:
                failed = error
            while True:
                try:
                    return _tell(loop, future, result, failed)
                except MemoryError:  # else nobody would ever hear of it, and this thread would end
                    time.sleep(_PAUSE_S)

        self._work.put(run)
        done, _ = await asyncio.wait([future], timeout=within)
        if not done:
            self._stuck = future
            future.add_done_callback(_seen)
            raise Stuck(f"not finished within {within:g} s")
        return future.result()

    def post(self, work: Callable[[], object]) -> bool:
        """See Worker."""
        if self._work.qsize() >= _BACKLOG:
            return False

        def run() -> None:
            with contextlib.suppress(Exception):
                work()

        self._work.put(run)
        return True


def _serve(work: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    """Do what comes until None does. Holds nothing of it afterwards."""
    while True:
        run = work.get()
        if run is None:
            return
        run()
        del run


def _tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], result: Any, error: Any) -> None:
    def settle() -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(settle)


def _seen(future: asyncio.Future[Any]) -> None:
    """Take note of a late failure, which nobody waits for."""
    if not future.cancelled():
        future.exception()


@dataclass(frozen=True, slots=True)
class Workers:
    """What may hang together shares a thread: a hung log holds up no answer, a hung spool no cut."""

    spool: Worker
    audit: Worker
    log: Worker
    discovery: Worker
    record: Worker
    vigil: Worker

    @classmethod
    def threads(cls) -> Workers:
        """Return one thread for each."""
        names = ("spool", "audit", "log", "discovery", "record", "vigil")
        return cls(*(Thread(f"nvmefence-{name}") for name in names))

"""Lives of a process in virtual time: each is a fork, and ends at one turn of its loop as SIGKILL would end it."""

from __future__ import annotations

import asyncio
import os
import pickle
import selectors
import signal
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest import mock

from tests.property.virtual_time import Clock, _Selector


class _Mortal(_Selector):
    """Counts the turns of its loop, and ends the process at one of them."""

    def __init__(self, clock: Clock, last: int, end: Callable[[int], None]) -> None:
        super().__init__(clock)
        self.turns = 0
        self._last = last
        self._end = end

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        if self.turns == self._last:
            self._end(self.turns)
        return super().select(timeout)


def live(
    main: Callable[[], Coroutine[Any, Any, None]], clock: Clock, leave: Callable[[], Any], last: int, place: Path
) -> tuple[int, Any]:
    """Run `main` in a fork until it ends, or until turn `last` (0: never).

    Returns the turns that it lived, and what `leave` returned there at its end: what outlives a process.
    """
    will = place / "will"
    will.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        _child(main, clock, leave, last, will)
    _, state = os.waitpid(pid, 0)
    if os.WIFSIGNALED(state) and os.WTERMSIG(state) != signal.SIGKILL:
        raise AssertionError(f"it ended by signal {os.WTERMSIG(state)}")
    turns, left = pickle.loads(will.read_bytes())
    if isinstance(left, str):
        raise AssertionError(left)
    return turns, left


def _child(
    main: Callable[[], Coroutine[Any, Any, None]], clock: Clock, leave: Callable[[], Any], last: int, will: Path
) -> None:
    try:

        def end(turns: int) -> None:
            will.write_bytes(pickle.dumps((turns, leave())))
            os.kill(os.getpid(), signal.SIGKILL)

        selector = _Mortal(clock, last, end)
        loop = asyncio.SelectorEventLoop(selector)
        with mock.patch("time.monotonic", clock):
            loop.run_until_complete(main())
        will.write_bytes(pickle.dumps((selector.turns, leave())))
    except BaseException:
        will.write_bytes(pickle.dumps((0, traceback.format_exc())))
    finally:
        os._exit(0)

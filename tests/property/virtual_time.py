"""An event loop whose seconds pass at once: it never sleeps, it moves the clock to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar
from unittest import mock

_T = TypeVar("_T")


class Clock:
    """Seconds since an arbitrary moment, as `time.monotonic` gives them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class _Selector(selectors.SelectSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise AssertionError("everything waits and no timer is set: this would never end")
            self._clock.now += timeout
        return ready


def run(main: Coroutine[Any, Any, _T], clock: Clock | None = None) -> _T:
    """Run like `asyncio.run`, in virtual time; whoever reads `time.monotonic` meanwhile reads `clock`."""
    moment = clock or Clock()
    with (
        mock.patch("time.monotonic", moment),
        asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_Selector(moment))) as runner,
    ):
        return runner.run(main)

"""The service manager's watchdog hears of looks that go on, not of a loop that merely turns."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from nvmefence.watcher import service
from nvmefence.watcher.service import Watcher


class Manager:
    watchdog_s = 0.03

    def __init__(self) -> None:
        self.pings = 0

    def tell(self, **assignments: Any) -> None:
        self.pings += assignments == {"WATCHDOG": 1}


@pytest.mark.parametrize(("age_s", "stopping", "pinged"), [(0, False, True), (60, False, False), (60, True, True)])
def test_a_look_that_never_ends_is_not_told_from_a_dead_service(age_s: float, stopping: bool, pinged: bool) -> None:
    """Nor is the end of a service, which has bounds of its own, taken for one."""

    async def story() -> int:
        watcher: Any = Watcher.__new__(Watcher)
        watcher._loop = asyncio.get_running_loop()
        watcher._notifier = manager = Manager()
        watcher._stopping = stopping
        watcher._turned = watcher._loop.time() - age_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await watcher._pulse()
        return manager.pings

    assert service._TURN_S < 60
    assert (asyncio.run(story()) > 0) is pinged

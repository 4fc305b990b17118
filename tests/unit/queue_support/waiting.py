"""How the scenarios wait: until a time, and for what the kernel holds."""

from __future__ import annotations

import asyncio
import time

from nvmefence.nvme.queue import Queue


def soon(seconds: float = 0.1) -> float:
    return time.monotonic() + seconds


async def until_count(count: int) -> None:
    for _ in range(1000):
        if Queue.in_flight() == count:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{Queue.in_flight()} in flight, not {count}")


async def until_idle() -> None:
    await until_count(0)

"""Emulated drives: writes are those of the emulated subsystem, to rehearse a measurement and to test it."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from typing import Final

from nvmefence.nvme import commands
from nvmefence.nvme.emulated import EmulatedSubsystem, EmulatedTransport
from nvmefence.nvme.transport import Command
from nvmefence.qualify.figures import Plan, Sample, Trouble, Write

WRITE_S: Final = (0.1, 0.4)
"""Seconds that an emulated write takes."""


class Rehearsal:
    """Implements `Bench`."""

    simulated = True

    def __init__(
        self, transport: EmulatedTransport, subsystem: EmulatedSubsystem, target: int, nsid: int, plan: Plan
    ) -> None:
        self._transport, self._subsystem = transport, subsystem
        self._target, self._nsid, self._plan = target, nsid, plan
        self._numbers = itertools.count(1)
        self._writes: dict[int, Write] = {}
        self._due: dict[float, int] = {}
        """Numbers by the time at which the write reaches the medium, which tells emulated writes apart."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    def start(self) -> None:
        """See Bench."""
        self._writes = {}
        self._stopping = False
        for _ in range(self._plan.writes):
            task = asyncio.create_task(self._write())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _write(self) -> None:
        while not self._stopping:
            write = Write(next(self._numbers), time.monotonic())
            self._writes[write.number] = write
            if not self._subsystem.start_write(self._target, self._nsid, random.uniform(*WRITE_S)):
                write.outcome, write.ended = "EIO", time.monotonic()
                return
            due = self._subsystem.settle()[-1].due
            self._due[due] = write.number
            while any(other.due == due for other in self._subsystem.settle()):  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.002)
            write.outcome, write.ended = "ok", time.monotonic()
            await asyncio.sleep(self._plan.pause_s)

    def stop(self) -> None:
        """See Bench."""
        self._stopping = True

    def writing(self) -> int:
        """See Bench."""
        return len(self._tasks)

    def writes(self) -> Sequence[Write]:
        """See Bench."""
        return list(self._writes.values())

    async def sample(self) -> Sample:
        """See Bench."""
        self._subsystem.settle()
        return frozenset((0, self._due[write.due]) for write in self._subsystem.landed if write.due in self._due)

    async def ready(self) -> None:
        """See Bench."""
        if not self._subsystem.can_write(self._target):
            raise Trouble(f"controller {self._target} does not show namespace {self._nsid}")

    async def reset(self, what: str) -> None:
        """See Bench. As the emulated subsystem has it: a reset of the primary takes its secondaries offline."""
        if what == "host":
            return
        with self._transport.session(self._subsystem, [Command(commands.VIRTUALIZATION_MANAGEMENT)]):
            self._subsystem.reset()

    async def reboot(self) -> None:
        """See Bench. Emulated controllers need none."""

    def close(self) -> None:
        """See Bench."""
        self.stop()
        for task in self._tasks:
            task.cancel()

"""A drive that is set aside for qualifying, emulated, and measured or interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.nvme.commands import GET_LOG_PAGE, IDENTIFY, NAMESPACE_ATTACHMENT, VIRTUALIZATION_MANAGEMENT
from nvmefence.nvme.emulated import (
    SPECIFICATION,
    EmulatedSubsystem,
    EmulatedTransport,
    Fault,
    Namespace,
    Quirks,
    delay,
)
from nvmefence.nvme.transport import Command
from nvmefence.qualify import putback, rehearsal
from nvmefence.qualify.control import Control
from nvmefence.qualify.figures import (
    Measured,
    Plan,
    State,
)
from nvmefence.qualify.measure import Measurement
from nvmefence.qualify.putback import put_back
from nvmefence.qualify.rehearsal import Rehearsal

OWN, TARGET, OTHER, NSID = 0, 11, 12, 1
PLAN = Plan(rounds=2, timing_rounds=3, watch_s=0.05, writes=2)
SHORT = Plan(rounds=1, timing_rounds=1, watch_s=0.01, writes=1)
CHANGING = (NAMESPACE_ATTACHMENT, VIRTUALIZATION_MANAGEMENT)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have emulated writes be short, and what is tried again tried soon."""
    monkeypatch.setattr(rehearsal, "WRITE_S", (0.01, 0.04))
    monkeypatch.setattr(putback, "_PAUSE_S", 0.01)


class Place:
    """A drive that is set aside: a primary controller, the target, and another secondary without a namespace."""

    def __init__(self, quirks: Quirks = SPECIFICATION, kind: type[EmulatedSubsystem] = EmulatedSubsystem) -> None:
        self.drive = kind(
            "nqn.example:0", "S0", controllers=[OWN], secondaries=[TARGET, OTHER], attached=[OWN, TARGET],
            namespaces=[Namespace(NSID), Namespace(2)], quirks=quirks, model="MODEL 9",
        )  # fmt: skip
        self.transport = EmulatedTransport({"/dev/nvme0": (self.drive, OWN)})
        self.own = LocalController("nvme0", "/dev/nvme0", OWN, "", "live", False)
        self.found = Drive("nqn.example:0", "S0", "MODEL 9", "1", (self.own,))
        self.control = Control(self.transport, self.found, self.own, TARGET, NSID)
        self.measured = Measured()

    def snapshot(self) -> dict[str, Any]:
        return self.drive.snapshot()

    def changed(self) -> list[Command]:
        return [sent.command for sent in self.transport.log if sent.command.opcode not in (IDENTIFY, GET_LOG_PAGE)]

    def run(self, work: Callable[[State], Coroutine[Any, Any, Any]]) -> Any:
        async def inside() -> Any:
            await self.control.open()
            try:
                return await work(await self.control.state())
            finally:
                self.control.close()

        return asyncio.run(inside())

    def measure(self, plan: Plan = PLAN) -> Measured:
        async def work(before: State) -> None:
            bench = Rehearsal(self.transport, self.drive, TARGET, NSID, plan)
            measurement = Measurement([self.control], bench, plan, before)
            self.measured = measurement.measured
            try:
                await measurement.run()
            finally:
                bench.close()

        self.run(work)
        return self.measured

    def interrupt(self, at: int) -> list[str]:
        """Cancel a measurement when it has sent so many changing commands; return what is not put back then."""

        async def work(before: State) -> list[str]:
            bench = Rehearsal(self.transport, self.drive, TARGET, NSID, SHORT)
            task = asyncio.create_task(Measurement([self.control], bench, SHORT, before).run())
            seen = 0

            def hook(_path: str, command: Command) -> Fault | None:
                nonlocal seen
                seen += command.opcode in CHANGING
                if seen == at and command.opcode in CHANGING:
                    asyncio.get_running_loop().call_soon(task.cancel)
                    return delay(0.03)  # processed after the interruption
                return None

            self.transport.faults["/dev/nvme0"] = hook
            await asyncio.wait([task])
            assert task.cancelled()
            self.transport.faults.clear()
            left = await put_back(self.control, bench, before)
            bench.close()
            await asyncio.sleep(0.05)
            return left

        result: list[str] = self.run(work)
        return result


class NeverCut(EmulatedSubsystem):
    """A drive on which a host that is detached goes on writing."""

    def start_write(self, cntlid: int, nsid: int, duration: float) -> bool:
        attached = self.attached(nsid)
        if cntlid in attached:
            return super().start_write(cntlid, nsid, duration)
        self.set_attached(nsid, [*attached, cntlid])
        try:
            return super().start_write(cntlid, nsid, duration)
        finally:
            self.set_attached(nsid, attached)


class Forgetful(EmulatedSubsystem):
    """A drive whose reset detaches the target."""

    def reset(self) -> None:
        super().reset()
        self.set_attached(NSID, [OWN])

"""The drive's side of a measurement: reads it through our controller, and changes what the target alone has.

Every command that changes something names the target controller, or in putting back, one of the two of which this
measurement is; `Control` refuses any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from nvmefence.fencing.session import DriveProblem, DriveSession
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.inventory.hostmap import Expected, HostMap
from nvmefence.nvme import commands
from nvmefence.nvme import controller as nvme
from nvmefence.nvme.commands import Resource, VirtualizationAction
from nvmefence.nvme.controller import AnswerError
from nvmefence.nvme.structures import SecondaryController
from nvmefence.nvme.transport import NO_ANSWER, Command, Transport
from nvmefence.qualify.figures import Attachments, State, Step, Trouble

_PATIENCE_S: Final = 30.0
"""Seconds for one command; those that change something are waited for much longer."""
_CHANGE_S: Final = 180.0


class Control:
    """One drive, through one backend. Use `open`, then the rest, then `close`. All of it raises Trouble."""

    def __init__(self, transport: Transport, drive: Drive, own: LocalController, target: int, nsid: int) -> None:
        self.drive, self.own, self.target, self.nsid = drive, own, target, nsid
        self.backend = transport.backend
        hostmap = HostMap("", {}, Expected(count=1), own=(own.cntlid,))
        self._session = DriveSession(transport, drive, hostmap, 0.0)

    async def open(self) -> None:
        """Open our controller, and see that it is what it was taken for."""
        self._session.until = asyncio.get_running_loop().time() + _PATIENCE_S
        try:
            await self._session.open()
            self._renew()
            await self._session.look()
        except DriveProblem as problem:
            raise Trouble(f"{self.drive.serial}: {problem.reason}") from None

    def close(self) -> None:
        """Let go of it; never waits."""
        self._session.close()

    def _renew(self) -> None:
        self._session.controller.until = asyncio.get_running_loop().time() + _PATIENCE_S

    # Reading

    async def attachments(self) -> dict[int, frozenset[int]]:
        """Read which controllers each namespace of the drive is attached to (CNS 10h, 12h)."""
        self._renew()
        try:
            seen = await self._session.read_attached()
        except DriveProblem as problem:
            raise Trouble(f"the attachments cannot be read: {problem.reason}") from None
        for fault in seen.faults.values():
            raise Trouble(f"the attachments cannot be read: {fault}")
        return {nsid: frozenset(ids) for nsid, ids in seen.by_nsid.items()}

    async def controllers(self) -> list[int] | None:
        """Read the controllers of the subsystem (CNS 13h); None: the drive does not tell."""
        self._renew()
        (answer,) = await self._session.controller.read([nvme.SUBSYSTEM_CONTROLLERS])
        return None if isinstance(answer, AnswerError) else answer

    async def secondaries(self) -> list[SecondaryController] | None:
        """Read the Secondary Controller List (CNS 15h); None: the controller has none to tell of."""
        self._renew()
        (answer,) = await self._session.controller.read([nvme.SECONDARY_CONTROLLERS])
        if isinstance(answer, AnswerError):
            if answer.may_pass or answer.status == NO_ANSWER:
                raise Trouble(str(answer))
            return None
        return answer

    async def state(self) -> State:
        """Read all that a measurement may change."""
        return State(await self.attachments(), await self.secondaries())

    # Changing

    async def detach(self) -> Step:
        """Detach the namespace from the target."""
        return await self._send("detach", commands.detach(self.nsid, [self.target]))

    async def attach(self) -> Step:
        """Attach it again."""
        return await self._send("attach", commands.attach(self.nsid, [self.target]))

    async def change(self, nsid: int, cntlid: int, *, attach: bool) -> Step:
        """Attach or detach one of our two controllers, to put back what was."""
        if cntlid not in (self.target, self.own.cntlid):
            raise Trouble(f"controller {cntlid} is none of ours")
        command = commands.attach(nsid, [cntlid]) if attach else commands.detach(nsid, [cntlid])
        return await self._send("attach" if attach else "detach", command)

    async def offline(self) -> Step:
        """Take the target offline."""
        return await self._send(
            "offline", commands.virtualization(VirtualizationAction.SECONDARY_OFFLINE, self.target)
        )

    async def online(self, entry: SecondaryController) -> list[Step]:
        """Give a secondary controller its resources as `entry` has them, and set it online; stops at a failure."""
        assign = VirtualizationAction.SECONDARY_ASSIGN
        wanted = [
            ("assign queues", assign, Resource.VQ, entry.queues),
            ("assign interrupts", assign, Resource.VI, entry.interrupts),
            ("online", VirtualizationAction.SECONDARY_ONLINE, Resource.VQ, 0),
        ]
        steps: list[Step] = []
        for name, action, resource, count in wanted:
            command = commands.virtualization(action, entry.cntlid, resource=resource, count=count)
            steps.append(await self._send(name, command))
            if steps[-1].status:
                break
        return steps

    async def _send(self, name: str, command: Command) -> Step:
        """Send one command. Cancelling waits for its answer: what is abandoned could be processed after all."""
        until = asyncio.get_running_loop().time() + _CHANGE_S
        sent = asyncio.ensure_future(self._session.controller.run([command], until))
        try:
            (answer,) = await asyncio.shield(sent)
        except asyncio.CancelledError:
            await asyncio.wait([sent])
            raise
        return Step(name, answer.status, answer.finished - answer.started)


def entry_of(secondaries: Sequence[SecondaryController] | None, cntlid: int) -> SecondaryController | None:
    """Return the entry of one controller in a Secondary Controller List."""
    return next((entry for entry in secondaries or () if entry.cntlid == cntlid), None)


def others(attachments: Attachments, ours: frozenset[int]) -> dict[int, frozenset[int]]:
    """Return, by namespace, the controllers that are attached and none of ours."""
    found = {nsid: ids - ours for nsid, ids in attachments.items()}
    return {nsid: ids for nsid, ids in found.items() if ids}

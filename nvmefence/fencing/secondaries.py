"""A drive's secondary controllers: taken offline before a cut, so that nothing of theirs lands later, and back.

Secondary Offline ends what the controller's host has under way and takes the controller's flexible resources;
from then on it processes nothing (Base Specification 2.0, sections 5.28 and 8.26). It comes before the detach,
while the namespaces whose writes are to be ended are still attached, and only a primary controller can send it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from nvmefence.fencing.evidence import DriveEvidence, Managed, SecondaryEvidence
from nvmefence.fencing.session import DriveSession
from nvmefence.nvme import commands, status
from nvmefence.nvme.commands import Resource, VirtualizationAction
from nvmefence.nvme.controller import PRIMARY_CAPABILITIES, AnswerError
from nvmefence.nvme.structures import PrimaryCapabilities, SecondaryController
from nvmefence.nvme.transport import NO_ANSWER, Command, Completion

_TRIES: Final = 3
"""How often a command is sent whose failure may pass."""
_PAUSE: Final = 0.05
"""Seconds between two tries."""
_TIME_TO_RETURN: Final = 0.5
"""Seconds that must be left to bring controllers back: what is proven by then is not put at risk for it."""

Ask = tuple[int, VirtualizationAction, Command]
"""A command for one controller."""


def obstacle(seen: Sequence[SecondaryController] | None, own: int | None, controllers: Collection[int]) -> str:
    """Say why some of `controllers` cannot be taken offline through our controller; empty when they can.

    `seen` is the Secondary Controller List that our controller `own` gave (CNS 15h), None when it gave none.
    """
    if seen is None:
        return "our controller gives no Secondary Controller List (CNS 15h)"
    if not seen:
        return "our controller is not a primary controller"
    known = {entry.cntlid: entry.primary for entry in seen}
    for cntlid in sorted(controllers):
        if cntlid not in known:
            return f"controller {cntlid} is not a secondary controller of ours"
        if known[cntlid] != own:
            return f"controller {cntlid} is secondary to controller {known[cntlid]}, not to ours"
    return ""


class SecondaryControl:
    """Takes controllers of one drive offline and brings them back; what it does is in the evidence.

    Every method takes the host's controllers as they were resolved on this drive, and names no other.
    """

    def __init__(
        self,
        session: DriveSession,
        evidence: DriveEvidence,
        start: float,
        earlier: Mapping[tuple[str, str, int], tuple[int, int]],
    ) -> None:
        """`start`: loop time at which work on the drive began. `earlier`: as `fence.Options.resources`."""
        self._session = session
        self._evidence = evidence
        self._start = start
        self._earlier = earlier
        self._loop = asyncio.get_running_loop()
        self._acknowledged: set[int] = set()
        self._now: dict[int, SecondaryController] = {}
        self.drained: set[int] = set()
        """Controllers that went offline at our word, and were seen offline afterwards."""
        self.in_time: set[int] = set()
        """Of those that said so: controllers that had a namespace by the read just before, so that what they had
        under way has ended."""
        self.due: set[int] = set()
        """Controllers that were taken offline, and were not brought back since."""
        self.problem = ""
        """Why the last controllers could not be taken offline."""
        self.hopeless = False
        """Whether the drive refused that in a way that trying again does not change."""

    def obstacle(self, controllers: Collection[int]) -> str:
        """Say why `controllers` cannot be taken offline here; empty when they can."""
        view, local = self._session.view, self._session.local
        seen = None if view is None else view.secondaries
        return obstacle(seen, None if local is None else local.cntlid, controllers)

    async def take_offline(self, controllers: Iterable[int], *, attached: bool = True) -> None:
        """Send Secondary Offline for each. It may take half of the time that is left: the cut must come too.

        `attached`: a read just before showed each of them attached.
        """
        ids = sorted(controllers)
        for cntlid in ids:
            self._remember(cntlid)
        asked: list[Ask] = [
            (cntlid, act, commands.virtualization(act, cntlid))
            for act in (VirtualizationAction.SECONDARY_OFFLINE,)
            for cntlid in ids
        ]
        self.due.update(ids)  # whatever becomes of the commands, they may have been processed
        self.drained.difference_update(ids)
        until = self._loop.time() + (self._session.until - self._loop.time()) / 2
        self.problem, self.hopeless = "", False
        for cntlid, answer in (await self._send(asked, until)).items():
            self._evidence.secondaries[cntlid].back = None
            if status.code(answer.status) in (status.SUCCESS, status.INVALID_SECONDARY_STATE):
                self._acknowledged.add(cntlid)  # the latter: it is offline already, which `note` must see
                if attached:
                    self.in_time.add(cntlid)
                continue
            self._acknowledged.discard(cntlid)
            why = status.describe(answer.status)
            self._evidence.secondaries[cntlid].problem = f"not taken offline: {why}"
            self.problem = f"controller {cntlid} cannot be taken offline: {why}"
            self.hopeless |= answer.status != NO_ANSWER and not status.may_retry(answer.status)

    def _remember(self, cntlid: int) -> None:
        """Note what a controller had before it is taken offline, for its way back."""
        view = self._session.view
        found = [e for e in (view.secondaries if view and view.secondaries else ()) if e.cntlid == cntlid]
        entry = self._evidence.secondaries.setdefault(cntlid, SecondaryEvidence())
        if found and found[0].queues and found[0].interrupts and not entry.queues:
            entry.queues, entry.interrupts = found[0].queues, found[0].interrupts

    def note(self, seen: Sequence[SecondaryController] | None) -> None:
        """Take in a Secondary Controller List that was read after the last command; None: it could not be read."""
        self._now = {entry.cntlid: entry for entry in seen or ()}
        for cntlid, entry in self._evidence.secondaries.items():
            now = self._now.get(cntlid)
            if entry.back is not None:
                entry.back = now is not None and now.online
                if entry.back:
                    entry.problem = ""
            elif cntlid in self._acknowledged and now is not None and not now.online:
                self.drained.add(cntlid)
                entry.offline, entry.problem = True, ""
            else:
                self.drained.discard(cntlid)
                if cntlid in self._acknowledged:
                    self.problem = f"controller {cntlid} reported offline and is not seen offline"

    def forget(self, controllers: Iterable[int]) -> None:
        """Controllers were seen attached, or may be: unless offline still, they count as drained no longer."""
        ids = set(controllers) - self.due
        self.drained -= ids
        self.in_time -= ids
        self._acknowledged -= ids

    async def bring_back(self, controllers: Collection[int]) -> None:
        """Give them their resources and put them online, so that a host that is rebooted finds them working.

        Nothing is raised if that fails: they stay offline, which is safe, and the evidence says why.
        """
        ids = sorted(controllers)
        self.due.difference_update(ids)
        if self._session.until - self._loop.time() < _TIME_TO_RETURN:
            self._give_up(ids, "no time was left to bring it back")
            return
        there = [n for n in ids if n in self._now and self._now[n].online]  # it never went, or somebody was faster
        for cntlid in there:
            self._evidence.secondaries[cntlid].back = True
        wanted = await self._resources([n for n in ids if n not in there])
        assign: list[Ask] = []
        for cntlid, (queues, interrupts) in wanted.items():
            now = self._now.get(cntlid)
            for kind, count, has in (
                (Resource.VQ, queues, now.queues if now else 0),
                (Resource.VI, interrupts, now.interrupts if now else 0),
            ):
                if count != has:
                    act = VirtualizationAction.SECONDARY_ASSIGN
                    assign.append((cntlid, act, commands.virtualization(act, cntlid, resource=kind, count=count)))
        failed = {n: answer for n, answer in (await self._send(assign)).items() if answer.status}
        act = VirtualizationAction.SECONDARY_ONLINE
        online = [(n, act, commands.virtualization(act, n)) for n in wanted if n not in failed]
        failed |= {n: answer for n, answer in (await self._send(online)).items() if answer.status}
        for cntlid in wanted:
            entry = self._evidence.secondaries[cntlid]
            entry.back = cntlid not in failed
            entry.problem = f"stays offline: {status.describe(failed[cntlid].status)}" if cntlid in failed else ""

    def _give_up(self, ids: Iterable[int], why: str) -> None:
        for cntlid in ids:
            entry = self._evidence.secondaries[cntlid]
            entry.back, entry.problem = False, f"stays offline: {why}"

    async def _resources(self, ids: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Return queues and interrupts for each: what it had, else what others have, else an equal share."""
        entries = self._evidence.secondaries
        for cntlid in ids:
            had = self._earlier.get((self._evidence.nqn, self._evidence.serial, cntlid))
            if had and not entries[cntlid].queues:
                entries[cntlid].queues, entries[cntlid].interrupts = had
        if not all(entries[cntlid].queues for cntlid in ids):
            usual = usual_resources(self._now.values()) or await self._share()
            for cntlid in ids:
                if usual and not entries[cntlid].queues:
                    entries[cntlid].queues, entries[cntlid].interrupts = usual
        self._give_up([n for n in ids if not entries[n].queues], "no resources are known for it")
        return {n: (entries[n].queues, entries[n].interrupts) for n in ids if entries[n].queues}

    async def _share(self) -> tuple[int, int] | None:
        (answer,) = await self._session.controller.read([PRIMARY_CAPABILITIES])
        if isinstance(answer, AnswerError) or not self._now:
            return None
        return equal_share(answer[0], len(self._now))

    async def _send(self, asked: Sequence[Ask], until: float | None = None) -> dict[int, Completion]:
        """Send commands side by side, again those whose failure may pass; return the worst answer by controller."""
        worst: dict[int, Completion] = {}
        left = list(asked)
        for attempt in range(_TRIES):
            if not left:
                break
            if attempt:
                await asyncio.sleep(_PAUSE)
            answers = await self._session.controller.run([command for _, _, command in left], until)
            again = []
            for ask, answer in zip(left, answers, strict=True):
                self._evidence.managed.append(
                    Managed(
                        ask[0],
                        ask[1],
                        answer.status,
                        answer.started - self._start,
                        answer.finished - answer.started,
                    )
                )
                if answer.status and status.may_retry(answer.status) and attempt + 1 < _TRIES:
                    again.append(ask)
                elif ask[0] not in worst or answer.status:
                    worst[ask[0]] = answer
            left = again
        return worst


def usual_resources(entries: Iterable[SecondaryController]) -> tuple[int, int] | None:
    """Return the queues and interrupts that most secondary controllers have which are online."""
    counted = Counter((e.queues, e.interrupts) for e in entries if e.online and e.queues and e.interrupts)
    return counted.most_common(1)[0][0] if counted else None


def equal_share(capabilities: PrimaryCapabilities, secondaries: int) -> tuple[int, int] | None:
    """Return queues and interrupts for one of so many secondary controllers, all having the same."""
    queues, interrupts = capabilities.vq_flexible // secondaries, capabilities.vi_flexible // secondaries
    return (queues, interrupts) if queues and interrupts else None

"""The one piece of code that detaches: survey, cut, read back, on all drives side by side under one deadline."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Final, TypeVar

from nvmefence.fencing.cutting import Cutting
from nvmefence.fencing.evidence import MOST_STEPS, DriveEvidence, FenceReport
from nvmefence.fencing.options import Options
from nvmefence.fencing.quiesce import Method
from nvmefence.fencing.quieting import Quieting
from nvmefence.fencing.secondaries import SecondaryControl
from nvmefence.fencing.session import Attached, DriveProblem, DriveSession
from nvmefence.inventory.drives import Drive
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.inventory.selectors import Refusal
from nvmefence.nvme import status
from nvmefence.nvme.transport import NO_ANSWER, Transport

__all__ = ["Options", "Progress", "fence"]

_PAUSES: Final = (0.0, 0.005, 0.02, 0.1, 0.5, 1.0)
"""Seconds before the next round of cut and read-back; the last one repeats until the deadline."""
_GIVE_UP: Final = 2
"""Rounds after which a drive that answers every attempt with a final error is left."""

_OLD: Final = 0.5
"""Seconds, at most, by which the last reads of two drives are apart."""
_KEPT: Final = 0.5
_KEPT_PART: Final = 0.02
"""Seconds, at most, and the part of the time, that are kept for that look where several hosts are fenced."""
_DONE: Final = "done"
"""Stands for no phase: the drive's part has ended."""
_MORE: Final = "more"
"""Stands for all phases after very many."""
_POLL: Final = 0.05
"""Seconds between two looks whether a restore has ended."""

T = TypeVar("T")
Progress = Callable[[DriveEvidence, str], None]
"""Called with a drive and what is being done with it now; "done" last."""


async def fence(
    transport: Transport,
    hostmap: HostMap,
    found: Sequence[Drive],
    hosts: Sequence[Host],
    options: Options,
    progress: Progress | None = None,
) -> FenceReport:
    """Detach every controller of `hosts` from every namespace of every expected drive, and prove it.

    Never raises for what drives do: whatever is not proven is in the report as not confirmed. All drives are
    worked on side by side, so that one that hangs delays neither the cut on the others nor, past the
    deadline, the answer.
    """
    loop = asyncio.get_running_loop()
    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    start = loop.time()
    until = start + options.deadline if options.until is None else options.until
    selection = hostmap.select(found)
    if options.guard is not None:
        for host in hosts:
            options.guard.enter(host.name)
    # What one host is tried with until the deadline must leave the others the time of the last look.
    kept = min(_KEPT, (until - start) * _KEPT_PART) if len(hosts) > 1 else 0.0
    workers = [
        _DriveFence(DriveSession(transport, drive, hostmap, until - kept), hosts, options, progress, start)
        for drive in selection.drives
    ]
    try:
        await asyncio.gather(*(worker.run() for worker in workers))
        if not selection.missing:
            for worker in workers:
                worker.session.extend(until)
            await _agree(workers, [host.name for host in hosts])
    finally:
        for worker in workers:
            worker.session.close()
    return FenceReport(
        hosts=tuple(host.name for host in hosts),
        drives=[worker.evidence for worker in workers],
        missing=selection.missing,
        backend=transport.backend,
        started_at=started_at.replace("+00:00", "Z"),
        seconds=loop.time() - start,
        simulated=transport.backend == "simulated",
    )


async def _agree(workers: Sequence[_DriveFence], hosts: Sequence[str]) -> None:
    """Have the drives' last reads be of one time, if they would confirm a host.

    While one drive is waited for, other software may attach the host again to another that has ended.
    """
    loop = asyncio.get_running_loop()
    acted = True
    while acted:
        hopeful = [host for host in hosts if all(worker.evidence.outcome(host).confirmed for worker in workers)]
        old = [worker for worker in workers if worker.controllers and worker.read_at < loop.time() - _OLD]
        acted = bool(hopeful) and any(await asyncio.gather(*(worker.again(hopeful) for worker in old)))


class _DriveFence:
    """The fence of one drive. `evidence` is true at every moment, so an end at any line leaves no false word."""

    def __init__(
        self,
        session: DriveSession,
        hosts: Sequence[Host],
        options: Options,
        progress: Progress | None,
        start: float,
    ) -> None:
        """`start` is the loop time at which the fence of all drives began."""
        drive = session.drive
        self.session = session
        self.hosts = hosts
        self.options = options
        self.progress = progress
        names = tuple(host.name for host in hosts)
        self.evidence = DriveEvidence(drive.serial, drive.nqn, drive.model, names, quiesce=options.quiesce.name)
        self.controllers: frozenset[int] = frozenset()
        self.final_rounds = 0
        """Rounds in a row in which only namespaces that cannot be read stood in the way. One such round may be
        a namespace that was deleted while it was read."""
        self.refusal_advice = ""
        """What to do about a host that is refused on this drive."""
        self.read_at = float("-inf")
        """Loop time at which the last complete read began."""
        self._loop = asyncio.get_running_loop()
        self._start = self._phase_start = start
        self._phase = ""
        self.secondary = SecondaryControl(session, self.evidence, self._start, options.resources)
        self.cutting = Cutting(session, self.evidence, self._start)
        self.quieting = Quieting(self.evidence, options, self.secondary, drive.model)

    async def run(self) -> None:
        """Fence; whatever goes wrong is written into the evidence. The drive stays open."""
        try:
            await self._guarded(self._fence())
        finally:
            self._end()

    async def again(self, hosts: Sequence[str]) -> bool:
        """Read once more, and cut again if one of these hosts is back; returns whether one was.

        They were clean. What keeps others from being confirmed is not waited for once more.
        """
        acted = False

        async def look() -> None:
            nonlocal acted
            attached = await self._read()
            if all(self.evidence.outcome(host).confirmed for host in hosts):
                return
            acted = True
            self._enter("read-back")
            await self._finish(attached)

        await self._guarded(look())
        if acted:
            self._end()
        return acted

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except DriveProblem as problem:
            self._fail(problem.reason, problem.advice)
        except Exception as error:
            # A defect of ours on one drive must neither stop the cut on the others nor pass as success.
            self.evidence.remaining = None
            self._fail(f"internal error: {error!r}", "report this as a defect")

    def _end(self) -> None:
        self._enter(_DONE)
        self.evidence.seconds["total"] = self._loop.time() - self._start

    def _fail(self, reason: str, advice: str = "") -> None:
        self.evidence.problem = reason
        self.evidence.advice = advice

    def _enter(self, phase: str) -> None:
        now = self._loop.time()
        if self._phase:
            seconds = self.evidence.seconds
            seconds[self._phase] = seconds.get(self._phase, 0.0) + now - self._phase_start
        self._phase, self._phase_start = phase, now
        steps = self.evidence.steps
        if phase == _DONE or len(steps) < MOST_STEPS:
            steps.append((phase, now - self._start))
        elif len(steps) == MOST_STEPS:
            steps.append((_MORE, now - self._start))
        if self.progress is not None:
            with contextlib.suppress(Exception):  # a listener's trouble is not the drive's
                self.progress(self.evidence, phase)

    async def _fence(self) -> None:
        self._enter("open")
        await self.session.open()
        local = self.session.local
        if local is not None:
            self.evidence.device, self.evidence.own_controller = local.path, local.cntlid
        self._enter("look")
        await self._patiently(lambda: self.session.look(secondaries=self.options.may_take_offline))
        self._resolve()
        if not self.controllers:
            return
        self.quieting.choose(self.secondary.obstacle(self.controllers))
        self._enter("read")
        attached = await self._read(fresh=self._is_held())
        self.evidence.found = attached.of(self.controllers)
        await self._finish(attached)

    async def _finish(self, attached: Attached) -> None:
        """Go on from a read to the end. Raises DriveProblem."""
        try:
            await self._cut_until_quiet(attached)
        except DriveProblem:
            await self._finish_the_others()
            await self._escalate()
            raise

    async def _go_offline(self, controllers: frozenset[int], *, attached: bool = True) -> None:
        """Take controllers offline; where the drive refuses that for good, do what the rule has in its place."""
        self._enter("offline")
        await self.secondary.take_offline(controllers, attached=attached)
        if self.secondary.hopeless:
            self.quieting.choose(self.secondary.problem)

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do a step, again and again while its failure may pass and the deadline has not."""
        attempt = 0
        while True:
            try:
                return await step()
            except DriveProblem as problem:
                attempt += 1
                pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
                if not problem.may_pass or self._loop.time() + pause >= self.session.until:
                    raise
            await asyncio.sleep(pause)

    def _resolve(self) -> None:
        for host in self.hosts:
            try:
                ids = self.session.resolve(host)
            except Refusal as refusal:
                self.evidence.refused[host.name] = refusal.reason
                self.evidence.advice = self.refusal_advice = refusal.advice
            else:
                self.evidence.targets[host.name] = tuple(sorted(ids))
        self.controllers = frozenset(i for ids in self.evidence.targets.values() for i in ids)

    def _is_held(self) -> bool:
        """Whether some host may be given storage back now: the evidence says by whom."""
        guard = self.options.guard
        asked = {} if guard is None else {host: guard.enter(host) for host in self.evidence.targets}
        self.evidence.held = {host: why for host, why in asked.items() if why}
        return bool(self.evidence.held)

    async def _read(self, *, fresh: bool = True) -> Attached:
        """Read all attachments; `remaining` is what this read showed, or None while it is not complete.

        Of a host that may be given storage back when it begins, such a read proves nothing.
        """
        self._is_held()
        self.evidence.remaining = None
        self.evidence.passes += 1
        begun = self._loop.time()
        secondaries = bool(self.evidence.secondaries)
        attached = await self._patiently(lambda: self.session.read_attached(fresh=fresh, secondaries=secondaries))
        self.evidence.namespaces = len(attached.nsids)
        if secondaries:
            self.secondary.note(attached.secondaries)
        if attached.complete:
            self.evidence.remaining = remaining = attached.of(self.controllers)
            self.quieting.saw_all({cntlid for ids in remaining.values() for cntlid in ids})
            self.read_at = begun
        else:
            self.quieting.saw_in_part()
        return attached

    async def _settle(self, attempt: int) -> Attached | None:
        """All hosts are clean: do what is left until their fence is confirmed and the drive in order.

        Returns what a read after it showed, None when nothing was left to do. Raises DriveProblem.
        """
        restless = self.quieting.restless()
        if restless and self.quieting.choice.method is Method.WAIT:
            return await self._wait_and_read(self._time_to_quiet())
        if restless:
            return await self._drain_late(restless, attempt)
        due = self._to_bring_back(sorted(self.evidence.quiesced))
        if due:
            self._enter("online")
            await self.secondary.bring_back(due)
        elif self.evidence.held:
            await self._wait_for_restore()
        else:
            return None
        self._enter("read-back")
        return await self._read()

    async def _wait_for_restore(self) -> None:
        """Nothing else is left to do: wait until nobody gives a host storage back. Raises DriveProblem."""
        self._enter("restore")
        while self._is_held():
            if self._loop.time() + _POLL >= self.session.until:
                why = next(iter(self.evidence.held.values()))
                raise DriveProblem(why, "run the command again when that has ended, or end its process")
            await asyncio.sleep(_POLL)

    async def _drain_late(self, hosts: list[str], attempt: int) -> Attached:
        """Nothing is attached, and controllers are not known to be offline: see to that, or say why not."""
        choice = self.quieting.choice
        if not choice.possible:
            raise DriveProblem(
                f"quiesce {choice.name} is not possible: {choice.reason}", "choose another with --quiesce"
            )
        await self._wait_if_late(hosts)
        if attempt > _GIVE_UP:
            if self.options.quiesce.method is not Method.AUTO:
                raise DriveProblem(self.secondary.problem, "choose another with --quiesce")
            self.quieting.choose(self.secondary.problem)
            return await self._wait_and_read(self._time_to_quiet())
        await self._pause(attempt)
        loose = frozenset(cntlid for cntlid in self._ids(hosts) if cntlid not in self.secondary.drained)
        if loose:
            await self._go_offline(loose, attached=False)
        self._enter("read-back")
        return await self._read()

    async def _wait_if_late(self, hosts: list[str]) -> None:
        """Where going offline now would not end all that hosts may have under way, wait first.

        Until then it is not sent: QEMU 7.2 has a fault in it for what is under way and detached.
        """
        late = self.quieting.late(hosts)
        if not late:
            return
        self._enter("quiesce")
        until, before = self.quieting.late_until(late), self.options.before
        while late:
            if self._loop.time() + _POLL >= self.session.until or (before.read and until >= self.session.until):
                raise DriveProblem(
                    f"controllers had nothing attached when they went offline, so that {self.quieting.late_s:g} s "
                    "must pass, and the deadline leaves no time for that",
                    "give a longer --deadline",
                )
            await asyncio.sleep(_POLL if not before.read else max(until - self._loop.time(), 0.001))
            late = self.quieting.late(hosts)
            if not late and self._loop.time() >= until:
                self.evidence.quiesce_reason = (
                    f"waited {self.quieting.late_s:g} s, as controllers had nothing attached when they went offline"
                )

    def _time_to_quiet(self) -> float:
        """Seconds until a wait is over for all hosts that are clean; 0 when it is."""
        return max(self.quieting.seconds_left(), _PAUSES[1]) if self.quieting.restless() else 0.0

    def _ids(self, hosts: list[str]) -> frozenset[int]:
        return frozenset(cntlid for host in hosts for cntlid in self.evidence.targets[host])

    def _to_bring_back(self, hosts: list[str]) -> frozenset[int]:
        """Return the controllers of these hosts that were taken offline and shall not stay so."""
        if self.options.quiesce.method is Method.OFFLINE:
            return frozenset()
        return self._ids(hosts) & self.secondary.due

    async def _pause(self, attempt: int) -> None:
        """Wait before another try. Raises DriveProblem when the deadline would pass meanwhile."""
        pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
        if self._loop.time() + pause >= self.session.until:
            raise DriveProblem(self.evidence.problem or "the deadline passed", self.evidence.advice)
        if pause:
            await asyncio.sleep(pause)

    async def _wait_and_read(self, seconds: float) -> Attached:
        self._enter("quiesce")
        if self._loop.time() + seconds >= self.session.until:
            raise DriveProblem(
                f"the deadline leaves no time for quiesce {self.quieting.choice.name}", "give a longer --deadline"
            )
        await asyncio.sleep(seconds)
        self._enter("read-back")
        return await self._read()

    async def _cut_until_quiet(self, attached: Attached) -> None:
        """Detach and read back until complete reads show nothing for as long as the quiesce rule wants.

        Gives up only with a reason: raises DriveProblem.
        """
        attempt = 0
        while True:
            remaining = attached.of(self.controllers)
            if attached.complete and not remaining:
                self.evidence.problem, self.evidence.advice = "", self.refusal_advice
                later = await self._settle(attempt)
                if later is None:
                    return
                attached, attempt = later, attempt + 1 if self.quieting.restless() else 0
                continue
            self._judge(attached, remaining, attempt)
            await self._pause(attempt)
            if remaining:
                loose = frozenset(cntlid for ids in remaining.values() for cntlid in ids) - self.secondary.due
                if loose and self.quieting.choice.takes_offline:  # not yet, or they were brought back
                    await self._go_offline(loose)
                self.evidence.cutting = remaining
                self._enter("cut")
                if not await self.cutting.cut(remaining):
                    raise DriveProblem(*self._no_answer())
            self._enter("read-back")
            attached = await self._read()
            attempt += 1

    async def _finish_the_others(self) -> None:
        """Where one host cannot be cut, finish the work for those that a complete read showed clean."""
        if self.evidence.remaining is None:
            return
        with contextlib.suppress(DriveProblem):
            if self.quieting.restless() and self.quieting.choice.method is Method.WAIT:
                await self._wait_and_read(self._time_to_quiet())
            due = self._to_bring_back(sorted(self.evidence.quiesced))
            if due:
                self._enter("online")
                await self.secondary.bring_back(due)
                self._enter("read-back")
                await self._read()

    async def _escalate(self) -> None:
        """Where a detach failed, take the controllers offline that are still attached, if that is wanted."""
        attached = {cntlid for ids in (self.evidence.remaining or {}).values() for cntlid in ids}
        loose = frozenset(attached) - self.secondary.due
        if not self.options.escalate or not loose or self.secondary.obstacle(loose):
            return
        self._enter("offline")
        await self.secondary.take_offline(loose)
        self.evidence.escalated = tuple(sorted(loose))
        if self.session.until > self._loop.time():
            with contextlib.suppress(DriveProblem):
                self._enter("read-back")
                await self._read()

    def _judge(self, attached: Attached, remaining: dict[int, tuple[int, ...]], attempt: int) -> None:
        """Write down what stands in the way, and raise DriveProblem if trying again cannot help."""
        faults = list(attached.faults.values())
        if faults:
            self.evidence.problem, self.evidence.advice = str(faults[0]), faults[0].advice
            if any(fault.status == NO_ANSWER for fault in faults):
                raise DriveProblem(*self._no_answer())
            if any(fault.gone for fault in faults):
                raise DriveProblem.from_answer(next(fault for fault in faults if fault.gone))
        final = bool(faults) and not remaining and not any(fault.may_pass for fault in faults)
        self.final_rounds = self.final_rounds + 1 if final else 0
        if self.final_rounds > _GIVE_UP:
            raise DriveProblem.from_answer(faults[0])
        if not remaining or not attempt:
            return
        pairs = [(nsid, cntlid) for nsid, ids in remaining.items() for cntlid in ids]
        statuses = [self.cutting.last_status.get(pair, 0) for pair in pairs]
        nsid, cntlid = pairs[0]
        why = (
            status.describe(statuses[0])
            if statuses[0]
            else "the drive reports success; other software may be attaching again"
        )
        self.evidence.problem = f"controller {cntlid} is still attached to namespace {nsid}: {why}"
        self.evidence.advice = status.advice(statuses[0])
        if attempt >= _GIVE_UP and all(code and not status.may_retry(code) for code in statuses):
            raise DriveProblem(self.evidence.problem, self.evidence.advice)

    def _no_answer(self) -> tuple[str, str]:
        waited = self._loop.time() - self._start
        return f"no answer in {waited:.1f} s", status.advice(NO_ANSWER)

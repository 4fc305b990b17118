"""The one piece of code that detaches: survey, cut, read back, on all drives side by side under one deadline."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from nvmefence.fencing.evidence import MOST_STEPS, DriveEvidence, FenceReport, Identity, Sent
from nvmefence.fencing.options import Options
from nvmefence.fencing.quiesce import Choice, Method
from nvmefence.fencing.secondaries import SecondaryControl
from nvmefence.fencing.session import Attached, DriveProblem, DriveSession
from nvmefence.inventory.drives import Drive
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.inventory.selectors import Refusal
from nvmefence.nvme import commands, status
from nvmefence.nvme.structures import MalformedData, identify_namespace
from nvmefence.nvme.transport import NO_ANSWER, Command, Completion, Transport

__all__ = ["Options", "Progress", "detach_commands", "fence"]

_PAUSES: Final = (0.0, 0.005, 0.02, 0.1, 0.5, 1.0)
"""Seconds before the next round of cut and read-back; the last one repeats until the deadline."""
_GIVE_UP: Final = 2
"""Rounds after which a drive that answers every attempt with a final error is left."""

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
    workers = [
        _DriveFence(DriveSession(transport, drive, hostmap, until), hosts, options, progress, start)
        for drive in selection.drives
    ]
    await asyncio.gather(*(worker.run() for worker in workers))
    return FenceReport(
        hosts=tuple(host.name for host in hosts),
        drives=[worker.evidence for worker in workers],
        missing=selection.missing,
        backend=transport.backend,
        started_at=started_at.replace("+00:00", "Z"),
        seconds=loop.time() - start,
        simulated=transport.backend == "simulated",
    )


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
        self.one_by_one: set[int] = set()
        """Namespaces where a list of several controllers failed: there, each gets a command of its own."""
        self.final_rounds = 0
        """Rounds in a row in which only namespaces that cannot be read stood in the way. One such round may be
        a namespace that was deleted while it was read."""
        self.last_status: dict[tuple[int, int], int] = {}
        self.refusal_advice = ""
        """What to do about a host that is refused on this drive."""
        self.clean_since: dict[str, float] = {}
        """By host: loop time of the first of the complete reads, in a row, that showed none of its controllers."""
        self._loop = asyncio.get_running_loop()
        self._start = self._phase_start = start
        self._phase = ""
        self.choice = Choice(Method.WAIT, options.quiesce.seconds)
        self.secondary = SecondaryControl(session, self.evidence, self._start, options.resources)

    async def run(self) -> None:
        """Fence; whatever goes wrong is written into the evidence."""
        try:
            await self._fence()
        except DriveProblem as problem:
            self._fail(problem.reason, problem.advice)
        except Exception as error:
            # A defect of ours on one drive must neither stop the cut on the others nor pass as success.
            self.evidence.remaining = None
            self._fail(f"internal error: {error!r}", "report this as a defect")
        finally:
            self.session.close()
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
        self._choose(self.secondary.obstacle(self.controllers))
        self._enter("read")
        attached = await self._read(fresh=self._is_held())
        self.evidence.found = attached.of(self.controllers)
        try:
            if self.choice.takes_offline:
                await self._go_offline(self.controllers)
                if attached.complete and not self.evidence.found:  # nothing to cut: what was read is too old
                    self._enter("read-back")
                    attached = await self._read()
            await self._cut_until_quiet(attached)
        except DriveProblem:
            await self._finish_the_others()
            await self._escalate()
            raise

    def _choose(self, obstacle: str) -> None:
        """Settle what is done about writes under way on this drive."""
        self.choice = self.options.quiesce.choose(self.session.drive.model, obstacle)
        self.evidence.quiesce, self.evidence.quiesce_reason = self.choice.name, self.choice.reason

    async def _go_offline(self, controllers: frozenset[int]) -> None:
        """Take controllers offline; where the drive refuses that for good, do what the rule has in its place."""
        self._enter("offline")
        await self.secondary.take_offline(controllers)
        if self.secondary.hopeless:
            self._choose(self.secondary.problem)

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
        secondaries = bool(self.evidence.secondaries)
        attached = await self._patiently(lambda: self.session.read_attached(fresh=fresh, secondaries=secondaries))
        self.evidence.namespaces = len(attached.nsids)
        if secondaries:
            self.secondary.note(attached.secondaries)
        if attached.complete:
            self.evidence.remaining = attached.of(self.controllers)
            self._note_clean()
        else:  # it may have shown, in part, that a host is attached again
            self.clean_since.clear()
            self.evidence.quiesced.clear()
            self.secondary.forget(self.controllers)
        return attached

    def _note_clean(self) -> None:
        """After a complete read: which hosts are clean, and for which of them the quiesce rule is met by now."""
        now = self._loop.time()
        left = {cntlid for ids in (self.evidence.remaining or {}).values() for cntlid in ids}
        for host, ids in self.evidence.targets.items():
            if not left.isdisjoint(ids) or host in self.evidence.held:
                self.clean_since.pop(host, None)
                self.evidence.quiesced.discard(host)
                if not left.isdisjoint(ids):
                    self.secondary.forget(ids)
                continue
            since = self.clean_since.setdefault(host, now)
            if host not in self.evidence.quiesced and self._is_quiet(ids, now - since):
                self.evidence.quiesced.add(host)

    def _is_quiet(self, ids: tuple[int, ...], clean_for: float) -> bool:
        """Whether nothing of a host's can land any more, nothing of it having been attached for so many seconds."""
        if self.choice.method is Method.WAIT:
            return clean_for >= self.choice.seconds
        return self.choice.possible and self.secondary.drained.issuperset(ids)

    def _restless(self) -> list[str]:
        """Return the hosts that are clean, and for which the quiesce rule is not met."""
        return [host for host in self.clean_since if host not in self.evidence.quiesced]

    def _time_to_quiet(self) -> float:
        """Seconds until the quiesce rule can be met for all hosts that are clean; 0 when it is."""
        due = [self.clean_since[host] + self.choice.seconds for host in self._restless()]
        return max(max(due) - self._loop.time(), _PAUSES[1]) if due else 0.0

    async def _settle(self, attempt: int) -> Attached | None:
        """All hosts are clean: do what is left until their fence is confirmed and the drive in order.

        Returns what a read after it showed, None when nothing was left to do. Raises DriveProblem.
        """
        restless = self._restless()
        if restless and self.choice.method is Method.WAIT:
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
        if not self.choice.possible:
            raise DriveProblem(
                f"quiesce {self.choice.name} is not possible: {self.choice.reason}", "choose another with --quiesce"
            )
        if attempt > _GIVE_UP:
            if self.options.quiesce.method is not Method.AUTO:
                raise DriveProblem(self.secondary.problem, "choose another with --quiesce")
            self._choose(self.secondary.problem)
            return await self._wait_and_read(self._time_to_quiet())
        await self._pause(attempt)
        await self._go_offline(self._ids(hosts))
        self._enter("read-back")
        return await self._read()

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
                f"the deadline leaves no time for quiesce {self.choice.name}", "give a longer --deadline"
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
                attached, attempt = later, attempt + 1 if self._restless() else 0
                continue
            self._judge(attached, remaining, attempt)
            await self._pause(attempt)
            if remaining:
                loose = frozenset(cntlid for ids in remaining.values() for cntlid in ids) - self.secondary.due
                if loose and self.choice.takes_offline:  # they were brought back, and are attached again
                    await self._go_offline(loose)
                self.evidence.cutting = remaining
                self._enter("cut")
                await self._cut(remaining)
            self._enter("read-back")
            attached = await self._read()
            attempt += 1

    async def _finish_the_others(self) -> None:
        """Where one host cannot be cut, finish the work for those that a complete read showed clean."""
        if self.evidence.remaining is None:
            return
        with contextlib.suppress(DriveProblem):
            if self._restless() and self.choice.method is Method.WAIT:
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
        statuses = [self.last_status.get(pair, 0) for pair in pairs]
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

    async def _cut(self, remaining: dict[int, tuple[int, ...]]) -> None:
        """Send one detach for each namespace that a read just before showed attached, all in flight together.

        Beside them each namespace is asked who it is, so that nothing else is ever given back in its place.
        """
        self.evidence.remaining = None
        batch = detach_commands(remaining, self.one_by_one)
        unknown = [nsid for nsid in remaining if nsid not in self.evidence.identities]
        asked = [commands.allocated_namespace(nsid) for nsid in unknown]
        every = await self.session.controller.run([*(command for command, _, _ in batch), *asked])
        answers, said = every[: len(batch)], every[len(batch) :]
        for (_, nsid, ids), answer in zip(batch, answers, strict=True):
            self._record(nsid, ids, answer)
        for nsid, answer in zip(unknown, said, strict=True):
            self._identify(nsid, remaining[nsid], answer)
        self.evidence.cutting = {}
        if any(answer.status == NO_ANSWER for answer in answers):
            raise DriveProblem(*self._no_answer())

    def _identify(self, nsid: int, ids: tuple[int, ...], answer: Completion) -> None:
        """Take in which namespace controllers were just cut from."""
        doubtful = self.evidence.unidentified
        if not answer.status:
            with contextlib.suppress(MalformedData):
                self.evidence.identities[nsid] = Identity.of(identify_namespace(answer.data))
                doubtful.get(nsid, set()).difference_update(ids)
                return
        doubtful.setdefault(nsid, set()).update(ids)

    def _record(self, nsid: int, ids: tuple[int, ...], answer: Completion) -> None:
        self.evidence.sent.append(
            Sent(nsid, ids, answer.status, answer.started - self._start, answer.finished - answer.started)
        )
        for cntlid in ids:
            self.last_status[nsid, cntlid] = answer.status
        if answer.status and len(ids) > 1:
            self.one_by_one.add(nsid)


def detach_commands(
    attached: dict[int, tuple[int, ...]], one_by_one: set[int] | frozenset[int] = frozenset()
) -> list[tuple[Command, int, tuple[int, ...]]]:
    """Return the detach commands (with NSID and controllers) for what is attached, by NSID."""
    batch = []
    for nsid, ids in attached.items():
        lists = [(cntlid,) for cntlid in ids] if nsid in one_by_one else [ids]
        batch += [(commands.detach(nsid, part), nsid, part) for part in lists]
    return batch

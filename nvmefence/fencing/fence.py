"""The one piece of code that detaches: survey, cut, read back, on all drives side by side under one deadline."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from nvmefence.fencing.evidence import DriveEvidence, FenceReport, Sent
from nvmefence.fencing.quiesce import DEFAULT, Quiesce
from nvmefence.fencing.session import Attached, DriveProblem, DriveSession
from nvmefence.inventory.drives import Drive
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.inventory.selectors import Refusal
from nvmefence.nvme import commands, status
from nvmefence.nvme.transport import NO_ANSWER, Command, Completion, Transport

_PAUSES: Final = (0.0, 0.005, 0.02, 0.1, 0.5, 1.0)
"""Seconds before the next round of cut and read-back; the last one repeats until the deadline."""
_GIVE_UP: Final = 2
"""Rounds after which a drive that answers every attempt with a final error is left."""

T = TypeVar("T")
Progress = Callable[[DriveEvidence, str], None]
"""Called with a drive and what is being done with it now; "done" last."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to fence."""

    deadline: float = 30.0
    """Seconds for everything; what is not confirmed then is not confirmed."""
    quiesce: Quiesce = DEFAULT


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
    selection = hostmap.select(found)
    workers = [
        _DriveFence(DriveSession(transport, drive, hostmap, start + options.deadline), hosts, options, progress)
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
        self, session: DriveSession, hosts: Sequence[Host], options: Options, progress: Progress | None
    ) -> None:
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
        self._start = self._phase_start = self._loop.time()
        self._phase = ""

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
            self._enter("done")
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
        await self._patiently(self.session.look)
        self._resolve()
        if not self.controllers:
            return
        self._enter("read")
        attached = await self._read(fresh=False)
        self.evidence.found = attached.of(self.controllers)
        try:
            await self._cut_until_quiet(attached)
        except DriveProblem:
            await self._finish_the_others()
            raise

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

    async def _read(self, *, fresh: bool = True) -> Attached:
        """Read all attachments; `remaining` is what this read showed, or None while it is not complete."""
        self.evidence.remaining = None
        self.evidence.passes += 1
        attached = await self._patiently(lambda: self.session.read_attached(fresh=fresh))
        self.evidence.namespaces = len(attached.nsids)
        if attached.complete:
            self.evidence.remaining = attached.of(self.controllers)
            self._note_clean()
        else:  # it may have shown, in part, that a host is attached again
            self.clean_since.clear()
            self.evidence.quiesced.clear()
        return attached

    def _note_clean(self) -> None:
        """After a complete read: which hosts are clean, and for which of them the quiesce rule is met by now."""
        now = self._loop.time()
        left = {cntlid for ids in (self.evidence.remaining or {}).values() for cntlid in ids}
        for host, ids in self.evidence.targets.items():
            if not left.isdisjoint(ids):
                self.clean_since.pop(host, None)
                self.evidence.quiesced.discard(host)
            elif now >= self.clean_since.setdefault(host, now) + self.options.quiesce.seconds:
                self.evidence.quiesced.add(host)

    def _time_to_quiet(self) -> float:
        """Seconds until the quiesce rule can be met for all hosts that are clean; 0 when it is."""
        due = [
            since + self.options.quiesce.seconds
            for host, since in self.clean_since.items()
            if host not in self.evidence.quiesced
        ]
        return max(max(due) - self._loop.time(), _PAUSES[1]) if due else 0.0

    async def _wait_and_read(self, seconds: float) -> Attached:
        self._enter("quiesce")
        if self._loop.time() + seconds >= self.session.until:
            raise DriveProblem(
                f"the deadline leaves no time for quiesce {self.options.quiesce.name}", "give a longer --deadline"
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
                wait = self._time_to_quiet()
                if not wait:
                    return
                attached = await self._wait_and_read(wait)
                attempt = 0
                continue
            self._judge(attached, remaining, attempt)
            pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
            if self._loop.time() + pause >= self.session.until:
                raise DriveProblem(self.evidence.problem or "the deadline passed", self.evidence.advice)
            if pause:
                await asyncio.sleep(pause)
            if remaining:
                self._enter("cut")
                await self._cut(remaining)
            self._enter("read-back")
            attached = await self._read()
            attempt += 1

    async def _finish_the_others(self) -> None:
        """Where one host cannot be cut, meet the quiesce rule for those that a complete read showed clean."""
        if self.evidence.remaining is None:
            return
        wait = self._time_to_quiet()
        if wait:
            with contextlib.suppress(DriveProblem):
                await self._wait_and_read(wait)

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
        """Send one detach for each namespace that a read just before showed attached, all in flight together."""
        self.evidence.remaining = None
        batch = detach_commands(remaining, self.one_by_one)
        answers = await self.session.controller.run([command for command, _, _ in batch])
        for (_, nsid, ids), answer in zip(batch, answers, strict=True):
            self._record(nsid, ids, answer)
        if any(answer.status == NO_ANSWER for answer in answers):
            raise DriveProblem(*self._no_answer())

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

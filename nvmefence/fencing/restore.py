"""Gives a host back what fences took from it, and nothing else: on all drives side by side under one deadline."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from nvmefence.fencing.evidence import DriveEvidence, Identity, SecondaryEvidence, Sent
from nvmefence.fencing.restored import DriveRestored, Piece, Planned, RestoreReport, Returned
from nvmefence.fencing.secondaries import SecondaryControl, obstacle
from nvmefence.fencing.session import Attached, DriveProblem, DriveSession
from nvmefence.fencing.terms import GaveUp, Permitted, Terms, Wanted, changed, identity
from nvmefence.inventory.drives import Drive
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.inventory.selectors import Refusal
from nvmefence.nvme import commands, status
from nvmefence.nvme.transport import NO_ANSWER, Completion, Transport

_PAUSES: Final = (0.0, 0.02, 0.1, 0.5, 1.0)
"""Seconds before another round; the last one repeats."""
_GIVE_UP: Final = 3
"""Rounds after which what the drive refuses is left."""
_AT_ONCE: Final = 16
"""Attach commands that are sent together: a fence that begins is looked for before each such lot, and none of them
waits in a queue of ours meanwhile."""
T = TypeVar("T")
Progress = Callable[[DriveRestored, str], None]
"""Called with a drive and what is being done with it now; "done" last."""


async def restore(
    transport: Transport,
    hostmap: HostMap,
    found: Sequence[Drive],
    host: Host,
    wanted: Wanted,
    terms: Terms,
    progress: Progress | None = None,
) -> RestoreReport:
    """Give `host` back what is wanted, as far as it still is what it was; never raises for what drives do.

    A namespace must say of itself what is on record, and a controller must be the host's by today's map. Nothing is
    sent for what the host has again already.
    """
    loop = asyncio.get_running_loop()
    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    start = loop.time()
    guarded = Permitted(transport, terms)
    drives = {drive.key: drive for drive in hostmap.select(found).drives}
    workers = []
    concerned = {*(one.drive for one in wanted.taken), *(one.drive for one in wanted.offline)}
    for key in sorted(concerned, key=lambda key: key[::-1]):
        evidence = DriveRestored(
            key[1],
            key[0],
            [Piece(one) for one in wanted.taken if one.drive == key],
            [Returned(one) for one in wanted.offline if one.drive == key],
        )
        session = None
        if key in drives:
            session = DriveSession(guarded, drives[key], hostmap, start + terms.deadline)
        workers.append(_DriveRestore(session, guarded, evidence, host, terms, progress))
    await asyncio.gather(*(worker.run() for worker in workers))
    return RestoreReport(
        host=host.name,
        drives=[worker.evidence for worker in workers],
        backend=transport.backend,
        started_at=started_at.replace("+00:00", "Z"),
        seconds=loop.time() - start,
        simulated=transport.backend == "simulated",
        gave_up=guarded.refused,
    )


@dataclass(slots=True)
class _Seen:
    """One look at a drive."""

    attached: Attached
    identities: dict[int, Identity | str]
    """By NSID of what is on record: which namespace it is now, or why that is not known."""


class _DriveRestore:
    """The restore of one drive. `evidence` is true at every moment."""

    def __init__(
        self,
        session: DriveSession | None,
        transport: Permitted,
        evidence: DriveRestored,
        host: Host,
        terms: Terms,
        progress: Progress | None,
    ) -> None:
        self._session = session
        self._transport = transport
        self.evidence = evidence
        self._host = host
        self._terms = terms
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._mine: frozenset[int] = frozenset()
        self._one_by_one: set[int] = set()
        self._statuses: dict[tuple[int, int], int] = {}
        """Of the last attach, by NSID and controller."""
        self._inner = DriveEvidence(evidence.serial, evidence.nqn, "", (host.name,))
        self._rounds_online = 0
        self._sending: asyncio.Task[list[Completion]] | None = None
        """The last attach commands."""

    @property
    def session(self) -> DriveSession:
        """The open drive. Raises DriveProblem."""
        if self._session is None:
            raise DriveProblem(
                "the drive is not among the expected ones that are there", "put it back, or correct the map"
            )
        return self._session

    async def run(self) -> None:
        """Restore; whatever goes wrong is written into the evidence."""
        try:
            await self._restore()
        except DriveProblem as problem:
            self.evidence.problem, self.evidence.advice = problem.reason, problem.advice
        except GaveUp as why:
            self.evidence.problem = str(why)
        except Exception as error:
            self.evidence.problem, self.evidence.advice = f"internal error: {error!r}", "report this as a defect"
        finally:
            self._close()
            self.evidence.managed = self._inner.managed
            self.evidence.seconds = self._loop.time() - self._start
            self._enter("done")

    def _close(self) -> None:
        """Release the device, once nothing is in flight on it whose answer is still wanted."""
        session = self._session
        if session is None:
            return
        if self._sending is None or self._sending.done():
            _closed(session)
        else:
            self._sending.add_done_callback(lambda _task: _closed(session))

    def _enter(self, phase: str) -> None:
        if self._progress is not None:
            with contextlib.suppress(Exception):  # a listener's trouble is not the drive's
                self._progress(self.evidence, phase)

    async def _restore(self) -> None:
        session, evidence = self.session, self.evidence
        evidence.model = session.drive.model
        self._enter("open")
        await session.open()
        if session.local is not None:
            evidence.device, evidence.own_controller = session.local.path, session.local.cntlid
        self._enter("look")
        await self._patiently(lambda: session.look(secondaries=True))
        try:
            self._mine = session.resolve(self._host)
        except Refusal as refusal:
            raise DriveProblem(f"{self._host.name}: {refusal.reason}", refusal.advice) from None
        evidence.mine = tuple(sorted(self._mine))
        self._control = SecondaryControl(session, self._inner, self._start, {})
        attempt = 0
        while True:
            self._enter("read")
            seen = await self._patiently(self._read)
            self._judge(seen)
            due, missing = self._due(seen), self._missing(seen)
            if self._terms.dry_run:
                self._plan(due, missing)
                return
            if due and self._rounds_online < _GIVE_UP:
                await self._bring_online(due, seen)
                continue
            if not missing or (attempt >= _GIVE_UP and self._is_final(missing)):
                return
            await self._pause(attempt)
            await self._attach(missing)
            attempt += 1

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do a step, again and again while its failure may pass and the deadline has not."""
        attempt = 0
        while True:
            try:
                return await step()
            except DriveProblem as problem:
                attempt += 1
                if not problem.may_pass:
                    raise
                await self._pause(attempt, problem)

    async def _pause(self, attempt: int, problem: DriveProblem | None = None) -> None:
        """Wait before another try. Raises the problem when the deadline would pass meanwhile."""
        pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
        if self._loop.time() + pause >= self.session.until:
            raise problem or DriveProblem("the deadline passed", "run the command again")
        if pause:
            await asyncio.sleep(pause)

    # Looking

    async def _read(self) -> _Seen:
        """Read who is attached to what, then which namespaces those on record are now. Raises DriveProblem."""
        attached = await self.session.read_attached(secondaries=True)
        self._control.note(attached.secondaries)
        allocated = set(attached.nsids)
        nsids = sorted({piece.taken.nsid for piece in self.evidence.pieces} & allocated)
        answers = await self.session.controller.run([commands.allocated_namespace(nsid) for nsid in nsids])
        identities: dict[int, Identity | str] = {}
        for nsid, answer in zip(nsids, answers, strict=True):
            if answer.status and status.may_retry(answer.status):
                why = f"namespace {nsid} does not say which it is: {status.describe(answer.status)}"
                raise DriveProblem(why, status.advice(answer.status), may_pass=True)
            identities[nsid] = identity(answer)
            fault = attached.faults.get(nsid)
            if fault is not None and fault.may_pass:
                raise DriveProblem.from_answer(fault)
            if NO_ANSWER in (answer.status, fault.status if fault is not None else 0):
                raise DriveProblem(*self._no_answer())
        return _Seen(attached, identities)

    def _judge(self, seen: _Seen) -> None:
        """Say of everything on record what the host has again, and what cannot be given, with the reason."""
        for one in self.evidence.controllers:
            self._judge_controller(one, seen)
        for piece in self.evidence.pieces:
            nsid = piece.taken.nsid
            why = self._obstacle_of(piece, seen)
            there = seen.attached.by_nsid.get(nsid, ())
            have = self._mine.intersection(there) if not why or self._may_be_it(piece, seen) else frozenset()
            piece.given = tuple(n for n in piece.taken.controllers if n in have)
            piece.reasons = {n: why or self._obstacle_for(n, nsid) for n in piece.left}

    def _judge_controller(self, one: Returned, seen: _Seen) -> None:
        now = {entry.cntlid: entry for entry in seen.attached.secondaries or ()}.get(one.offline.cntlid)
        one.online = one.offline.cntlid in self._mine and now is not None and now.online
        if not one.online:
            one.reason = self._offline_because(one.offline.cntlid, seen)

    def _offline_because(self, cntlid: int, seen: _Seen) -> str:
        """Say why a controller cannot be brought online; empty: it can, or nobody has tried."""
        if cntlid not in self._mine:
            return f"it is not {self._host.name}'s by today's map"
        own = None if self.session.local is None else self.session.local.cntlid
        why = obstacle(seen.attached.secondaries, own, (cntlid,))
        if why:
            return why
        if self._terms.only_loose:
            held = seen.attached.of((cntlid,))
            if held:
                return f"it is still attached to namespace {', '.join(map(str, held))}"
            if not seen.attached.complete:
                return "it is not known that nothing is attached to it"
        entry = self._inner.secondaries.get(cntlid)
        return "" if entry is None else entry.problem

    def _obstacle_of(self, piece: Piece, seen: _Seen) -> str:
        """Say why a namespace must not be given back, whatever the controller; empty: it may."""
        was, nsid = piece.taken.identity, piece.taken.nsid
        now = seen.identities.get(nsid, "the namespace no longer exists")
        if isinstance(now, str):
            return now
        fault = seen.attached.faults.get(nsid)
        if fault is not None:
            return str(fault)
        if was is None or not (was.nguid or was.eui64):
            return "which namespace it was is not on record, so it cannot be told from another"
        why = changed(was, now)
        if why and any((nsid, n) in self._statuses for n in piece.taken.controllers):
            why += (
                "; it was replaced while it was given back: look with nvmefence status, cut with nvmefence detach"
            )
        return why

    @staticmethod
    def _may_be_it(piece: Piece, seen: _Seen) -> bool:
        """Whether nothing speaks against the namespace being the one on record, though nothing shows it."""
        was, now = piece.taken.identity, seen.identities.get(piece.taken.nsid)
        return isinstance(now, Identity) and (was is None or not (was.nguid or was.eui64 or changed(was, now)))

    def _obstacle_for(self, cntlid: int, nsid: int) -> str:
        """Say why a namespace has not been given to one controller; empty: nothing stands in the way."""
        if cntlid not in self._mine:
            return f"controller {cntlid} is not {self._host.name}'s by today's map"
        entry = self._inner.secondaries.get(cntlid)
        if entry is not None and not entry.back and self._rounds_online >= _GIVE_UP:
            return f"controller {cntlid} could not be brought online: {entry.problem or 'it stays offline'}"
        code = self._statuses.get((nsid, cntlid), 0)
        return status.describe(code) if code else ""

    # Giving

    def _due(self, seen: _Seen) -> dict[int, tuple[int, int]]:
        """Return the controllers to bring online, with the queues and interrupts that they had (0: not known)."""
        states = {entry.cntlid: entry for entry in seen.attached.secondaries or ()}
        recorded = {one.offline.cntlid: one.offline for one in self.evidence.controllers}
        asked = {n for n, one in recorded.items() if n in self._mine}
        asked |= {n for piece in self.evidence.pieces for n in piece.left if self._open_to(piece, n, seen)}
        due = {}
        for cntlid in sorted(asked):
            if cntlid not in states or states[cntlid].online or self._refuses_online(cntlid, seen):
                continue
            one = recorded.get(cntlid)
            due[cntlid] = (one.queues, one.interrupts) if one and one.queues and one.interrupts else (0, 0)
        return due

    def _refuses_online(self, cntlid: int, seen: _Seen) -> bool:
        own = None if self.session.local is None else self.session.local.cntlid
        if obstacle(seen.attached.secondaries, own, (cntlid,)):
            return True
        loose = seen.attached.complete and not seen.attached.of((cntlid,))
        return self._terms.only_loose and not loose

    def _open_to(self, piece: Piece, cntlid: int, seen: _Seen) -> bool:
        """Whether a namespace may be given to a controller."""
        return cntlid in self._mine and not self._obstacle_of(piece, seen)

    def _missing(self, seen: _Seen) -> dict[int, tuple[int, ...]]:
        """Return what is to be attached: controllers by NSID."""
        states = {entry.cntlid: entry for entry in seen.attached.secondaries or ()}
        found: dict[int, set[int]] = {}
        for piece in self.evidence.pieces:
            for cntlid in piece.left:
                offline = cntlid in states and not states[cntlid].online
                if self._open_to(piece, cntlid, seen) and (not offline or self._terms.dry_run):
                    found.setdefault(piece.taken.nsid, set()).add(cntlid)
        return {nsid: tuple(sorted(ids)) for nsid, ids in sorted(found.items())}

    def _is_final(self, missing: Mapping[int, Sequence[int]]) -> bool:
        """Whether the drive has refused all of it in ways that trying again does not change."""
        codes = [self._statuses.get((nsid, n), 0) for nsid, ids in missing.items() for n in ids]
        return all(code and not status.may_retry(code) for code in codes)

    async def _bring_online(self, due: Mapping[int, tuple[int, int]], seen: _Seen) -> None:
        self._enter("online")
        self._rounds_online += 1
        for cntlid, (queues, interrupts) in due.items():
            entry = self._inner.secondaries.setdefault(cntlid, SecondaryEvidence(offline=True))
            entry.queues, entry.interrupts = queues or entry.queues, interrupts or entry.interrupts
        self._control.note(seen.attached.secondaries)
        await self._control.bring_back(due)

    async def _attach(self, missing: Mapping[int, tuple[int, ...]]) -> None:
        """Send one attach for each namespace, in lots; where a list failed before, one for each controller."""
        self._enter("attach")
        batch = [
            (nsid, part)
            for nsid, ids in missing.items()
            for part in ([(n,) for n in ids] if nsid in self._one_by_one else [ids])
        ]
        for first in range(0, len(batch), _AT_ONCE):
            lot = batch[first : first + _AT_ONCE]
            for (nsid, ids), answer in zip(lot, await self._send(lot), strict=True):
                self.evidence.sent.append(
                    Sent(nsid, ids, answer.status, answer.started - self._start, answer.finished - answer.started)
                )
                self._statuses.update(dict.fromkeys(((nsid, n) for n in ids), answer.status))
                if answer.status and len(ids) > 1:
                    self._one_by_one.add(nsid)

    async def _send(self, lot: Sequence[tuple[int, tuple[int, ...]]]) -> list[Completion]:
        """Send attach commands, and never abandon them: one without an answer may still be carried out."""
        if self._loop.time() >= self.session.until:
            raise DriveProblem("the deadline passed", "run the command again")
        asked = [commands.attach(nsid, ids) for nsid, ids in lot]
        asked_at = self._loop.time()
        try:
            self._terms.unanswered.begin()
        except OSError as error:
            raise DriveProblem(f"what is being given cannot be noted: {error.strerror or error}") from None
        self._sending = task = self._loop.create_task(self.session.controller.run_to_the_end(asked))
        self._terms.unanswered.add(task)
        done, _ = await asyncio.wait({task}, timeout=max(self.session.until - self._loop.time(), 0.0))
        if done:
            return task.result()
        now = self._loop.time()
        for nsid, ids in lot:
            self.evidence.sent.append(Sent(nsid, ids, NO_ANSWER, asked_at - self._start, now - asked_at))
            self._statuses.update(dict.fromkeys(((nsid, n) for n in ids), NO_ANSWER))
        reason, advice = self._no_answer()
        raise DriveProblem(f"{reason}; whether it was attached is not known", advice)

    def _no_answer(self) -> tuple[str, str]:
        waited = self._loop.time() - self._start
        return f"no answer in {waited:.1f} s", status.advice(NO_ANSWER)

    def _plan(self, due: Mapping[int, tuple[int, int]], missing: Mapping[int, tuple[int, ...]]) -> None:
        evidence = self.evidence
        for cntlid, (queues, interrupts) in due.items():
            had = f"{queues} queues and {interrupts} interrupts" if queues else "the resources that others have"
            words = f"Virtualization Management opcode=1Ch controller={cntlid} (online, with {had})"
            evidence.planned.append(Planned(evidence.device, evidence.serial, words))
        for nsid, ids in missing.items():
            command = commands.attach(nsid, ids)
            words = (
                f"Namespace Attachment opcode={command.opcode:02X}h nsid={nsid} cdw10={command.cdw10:08X}h "
                f"(attach) controllers={','.join(map(str, ids))}"
            )
            evidence.planned.append(Planned(evidence.device, evidence.serial, words))


def _closed(session: DriveSession) -> None:
    with contextlib.suppress(ValueError):  # the transport was closed before
        session.close()

"""The detach commands of one drive, and what came of them."""

from __future__ import annotations

import contextlib

from nvmefence.fencing.evidence import DriveEvidence, Identity, Sent
from nvmefence.fencing.session import DriveSession
from nvmefence.nvme import commands
from nvmefence.nvme.structures import MalformedData, identify_namespace
from nvmefence.nvme.transport import NO_ANSWER, Command, Completion


class Cutting:
    """Sends them, and writes down in the evidence what was answered."""

    def __init__(self, session: DriveSession, evidence: DriveEvidence, start: float) -> None:
        """`start`: loop time at which work on the drive began."""
        self._session = session
        self._evidence = evidence
        self._start = start
        self.one_by_one: set[int] = set()
        """Namespaces where a list of several controllers failed: there, each gets a command of its own."""
        self.last_status: dict[tuple[int, int], int] = {}
        """By namespace and controller, what the last detach was answered."""

    async def cut(self, remaining: dict[int, tuple[int, ...]]) -> bool:
        """Send one detach for each namespace that a read just before showed attached, all in flight together.

        Beside them each namespace is asked who it is, so that nothing else is ever given back in its place. Returns
        whether each detach was answered.
        """
        self._evidence.remaining = None
        batch = detach_commands(remaining, self.one_by_one)
        unknown = [nsid for nsid in remaining if nsid not in self._evidence.identities]
        asked = [commands.allocated_namespace(nsid) for nsid in unknown]
        every = await self._session.controller.run([*(command for command, _, _ in batch), *asked])
        answers, said = every[: len(batch)], every[len(batch) :]
        for (_, nsid, ids), answer in zip(batch, answers, strict=True):
            self._record(nsid, ids, answer)
        for nsid, answer in zip(unknown, said, strict=True):
            self._identify(nsid, remaining[nsid], answer)
        self._evidence.cutting = {}
        return all(answer.status != NO_ANSWER for answer in answers)

    def _identify(self, nsid: int, ids: tuple[int, ...], answer: Completion) -> None:
        """Take in which namespace controllers were just cut from."""
        doubtful = self._evidence.unidentified
        if not answer.status:
            with contextlib.suppress(MalformedData):
                self._evidence.identities[nsid] = Identity.of(identify_namespace(answer.data))
                doubtful.get(nsid, set()).difference_update(ids)
                return
        doubtful.setdefault(nsid, set()).update(ids)

    def _record(self, nsid: int, ids: tuple[int, ...], answer: Completion) -> None:
        self._evidence.sent.append(
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

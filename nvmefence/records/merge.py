"""What a fence, or a restore, changes about a record. Nothing here touches a file."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final

from nvmefence.fencing.evidence import DriveEvidence, Identity
from nvmefence.nvme import status
from nvmefence.nvme.commands import VirtualizationAction
from nvmefence.nvme.transport import NO_ANSWER
from nvmefence.records.record import Asked, Offline, Record, Taken

MOST_ASKED: Final = 100
"""Of those who asked for a host's fence, how many are kept."""
Controller = tuple[str, str, int]
"""Subsystem NQN, serial number, controller id."""
_Place = tuple[str, str, int, Identity | None]
"""Subsystem NQN, serial number, NSID, and which namespace that was."""


@dataclass(frozen=True, slots=True)
class FenceSoFar:
    """One fence of one host, as far as it has come."""

    host: str
    simulated: bool
    when: str
    """RFC 3339, UTC: when it began. With the request it tells this fence from every other."""
    asked: tuple[Asked, ...]
    """The first of them is the one that what is taken is put down to."""
    quiesce: str
    taken: tuple[Taken, ...] = ()
    offline: tuple[Offline, ...] = ()
    online: frozenset[Controller] = frozenset()
    """Controllers that are known to be online again."""
    ended_at: str | None = None
    """RFC 3339, UTC; None: it is under way."""
    confirmed: bool = False
    message: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """As `Taken.fence`."""
        return self.when, self.asked[0].request_id if self.asked else ""

    @property
    def changes(self) -> bool:
        """Whether it took anything."""
        return bool(self.taken or self.offline)


def taken_on(drive: DriveEvidence, host: str, when: str, request_id: str) -> list[Taken]:
    """Return what was taken from a host on one drive, with what a cut in hand may be taking."""
    mine = set(drive.targets.get(host, ()))
    pairs = {nsid: set(ids) for nsid, ids in drive.detached(host).items()}
    for nsid, named in drive.cutting.items():
        pairs.setdefault(nsid, set()).update(mine.intersection(named))
    found = []
    for nsid, ids in sorted(pairs.items()):
        identity = drive.identities.get(nsid)
        doubtful = ids if identity is None else ids & drive.unidentified.get(nsid, set())
        for which, part in ((identity, ids - doubtful), (None, doubtful)):
            if part:
                controllers = tuple(sorted(part))
                found.append(Taken(drive.serial, drive.nqn, nsid, controllers, which, when, request_id))
    return found


def offline_on(drive: DriveEvidence, host: str, when: str, ended: bool) -> list[Offline]:
    """Return the host's controllers on one drive that were taken offline, or may have been, and are not back."""
    return [
        Offline(drive.serial, drive.nqn, cntlid, entry.queues, entry.interrupts, when, ended)
        for cntlid, entry in sorted(drive.secondaries.items())
        if cntlid in drive.targets.get(host, ())
        and (not entry.back or _in_doubt(drive, cntlid))
        and not _refused(drive, cntlid)
    ]


def _offline_answers(drive: DriveEvidence, cntlid: int) -> list[int]:
    offline = VirtualizationAction.SECONDARY_OFFLINE
    return [one.status for one in drive.managed if one.cntlid == cntlid and one.action is offline]


def _in_doubt(drive: DriveEvidence, cntlid: int) -> bool:
    """Whether a controller may still go offline, whatever was seen of it since."""
    return NO_ANSWER in _offline_answers(drive, cntlid)


def _refused(drive: DriveEvidence, cntlid: int) -> bool:
    """Whether the drive said each time that a controller does not go offline."""
    answers = _offline_answers(drive, cntlid)
    unsure = (status.SUCCESS, status.INVALID_SECONDARY_STATE)  # the latter: it is offline already
    return bool(answers) and all(one > 0 and status.code(one) not in unsure for one in answers)


def online_on(drive: DriveEvidence, host: str) -> list[Controller]:
    """Return the host's controllers on one drive that were offline and were seen online again."""
    return [
        (drive.nqn, drive.serial, n)
        for n, entry in drive.secondaries.items()
        if n in drive.targets.get(host, ()) and entry.back and not _in_doubt(drive, n)
    ]


def merged(before: Record | None, fence: FenceSoFar) -> Record | None:
    """Return the record with a fence in it; None while there is nothing to put on record.

    What earlier fences took stays. What this fence took is on record once, however often it is merged as it goes
    on; when it has ended, what it took again of an earlier fence's is put down to it alone.
    """
    if before is None and not fence.changes and not fence.confirmed:
        return None
    base = before or Record(fence.host, fence.simulated, fence.when)
    others = [one for one in base.taken if one.fence != fence.key]
    ended = fence.ended_at is not None
    if ended:
        others = _without_those_of(others, fence.taken)
    return replace(
        base,
        fenced_at=fence.ended_at if ended and fence.confirmed else base.fenced_at,
        confirmed=fence.confirmed if ended else base.confirmed and not fence.changes,
        quiesce=fence.quiesce,
        asked=_asked(base.asked, fence.asked),
        taken=(*others, *fence.taken),
        offline=_offline(base.offline, fence),
        message=fence.message if ended else base.message,
    )


def _place(one: Taken) -> _Place:
    return (*one.drive, one.nsid, one.identity)


def _without_those_of(earlier: Iterable[Taken], now: Iterable[Taken]) -> list[Taken]:
    again: dict[_Place, set[int]] = {}
    for one in now:
        again.setdefault(_place(one), set()).update(one.controllers)
    left = []
    for one in earlier:
        ids = tuple(n for n in one.controllers if n not in again.get(_place(one), ()))
        if ids:
            left.append(one if ids == one.controllers else replace(one, controllers=ids))
    return left


def _offline(before: Iterable[Offline], fence: FenceSoFar) -> tuple[Offline, ...]:
    known: dict[Controller, Offline] = {}
    for one in before:
        # What this fence said of it while it was under way counts no longer, but for what the controller had.
        known[(*one.drive, one.cntlid)] = one
    mine = {(*one.drive, one.cntlid): one for one in fence.offline}
    found = {}
    for key, one in known.items():
        if key not in fence.online and (key in mine or one.when != fence.when):
            found[key] = one
    for key, one in mine.items():
        had = one if one.queues else known.get(key, one)
        found[key] = replace(one, queues=had.queues, interrupts=had.interrupts)
    return tuple(found.values())


def _asked(before: tuple[Asked, ...], now: tuple[Asked, ...]) -> tuple[Asked, ...]:
    every = (*before, *(one for one in now if one not in before))
    return every if len(every) <= MOST_ASKED else (every[0], *every[1 - MOST_ASKED :])


def without(record: Record, given: Collection[Taken], online: Collection[Offline]) -> Record:
    """Return the record without what was given back: controllers of `given` are those that have it again.

    Only what is put down to the same fence goes: what a fence has taken meanwhile stays. A host that was given
    anything is no longer confirmed to be cut.
    """
    back: dict[tuple[_Place, tuple[str, str]], set[int]] = {}
    for one in given:
        back.setdefault((_place(one), one.fence), set()).update(one.controllers)
    taken = []
    for one in record.taken:
        ids = tuple(n for n in one.controllers if n not in back.get((_place(one), one.fence), ()))
        if ids:
            taken.append(one if ids == one.controllers else replace(one, controllers=ids))
    gone = {(*one.drive, one.cntlid, one.when) for one in online}
    offline = tuple(one for one in record.offline if (*one.drive, one.cntlid, one.when) not in gone)
    rest = replace(record, taken=tuple(taken), offline=offline)
    gave = rest.taken != record.taken or any(one.stays for one in record.offline if one not in offline)
    return replace(rest, fenced_at=None, confirmed=False) if gave else rest

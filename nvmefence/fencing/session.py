"""One drive, opened, identified and read: what survey, fence and check have in common."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable
from typing import Final

from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.inventory.selectors import DriveView, Refusal
from nvmefence.nvme import controller as nvme
from nvmefence.nvme import status
from nvmefence.nvme.controller import AnswerError, Controller
from nvmefence.nvme.structures import IdentifyController, SecondaryController
from nvmefence.nvme.transport import NO_ANSWER, Transport

OPEN_PAUSE: Final = 0.05
"""Seconds between tries to open a controller that is not live."""


class DriveProblem(Exception):
    """The drive cannot be worked with."""

    def __init__(self, reason: str, advice: str = "", *, may_pass: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice
        self.may_pass = may_pass
        """Whether the same step may succeed later, as while a controller is being reset."""

    @classmethod
    def from_answer(cls, error: AnswerError) -> DriveProblem:
        """Build from a command that got no usable answer."""
        return cls(str(error), error.advice, may_pass=error.may_pass)


class Attached:
    """The result of one read of all attachments of a drive."""

    __slots__ = ("by_nsid", "faults", "nsids", "secondaries")

    def __init__(self, nsids: list[int]) -> None:
        self.nsids = nsids
        self.by_nsid: dict[int, list[int]] = {}
        self.faults: dict[int, AnswerError] = {}
        self.secondaries: list[SecondaryController] | None = None
        """The Secondary Controller List, where it was asked for and given."""

    @property
    def complete(self) -> bool:
        """Whether every allocated namespace was read."""
        return not self.faults

    def of(self, controllers: Iterable[int]) -> dict[int, tuple[int, ...]]:
        """Return, by NSID, which of `controllers` are attached; namespaces without any are left out."""
        wanted = frozenset(controllers)
        seen = {nsid: wanted.intersection(ids) for nsid, ids in self.by_nsid.items()}
        return {nsid: tuple(sorted(ids)) for nsid, ids in seen.items() if ids}


class DriveSession:
    """An open drive. Use `open`, then `look`, then `read_attached` as often as needed, then `close`."""

    def __init__(self, transport: Transport, drive: Drive, hostmap: HostMap, until: float) -> None:
        self._transport = transport
        self._hostmap = hostmap
        self.drive = drive
        self.until = until
        self.local: LocalController | None = None
        self._controller: Controller | None = None
        self._nsids: list[int] = []
        self.view: DriveView | None = None

    @property
    def controller(self) -> Controller:
        """The open controller."""
        if self._controller is None:
            raise DriveProblem("the drive is not open")
        return self._controller

    def extend(self, until: float) -> None:
        """Have the deadline be this loop time from now on."""
        self.until = until
        if self._controller is not None:
            self._controller.until = until

    def close(self) -> None:
        """Release the device; never blocks."""
        if self._controller is not None:
            self._controller.close()
            self._controller = None

    async def open(self) -> None:
        """Open the best of our own controllers; one that is not live is tried until the deadline.

        Raises DriveProblem.
        """
        own = self._hostmap.own_controllers(self.drive)
        if not own:
            raise DriveProblem(
                "none of this machine's controllers on the drive is its own by the map", "check own under [drives]"
            )
        loop = asyncio.get_running_loop()
        while True:
            errors = []
            for local in own:
                try:
                    self._controller = Controller(self._transport, local.path, self.until)
                except OSError as error:
                    errors.append((local, error))
                else:
                    self.local = local
                    return
            if all(error.errno not in (errno.EAGAIN, errno.EBUSY, errno.EINTR) for _, error in errors):
                break
            if loop.time() + OPEN_PAUSE >= self.until:
                break
            await asyncio.sleep(OPEN_PAUSE)
        local, first = errors[0]
        number = -(first.errno or errno.EIO)
        what = "the controller is not live" if first.errno == errno.EAGAIN else status.describe(number)
        raise DriveProblem(f"cannot open {local.path}: {what}", status.advice(number))

    async def look(self, *, secondaries: bool = False) -> IdentifyController:
        """Check that the open controller is what sysfs said, and read what hosts resolve against.

        With `secondaries`, the Secondary Controller List is read even if no host is named by it.

        Raises DriveProblem: no answer, or an identity that changed (device numbers move).
        """
        if self.local is None:
            raise DriveProblem("the drive is not open")
        queries = [nvme.IDENTIFY_CONTROLLER, nvme.ALLOCATED_NAMESPACES]
        wanted = (
            (self._hostmap.needs_controllers(), nvme.SUBSYSTEM_CONTROLLERS),
            (secondaries or self._hostmap.needs_secondaries(), nvme.SECONDARY_CONTROLLERS),
        )
        queries += [query for needed, query in wanted if needed]
        identity, nsids, *rest = await self.controller.read(queries)
        if isinstance(identity, AnswerError):
            raise DriveProblem.from_answer(identity)
        self._check_identity(identity[0], self.local)
        if isinstance(nsids, AnswerError):
            raise DriveProblem.from_answer(nsids)
        self._nsids = nsids
        lists = iter(rest)
        read = [next(lists) if needed else None for needed, _ in wanted]
        for entry in read:
            if isinstance(entry, AnswerError) and (entry.may_pass or entry.status == NO_ANSWER):
                raise DriveProblem.from_answer(entry)
        controllers, listed = (None if isinstance(entry, AnswerError) else entry for entry in read)
        self.view = DriveView(self.drive, controllers, listed)
        found: IdentifyController = identity[0]
        return found

    def _check_identity(self, identity: IdentifyController, local: LocalController) -> None:
        seen = (identity.serial, identity.cntlid)
        expected = (self.drive.serial, local.cntlid)
        if seen != expected or (identity.nqn and identity.nqn != self.drive.nqn):
            raise DriveProblem(
                f"{local.path} is another drive than a moment ago: serial {identity.serial} controller "
                f"{identity.cntlid}, expected {self.drive.serial} controller {local.cntlid}",
                "run the command again",
            )

    def resolve(self, host: Host) -> frozenset[int]:
        """Return the controllers of `host` on this drive. Raises Refusal."""
        if self.view is None:
            raise Refusal("the drive was not read")
        return self._hostmap.resolve(host, self.view)

    async def read_attached(self, *, fresh: bool = True, secondaries: bool = False) -> Attached:
        """Read which controllers every allocated namespace is attached to (CNS 10h, then CNS 12h for each).

        With `fresh` false the namespace list of the `look` just before is used. The list and the namespaces
        known from before are read side by side, new namespaces after that; with `secondaries`, the Secondary
        Controller List beside them. Raises DriveProblem when the list itself cannot be read; a namespace that
        cannot be read is in `Attached.faults`.
        """
        known = self._nsids
        queries = [nvme.attached_controllers(nsid) for nsid in known]
        if not fresh:
            result = Attached(known)
            self._take(result, known, await self.controller.read(queries))
            return result
        beside = [nvme.SECONDARY_CONTROLLERS] if secondaries else []
        listed, *answers = await self.controller.read([nvme.ALLOCATED_NAMESPACES, *queries, *beside])
        if isinstance(listed, AnswerError):
            raise DriveProblem.from_answer(listed)
        result = Attached(listed)
        if secondaries:
            last = answers.pop()
            result.secondaries = None if isinstance(last, AnswerError) else last
        self._take(result, known, answers)
        allocated = set(listed)
        for nsid in [*result.by_nsid, *result.faults]:
            if nsid not in allocated:  # deleted since
                result.by_nsid.pop(nsid, None)
                result.faults.pop(nsid, None)
        new = [nsid for nsid in listed if nsid not in result.by_nsid and nsid not in result.faults]
        if new:
            self._take(result, new, await self.controller.read([nvme.attached_controllers(n) for n in new]))
        self._nsids = listed
        return result

    @staticmethod
    def _take(result: Attached, nsids: list[int], answers: list[list[int] | AnswerError]) -> None:
        for nsid, answer in zip(nsids, answers, strict=True):
            if isinstance(answer, AnswerError):
                result.faults[nsid] = answer
            else:
                result.by_nsid[nsid] = answer

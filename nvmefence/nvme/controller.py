"""One open controller, read through whole lists instead of pages, with retries and reasons."""

from __future__ import annotations

import asyncio
import errno
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nvmefence.nvme import commands, status, structures
from nvmefence.nvme.structures import MalformedData
from nvmefence.nvme.transport import Command, Completion, Transport

RETRY_PAUSE: Final = 0.02
"""Seconds before a failed read is tried again where the drive names no delay (CRD 0)."""
MAX_TRIES: Final = 4

_GONE: Final = frozenset({-errno.ENODEV, -errno.ENXIO, -errno.EBADF})


class AnswerError(Exception):
    """A command got no usable answer."""

    def __init__(self, what: str, reason: str, *, code: int = 0, advice: str = "") -> None:
        super().__init__(f"{what}: {reason}")
        self.what = what
        self.reason = reason
        self.status = code
        """The completion's status; 0 when the data was malformed."""
        self.advice = advice

    @classmethod
    def from_status(cls, what: str, code: int) -> AnswerError:
        """Build from a completion's status that is not success."""
        return cls(what, status.describe(code), code=code, advice=status.advice(code))

    @property
    def gone(self) -> bool:
        """Whether the kernel says that the device no longer exists."""
        return self.status in _GONE

    @property
    def may_pass(self) -> bool:
        """Whether the same command may be answered later."""
        return bool(self.status) and status.may_retry(self.status)


@dataclass(frozen=True, slots=True)
class Query:
    """A read that may need several pages: how to ask, how to parse, where the next page starts."""

    what: str
    first: Command
    """For the first page, which starts at 0."""
    parse: Callable[[bytes, int], list[Any]]
    """From the data and the start of its page. Raises MalformedData."""
    later: Callable[[int], Command] | None = None
    """From the start of a later page; None: there is only one."""
    full: int = 0
    """Entries of a full page, after which there may be another one."""
    next_start: Callable[[Any], int] = lambda last: int(last) + 1
    """From the last entry of a full page."""

    def at(self, start: int) -> Command:
        """Return the command for the page that starts there."""
        return self.later(start) if start and self.later is not None else self.first


def _identify(data: bytes, _start: int) -> list[structures.IdentifyController]:
    return [structures.identify_controller(data)]


IDENTIFY_CONTROLLER: Final = Query("Identify Controller", commands.identify_controller(), _identify)
ALLOCATED_NAMESPACES: Final = Query(
    "Identify Allocated Namespace list (CNS 10h)",
    commands.allocated_namespaces(),
    structures.namespace_list,
    commands.allocated_namespaces,
    structures.NAMESPACES_PER_LIST,
    int,
)
SUBSYSTEM_CONTROLLERS: Final = Query(
    "Identify Controller list (CNS 13h)",
    commands.subsystem_controllers(),
    structures.controller_list,
    commands.subsystem_controllers,
    commands.CONTROLLERS_PER_LIST,
)
SECONDARY_CONTROLLERS: Final = Query(
    "Identify Secondary Controller list (CNS 15h)",
    commands.secondary_controllers(),
    structures.secondary_controller_list,
    commands.secondary_controllers,
    structures.SECONDARIES_PER_LIST,
    lambda last: int(last.cntlid) + 1,
)
PRIMARY_CAPABILITIES: Final = Query(
    "Identify Primary Controller Capabilities (CNS 14h)",
    commands.primary_capabilities(),
    lambda data, _: [structures.primary_capabilities(data)],
)
EFFECTS_LOG: Final = Query(
    "Commands Supported and Effects log",
    commands.effects_log(),
    lambda data, _: [structures.admin_effects(data)],
)


@functools.lru_cache(maxsize=4096)  # the same few namespace ids on every drive, at every read-back
def attached_controllers(nsid: int) -> Query:
    """CNS 12h for one namespace."""
    return Query(
        f"Identify controllers attached to namespace {nsid} (CNS 12h)",
        commands.attached_controllers(nsid),
        structures.controller_list,
        functools.partial(commands.attached_controllers, nsid),
        commands.CONTROLLERS_PER_LIST,
    )


class Controller:
    """Commands to one open controller under one deadline."""

    def __init__(self, transport: Transport, path: str, until: float | None) -> None:
        """Open `path`; raises OSError as `Transport.open`. `until`: loop time after which nothing is awaited."""
        self._transport = transport
        self._device = transport.open(path)
        self.path = path
        self.until = until

    def close(self) -> None:
        """Release the device; what is in flight is abandoned."""
        self._transport.release(self._device)

    async def run(self, batch: Sequence[Command], until: float | None = None) -> list[Completion]:
        """Submit independent commands together, see `Transport.run`; `until` is for a deadline of their own."""
        return await self._transport.run(self._device, batch, self.until if until is None else until)

    async def run_to_the_end(self, batch: Sequence[Command]) -> list[Completion]:
        """Submit commands that must never be abandoned: without a deadline. Cancelling it would abandon them."""
        return await self._transport.run(self._device, batch, None)

    async def read(self, queries: Sequence[Query]) -> list[list[Any] | AnswerError]:
        """Read all queries side by side, each to its last page; one entry per query, in order.

        A query that fails for good, or whose data breaks the specification, yields an `AnswerError` in its
        place. Failures that may pass (DNR clear) are tried again up to `MAX_TRIES` times.
        """
        answers = await self.run([query.first for query in queries])
        found = [_parse(query, answer, 0) for query, answer in zip(queries, answers, strict=True)]
        pending: dict[int, int] = {}
        for n, page in enumerate(found):
            start = _to_read_on(queries[n], page, 0)
            if start is not None:
                pending[n] = start
        if pending:
            await self._read_on(queries, found, pending)
        return found

    async def _read_on(
        self, queries: Sequence[Query], found: list[list[Any] | AnswerError], pending: dict[int, int]
    ) -> None:
        """Read later pages, and those again whose failure may pass; `pending` has their starts."""
        entries = {n: [] if isinstance(page := found[n], AnswerError) else page for n in pending}
        tries = {n: int(isinstance(found[n], AnswerError)) for n in pending}
        while pending:
            if pause := max(RETRY_PAUSE * (tries[n] + 1) if tries[n] else 0.0 for n in pending):
                await asyncio.sleep(pause)
            answers = await self.run([queries[n].at(start) for n, start in pending.items()])
            for (n, start), answer in zip(list(pending.items()), answers, strict=True):
                page = _parse(queries[n], answer, start)
                following = _to_read_on(queries[n], page, start)
                failed = isinstance(page, AnswerError)
                tries[n] = tries[n] + 1 if failed else 0
                if not isinstance(page, AnswerError):
                    entries[n].extend(page)
                if following is not None and tries[n] < MAX_TRIES:
                    pending[n] = following
                    continue
                del pending[n]
                found[n] = page if isinstance(page, AnswerError) else entries[n]


def _to_read_on(query: Query, page: list[Any] | AnswerError, start: int) -> int | None:
    """Return the start of what is to be read next: the same page again, a later one, or none."""
    if isinstance(page, AnswerError):
        return start if page.may_pass else None
    return query.next_start(page[-1]) if query.later is not None and len(page) >= query.full else None


def _parse(query: Query, answer: Completion, start: int) -> list[Any] | AnswerError:
    if answer.status:
        return AnswerError.from_status(query.what, answer.status)
    try:
        return query.parse(answer.data, start)
    except MalformedData as error:
        return AnswerError(query.what, f"malformed answer ({error})", advice="the drive's firmware is faulty")

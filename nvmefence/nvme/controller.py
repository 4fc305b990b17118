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
    command: Callable[[int], Command]
    """From the start of a page."""
    parse: Callable[[bytes, int], Sequence[Any]]
    """From the data and the start of its page. Raises MalformedData."""
    full: int = 0
    """Entries of a full page; 0: there is only one page."""
    next_start: Callable[[Any], int] = lambda last: int(last) + 1
    """From the last entry of a full page."""


def _identify(data: bytes, _start: int) -> Sequence[structures.IdentifyController]:
    return (structures.identify_controller(data),)


IDENTIFY_CONTROLLER: Final = Query("Identify Controller", lambda _: commands.identify_controller(), _identify)
ALLOCATED_NAMESPACES: Final = Query(
    "Identify Allocated Namespace list (CNS 10h)",
    commands.allocated_namespaces,
    structures.namespace_list,
    structures.NAMESPACES_PER_LIST,
    int,
)
SUBSYSTEM_CONTROLLERS: Final = Query(
    "Identify Controller list (CNS 13h)",
    commands.subsystem_controllers,
    structures.controller_list,
    commands.CONTROLLERS_PER_LIST,
)
SECONDARY_CONTROLLERS: Final = Query(
    "Identify Secondary Controller list (CNS 15h)",
    commands.secondary_controllers,
    structures.secondary_controller_list,
    structures.SECONDARIES_PER_LIST,
    lambda last: int(last.cntlid) + 1,
)
PRIMARY_CAPABILITIES: Final = Query(
    "Identify Primary Controller Capabilities (CNS 14h)",
    lambda _: commands.primary_capabilities(),
    lambda data, _: (structures.primary_capabilities(data),),
)
EFFECTS_LOG: Final = Query(
    "Commands Supported and Effects log",
    lambda _: commands.effects_log(),
    lambda data, _: (structures.admin_effects(data),),
)


@functools.lru_cache(maxsize=4096)  # the same few namespace ids on every drive, at every read-back
def attached_controllers(nsid: int) -> Query:
    """CNS 12h for one namespace."""
    return Query(
        f"Identify controllers attached to namespace {nsid} (CNS 12h)",
        lambda first: commands.attached_controllers(nsid, first),
        structures.controller_list,
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
        collected: list[list[Any]] = [[] for _ in queries]
        failed: dict[int, AnswerError] = {}
        pending = dict.fromkeys(range(len(queries)), 0)
        tries: dict[int, int] = {}
        while pending:
            answers = await self.run([queries[n].command(start) for n, start in pending.items()])
            pause = 0.0
            for (n, start), answer in zip(list(pending.items()), answers, strict=True):
                if answer.status and status.may_retry(answer.status) and tries.get(n, 1) < MAX_TRIES:
                    tries[n] = tries.get(n, 1) + 1
                    pause = max(pause, RETRY_PAUSE * tries[n])
                    continue
                del pending[n]
                query = queries[n]
                page = _parse(query, answer, start)
                if isinstance(page, AnswerError):
                    failed[n] = page
                    continue
                collected[n].extend(page)
                if query.full and len(page) >= query.full:
                    pending[n] = query.next_start(page[-1])
            if pause:
                await asyncio.sleep(pause)
        return [failed.get(n, entries) for n, entries in enumerate(collected)]


def _parse(query: Query, answer: Completion, start: int) -> Sequence[Any] | AnswerError:
    if answer.status:
        return AnswerError.from_status(query.what, answer.status)
    try:
        return query.parse(answer.data, start)
    except MalformedData as error:
        return AnswerError(query.what, f"malformed answer ({error})", advice="the drive's firmware is faulty")

"""On which terms a host is given something back: what, how long, and by whose leave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from nvmefence.fencing.evidence import Identity
from nvmefence.nvme import commands, status
from nvmefence.nvme.structures import MalformedData, identify_namespace
from nvmefence.nvme.transport import NO_ANSWER, Command, Completion, Transport
from nvmefence.records.record import Offline, Taken


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be given back."""

    taken: Sequence[Taken] = ()
    offline: Sequence[Offline] = ()


class Unanswered:
    """Attach commands that have no answer yet: a drive may still carry one out.

    As long as there are any nobody may confirm a fence of the host.
    """

    def __init__(self, note: Callable[[bool], None] = lambda _there: None) -> None:
        """`note` is called before there is any, and when there is none any more. It may raise OSError before."""
        self._note = note
        self._tasks: set[asyncio.Task[list[Completion]]] = set()
        self._lost = False
        self._done: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return self._lost or bool(self._tasks)

    def begin(self) -> None:
        """Take note that commands are about to be sent. Raises OSError: they must not be."""
        self._note(True)

    def add(self, task: asyncio.Task[list[Completion]]) -> None:
        """Take note of commands that are being sent."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[list[Completion]]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (task.exception() is None and any(a.status == NO_ANSWER for a in task.result())):
            self._lost = True  # whoever waited for it has stopped: its answer will not be heard of
        if not self:
            with contextlib.suppress(OSError):  # it stands for as long as a note is believed
                self._note(False)
            for call in self._done:
                call()
            self._done.clear()

    def when_none(self, call: Callable[[], None]) -> None:
        """Call as soon as there are none; never, if an answer can no longer be heard of."""
        if self:
            self._done.append(call)
        else:
            call()


@dataclass(frozen=True, slots=True)
class Terms:
    """How to give back."""

    deadline: float = 30.0
    """Seconds for everything."""
    permit: Callable[[], str] = lambda: ""
    """Asked before every command that changes something: why nothing more may be given; empty: it may."""
    prepare: Callable[[], Awaitable[str]] | None = None
    """Done once before the first command that changes something: why nothing may be given; empty: it may."""
    unanswered: Unanswered = field(default_factory=Unanswered)
    """Attach commands without an answer, also after the restore."""
    only_loose: bool = False
    """Bring a controller online only if nothing is attached to it."""
    dry_run: bool = False
    """Send nothing that changes anything."""


class GaveUp(Exception):
    """Nothing more may be given."""


class Permitted:
    """A transport that asks before every batch which changes something."""

    def __init__(self, transport: Transport, terms: Terms) -> None:
        self._transport = transport
        self._permit = terms.permit
        self._prepare = terms.prepare
        self._prepared: asyncio.Task[str] | None = None
        self.refused = ""

    @property
    def backend(self) -> str:
        """See Transport."""
        return self._transport.backend

    def open(self, path: str) -> int:
        """See Transport."""
        return self._transport.open(path)

    async def run(self, device: int, batch: Sequence[Command], until: float | None = None) -> list[Completion]:
        """See Transport. Raises GaveUp."""
        if any(command.opcode != commands.IDENTIFY for command in batch):
            self._ask()
            if self._prepare is not None:
                if self._prepared is None:
                    self._prepared = asyncio.ensure_future(self._prepare())
                self.refused = self.refused or await asyncio.shield(self._prepared)
                self._ask()
        return await self._transport.run(device, batch, until)

    def _ask(self) -> None:
        self.refused = self.refused or self._permit()
        if self.refused:
            raise GaveUp(self.refused)

    def release(self, device: int) -> None:
        """See Transport."""
        self._transport.release(device)

    def close(self) -> None:
        """See Transport."""
        self._transport.close()


def changed(was: Identity, now: Identity) -> str:
    """Say how a namespace differs from the one on record; empty: it is the same, as far as either says."""
    for name, one, other in (("NGUID", was.nguid, now.nguid), ("EUI64", was.eui64, now.eui64)):
        if one and one != other:
            return f"another namespace has its number now ({name} {other or 'none'}, it was {one})"
    if (was.size, was.block_size) != (now.size, now.block_size):
        return (
            f"it has another size now ({now.size} blocks of {now.block_size} bytes, "
            f"it was {was.size} of {was.block_size})"
        )
    return ""


def identity(answer: Completion) -> Identity | str:
    """Return which namespace answered CNS 11h, or why it did not say."""
    if answer.status:
        return f"it does not say which namespace it is: {status.describe(answer.status)}"
    try:
        return Identity.of(identify_namespace(answer.data))
    except MalformedData as error:
        return f"it does not say which namespace it is: {error}"

"""A transport to emulated subsystems, with faults: what a drive, a link or a kernel may do to a command.

drive = EmulatedSubsystem("nqn.2014-08.org.nvmexpress:example", "S1", controllers=[0], secondaries=[1, 2],
                          namespaces=[Namespace(1)])
transport = EmulatedTransport({"/dev/nvme0": (drive, 0)})
transport.faults["/dev/nvme0"] = on(commands.NAMESPACE_ATTACHMENT, hang())
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from nvmefence.nvme.emulated_data import QEMU_7_2, SPECIFICATION, Namespace, Quirks, Secondary, Write
from nvmefence.nvme.emulated_subsystem import Answer, EmulatedSubsystem
from nvmefence.nvme.transport import NO_ANSWER, PAGE, UNWRITTEN, Command, Completion

__all__ = [
    "QEMU_7_2",
    "SPECIFICATION",
    "EmulatedSubsystem",
    "EmulatedTransport",
    "Fault",
    "FaultHook",
    "Namespace",
    "Quirks",
    "Secondary",
    "Sent",
    "Write",
    "answer",
    "delay",
    "fail",
    "hang",
    "lie",
    "on",
    "remove",
    "scripted",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """What becomes of one command, made by the functions below."""

    applied: bool = True
    """The subsystem processes the command."""
    seconds: float = 0.0
    """The answer comes this much later; the command is processed then, not before."""
    answers: bool = True
    status: int | None = None
    """Instead of the subsystem's: an NVMe status or -errno."""
    data: bytes | None = None
    """Instead of the subsystem's; what it is short of `Command.read` stays unwritten."""
    removed: bool = False
    """The device vanishes: this command and all later ones end with -ENODEV."""


FaultHook = Callable[[str, Command], Fault | None]
"""Called with the path and each command when it is sent; None lets the command pass. It may change the subsystem
meanwhile: attach a namespace, create one. Without latency the commands before it have been processed by then."""


def delay(seconds: float) -> Fault:
    """Process and answer after `seconds`; whoever stopped waiting has a command that is still processed then."""
    return Fault(seconds=seconds)


def hang(*, applied: bool = False) -> Fault:
    """Never answer."""
    return Fault(applied=applied, answers=False)


def fail(status: int, *, applied: bool = False) -> Fault:
    """Answer with an NVMe status or -errno, without or after processing."""
    return Fault(applied=applied, status=status)


def lie(data: bytes | None = None) -> Fault:
    """Answer with success, process nothing. Without `data` the read buffer stays unwritten."""
    return Fault(applied=False, status=0, data=data)


def answer(data: bytes) -> Fault:
    """Process the command, then return `data` and success."""
    return Fault(status=0, data=data)


def remove(*, applied: bool = False) -> Fault:
    """Remove the drive at this command."""
    return Fault(applied=applied, removed=True)


def on(opcode: int, fault: Fault, *, skip: int = 0, times: int | None = None) -> FaultHook:
    """Apply a fault to commands with this opcode: after the first `skip`, at most `times`."""
    seen = 0

    def hook(_path: str, command: Command) -> Fault | None:
        nonlocal seen
        if command.opcode != opcode:
            return None
        seen += 1
        return fault if skip < seen <= skip + (times if times is not None else seen) else None

    return hook


def scripted(*faults: Fault | None) -> FaultHook:
    """Apply one fault (None: pass) to each command in the order they are sent, then let all pass."""
    script = iter(faults)
    return lambda _path, _command: next(script, None)


@dataclass(slots=True)
class Sent:
    """A command that was given to a device; unpacks as (path, command, status)."""

    path: str
    command: Command
    status: int = NO_ANSWER
    """As its sender saw it; `NO_ANSWER` as long as there is none."""

    def __iter__(self) -> Iterator[object]:
        """Yield path, command and status."""
        return iter((self.path, self.command, self.status))


class _Device:
    """A controller behind a path."""

    __slots__ = ("cntlid", "path", "removed", "subsystem")

    def __init__(self, path: str, subsystem: EmulatedSubsystem, cntlid: int) -> None:
        self.path = path
        self.subsystem = subsystem
        self.cntlid = cntlid
        self.removed = False


class _Batch:
    """The commands of one `run`."""

    __slots__ = ("answers", "error", "future", "missing", "sent", "started")

    def __init__(self, sent: list[Sent]) -> None:
        self.sent = sent
        self.answers: list[Completion | None] = [None] * len(sent)
        self.missing = len(sent)
        self.started = time.monotonic()
        self.future: asyncio.Future[None] | None = None
        self.error: Exception | None = None

    def finish(self, index: int, outcome: Answer) -> None:
        status, result, data = outcome
        if self.answers[index] is not None:
            return
        self.sent[index].status = status
        read = self.sent[index].command.read
        page = data[:read].ljust(read, bytes((UNWRITTEN,))) if status == 0 and read else b""
        self.answers[index] = Completion(status, result, page, self.started, time.monotonic())
        self.missing -= 1
        if self.missing == 0:
            self.wake()

    def wake(self) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


_Item = tuple[int, bytes, Fault | None]
"""Position in the batch, submission queue entry, fault."""


def _check(commands: Sequence[Command]) -> list[bytes]:
    """Return the submission queue entries. Raises ValueError as the real queue does."""
    for command in commands:
        if command.read > PAGE or len(command.data) > PAGE:
            raise ValueError(f"a command moves at most {PAGE} bytes: {command!r}")
        if command.read and command.data:
            raise ValueError(f"a command sends data or returns it, not both: {command!r}")
    try:
        return [command.sqe() for command in commands]
    except struct.error as error:
        raise ValueError(f"a field of a command is out of range: {error}") from error


class EmulatedTransport:
    """Implements `nvmefence.nvme.transport.Transport` over `EmulatedSubsystem`s.

    Commands without a fault are processed in the order given, before anything else runs; then `run` yields to
    the event loop once, so that drives interleave as they do with the real queue.
    """

    def __init__(
        self,
        devices: Mapping[str, tuple[EmulatedSubsystem, int]],
        *,
        latency: float = 0.0,
        record: bool = True,
    ) -> None:
        """Put each path in front of a controller: subsystem and CNTLID.

        Every command takes `latency` seconds. With `record`, `log` holds every command in the order of sending.
        """
        self.latency = latency
        self.record = record
        self.log: list[Sent] = []
        self.faults: dict[str, FaultHook] = {}
        """By path; consulted for every command."""
        self._devices: dict[str, _Device] = {}
        self._handles: dict[int, _Device] = {}
        self._batches: dict[_Batch, int] = {}
        self._last = 0
        for path, (subsystem, cntlid) in devices.items():
            self.insert(path, subsystem, cntlid)

    @property
    def backend(self) -> str:
        """ "simulated"."""
        return "simulated"

    def insert(self, path: str, subsystem: EmulatedSubsystem, cntlid: int) -> None:
        """Plug a drive in. Raises ValueError when the subsystem has no such controller."""
        if cntlid not in subsystem.cntlids:
            raise ValueError(f"no controller {cntlid} in {subsystem.nqn}")
        self._devices[path] = _Device(path, subsystem, cntlid)

    def remove(self, path: str) -> None:
        """Pull a drive: `open` says ENOENT, open handles -ENODEV. Raises KeyError."""
        self._devices.pop(path).removed = True

    def subsystem(self, path: str) -> EmulatedSubsystem:
        """Return the drive behind a path. Raises KeyError."""
        return self._devices[path].subsystem

    def open(self, path: str) -> int:
        """Open a path. Raises FileNotFoundError."""
        device = self._devices.get(path)
        if device is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self._last += 1
        self._handles[self._last] = device
        return self._last

    async def run(self, device: int, commands: Sequence[Command], until: float | None = None) -> list[Completion]:
        """Process commands; see `Transport.run`. Once `until` has passed, commands are not sent."""
        target = self._target(device)
        entries = _check(commands)
        if not commands:
            return []
        sent = [Sent(target.path, command) for command in commands]
        if self.record:
            self.log += sent
        batch = _Batch(sent)
        self._batches[batch] = device
        try:
            if until is None or batch.started < until:
                self._submit(target, entries, batch)
            if batch.missing:
                await self._wait(batch, until)
            else:
                await asyncio.sleep(0)
        finally:
            del self._batches[batch]
        if batch.error is not None:
            raise batch.error
        now = time.monotonic()
        return [found or Completion(NO_ANSWER, 0, b"", batch.started, now) for found in batch.answers]

    def release(self, device: int) -> None:
        """Close a handle; who waits for it gets `NO_ANSWER`. Raises ValueError for a stale handle."""
        self._target(device)
        del self._handles[device]
        for batch, owner in self._batches.items():
            if owner == device:
                batch.wake()

    def close(self) -> None:
        """Release all handles. May be called again."""
        for device in list(self._handles):
            self.release(device)

    def _target(self, device: int) -> _Device:
        target = self._handles.get(device)
        if target is None:
            raise ValueError("no such device handle: released, or of another transport")
        return target

    def _submit(self, target: _Device, entries: list[bytes], batch: _Batch) -> None:
        """Process what takes no time, set a timer for the rest."""
        hook = self.faults.get(target.path)
        buckets: dict[float, list[_Item]] = {}
        sent = [] if self.latency else [each.command for each in batch.sent]
        with self.session(target.subsystem, sent):
            for index, entry in enumerate(entries):
                fault = hook(target.path, batch.sent[index].command) if hook else None
                seconds = self.latency + (fault.seconds if fault else 0.0)
                if seconds > 0:
                    buckets.setdefault(seconds, []).append((index, entry, fault))
                else:
                    self._finish(target, (index, entry, fault), batch)
        loop = asyncio.get_running_loop()
        for seconds, items in buckets.items():
            loop.call_at(batch.started + seconds, self._process_late, target, items, batch)

    def _process_late(self, target: _Device, items: list[_Item], batch: _Batch) -> None:
        try:
            with self.session(target.subsystem, [batch.sent[index].command for index, _, _ in items]):
                for item in items:
                    self._finish(target, item, batch)
        except Exception as error:
            batch.error = error
            batch.wake()

    def _finish(self, target: _Device, item: _Item, batch: _Batch) -> None:
        index, entry, fault = item
        outcome = self._outcome(target, entry, batch.sent[index].command, fault)
        if outcome[0] != NO_ANSWER and batch in self._batches:
            batch.finish(index, outcome)

    def _outcome(self, target: _Device, entry: bytes, command: Command, fault: Fault | None) -> Answer:
        if target.removed:
            return -errno.ENODEV, 0, b""
        if fault is None:
            return target.subsystem.execute(target.cntlid, entry, command.data)
        status, result, data = 0, 0, b""
        if fault.applied:
            status, result, data = target.subsystem.execute(target.cntlid, entry, command.data)
        if fault.removed:
            if self._devices.get(target.path) is target:
                del self._devices[target.path]
            target.removed = True
            return -errno.ENODEV, 0, b""
        if not fault.answers:
            return NO_ANSWER, 0, b""
        return (
            fault.status if fault.status is not None else status,
            result,
            data if fault.data is None else fault.data,
        )

    def session(self, subsystem: EmulatedSubsystem, commands: Sequence[Command]) -> AbstractContextManager[None]:
        """Surround the processing of commands; for transports whose subsystems have stored state."""
        return nullcontext()

    async def _wait(self, batch: _Batch, until: float | None) -> None:
        loop = asyncio.get_running_loop()
        batch.future = loop.create_future()
        timer = None if until is None else loop.call_at(until, batch.wake)
        try:
            await batch.future
        finally:
            if timer is not None:
                timer.cancel()

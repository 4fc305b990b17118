"""The submission queue as an awaitable transport: real commands to real controllers.

The C core (csrc/nvmefence_queue.h) keeps the buffers and talks to the kernel; here are the batches, their
futures and their deadlines. One C call submits a batch, one reaps whatever has completed.

What the kernel holds cannot be taken back: see "Process exit" in the header for what that means at the end of
a process. In short: `Queue.close` returns at once, but with the ioctl backend a hung command keeps the
process a zombie and its files open until the kernel gives up on it. Give locks back before the exit.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nvmefence.nvme._queue import ffi, lib
from nvmefence.nvme.transport import NO_ANSWER, PAGE, UNWRITTEN, Command, Completion

if TYPE_CHECKING:
    from nvmefence.nvme._queue import CData

_COMMAND = struct.Struct("<64sIIII")
_COMPLETION = struct.Struct("=QIiIIQQ")
_REAP_AT_ONCE = 256
_NANOSECONDS = 1_000_000_000

_BACKENDS: Final = {
    "auto": lib.NVMEFENCE_AUTO,
    "io_uring": lib.NVMEFENCE_IO_URING,
    "ioctl": lib.NVMEFENCE_IOCTL,
}
_NAMES: Final = {lib.NVMEFENCE_IO_URING: "io_uring", lib.NVMEFENCE_IOCTL: "ioctl"}

_SHARED_WITH_C = (
    (_COMMAND.size, ffi.sizeof("struct nvmefence_command")),
    (_COMPLETION.size, ffi.sizeof("struct nvmefence_completion")),
    (PAGE, lib.NVMEFENCE_PAGE),
    (UNWRITTEN, lib.NVMEFENCE_UNWRITTEN),
    (NO_ANSWER, -errno.ETIME),
)
if any(here != there for here, there in _SHARED_WITH_C):  # pragma: no cover
    raise ImportError("nvmefence.nvme._queue was built from other sources than this module: rebuild it")


class BackendUnavailable(Exception):
    """The backend that was asked for cannot be used on this host; `reason` says why, in words."""

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(f"{backend}: {reason}")
        self.backend = backend
        self.reason = reason


def _io_uring_disabled() -> str:
    """Return the value of the sysctl kernel.io_uring_disabled, "" where there is none (before Linux 6.6)."""
    try:
        return Path("/proc/sys/kernel/io_uring_disabled").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _why_no_ring(status: int) -> str:
    """Put the -errno of `nvmefence_probe_io_uring` in words."""
    disabled = _io_uring_disabled()
    reasons = {
        errno.ENOSYS: "the kernel has no io_uring, or a seccomp filter hides it",
        errno.EPERM: "io_uring is denied to this process, by a seccomp filter or security module",
        errno.EACCES: "io_uring is denied to this process by a security module",
        errno.EINVAL: "the kernel's io_uring has no 128-byte submission entries (needs Linux 5.19)",
        errno.EOPNOTSUPP: "the kernel's io_uring has no passthrough commands (needs Linux 5.19)",
        errno.ENOMEM: "not enough memory for the ring (limit of locked memory on kernels before 5.12)",
        errno.EMFILE: "too many open files in this process",
        errno.ENFILE: "too many open files on this host",
    }
    if -status == errno.EPERM and disabled in ("1", "2"):
        return f"io_uring is switched off by the sysctl kernel.io_uring_disabled = {disabled}"
    return reasons.get(-status, f"the ring could not be made: {os.strerror(-status)}")


def probe_backends() -> dict[str, str]:
    """Try each backend on this host and return its name with "" or with the reason why it is unavailable.

    io_uring is really set up and asked for the passthrough operation. Whether a device's driver takes it is
    known from the first command sent to it only.
    """
    status = lib.nvmefence_probe_io_uring()
    return {"io_uring": _why_no_ring(status) if status < 0 else "", "ioctl": ""}


def open_queue(backend: str = "auto") -> Queue:
    """Make a queue: "io_uring", "ioctl", or "auto" (io_uring where the kernel has it, else ioctl).

    With "auto", a device whose first answer says that its driver has no io_uring passthrough is served by
    ioctl from then on. The refused commands are sent that way, which is safe: the kernel refused them before it
    made a request (`falls_back` in csrc/uring.c). Raises `BackendUnavailable`, ValueError for an unknown name,
    OSError when out of descriptors or memory.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: choose one of {', '.join(_BACKENDS)}")
    handle = ffi.new("struct nvmefence_queue **")
    status = lib.nvmefence_queue_open(_BACKENDS[backend], handle)
    if status < 0 and backend == "io_uring":
        raise BackendUnavailable(backend, _why_no_ring(status))
    if status < 0:
        raise OSError(-status, os.strerror(-status))
    return Queue(handle[0])


class _Batch:
    """The commands of one `run`."""

    __slots__ = ("answers", "device", "future", "missing")

    def __init__(self, device: int, count: int) -> None:
        self.device = device
        self.answers: list[Completion | None] = [None] * count
        self.missing = count
        self.future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


@functools.lru_cache(maxsize=1024)
def _record(command: Command) -> bytes:
    """Return a command as `struct nvmefence_command`; the same few go to every drive."""
    return _COMMAND.pack(command.sqe(), command.timeout_ms, command.read, len(command.data), 0)


def _encode(commands: Sequence[Command]) -> tuple[bytes, bytes]:
    """Return the commands as an array of `struct nvmefence_command`, and the data they send."""
    try:
        records = b"".join([_record(command) for command in commands])
    except struct.error as error:
        raise ValueError(f"a field of a command is out of range: {error}") from error
    for command in commands:
        if command.read > PAGE or len(command.data) > PAGE:
            raise ValueError(f"a command moves at most {PAGE} bytes: {command!r}")
        if command.read and command.data:
            raise ValueError(f"a command sends data or returns it, not both: {command!r}")
    return records, b"".join([command.data for command in commands])


class Queue:
    """Implements `nvmefence.nvme.transport.Transport`; made by `open_queue`.

    At most 24 commands per character device are with the kernel, the others wait here in order: the admin
    queue has about 30 tags. A command that still waits at its deadline is never sent. Not for use in a child
    after fork (RuntimeError there); the child opens its own.
    """

    def __init__(self, handle: CData) -> None:
        self._handle: CData | None = handle
        self._backend = _NAMES[lib.nvmefence_queue_backend(handle)]
        self._event_fd = lib.nvmefence_queue_event_fd(handle)
        self._ring_fd = lib.nvmefence_queue_ring_fd(handle)
        self._owner = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._batches: dict[int, _Batch] = {}
        self._last = 0
        self._handing_over = False
        """Whether a call of the running loop is on its way that hands over what was submitted."""
        self._completions = ffi.new("struct nvmefence_completion[]", _REAP_AT_ONCE)
        self._completion_bytes = ffi.buffer(self._completions)
        self._data = ffi.new("uint8_t[]", _REAP_AT_ONCE * PAGE)
        self._data_bytes = ffi.buffer(self._data)

    @property
    def backend(self) -> str:
        """ "io_uring" or "ioctl": what a device's commands go through unless its driver refuses it."""
        return self._backend

    def device_backend(self, device: int) -> str:
        """Return what carries this device's commands; with "auto", the first answer decides it."""
        return _NAMES[self._check(lib.nvmefence_device_backend(self._open_handle(), device))]

    def open(self, path: str) -> int:
        """Open a controller's character device read-only and return a handle for `run`.

        Sending needs CAP_SYS_ADMIN (Linux `nvme_cmd_allowed`), not write access; without it commands end with
        status -EACCES. Raises OSError: ENOENT, EACCES, EWOULDBLOCK when the controller is not live
        (`nvme_dev_open`), ENODEV when `path` is not a character device, EMFILE.
        """
        device = lib.nvmefence_device_open(self._open_handle(), os.fsencode(path))
        if device == -errno.ECHILD:
            raise RuntimeError("this queue was opened before a fork")
        if device < 0:
            raise OSError(-device, os.strerror(-device), path)
        return device

    async def run(self, device: int, commands: Sequence[Command], until: float | None = None) -> list[Completion]:
        """Submit `commands` to one controller and wait; see `Transport.run`.

        `until` is in seconds of the loop's clock, which is CLOCK_MONOTONIC. Commands still unanswered when
        the device is released or the queue closed meanwhile are returned with `NO_ANSWER`.
        """
        handle = self._open_handle()
        if not commands:
            return []
        records, data = _encode(commands)
        loop = self._watch()
        self._last = number = self._last + 1
        batch = _Batch(device, len(commands))
        until_ns = 0 if until is None else max(1, int(until * _NANOSECONDS))
        status = lib.nvmefence_submit(
            handle,
            device,
            number,
            len(commands),
            ffi.from_buffer("struct nvmefence_command[]", records),
            ffi.from_buffer("uint8_t[]", data),
            len(data),
            until_ns,
        )
        if status == -errno.ENOMEM:
            now = time.monotonic()
            return [Completion(status, 0, b"", now, now)] * len(commands)
        self._check(status)
        self._batches[number] = batch
        try:
            self._hand_over(loop)
            await self._wait(loop, batch, until)
        finally:
            if batch.missing:
                self._abandon(number)
            del self._batches[number]
        return [answer for answer in batch.answers if answer is not None]

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have all that is submitted in this turn of the loop go to the kernel in one call, whichever device."""
        if not self._handing_over:
            self._handing_over = True
            loop.call_soon(self._hand_over_now)

    def _hand_over_now(self) -> None:
        self._handing_over = False
        self._reap()

    async def _wait(self, loop: asyncio.AbstractEventLoop, batch: _Batch, until: float | None) -> None:
        batch.future = loop.create_future()
        timer = None if until is None else loop.call_at(until, self._expire, batch)
        try:
            await batch.future
        finally:
            if timer is not None:
                timer.cancel()

    def _expire(self, batch: _Batch) -> None:
        """Wake a batch at its deadline, but not before what has completed meanwhile is taken in."""
        self._reap()
        batch.wake()

    def release(self, device: int) -> None:
        """Close a handle; what is in flight on it is abandoned. Never blocks.

        Raises ValueError for a stale handle.
        """
        handle = self._open_handle()
        self._reap()
        self._abandon_where(device)
        self._check(lib.nvmefence_device_release(handle, device))

    def close(self) -> None:
        """Release all handles and the queue. Never blocks; may be called again.

        In a child after fork it does nothing to the parent's queue.
        Memory that the kernel may still write to is kept until it is done, at most until the process exits.
        """
        handle = self._handle
        if handle is None:
            return
        if self._owner != os.getpid():  # the child shares the loop's epoll descriptor with its parent
            self._handle = None
            return
        if self._loop is not None and not self._loop.is_closed():
            self._unwatch(self._loop)
        self._reap()
        self._abandon_where(None)
        self._handle = None
        lib.nvmefence_queue_close(handle)

    @staticmethod
    def in_flight() -> int:
        """Return how many commands the kernel holds: of all queues of the process, abandoned ones too."""
        return int(lib.nvmefence_in_flight())

    def _open_handle(self) -> CData:
        if self._handle is None:
            raise ValueError("the queue is closed")
        return self._handle

    @staticmethod
    def _check(status: int) -> int:
        """Raise for misuse of the C functions, else return their value."""
        if status >= 0:
            return status
        if status == -errno.ECHILD:
            raise RuntimeError("this queue was opened before a fork")
        if status == -errno.EBADF:
            raise ValueError("no such device handle: released, or of another queue")
        raise ValueError(f"the queue refused the commands: {os.strerror(-status)}")

    def _watch(self) -> asyncio.AbstractEventLoop:
        """Make the running loop reap completions."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return loop
        if self._loop is not None and not self._loop.is_closed():
            if self._batches:
                raise RuntimeError("the queue is in use by another event loop")
            self._unwatch(self._loop)
        for number, batch in list(self._batches.items()):  # their loop was closed while they waited
            batch.future = None
            self._abandon(number)
        loop.add_reader(self._event_fd, self._reap)
        if self._ring_fd >= 0:
            loop.add_reader(self._ring_fd, self._reap)
        self._loop = loop
        self._handing_over = False  # an earlier loop may have ended before it came to it
        return loop

    def _unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._event_fd)
        if self._ring_fd >= 0:
            loop.remove_reader(self._ring_fd)
        self._loop = None

    def _reap(self) -> None:
        """Hand over what was submitted, and take in everything that has completed."""
        handle = self._handle
        count = _REAP_AT_ONCE
        while handle is not None and count == _REAP_AT_ONCE:
            count = lib.nvmefence_reap(handle, self._completions, _REAP_AT_ONCE, self._data)
            if count > 0:
                self._take_in(count)

    def _abandon(self, number: int) -> None:
        """Stop waiting for the rest of a batch, which is then complete: `NO_ANSWER` where there was none."""
        handle = self._handle
        count = 1
        while handle is not None and count > 0:
            count = lib.nvmefence_abandon(handle, number, self._completions, _REAP_AT_ONCE)
            if count > 0:
                self._take_in(count)
        self._reap()

    def _abandon_where(self, device: int | None) -> None:
        """Abandon the batches of one device, or all, and wake those who wait for them."""
        for number, batch in list(self._batches.items()):
            if device is None or batch.device == device:
                self._abandon(number)
                batch.wake()

    def _take_in(self, count: int) -> None:
        """Distribute the first `count` entries of the completion array over their batches."""
        batches = self._batches
        data = self._data_bytes
        offset = 0
        records = self._completion_bytes[0 : count * _COMPLETION.size]
        for number, index, status, result, length, started, finished in _COMPLETION.iter_unpack(records):
            batch = batches.get(number)
            end = offset + length
            if batch is not None and batch.answers[index] is None:
                batch.answers[index] = Completion(
                    status, result, data[offset:end] if length else b"", started * 1e-9, finished * 1e-9
                )
                batch.missing -= 1
                if batch.missing == 0:
                    batch.wake()
            offset = end

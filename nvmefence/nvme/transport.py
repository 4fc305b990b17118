"""The contract between NVMe commands and whatever carries them: the submission queue or the emulation."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import NamedTuple, Protocol

PAGE = 4096
"""Bytes of the data buffer of one command; no command of this project moves more."""

NO_ANSWER = -errno.ETIME
"""`Completion.status` of a command that had not completed when its caller stopped waiting: outcome unknown."""

UNWRITTEN = 0xFF
"""Read buffers hold this byte before a command is submitted, so that a controller which reports success and
writes nothing is seen as malformed data, never as "no controllers attached"."""

_SQE = struct.Struct("<BBHIIIQQQIIIIII")


class Command(NamedTuple):
    """One admin command (NVM Express Base Specification 2.0, section 3.3.3.1, Common Command Format)."""

    opcode: int
    nsid: int = 0
    cdw10: int = 0
    cdw11: int = 0
    cdw12: int = 0
    cdw13: int = 0
    cdw14: int = 0
    cdw15: int = 0
    data: bytes = b""
    """Sent to the controller, at most `PAGE` bytes; empty when the command sends none."""
    read: int = 0
    """Bytes that the controller returns, at most `PAGE`; 0 when it returns none."""
    timeout_ms: int = 0
    """The kernel's own timeout in milliseconds; 0 means the driver's default (60 s). When it expires, Linux
    resets the controller, so leave it alone unless that is wanted."""

    def sqe(self) -> bytes:
        """Return the 64-byte submission queue entry with zero pointers and command identifier."""
        return _SQE.pack(
            self.opcode, 0, 0, self.nsid, 0, 0, 0, 0, 0,
            self.cdw10, self.cdw11, self.cdw12, self.cdw13, self.cdw14, self.cdw15,
        )  # fmt: skip


class Completion(NamedTuple):
    """What became of one command."""

    status: int
    """0: success. Positive: NVMe status as Linux returns it (SC in bits 7:0, SCT 10:8, CRD 12:11, More 13, DNR
    14). Negative: -errno from the kernel; after -EINTR and `NO_ANSWER` the outcome is unknown."""
    result: int
    """Dword 0 of the completion queue entry."""
    data: bytes
    """The `Command.read` bytes returned (only meaningful with status 0); else empty."""
    started: float
    """When it was submitted, seconds of CLOCK_MONOTONIC (the same clock as `asyncio` loop time)."""
    finished: float
    """When it completed, or when waiting ended, same clock."""


class Transport(Protocol):
    """Carries admin commands to controllers. One event loop uses it; it is not thread-safe."""

    @property
    def backend(self) -> str:
        """ "io_uring", "ioctl" or "simulated"."""
        ...

    def open(self, path: str) -> int:
        """Open the controller's character device and return a handle for `run`.

        Raises OSError: ENOENT, EACCES, EWOULDBLOCK when the controller is not live, ENODEV when `path` is not a
        character device (a node is never created).
        """
        ...

    async def run(self, device: int, commands: Sequence[Command], until: float | None = None) -> list[Completion]:
        """Submit `commands` to one controller, all in flight together as far as its queue allows, and wait.

        The commands are independent of each other: they may be processed in any order. `until` is a time of the
        event loop's clock; commands without an answer by then are returned with status `NO_ANSWER` and
        abandoned: their buffers stay with the queue until the kernel is done, a late answer is dropped. A
        command that could not be submitted has a negative errno as its status; this method raises only for
        misuse (ValueError) and cancellation (which abandons).
        """
        ...

    def release(self, device: int) -> None:
        """Close a handle. Commands still in flight on it are abandoned; never blocks."""
        ...

    def close(self) -> None:
        """Release all handles and the queue. Never blocks, never frees what the kernel may still write."""
        ...

"""What the scenarios need: commands that say how they want to be answered (shim.h), and the shim's controls."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from nvmefence.nvme.transport import PAGE, Command

SHIM = ctypes.CDLL(None)
NOW, LATE, HANG = range(3)
KEEP = 0x100
SUM = 0x200
OPCODE = 0xC2


def command(
    mark: int = 0,
    *,
    act: int = NOW,
    argument: int = 0,
    fill: int = KEEP,
    result: int = 0,
    status: int = 0,
    read: int = PAGE,
    data: bytes = b"",
    timeout_ms: int = 0,
) -> Command:
    """Return a command that is answered as asked; `argument` is the delay in milliseconds, or the gate."""
    return Command(
        OPCODE,
        nsid=mark,
        cdw10=act,
        cdw11=argument,
        cdw12=fill,
        cdw13=result,
        cdw14=status & 0xFFFFFFFF,
        cdw15=mark,
        read=read,
        data=data,
        timeout_ms=timeout_ms,
    )


def open_gate(gate: int) -> None:
    SHIM.shim_open_gate(gate)


def feed(gate: int, value: int, count: int) -> None:
    SHIM.shim_feed(gate, value, count)


def journal() -> list[int]:
    values = (ctypes.c_uint32 * 4096)()
    return list(values[: SHIM.shim_journal(values, 4096)])


def peak(path: str) -> int:
    return int(SHIM.shim_peak(ctypes.c_uint64(os.stat(path).st_rdev)))


def faults() -> int:
    return int(SHIM.shim_faults())


def enters() -> int:
    return int(SHIM.shim_enters())


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def blocked_signals(thread: str) -> int:
    """Return the mask of signals that this thread of the process blocks."""
    for line in Path(f"/proc/self/task/{thread}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("SigBlk:"):
            return int(line.split()[1], 16)
    raise AssertionError("no SigBlk")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_kib() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")

"""The cost of our own code per command, on this host without a guest: a transport whose answers cost nothing."""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import statistics
import struct
import sys
import time
from collections.abc import Sequence

from nvmefence.fencing import quiesce
from nvmefence.fencing.fence import Options, fence
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.nvme import commands
from nvmefence.nvme.emulated_data import Namespace, identify_namespace_page
from nvmefence.nvme.queue import _encode
from nvmefence.nvme.transport import PAGE, Command, Completion
from tests.bench.rabbit import HOST
from tests.bench.ways import SLOTS

DRIVES = 18
NAMESPACES = 4
SECONDARIES = 17
TARGET = 2
ROUNDS = 20


def _page(*parts: bytes) -> bytes:
    return b"".join(parts).ljust(PAGE, b"\0")


def _identify_controller(serial: str) -> bytes:
    page = bytearray(PAGE)
    page[4:24] = serial.encode().ljust(20)
    page[24:64] = b"canned".ljust(40)
    page[768 : 768 + len(serial)] = serial.encode()
    return bytes(page)


def _secondaries() -> bytes:
    entries = [struct.pack("<HHB3xHHH18x", n, 0, 1, n, 2, 2) for n in range(1, SECONDARIES + 1)]
    return _page(bytes([SECONDARIES]).ljust(32, b"\0"), *entries)


def _controllers(*ids: int) -> bytes:
    return _page(struct.pack(f"<{len(ids) + 1}H", len(ids), *ids))


class Canned:
    """Implements `Transport`: every answer lies ready; a detach empties a namespace of the target."""

    backend = "simulated"

    def __init__(self, latency: float = 0.0) -> None:
        """Each command takes `latency` seconds."""
        self.sent = 0
        self._latency = latency
        self._cut: set[tuple[int, int]] = set()
        everyone = range(SECONDARIES + 1)
        self._attached = _controllers(*everyone)
        self._without = _controllers(*(n for n in everyone if n != TARGET))
        self._identity = [_identify_controller(f"CANNED{n:02d}") for n in range(DRIVES)]
        self._lists = {
            commands.Cns.ALLOCATED_NAMESPACES: _page(struct.pack(f"<{NAMESPACES}I", *range(1, NAMESPACES + 1))),
            commands.Cns.ALLOCATED_NAMESPACE: identify_namespace_page("canned", Namespace(1)),
            commands.Cns.SECONDARY_CONTROLLERS: _secondaries(),
        }

    def open(self, path: str) -> int:
        """Return the drive's number."""
        return int(path.removeprefix("/dev/nvme"))

    def release(self, device: int) -> None:
        """Attach again what was cut."""
        self._cut -= {entry for entry in self._cut if entry[0] == device}

    def close(self) -> None:
        """Nothing is held."""

    async def run(self, device: int, commands: Sequence[Command], until: float | None = None) -> list[Completion]:
        """Answer when the drive has had its time, and not before the other drives had their turn."""
        begun = time.monotonic()
        await asyncio.sleep(self._latency)
        self.sent += len(commands)
        now = time.monotonic()
        return [Completion(0, 0, self._answer(device, command), begun, now) for command in commands]

    def _answer(self, device: int, command: Command) -> bytes:
        if command.opcode == commands.NAMESPACE_ATTACHMENT:
            self._cut.add((device, command.nsid))
            return b""
        cns = command.cdw10 & 0xFF
        if cns == commands.Cns.ATTACHED_CONTROLLERS:
            return self._without if (device, command.nsid) in self._cut else self._attached
        return self._identity[device] if cns == commands.Cns.CONTROLLER else self._lists[commands.Cns(cns)]


def _drives() -> list[Drive]:
    return [
        Drive(name, name, "canned", "1", (LocalController(f"nvme{n}", f"/dev/nvme{n}", 0, "", "live", False),))
        for n, name in enumerate(f"CANNED{n:02d}" for n in range(DRIVES))
    ]


async def one_fence(latency: float = 0.0) -> tuple[float, int]:
    """Fence once, each command taking `latency` seconds; return the seconds and how many commands that took."""
    document = {
        "version": 1,
        "drives": {"count": DRIVES},
        "hosts": {f"compute-{slot}": {"slot": slot} for slot in range(SLOTS)},
    }
    hostmap = hostfile.parse(document, "canned")
    canned = Canned(latency)
    options = Options(60.0, quiesce.parse("none"))
    report = await fence(canned, hostmap, _drives(), [hostmap.find(HOST)], options)
    assert report.confirmed(HOST), report.message(HOST)
    return report.seconds, canned.sent


def _one_fence() -> tuple[float, int]:
    return asyncio.run(one_fence())


def code_of_a_fence() -> float:
    """Return the median seconds that fencing one host of a full Rabbit takes where answers cost nothing."""
    _one_fence()
    return statistics.median(_one_fence()[0] for _ in range(ROUNDS))


def main() -> int:
    """Print the cost of a fence and of what the queue does for each command."""
    median, sent = code_of_a_fence(), _one_fence()[1]
    print(f"fence, {sent} commands: {1e3 * median:.2f} ms, {1e6 * median / sent:.1f} us per command")
    for name, batch in (
        ("four reads", [commands.attached_controllers(nsid) for nsid in range(1, 5)]),
        ("four detaches", [commands.detach(nsid, [TARGET]) for nsid in range(1, 5)]),
    ):
        started = time.perf_counter()
        for _ in range(2000):
            _encode(batch)
        print(f"queue, encoding {name}: {1e6 * (time.perf_counter() - started) / 2000:.1f} us")
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(ROUNDS):
        _one_fence()
    profile.disable()
    pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(25)
    return 0

"""Data structures that controllers return, parsed from 4096 bytes that are never trusted.

Every parser takes exactly 4096 bytes and either returns a value or raises `MalformedData`; a buffer that the
controller did not write (all FFh, see `transport.UNWRITTEN`) is malformed. Figures: NVM Express Base
Specification 2.0.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from operator import lt
from typing import Final, NamedTuple

from nvmefence.nvme.commands import CONTROLLERS_PER_LIST, MAX_CNTLID, MAX_NSID, NAMESPACE_ATTACHMENT
from nvmefence.nvme.transport import PAGE

NAMESPACES_PER_LIST: Final = 1024
SECONDARIES_PER_LIST: Final = 127

_NSID: Final = struct.Struct("<I")
_UNWRITTEN: Final = b"\xff" * PAGE


class MalformedData(Exception):
    """A controller returned data that breaks the specification; nothing in it may be believed."""


def _page(data: bytes, what: str) -> None:
    if len(data) != PAGE:
        raise MalformedData(f"{what}: {len(data)} bytes instead of {PAGE}")
    if data == _UNWRITTEN:
        raise MalformedData(f"{what}: the controller reported success and wrote nothing")


def _must_ascend(what: str, numbers: Sequence[int], first: int, last: int) -> None:
    """Raise MalformedData unless the numbers run upwards from `first` or more to `last` or less."""
    if not numbers or (numbers[0] >= first and numbers[-1] <= last and all(map(lt, numbers, numbers[1:]))):
        return
    previous = first - 1
    for number in numbers:
        if number <= previous or number > last:
            raise MalformedData(f"{what}: {number} after {previous} (must ascend, up to {last})")
        previous = number


def namespace_list(data: bytes, above: int = 0) -> list[int]:
    """Parse a Namespace List (figure 136; CNS 02h, 10h): up to 1024 ascending NSIDs greater than `above`."""
    _page(data, "namespace list")
    nsids: list[int] = []
    for (nsid,) in _NSID.iter_unpack(data):  # one by one: of the 1024 places most are empty
        if nsid == 0:
            break
        nsids.append(nsid)
    _must_ascend("namespace list", nsids, above + 1, MAX_NSID)
    return nsids


def controller_list(data: bytes, first: int = 0) -> list[int]:
    """Parse a Controller List (figure 137; CNS 12h, 13h): up to 2047 ascending CNTLIDs, `first` or greater."""
    _page(data, "controller list")
    (count,) = struct.unpack_from("<H", data)
    if count > CONTROLLERS_PER_LIST:
        raise MalformedData(f"controller list: {count} entries (at most {CONTROLLERS_PER_LIST})")
    ids = list(struct.unpack_from(f"<{count}H", data, 2))
    _must_ascend("controller list", ids, first, MAX_CNTLID)
    return ids


def printable(raw: bytes) -> str:
    """Return an ASCII field without its padding; whatever is not printable comes out as U+FFFD."""
    text = raw.split(b"\0", 1)[0].decode("ascii", "replace").strip()
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


@dataclass(frozen=True, slots=True)
class IdentifyController:
    """The parts of Identify Controller (CNS 01h, figure 275) that fencing reads."""

    vid: int
    serial: str
    model: str
    firmware: str
    cmic: int
    cntlid: int
    version: int
    """VER: major<<16 | minor<<8 | tertiary."""
    oacs: int
    retry_delays: tuple[int, int, int]
    """CRDT1 to CRDT3, units of 100 milliseconds."""
    namespace_count: int
    """NN: the largest NSID (before 2.0: number of namespaces)."""
    nqn: str

    @property
    def namespace_management(self) -> bool:
        """OACS bit 3: Namespace Management and Attachment supported."""
        return bool(self.oacs & 1 << 3)

    @property
    def virtualization_management(self) -> bool:
        """OACS bit 7. Some controllers leave it clear and support the command all the same."""
        return bool(self.oacs & 1 << 7)

    @property
    def multi_controller(self) -> bool:
        """CMIC bit 1: the subsystem may contain two or more controllers."""
        return bool(self.cmic & 1 << 1)


def identify_controller(data: bytes) -> IdentifyController:
    """Parse Identify Controller."""
    _page(data, "identify controller")
    (cntlid,) = struct.unpack_from("<H", data, 78)
    if cntlid > MAX_CNTLID:
        raise MalformedData(f"identify controller: CNTLID {cntlid:X}h is reserved")
    (version,) = struct.unpack_from("<I", data, 80)
    return IdentifyController(
        vid=struct.unpack_from("<H", data, 0)[0],
        serial=printable(data[4:24]),
        model=printable(data[24:64]),
        firmware=printable(data[64:72]),
        cmic=data[76],
        cntlid=cntlid,
        version=version,
        oacs=struct.unpack_from("<H", data, 256)[0],
        retry_delays=struct.unpack_from("<3H", data, 128),
        namespace_count=struct.unpack_from("<I", data, 516)[0],
        nqn=printable(data[768:1024]),
    )


@dataclass(frozen=True, slots=True)
class IdentifyNamespace:
    """The parts of Identify Namespace (CNS 11h; NVM Command Set Specification 1.0, figure 97) that identify it."""

    size: int
    """NSZE, in logical blocks."""
    block_size: int
    """Bytes of a logical block in the format in use."""
    nmic: int
    nguid: bytes
    """16 bytes, all zero when not supported."""
    eui64: bytes
    """8 bytes, all zero when not supported."""

    @property
    def shared(self) -> bool:
        """NMIC bit 0: may be attached to two or more controllers."""
        return bool(self.nmic & 1)


def identify_namespace(data: bytes) -> IdentifyNamespace:
    """Parse Identify Namespace. All zero (an NSID that is not allocated) is `MalformedData`."""
    _page(data, "identify namespace")
    if not any(data):
        raise MalformedData("identify namespace: all zero, the namespace is not allocated")
    flbas = data[26]
    index = (flbas & 0xF) | (flbas >> 1 & 0x30)
    exponent = data[128 + 4 * index + 2]
    if not 9 <= exponent <= 31:
        raise MalformedData(f"identify namespace: logical block of 2^{exponent} bytes")
    return IdentifyNamespace(
        size=struct.unpack_from("<Q", data, 0)[0],
        block_size=1 << exponent,
        nmic=data[30],
        nguid=bytes(data[104:120]),
        eui64=bytes(data[120:128]),
    )


class SecondaryController(NamedTuple):
    """An entry of the Secondary Controller List (CNS 15h, figure 281)."""

    cntlid: int
    primary: int
    state: int
    """SCS: bit 0 is set when the secondary controller is online."""
    vf: int
    """VFN: the virtual function number, 0 when the secondary controller is not one."""
    queues: int
    """NVQ: VQ flexible resources assigned."""
    interrupts: int
    """NVI: VI flexible resources assigned."""

    @property
    def online(self) -> bool:
        """Whether it is online (SCS bit 0)."""
        return bool(self.state & 1)


_SECONDARY: Final = struct.Struct("<HHB3xHHH18x")


def secondary_controller_list(data: bytes, first: int = 0) -> list[SecondaryController]:
    """Parse a Secondary Controller List: up to 127 entries in ascending order of CNTLID, `first` or greater."""
    _page(data, "secondary controller list")
    count = data[0]
    if count > SECONDARIES_PER_LIST:
        raise MalformedData(f"secondary controller list: {count} entries (at most {SECONDARIES_PER_LIST})")
    rows = _SECONDARY.iter_unpack(data[32 : 32 + _SECONDARY.size * count])
    entries = list(map(SecondaryController._make, rows))
    _must_ascend("secondary controller list", [entry[0] for entry in entries], first, MAX_CNTLID)
    for entry in entries:
        if entry[1] > MAX_CNTLID:
            raise MalformedData(f"secondary controller list: {entry.cntlid} has primary {entry.primary}")
    return entries


@dataclass(frozen=True, slots=True)
class PrimaryCapabilities:
    """The parts of Primary Controller Capabilities (CNS 14h, figure 280) that show what can be assigned."""

    cntlid: int
    vq_supported: bool
    vi_supported: bool
    vq_flexible: int
    """VQFRT: VQ flexible resources in all."""
    vq_assigned: int
    """VQRFA: of these, assigned to secondary controllers."""
    vi_flexible: int
    vi_assigned: int


def primary_capabilities(data: bytes) -> PrimaryCapabilities:
    """Parse Primary Controller Capabilities."""
    _page(data, "primary controller capabilities")
    cntlid, _port, types = struct.unpack_from("<HHB", data, 0)
    vq_total, vq_assigned = struct.unpack_from("<II", data, 32)
    vi_total, vi_assigned = struct.unpack_from("<II", data, 64)
    return PrimaryCapabilities(
        cntlid, bool(types & 1), bool(types & 2), vq_total, vq_assigned, vi_total, vi_assigned
    )


@dataclass(frozen=True, slots=True)
class Effects:
    """One entry of the Commands Supported and Effects log (figure 211)."""

    supported: bool
    """CSUPP."""
    namespace_inventory_change: bool
    """NIC: Linux rescans all namespaces of the issuing controller after the ioctl."""
    exclusive: int
    """CSE, bits 18:16: not 0 means that Linux freezes the issuing controller's I/O around the ioctl."""


def admin_effects(data: bytes, opcode: int = NAMESPACE_ATTACHMENT) -> Effects:
    """Parse the entry ACS`opcode` of the Commands Supported and Effects log."""
    _page(data, "commands supported and effects log")
    (value,) = struct.unpack_from("<I", data, 4 * (opcode & 0xFF))
    return Effects(bool(value & 1), bool(value & 1 << 3), value >> 16 & 0x7)

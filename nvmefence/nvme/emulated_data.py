"""What an emulated subsystem is made of, how implementations differ, and the pages it answers Identify with.

Figures: NVM Express Base Specification 2.0. `QEMU_7_2` was read from QEMU's hw/nvme/ctrl.c (`nvme_ns_attachment`,
`nvme_identify_*`, `nvme_virt_mngmt`, `nvme_init_state`, `nvme_ctrl_reset`).
"""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from nvmefence.nvme import status
from nvmefence.nvme.commands import CONTROLLERS_PER_LIST, Resource
from nvmefence.nvme.structures import NAMESPACES_PER_LIST, SECONDARIES_PER_LIST
from nvmefence.nvme.transport import PAGE


@dataclass(frozen=True, slots=True)
class Quirks:
    """What controllers do differently. The defaults are those of `SPECIFICATION`."""

    partial_lists: bool = True
    """Namespace Attachment applies the entries before the failing one; else a failing list changes nothing."""
    lenient_lists: bool = False
    """Controller lists need not ascend, and a count above 2047 is cut to 2047 instead of refused."""
    unknown_controller: int = status.CONTROLLER_LIST_INVALID
    """Status for a list that names a controller which does not exist. Some drives say 11Fh."""
    unallocated: int = status.INVALID_NAMESPACE
    """Status of CNS 12h and Namespace Attachment for NSIDs in range that are not allocated, and FFFFFFFFh."""
    max_nsid: int = 0
    """NN of Identify Controller; 0: 1024, or the largest NSID there is."""
    oacs: int = 0
    """Bits of OACS that are set whatever is supported here."""
    oacs_hides_virtualization: bool = False
    """OACS bit 7 is clear though Virtualization Management works."""
    virtualization_everywhere: bool = False
    """A controller without secondary controllers answers CNS 14h (no flexible resources), CNS 15h (empty) and
    1Ch (11Fh); else these are 002h, 002h and 001h."""
    resources_exhausted: int = status.INVALID_RESOURCE_COUNT
    """Status of an assignment of more resources than are free."""
    offline_drains: bool = True
    """Secondary Offline returns only after the writes under way on that controller have landed; else they land
    in their own time."""
    detach_drains: bool = False
    """The same for a detach, of writes to that namespace. Nothing in the specification promises it."""
    version: int = 0x00020000
    """VER of Identify Controller."""


SPECIFICATION: Final = Quirks()
QEMU_7_2: Final = Quirks(
    lenient_lists=True,
    unallocated=status.INVALID_FIELD,
    max_nsid=256,
    oacs=0x102,
    oacs_hides_virtualization=True,
    virtualization_everywhere=True,
    resources_exhausted=status.INVALID_RESOURCE_ID,
    version=0x00010400,
)


class Namespace(NamedTuple):
    """What a namespace is; which controllers it is attached to is the subsystem's."""

    nsid: int
    size: int = 1 << 21
    """Logical blocks."""
    shared: bool = True
    block_size: int = 4096
    """Bytes, a power of two."""
    nguid: bytes = b""
    """16 bytes; empty: made from the subsystem's NQN and the NSID."""


@dataclass(slots=True)
class Secondary:
    """A secondary controller: its virtual function number, state and flexible resources."""

    cntlid: int
    vf: int
    online: bool = True
    vq: int = 2
    vi: int = 2

    def resources(self, resource: int) -> int:
        """Return how many flexible resources of a type are assigned."""
        return self.vi if resource == Resource.VI else self.vq


class Write(NamedTuple):
    """A write that a host submitted."""

    cntlid: int
    nsid: int
    due: float
    """When it reaches the medium, seconds of the subsystem's clock."""


@lru_cache(maxsize=4096)
def bits(mask: int) -> tuple[int, ...]:
    """Return the positions of the bits that are set, ascending."""
    found = []
    while mask:
        lowest = mask & -mask
        found.append(lowest.bit_length() - 1)
        mask ^= lowest
    return tuple(found)


def mask_of(controllers: Iterable[int]) -> int:
    """Return the inverse of `bits`."""
    mask = 0
    for cntlid in controllers:
        mask |= 1 << cntlid
    return mask


@lru_cache(maxsize=4096)
def controller_page(mask: int, first: int) -> bytes:
    """Return a Controller List of the bits of `mask` from `first` up."""
    ids = [cntlid for cntlid in bits(mask) if cntlid >= first][:CONTROLLERS_PER_LIST]
    return struct.pack(f"<{len(ids) + 1}H", len(ids), *ids).ljust(PAGE, b"\0")


def namespace_page(nsids: Iterable[int], above: int) -> bytes:
    """Return a Namespace List of those above `above`."""
    page = sorted(nsid for nsid in nsids if nsid > above)[:NAMESPACES_PER_LIST]
    return struct.pack(f"<{len(page)}I", *page).ljust(PAGE, b"\0")


def secondary_page(secondaries: Iterable[Secondary], primary: int, first: int) -> bytes:
    """Return a Secondary Controller List (figure 281) of those with CNTLID `first` or greater."""
    entries = sorted((entry for entry in secondaries if entry.cntlid >= first), key=lambda entry: entry.cntlid)
    page = bytearray(PAGE)
    page[0] = len(entries[:SECONDARIES_PER_LIST])
    for n, entry in enumerate(entries[:SECONDARIES_PER_LIST], 1):
        struct.pack_into(
            "<HHB3xHHH", page, 32 * n, entry.cntlid, primary, entry.online, entry.vf, entry.vq, entry.vi
        )
    return bytes(page)


def identify_controller_page(
    *,
    cntlid: int,
    nqn: str,
    serial: str,
    model: str,
    firmware: str,
    cmic: int,
    version: int,
    oacs: int,
    namespace_count: int,
) -> bytes:
    """Return Identify Controller (figure 275)."""
    page = bytearray(PAGE)
    page[4:24] = serial.encode("ascii", "replace")[:20].ljust(20)
    page[24:64] = model.encode("ascii", "replace")[:40].ljust(40)
    page[64:72] = firmware.encode("ascii", "replace")[:8].ljust(8)
    page[76] = cmic
    struct.pack_into("<HI", page, 78, cntlid, version)
    page[111] = 1
    struct.pack_into("<H", page, 256, oacs)
    page[261] = 1 << 1
    struct.pack_into("<I", page, 516, namespace_count)
    name = nqn.encode()[:255]
    page[768 : 768 + len(name)] = name
    return bytes(page)


@functools.lru_cache
def _identity(nqn: str, nsid: int) -> bytes:
    # Not by hashlib: that is 5 MB of OpenSSL, locked into memory by a watcher of simulated drives.
    return random.Random(f"{nqn} {nsid}").randbytes(24)


def identify_namespace_page(nqn: str, namespace: Namespace) -> bytes:
    """Return Identify Namespace; NGUID and EUI64 are made from the subsystem's NQN and the NSID unless given."""
    identity = _identity(nqn, namespace.nsid)
    page = bytearray(PAGE)
    struct.pack_into("<3Q", page, 0, namespace.size, namespace.size, namespace.size)
    page[30] = namespace.shared
    page[104:120] = namespace.nguid or identity[:16]
    page[120:128] = identity[16:24]
    page[130] = namespace.block_size.bit_length() - 1
    return bytes(page)

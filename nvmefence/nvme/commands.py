"""The admin commands that fencing needs, as `Command` values. Nothing here talks to a drive.

Section and figure numbers are those of the NVM Express Base Specification 2.0.
"""

from __future__ import annotations

import enum
import functools
import struct
from collections.abc import Iterable
from typing import Final

from nvmefence.nvme.transport import PAGE, Command

GET_LOG_PAGE: Final = 0x02
IDENTIFY: Final = 0x06
NAMESPACE_ATTACHMENT: Final = 0x15
VIRTUALIZATION_MANAGEMENT: Final = 0x1C

LOG_COMMANDS_SUPPORTED: Final = 0x05

MAX_NSID: Final = 0xFFFFFFFE
MAX_CNTLID: Final = 0xFFEF
"""FFF0h to FFFFh are reserved (figure 275, CNTLID)."""
CONTROLLERS_PER_LIST: Final = 2047


class Cns(enum.IntEnum):
    """Controller or Namespace Structure, Identify CDW10[7:0] (figure 273)."""

    CONTROLLER = 0x01
    ACTIVE_NAMESPACES = 0x02
    ALLOCATED_NAMESPACES = 0x10
    ALLOCATED_NAMESPACE = 0x11
    ATTACHED_CONTROLLERS = 0x12
    SUBSYSTEM_CONTROLLERS = 0x13
    PRIMARY_CAPABILITIES = 0x14
    SECONDARY_CONTROLLERS = 0x15


class Attachment(enum.IntEnum):
    """SEL, Namespace Attachment CDW10[3:0] (figure 384)."""

    ATTACH = 0
    DETACH = 1


class VirtualizationAction(enum.IntEnum):
    """ACT, Virtualization Management CDW10[3:0] (section 5.28)."""

    PRIMARY_FLEXIBLE = 1
    SECONDARY_OFFLINE = 7
    SECONDARY_ASSIGN = 8
    SECONDARY_ONLINE = 9


class Resource(enum.IntEnum):
    """RT, Virtualization Management CDW10[10:8]."""

    VQ = 0
    VI = 1


def identify(cns: Cns, *, nsid: int = 0, cntid: int = 0) -> Command:
    """Identify (section 5.17): `cntid` goes to CDW10[31:16], the result is 4096 bytes."""
    return Command(IDENTIFY, nsid=nsid, cdw10=cntid << 16 | cns, read=PAGE)


def identify_controller() -> Command:
    """CNS 01h: the controller that processes the command."""
    return identify(Cns.CONTROLLER)


def active_namespaces(above: int = 0) -> Command:
    """CNS 02h: up to 1024 NSIDs greater than `above` attached to the controller that processes the command."""
    return identify(Cns.ACTIVE_NAMESPACES, nsid=above)


def allocated_namespaces(above: int = 0) -> Command:
    """CNS 10h: up to 1024 NSIDs greater than `above` in the subsystem, attached or not."""
    return identify(Cns.ALLOCATED_NAMESPACES, nsid=above)


def allocated_namespace(nsid: int) -> Command:
    """CNS 11h: Identify Namespace of an allocated namespace."""
    return identify(Cns.ALLOCATED_NAMESPACE, nsid=nsid)


def attached_controllers(nsid: int, first: int = 0) -> Command:
    """CNS 12h: up to 2047 controllers with CNTLID >= `first` to which the namespace is attached."""
    return identify(Cns.ATTACHED_CONTROLLERS, nsid=nsid, cntid=first)


def subsystem_controllers(first: int = 0) -> Command:
    """CNS 13h: up to 2047 controllers of the subsystem with CNTLID >= `first`."""
    return identify(Cns.SUBSYSTEM_CONTROLLERS, cntid=first)


def primary_capabilities(cntlid: int = 0) -> Command:
    """CNS 14h: Primary Controller Capabilities."""
    return identify(Cns.PRIMARY_CAPABILITIES, cntid=cntlid)


def secondary_controllers(first: int = 0) -> Command:
    """CNS 15h: up to 127 secondary controllers with SCID >= `first` of the primary that processes it."""
    return identify(Cns.SECONDARY_CONTROLLERS, cntid=first)


def controller_list(controllers: Iterable[int]) -> bytes:
    """Return a Controller List (figure 137): u16 count, then ascending u16 ids, zero-filled to 4096 bytes.

    Raises ValueError for an empty list, more than 2047 entries, duplicates, or an id out of range: each of
    them would make the controller act on something nobody named.
    """
    return _controller_list(tuple(sorted(controllers)))


@functools.lru_cache(maxsize=64)  # a fence sends the same few lists for every namespace of every drive
def _controller_list(ids: tuple[int, ...]) -> bytes:
    if not ids:
        raise ValueError("a controller list must name at least one controller")
    if len(ids) > CONTROLLERS_PER_LIST:
        raise ValueError(f"a controller list holds {CONTROLLERS_PER_LIST} controllers, not {len(ids)}")
    if ids[0] < 0 or ids[-1] > MAX_CNTLID:
        raise ValueError(f"controller ids run from 0 to {MAX_CNTLID}, got {ids[0]} to {ids[-1]}")
    if len(set(ids)) != len(ids):
        raise ValueError(f"a controller list names each controller once: {ids}")
    return struct.pack(f"<{len(ids) + 1}H", len(ids), *ids).ljust(PAGE, b"\0")


def namespace_attachment(nsid: int, select: Attachment, controllers: Iterable[int]) -> Command:
    """Namespace Attachment (section 5.19). Raises ValueError like `controller_list`, and for NSID FFFFFFFFh."""
    if not 1 <= nsid <= MAX_NSID:
        raise ValueError(f"namespace ids run from 1 to {MAX_NSID}, got {nsid}")
    return Command(NAMESPACE_ATTACHMENT, nsid=nsid, cdw10=select, data=controller_list(controllers))


def attach(nsid: int, controllers: Iterable[int]) -> Command:
    """Attach a namespace to controllers."""
    return namespace_attachment(nsid, Attachment.ATTACH, controllers)


def detach(nsid: int, controllers: Iterable[int]) -> Command:
    """Detach a namespace from controllers."""
    return namespace_attachment(nsid, Attachment.DETACH, controllers)


def virtualization(
    action: VirtualizationAction, cntlid: int, *, resource: Resource = Resource.VQ, count: int = 0
) -> Command:
    """Virtualization Management (section 5.28): `count` resources of type `resource` for `cntlid`."""
    if not 0 <= cntlid <= MAX_CNTLID:
        raise ValueError(f"controller ids run from 0 to {MAX_CNTLID}, got {cntlid}")
    return Command(VIRTUALIZATION_MANAGEMENT, cdw10=cntlid << 16 | resource << 8 | action, cdw11=count & 0xFFFF)


def effects_log() -> Command:
    """Get Log Page 05h: Commands Supported and Effects (section 5.16.1.6), 4096 bytes."""
    dwords = PAGE // 4 - 1
    return Command(GET_LOG_PAGE, nsid=0xFFFFFFFF, cdw10=(dwords & 0xFFFF) << 16 | LOG_COMMANDS_SUPPORTED, read=PAGE)

"""An NVM subsystem in memory: admin commands in, completions out, at the level of the 64-byte entry.

It follows the NVM Express Base Specification 2.0; where that leaves a choice, or implementations are known to
differ, `Quirks` says which way this one goes. Identify knows the CNS values that fencing uses, others are 002h.
"""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from nvmefence.nvme import status
from nvmefence.nvme.commands import (
    CONTROLLERS_PER_LIST,
    GET_LOG_PAGE,
    IDENTIFY,
    LOG_COMMANDS_SUPPORTED,
    MAX_CNTLID,
    MAX_NSID,
    NAMESPACE_ATTACHMENT,
    VIRTUALIZATION_MANAGEMENT,
    Attachment,
    Cns,
    Resource,
    VirtualizationAction,
)
from nvmefence.nvme.emulated_data import (
    SPECIFICATION,
    Namespace,
    Quirks,
    Secondary,
    Write,
    bits,
    controller_page,
    identify_controller_page,
    identify_namespace_page,
    mask_of,
    namespace_page,
    secondary_page,
)
from nvmefence.nvme.transport import NO_ANSWER, PAGE

_SQE: Final = struct.Struct("<B3xI32x6I")
_INVALID_LOG_PAGE: Final = 0x109
_SUPPORTED: Final = 1 << 0
_INVENTORY_CHANGE: Final = 1 << 3
_OACS_NAMESPACES: Final = 1 << 3
_OACS_VIRTUALIZATION: Final = 1 << 7
_CMIC_MULTI_CONTROLLER: Final = 1 << 1
_CMIC_SRIOV: Final = 1 << 2
_SECONDARY_ACTIONS: Final = frozenset(
    {
        VirtualizationAction.SECONDARY_OFFLINE,
        VirtualizationAction.SECONDARY_ASSIGN,
        VirtualizationAction.SECONDARY_ONLINE,
    }
)

Answer = tuple[int, int, bytes]
"""Status (`NO_ANSWER`: the controller processes nothing), dword 0, data."""
_OK: Final[Answer] = (status.SUCCESS, 0, b"")


def _refused(code: int) -> Answer:
    return code | status.DNR, 0, b""


class EmulatedSubsystem:
    """One drive. Methods without an opcode (`start_write`, `add_namespace`, `reset`) are what others do to it."""

    def __init__(
        self,
        nqn: str,
        serial: str,
        *,
        controllers: Sequence[int] = (0,),
        secondaries: Sequence[int] = (),
        namespaces: Iterable[Namespace] = (),
        attached: Iterable[int] | None = None,
        model: str = "Emulated NVMe",
        firmware: str = "1.0",
        namespace_management: bool = True,
        flexible: int = 2,
        quirks: Quirks = SPECIFICATION,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a drive: `controllers` are physical, `controllers[0]` is the primary of all `secondaries`.

        `secondaries` are their CNTLIDs in the order of VF 1, 2, …. The shared namespaces are attached to
        `attached` (None: every controller but `controllers[0]`); a private namespace to none. Each secondary
        has `flexible` resources of both types. Raises ValueError for ids that are out of range or double.
        """
        every = [*controllers, *secondaries]
        if not controllers or len(set(every)) != len(every) or not 0 <= min(every) <= max(every) <= MAX_CNTLID:
            raise ValueError(f"controller ids must be different, from 0 to {MAX_CNTLID}: {every}")
        self.nqn = nqn
        self.serial = serial
        self.model = model
        self.firmware = firmware
        self.quirks = quirks
        self.namespace_management = namespace_management
        self.controllers = tuple(controllers)
        self.secondaries = {
            cntlid: Secondary(cntlid, vf, vq=flexible, vi=flexible) for vf, cntlid in enumerate(secondaries, 1)
        }
        self.flexible = flexible
        self.primary_resources = {Resource.VQ: 0, Resource.VI: 0}
        self.landed: list[Write] = []
        """Writes that reached the medium, up to the last call of `settle`."""
        self.generation = 0
        """Grows with every change of attachments, states or resources."""
        self._requested = dict(self.primary_resources)
        self._every = mask_of(every)
        self._clock = clock
        self._writes: list[Write] = []
        self._namespaces: dict[int, Namespace] = {}
        self._attached: dict[int, int] = {}
        initial = mask_of(every[1:] if attached is None else attached)
        for namespace in namespaces:
            self.add_namespace(namespace, bits(initial) if namespace.shared else ())

    @property
    def cntlids(self) -> tuple[int, ...]:
        """All controllers, ascending."""
        return bits(self._every)

    @property
    def namespaces(self) -> Mapping[int, Namespace]:
        """The allocated namespaces by NSID."""
        return self._namespaces

    def attached(self, nsid: int) -> tuple[int, ...]:
        """Return the controllers that a namespace is attached to, ascending. Raises KeyError."""
        return bits(self._attached[nsid])

    def can_write(self, cntlid: int) -> bool:
        """Whether the host behind a controller could start a write now."""
        return self._online(cntlid) and any(mask >> cntlid & 1 for mask in self._attached.values())

    def add_namespace(self, namespace: Namespace, attached: Iterable[int] = ()) -> None:
        """Allocate a namespace, as a host with Namespace Management would; one with the same NSID is replaced."""
        mask = mask_of(attached)
        if not 1 <= namespace.nsid <= (self.quirks.max_nsid or MAX_NSID):
            raise ValueError(f"namespace id {namespace.nsid} is out of range")
        if mask & ~self._every:
            raise ValueError(f"no such controller: {bits(mask & ~self._every)}")
        self._namespaces[namespace.nsid] = namespace
        self._attached[namespace.nsid] = mask
        self.generation += 1

    def remove_namespace(self, nsid: int) -> None:
        """Delete a namespace, and with it where writes under way could land. Raises KeyError."""
        del self._namespaces[nsid], self._attached[nsid]
        self._writes = [write for write in self._writes if write.nsid != nsid]
        self.generation += 1

    def set_attached(self, nsid: int, controllers: Iterable[int]) -> None:
        """Change attachments behind everyone's back, as another host would. Raises KeyError, ValueError."""
        self.add_namespace(self._namespaces[nsid], controllers)

    def start_write(self, cntlid: int, nsid: int, duration: float) -> bool:
        """Let a host submit a write that takes `duration` seconds; False when the drive refuses it at once."""
        if not self._online(cntlid) or not self._attached.get(nsid, 0) >> cntlid & 1:
            return False
        self._writes.append(Write(cntlid, nsid, self._clock() + duration))
        return True

    def settle(self) -> list[Write]:
        """Bring `landed` up to date and return the writes that are still under way."""
        if self._writes:
            now = self._clock()
            self._land(lambda write: write.due <= now)
        return self._writes

    def reset(self) -> None:
        """Reset the primary controller: all its secondaries go offline, its requested resources take effect."""
        for cntlid in self.secondaries:
            self._offline(cntlid)
        self.primary_resources.update(self._requested)
        self.generation += 1

    def execute(self, cntlid: int, sqe: bytes, data: bytes) -> Answer:
        """Process one admin command on a controller: 64 bytes of entry, up to 4096 bytes sent with it.

        Status `NO_ANSWER` means that the controller is offline and answers nothing. Raises ValueError when there
        is no such controller, struct.error for an entry of another length.
        """
        if not 0 <= cntlid <= MAX_CNTLID or not self._every >> cntlid & 1:
            raise ValueError(f"no controller {cntlid} in {self.nqn}")
        opcode, nsid, cdw10, cdw11, cdw12, cdw13, _, _ = _SQE.unpack(sqe)
        if not self._online(cntlid):
            return NO_ANSWER, 0, b""
        if opcode == IDENTIFY:
            return self._identify(cntlid, cdw10 & 0xFF, nsid, cdw10 >> 16)
        if opcode == NAMESPACE_ATTACHMENT and self.namespace_management:
            return self._attachment(nsid, cdw10 & 0xF, data.ljust(PAGE, b"\0"))
        if opcode == VIRTUALIZATION_MANAGEMENT and self._virtualization(cntlid):
            return self._manage(cntlid, cdw10, cdw11 & 0xFFFF)
        if opcode == GET_LOG_PAGE:
            return self._log_page(cntlid, cdw10, cdw11, cdw12 | cdw13 << 32)
        return _refused(status.INVALID_OPCODE)

    # Identify

    def _identify(self, cntlid: int, cns: int, nsid: int, first: int) -> Answer:
        answer: Answer | bytes = _refused(status.INVALID_FIELD)
        match cns:
            case Cns.CONTROLLER:
                answer = self._identify_controller(cntlid)
            case Cns.ACTIVE_NAMESPACES | Cns.ALLOCATED_NAMESPACES if nsid >= MAX_NSID:
                answer = _refused(status.INVALID_NAMESPACE)
            case Cns.ACTIVE_NAMESPACES:
                answer = namespace_page((n for n, mask in self._attached.items() if mask >> cntlid & 1), nsid)
            case Cns.ALLOCATED_NAMESPACES:
                answer = namespace_page(self._namespaces, nsid)
            case Cns.ALLOCATED_NAMESPACE:
                answer = self._identify_namespace(nsid)
            case Cns.ATTACHED_CONTROLLERS if nsid in self._attached:
                answer = controller_page(self._attached[nsid], first)
            case Cns.ATTACHED_CONTROLLERS:
                answer = _refused(self.quirks.unallocated)
            case Cns.SUBSYSTEM_CONTROLLERS:
                answer = controller_page(self._every, first)
            case Cns.PRIMARY_CAPABILITIES if self._virtualization(cntlid):
                answer = self._capabilities(cntlid)
            case Cns.SECONDARY_CONTROLLERS if self._virtualization(cntlid):
                answer = secondary_page(self._secondaries_of(cntlid), cntlid, first)
        return (status.SUCCESS, 0, answer) if isinstance(answer, bytes) else answer

    def _oacs(self, cntlid: int) -> int:
        oacs = self.quirks.oacs | (_OACS_NAMESPACES if self.namespace_management else 0)
        if self._secondaries_of(cntlid) and not self.quirks.oacs_hides_virtualization:
            oacs |= _OACS_VIRTUALIZATION
        return oacs

    def _identify_controller(self, cntlid: int) -> bytes:
        return identify_controller_page(
            cntlid=cntlid,
            nqn=self.nqn,
            serial=self.serial,
            model=self.model,
            firmware=self.firmware,
            cmic=_CMIC_MULTI_CONTROLLER | (_CMIC_SRIOV if cntlid in self.secondaries else 0),
            version=self.quirks.version,
            oacs=self._oacs(cntlid),
            namespace_count=self._largest_nsid(),
        )

    def _largest_nsid(self) -> int:
        return self.quirks.max_nsid or max(1024, *self._namespaces, 0)

    def _identify_namespace(self, nsid: int) -> Answer:
        if not 1 <= nsid <= self._largest_nsid():
            return _refused(status.INVALID_NAMESPACE)
        namespace = self._namespaces.get(nsid)
        return 0, 0, identify_namespace_page(self.nqn, namespace) if namespace else bytes(PAGE)

    def _capabilities(self, cntlid: int) -> bytes:
        secondaries = self._secondaries_of(cntlid)
        total = self.flexible * len(secondaries)
        page = bytearray(PAGE)
        struct.pack_into("<HHB", page, 0, cntlid, 0, 0b11)
        for offset, resource in ((32, Resource.VQ), (64, Resource.VI)):
            primary = self.primary_resources[resource] if secondaries else 0
            assigned = sum(entry.resources(resource) for entry in secondaries)
            struct.pack_into("<IIHHHH", page, offset, total, assigned, primary, 1, self.flexible, 1)
        return bytes(page)

    # Namespace Attachment

    def _attachment(self, nsid: int, select: int, data: bytes) -> Answer:
        if nsid == 0 or MAX_NSID >= nsid > self._largest_nsid():
            return _refused(status.INVALID_NAMESPACE)
        if nsid not in self._attached:
            return _refused(self.quirks.unallocated)
        ids = self._listed(data)
        if not ids:
            return _refused(status.CONTROLLER_LIST_INVALID)
        if select not in (Attachment.ATTACH, Attachment.DETACH):
            return _refused(status.INVALID_FIELD)
        mask = self._attached[nsid]
        code = status.SUCCESS
        for cntlid in ids:
            code = self._check_entry(nsid, mask, cntlid, select)
            if code:
                break
            mask ^= 1 << cntlid
        if not code or self.quirks.partial_lists:
            self._change_attached(nsid, mask)
        return _refused(code) if code else _OK

    def _listed(self, data: bytes) -> tuple[int, ...]:
        """Return the entries of a controller list, none when it is invalid as a whole."""
        (count,) = struct.unpack_from("<H", data)
        if self.quirks.lenient_lists:
            count = min(count, CONTROLLERS_PER_LIST)
        elif count > CONTROLLERS_PER_LIST:
            return ()
        ids = struct.unpack_from(f"<{count}H", data, 2)
        if not self.quirks.lenient_lists and any(a >= b for a, b in itertools.pairwise(ids)):
            return ()
        return ids

    def _check_entry(self, nsid: int, mask: int, cntlid: int, select: int) -> int:
        """Return why one entry of a controller list cannot be processed, 0 when it can."""
        if not self._every >> cntlid & 1:
            return self.quirks.unknown_controller
        held = mask >> cntlid & 1
        if select == Attachment.DETACH:
            return status.SUCCESS if held else status.NAMESPACE_NOT_ATTACHED
        if held:
            return status.NAMESPACE_ALREADY_ATTACHED
        if mask and not self._namespaces[nsid].shared:
            return status.NAMESPACE_PRIVATE
        return status.SUCCESS

    def _change_attached(self, nsid: int, mask: int) -> None:
        before = self._attached[nsid]
        if mask == before:
            return
        self._attached[nsid] = mask
        self.generation += 1
        if self._writes and self.quirks.detach_drains:
            gone = before & ~mask
            self._land(lambda write: write.nsid == nsid and bool(gone >> write.cntlid & 1))

    # Virtualization Management

    def _online(self, cntlid: int) -> bool:
        secondary = self.secondaries.get(cntlid)
        return secondary is None or secondary.online

    def _secondaries_of(self, cntlid: int) -> list[Secondary]:
        return list(self.secondaries.values()) if cntlid == self.controllers[0] else []

    def _virtualization(self, cntlid: int) -> bool:
        """Whether a controller answers CNS 14h, 15h and Virtualization Management at all."""
        return self.quirks.virtualization_everywhere or (cntlid == self.controllers[0] and bool(self.secondaries))

    def _manage(self, cntlid: int, cdw10: int, count: int) -> Answer:
        action, target = cdw10 & 0xF, cdw10 >> 16
        try:
            resource = Resource(cdw10 >> 8 & 0x7)
        except ValueError:
            return _refused(status.INVALID_RESOURCE_ID)
        if action == VirtualizationAction.PRIMARY_FLEXIBLE:
            return self._assign_primary(cntlid, resource, target, count)
        if action not in _SECONDARY_ACTIONS:
            return _refused(status.INVALID_FIELD)
        if target not in self.secondaries or cntlid != self.controllers[0]:
            return _refused(status.INVALID_CONTROLLER_ID)
        return self._manage_secondary(action, self.secondaries[target], resource, count)

    def _manage_secondary(self, action: int, entry: Secondary, resource: Resource, count: int) -> Answer:
        if action == VirtualizationAction.SECONDARY_ASSIGN:
            return self._assign_secondary(entry, resource, count)
        if action == VirtualizationAction.SECONDARY_OFFLINE:
            self._offline(entry.cntlid)
            return _OK
        if entry.vi < 1 or entry.vq < 2:
            return _refused(status.INVALID_SECONDARY_STATE)
        self.generation += not entry.online
        entry.online = True
        return _OK

    def _free(self, resource: Resource) -> int:
        used = sum(entry.resources(resource) for entry in self.secondaries.values())
        return self.flexible * len(self.secondaries) - used - self.primary_resources[resource]

    def _assign_primary(self, cntlid: int, resource: Resource, target: int, count: int) -> Answer:
        """Takes effect with the next `reset`."""
        if target != cntlid or cntlid != self.controllers[0]:
            return _refused(status.INVALID_CONTROLLER_ID)
        if count > self.flexible * len(self.secondaries):
            return _refused(status.INVALID_RESOURCE_COUNT)
        if count > self._free(resource) + self.primary_resources[resource]:
            return _refused(self.quirks.resources_exhausted)
        self._requested[resource] = count
        self.generation += 1
        return 0, count, b""

    def _assign_secondary(self, entry: Secondary, resource: Resource, count: int) -> Answer:
        if entry.online:
            return _refused(status.INVALID_SECONDARY_STATE)
        if count > self.flexible:
            return _refused(status.INVALID_RESOURCE_COUNT)
        if count - entry.resources(resource) > self._free(resource):
            return _refused(self.quirks.resources_exhausted)
        if resource == Resource.VI:
            entry.vi = count
        else:
            entry.vq = count
        self.generation += 1
        return 0, count, b""

    def _offline(self, cntlid: int) -> None:
        """Take a secondary controller offline; its resources are lost, its attachments stay.

        As in QEMU 7.2 (nvme_ctrl_reset, nvme_ns_drain), it ends what is under way for namespaces still attached.
        """
        if self._writes and self.quirks.offline_drains:
            there = {nsid for nsid in self.namespaces if cntlid in self.attached(nsid)}
            self._land(lambda write: write.cntlid == cntlid and write.nsid in there)
        entry = self.secondaries[cntlid]
        self.generation += entry.online or entry.vq > 0 or entry.vi > 0
        entry.online, entry.vq, entry.vi = False, 0, 0

    def _land(self, which: Callable[[Write], bool]) -> None:
        for write in self._writes:
            if which(write):
                self.landed.append(write)
        self._writes = [write for write in self._writes if not which(write)]

    # Get Log Page

    def _log_page(self, cntlid: int, cdw10: int, cdw11: int, offset: int) -> Answer:
        if cdw10 & 0xFF != LOG_COMMANDS_SUPPORTED:
            return _refused(_INVALID_LOG_PAGE)
        if offset >= PAGE:
            return _refused(status.INVALID_FIELD)
        length = ((cdw10 >> 16 | (cdw11 & 0xFFFF) << 16) + 1) * 4
        page = bytearray(PAGE)
        effects = {GET_LOG_PAGE: _SUPPORTED, IDENTIFY: _SUPPORTED}
        if self.namespace_management:
            effects[NAMESPACE_ATTACHMENT] = _SUPPORTED | _INVENTORY_CHANGE
        if self._virtualization(cntlid):
            effects[VIRTUALIZATION_MANAGEMENT] = _SUPPORTED
        for opcode, value in effects.items():
            struct.pack_into("<I", page, 4 * opcode, value)
        return 0, 0, bytes(page[offset : offset + length])

    # State, for whoever keeps it

    def snapshot(self) -> dict[str, Any]:
        """Return what commands can change, as JSON values: masks of controllers in hexadecimal."""
        return {
            "attached": {str(nsid): f"{mask:x}" for nsid, mask in self._attached.items()},
            "secondaries": {str(s.cntlid): [s.online, s.vq, s.vi] for s in self.secondaries.values()},
            "primary": [[self.primary_resources[r], self._requested[r]] for r in Resource],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back a `snapshot`, whole or in part. Raises ValueError, TypeError, KeyError when it does not fit."""
        for text, hexadecimal in state.get("attached", {}).items():
            self.set_attached(int(text), self._known(int(hexadecimal, 16)))
        for text, (online, vq, vi) in state.get("secondaries", {}).items():
            entry = self.secondaries[int(text)]
            entry.online, entry.vq, entry.vi = bool(online), int(vq), int(vi)
        for resource, (now, requested) in zip(Resource, state.get("primary", ()), strict=False):
            self.primary_resources[resource], self._requested[resource] = int(now), int(requested)
        self.generation += 1

    def _known(self, mask: int) -> Iterator[int]:
        if mask < 0 or mask & ~self._every:
            raise ValueError(f"names controllers that do not exist: {mask:x}")
        return iter(bits(mask))

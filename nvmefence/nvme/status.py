"""NVMe status codes: names, meaning for a person, and whether trying again may help.

Source: NVM Express Base Specification 2.0, section 3.3.3.2.1 (Status Field) and figures 93 to 97; the layout in
a Linux return value is `nvme_req(req)->status` as `NVME_IOCTL_ADMIN_CMD` passes it (SCT<<8|SC, CRD, More, DNR).
"""

from __future__ import annotations

import errno
import os
from typing import Final, NamedTuple

from nvmefence.nvme.transport import NO_ANSWER

CODE_MASK: Final = 0x7FF
DNR: Final = 0x4000

SUCCESS: Final = 0x000
INVALID_OPCODE: Final = 0x001
INVALID_FIELD: Final = 0x002
INVALID_NAMESPACE: Final = 0x00B
NAMESPACE_ALREADY_ATTACHED: Final = 0x118
NAMESPACE_PRIVATE: Final = 0x119
NAMESPACE_NOT_ATTACHED: Final = 0x11A
CONTROLLER_LIST_INVALID: Final = 0x11C
INVALID_CONTROLLER_ID: Final = 0x11F
INVALID_SECONDARY_STATE: Final = 0x120
INVALID_RESOURCE_COUNT: Final = 0x121
INVALID_RESOURCE_ID: Final = 0x122
ATTACH_LIMIT_EXCEEDED: Final = 0x127
HOST_PATH_ERROR: Final = 0x370


class Meaning(NamedTuple):
    """What a status code means."""

    name: str
    """The specification's name."""
    advice: str
    """What an operator does about it; empty where the name says all."""


_MEANINGS: Final[dict[int, Meaning]] = {
    SUCCESS: Meaning("Successful Completion", ""),
    INVALID_OPCODE: Meaning("Invalid Command Opcode", "the drive does not support this command"),
    INVALID_FIELD: Meaning("Invalid Field in Command", "the drive does not support this form of the command"),
    0x003: Meaning("Command ID Conflict", ""),
    0x004: Meaning("Data Transfer Error", "check the PCIe link"),
    0x005: Meaning("Commands Aborted due to Power Loss Notification", "check the drive's power"),
    0x006: Meaning("Internal Error", "the drive failed inside; look at its SMART log"),
    0x007: Meaning("Command Abort Requested", "someone aborted the command; try again"),
    INVALID_NAMESPACE: Meaning("Invalid Namespace or Format", "the namespace is gone"),
    0x00C: Meaning("Command Sequence Error", ""),
    0x015: Meaning("Operation Denied", "the drive refuses; check its lockdown and security state"),
    0x01D: Meaning("Sanitize In Progress", "wait until the sanitize operation is over"),
    0x021: Meaning("Command Interrupted", "try again"),
    0x022: Meaning("Transient Transport Error", "try again; check the PCIe link"),
    0x023: Meaning("Command Prohibited by Command and Feature Lockdown", "lift the lockdown on this drive"),
    0x024: Meaning("Admin Command Media Not Ready", "try again when the drive is ready"),
    0x082: Meaning("Namespace Not Ready", "try again"),
    NAMESPACE_ALREADY_ATTACHED: Meaning("Namespace Already Attached", ""),
    NAMESPACE_PRIVATE: Meaning(
        "Namespace Is Private", "the namespace belongs to one controller for good; it cannot be shared"
    ),
    NAMESPACE_NOT_ATTACHED: Meaning("Namespace Not Attached", ""),
    0x11B: Meaning("Thin Provisioning Not Supported", ""),
    CONTROLLER_LIST_INVALID: Meaning("Controller List Invalid", "check the host map's controller ids"),
    INVALID_CONTROLLER_ID: Meaning("Invalid Controller Identifier", "check the host map's controller ids"),
    INVALID_SECONDARY_STATE: Meaning("Invalid Secondary Controller State", ""),
    INVALID_RESOURCE_COUNT: Meaning("Invalid Number of Controller Resources", ""),
    INVALID_RESOURCE_ID: Meaning("Invalid Resource Identifier", ""),
    ATTACH_LIMIT_EXCEEDED: Meaning("Namespace Attachment Limit Exceeded", ""),
    HOST_PATH_ERROR: Meaning(
        "Internal Path Error", "the controller is not live, the kernel never sent the command"
    ),
    0x371: Meaning("Controller Pathing Error", "the path to the controller failed"),
    0x372: Meaning("Host Pathing Error", "the host's own path failed"),
    0x373: Meaning("Command Aborted By Host", "the kernel aborted the command; try again"),
}

_TYPES: Final = {
    0: "Generic Command Status",
    1: "Command Specific Status",
    2: "Media and Data Integrity Error",
    3: "Path Related Status",
    7: "Vendor Specific Status",
}

# Linux sets no DNR bit for these although a second try cannot help.
_NEVER_RETRY: Final = frozenset({INVALID_OPCODE, INVALID_FIELD, NAMESPACE_PRIVATE})
_ERRNO_RETRY: Final = frozenset({errno.EINTR, errno.EAGAIN, errno.EBUSY, errno.ENOMEM})


def code(status: int) -> int:
    """Return SCT<<8|SC of a positive status, 0 for success; negative values (-errno) come back unchanged."""
    return status if status < 0 else status & CODE_MASK


def describe(status: int) -> str:
    """Return a status in words, e.g. "Namespace Not Attached (11Ah)" or "no answer"."""
    if status == NO_ANSWER:
        return "no answer"
    if status < 0:
        name = errno.errorcode.get(-status, str(-status))
        if status == -errno.EINTR:
            return "EINTR: cancelled by a controller reset or the kernel's timeout, outcome unknown"
        return f"{name}: {os.strerror(-status)}"
    number = code(status)
    meaning = _MEANINGS.get(number)
    if meaning is None:
        kind = _TYPES.get(number >> 8, f"status type {number >> 8}")
        return f"{kind} {number & 0xFF:02X}h ({number:03X}h)"
    return f"{meaning.name} ({number:03X}h)" if number else meaning.name


def advice(status: int) -> str:
    """Return what an operator can do about a status; empty when there is nothing to add to its name."""
    if status == NO_ANSWER:
        return "the drive is hung or very slow; power it off or pull it if the host must be stopped now"
    if status < 0:
        return {
            errno.EACCES: "run as root",
            errno.EPERM: "run as root (CAP_SYS_ADMIN is needed)",
            errno.ENODEV: "the drive was removed",
        }.get(-status, "")
    meaning = _MEANINGS.get(code(status))
    return meaning.advice if meaning else ""


def may_retry(status: int) -> bool:
    """Whether the same command may succeed later: DNR clear, and not a code that is final by its meaning."""
    if status < 0:
        return -status in _ERRNO_RETRY
    if status & DNR or code(status) == SUCCESS:
        return False
    return code(status) not in _NEVER_RETRY


def retry_delay_index(status: int) -> int:
    """Return CRD, bits 12:11: which Command Retry Delay Time of Identify Controller applies, 0 for none."""
    return (status >> 11) & 0x3 if status > 0 else 0

"""The NVMe drives that this machine reaches, grouped by subsystem, with this machine's controllers on each."""

from __future__ import annotations

import ctypes.util
import os
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from nvmefence.nvme.structures import printable

_CONTROLLER_NAME: Final = re.compile(r"nvme\d+\Z")
_NO_CNTLID: Final = 0xFFFF
_SONAMES: Final = {"udev": "libudev.so.1", "libc": "libc.so.6"}


@dataclass(frozen=True, slots=True)
class LocalController:
    """A controller that this machine's kernel drives (`struct nvme_ctrl`, attributes in /sys/class/nvme)."""

    name: str
    """Kernel name such as "nvme3"; changes from boot to boot."""
    path: str
    """Character device, such as "/dev/nvme3"."""
    cntlid: int
    address: str
    """PCI address, or a fabrics address; empty when unknown."""
    state: str
    """"live", "resetting", "connecting", "dead" and so on; "live" is no proof that it answers."""
    virtual_function: bool


@dataclass(frozen=True, slots=True)
class Drive:
    """An NVM subsystem as this machine sees it."""

    nqn: str
    serial: str
    model: str
    firmware: str
    controllers: tuple[LocalController, ...]
    """This machine's views of it, ordered by controller id."""

    @property
    def key(self) -> tuple[str, str]:
        """Identity: subsystem NQN and serial number."""
        return self.nqn, self.serial


def group(found: Iterable[tuple[str, str, str, str, LocalController]]) -> list[Drive]:
    """Group (nqn, serial, model, firmware, controller) by subsystem, ordered by serial number."""
    drives: dict[tuple[str, str], Drive] = {}
    for nqn, serial, model, firmware, controller in found:
        known = drives.get((nqn, serial))
        controllers = (*known.controllers, controller) if known else (controller,)
        ordered = tuple(sorted(controllers, key=lambda c: c.cntlid))
        drives[nqn, serial] = Drive(nqn, serial, model, firmware, ordered)
    return sorted(drives.values(), key=lambda drive: (drive.serial, drive.nqn))


def pyudev() -> Any:
    """Import pyudev without the process that `ctypes.util.find_library` starts (ldconfig -p, then gcc).

    A host whose storage is failing may not be able to start one, and the two libraries have had these names
    for more than a decade; any other name, and a later call, goes the usual way.
    """
    usual = ctypes.util.find_library
    ctypes.util.find_library = lambda name: _SONAMES.get(name) or usual(name)
    try:
        import pyudev as module
    finally:
        ctypes.util.find_library = usual
    return module


class Discovery:
    """Finds drives. What it needs is loaded when it is made, so that a call on the fence path loads nothing.

    Threads may call it side by side: each has a context of its own, as libudev wants it.
    """

    def __init__(self) -> None:
        self._pyudev = pyudev()
        self._threads = threading.local()
        self._context()

    def __call__(self) -> list[Drive]:
        """Find all drives through pyudev's enumeration of sysfs, anew at each call; works without udevd.

        A controller that has not yet told its id (not live since it was added) is left out: nothing can be
        sent through it, and the expected drives are counted elsewhere.
        """
        return group(_enumerate(self._context()))

    def _context(self) -> Any:
        """Return this thread's context."""
        found = getattr(self._threads, "context", None)
        if found is None:
            found = self._threads.context = self._pyudev.Context()
        return found


def _enumerate(context: Any) -> Iterator[tuple[str, str, str, str, LocalController]]:
    for device in context.list_devices(subsystem="nvme"):
        if not _CONTROLLER_NAME.match(device.sys_name):
            continue
        attributes = {
            name: printable((device.attributes.get(name) or b"").strip(b" \0\n"))
            for name in ("cntlid", "subsysnqn", "serial", "model", "firmware_rev", "address", "state")
        }
        cntlid = int(attributes["cntlid"]) if attributes["cntlid"].isdigit() else _NO_CNTLID
        if cntlid == _NO_CNTLID:
            continue
        controller = LocalController(
            name=device.sys_name,
            path=device.device_node or f"/dev/{device.sys_name}",
            cntlid=cntlid,
            address=attributes["address"],
            state=attributes["state"],
            virtual_function=os.path.exists(f"{device.sys_path}/device/physfn"),
        )
        yield (
            attributes["subsysnqn"],
            attributes["serial"],
            attributes["model"],
            attributes["firmware_rev"],
            controller,
        )

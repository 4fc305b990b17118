"""Reads and changes attachments by plain ioctl: the laboratory's own view, apart from the product."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys/class/nvme")
ADMIN_CMD = 0xC0484E41
"""NVME_IOCTL_ADMIN_CMD (linux/nvme_ioctl.h)."""
_COMMAND = struct.Struct("<BBHIIIQQIIIIIIIIII")
_SECONDARY = struct.Struct("<HHBxxxHHH18x")
_PER_LIST = 127
"""Entries of a Secondary Controller List."""
_PER_PAGE = 1024
"""Entries of a namespace list."""
_IDS = 2047
"""Entries of a Controller List."""


class NvmeError(OSError):
    """A command that the controller refused; `status` is what Linux returned without More and DNR."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(errno.EIO, f"{what}: NVMe status {status:03x}h")
        self.status = status


@dataclass(frozen=True)
class Secondary:
    """One entry of the Secondary Controller List (CNS 15h)."""

    cntlid: int
    primary: int
    online: bool
    function: int
    queues: int
    interrupts: int


@dataclass(frozen=True)
class Controller:
    """One controller that this kernel drives."""

    name: str
    serial: str
    nqn: str
    cntlid: int
    address: str
    state: str
    function: int
    """Virtual function number, 0 for a physical function."""

    @property
    def path(self) -> Path:
        """The character device."""
        return Path("/dev") / self.name


@dataclass(frozen=True)
class Drive:
    """One NVMe subsystem and the controllers of it that this kernel drives."""

    serial: str
    nqn: str
    controllers: tuple[Controller, ...]
    """Ascending controller ids; the first is the physical function."""

    @property
    def primary(self) -> Controller:
        """The physical function, or the first controller where there are only ports."""
        return self.controllers[0]

    def function(self, number: int) -> Controller:
        """Return the controller of a virtual function bound here. Raises LookupError."""
        for controller in self.controllers:
            if controller.function == number:
                return controller
        raise LookupError(f"VF {number} of {self.serial} has no driver here")


class Device:
    """An open controller character device."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the device."""
        os.close(self._fd)

    def submit(
        self, opcode: int, nsid: int = 0, *, cdw10: int = 0, cdw11: int = 0, data: bytes = b"", read: int = 0
    ) -> tuple[int, bytes]:
        """Send one admin command; return its status (0: success) and what was read. Raises OSError."""
        size = max(len(data), read)
        buffer = ctypes.create_string_buffer(bytes(data).ljust(size, b"\xff"), size) if size else None
        address = ctypes.addressof(buffer) if buffer is not None else 0
        command = bytearray(
            _COMMAND.pack(opcode, 0, 0, nsid, 0, 0, 0, address, 0, size, cdw10, cdw11, 0, 0, 0, 0, 0, 0)
        )
        status = fcntl.ioctl(self._fd, ADMIN_CMD, command)
        return status & 0x7FF, buffer.raw if buffer is not None and read else b""

    def identify(self, cns: int, nsid: int = 0, cntid: int = 0) -> bytes:
        """Return the 4096 bytes of an Identify data structure. Raises NvmeError, OSError."""
        status, data = self.submit(0x06, nsid, cdw10=cntid << 16 | cns, read=4096)
        if status:
            raise NvmeError(status, f"{self.path}: Identify CNS {cns:02x}h")
        return data

    def cntlid(self) -> int:
        """Return this controller's id (Identify Controller)."""
        return int.from_bytes(self.identify(0x01)[78:80], "little")

    def namespaces(self) -> list[int]:
        """Return the allocated namespaces of the subsystem (CNS 10h)."""
        return self._namespace_list(0x10)

    def active(self) -> list[int]:
        """Return the namespaces attached to this controller (CNS 02h)."""
        return self._namespace_list(0x02)

    def _namespace_list(self, cns: int) -> list[int]:
        found: list[int] = []
        while True:
            page = [n for n in struct.unpack("<1024I", self.identify(cns, found[-1] if found else 0)) if n]
            found += page
            if len(page) < _PER_PAGE:
                return found

    def attached(self, nsid: int) -> list[int]:
        """Return the controllers attached to a namespace (CNS 12h)."""
        return self._controller_list(0x12, nsid)

    def controllers(self) -> list[int]:
        """Return the controllers of the subsystem (CNS 13h)."""
        return self._controller_list(0x13)

    def _controller_list(self, cns: int, nsid: int = 0) -> list[int]:
        found: list[int] = []
        while True:
            data = self.identify(cns, nsid, found[-1] + 1 if found else 0)
            count = int.from_bytes(data[:2], "little")
            if count > _IDS:
                raise NvmeError(0, f"{self.path}: Controller List of {count} entries")
            found += struct.unpack_from(f"<{count}H", data, 2)
            if count < _IDS:
                return found

    def secondaries(self) -> list[Secondary]:
        """Return the Secondary Controller List (CNS 15h)."""
        found: list[Secondary] = []
        while True:
            data = self.identify(0x15, cntid=found[-1].cntlid + 1 if found else 0)
            count = data[0]
            if count > _PER_LIST:
                raise NvmeError(0, f"{self.path}: Secondary Controller List of {count} entries")
            for scid, pcid, state, vfn, nvq, nvi in _SECONDARY.iter_unpack(data[32 : 32 + 32 * count]):
                found.append(Secondary(scid, pcid, bool(state & 1), vfn, nvq, nvi))
            if count < _PER_LIST:
                return found

    def attachments(self) -> dict[int, frozenset[int]]:
        """Return the controllers attached to each allocated namespace."""
        return {nsid: frozenset(self.attached(nsid)) for nsid in self.namespaces()}

    def attach(self, nsid: int, controllers: Iterable[int]) -> None:
        """Attach a namespace (Namespace Attachment, SEL 0). Raises NvmeError."""
        self._attachment(nsid, controllers, 0)

    def detach(self, nsid: int, controllers: Iterable[int]) -> None:
        """Detach a namespace (Namespace Attachment, SEL 1). Raises NvmeError."""
        self._attachment(nsid, controllers, 1)

    def _attachment(self, nsid: int, controllers: Iterable[int], select: int) -> None:
        ids = sorted(set(controllers))
        data = struct.pack(f"<H{len(ids)}H", len(ids), *ids).ljust(4096, b"\0")
        status, _ = self.submit(0x15, nsid, cdw10=select, data=data)
        if status:
            verb = "detach" if select else "attach"
            raise NvmeError(status, f"{self.path}: {verb} namespace {nsid}, controllers {ids}")

    def assign(self, cntlid: int, queues: int = 2, interrupts: int = 2) -> None:
        """Give a secondary controller, which is offline, its resources (1Ch, ACT 8). Raises NvmeError."""
        self._virtualization(8, cntlid, 0, queues)
        self._virtualization(8, cntlid, 1, interrupts)

    def online(self, cntlid: int) -> None:
        """Set a secondary controller online (1Ch, ACT 9). Raises NvmeError."""
        self._virtualization(9, cntlid)

    def offline(self, cntlid: int) -> None:
        """Set a secondary controller offline (1Ch, ACT 7); its resources are lost. Raises NvmeError."""
        self._virtualization(7, cntlid)

    def _virtualization(self, action: int, cntlid: int, resource: int = 0, count: int = 0) -> None:
        status, _ = self.submit(0x1C, cdw10=cntlid << 16 | resource << 8 | action, cdw11=count)
        if status:
            raise NvmeError(status, f"{self.path}: Virtualization Management {action}, controller {cntlid}")


def controllers() -> list[Controller]:
    """Return the PCI controllers that this kernel drives, in any state, by name."""
    return sorted(_controllers(), key=lambda controller: int(controller.name.removeprefix("nvme")))


def _controllers() -> Iterator[Controller]:
    for folder in SYSFS.glob("nvme*") if SYSFS.is_dir() else ():
        if not re.fullmatch(r"nvme\d+", folder.name):
            continue
        try:
            device = (folder / "device").resolve(strict=True)
            yield Controller(
                name=folder.name,
                serial=_text(folder / "serial"),
                nqn=_text(folder / "subsysnqn"),
                cntlid=int(_text(folder / "cntlid")),
                address=device.name,
                state=_text(folder / "state"),
                function=function_number(device),
            )
        except (OSError, ValueError):
            continue  # going away, or not yet identified


def _text(path: Path) -> str:
    return path.read_text().strip()


def function_number(device: Path) -> int:
    """Return the virtual function number of a PCI device in sysfs, 0 for a physical function."""
    physical = device / "physfn"
    if not physical.exists():
        return 0
    for link in physical.resolve().glob("virtfn*"):
        if link.resolve() == device.resolve():
            return int(link.name.removeprefix("virtfn")) + 1
    raise OSError(errno.ENODEV, f"{device} is in no virtfn list")


def drives() -> list[Drive]:
    """Return the drives, ascending by serial number."""
    groups: dict[tuple[str, str], list[Controller]] = {}
    for controller in controllers():
        groups.setdefault((controller.serial, controller.nqn), []).append(controller)
    return [
        Drive(serial, nqn, tuple(sorted(group, key=lambda c: (c.function, c.cntlid))))
        for (serial, nqn), group in sorted(groups.items())
    ]


def blocks(controller: Controller) -> dict[int, Path]:
    """Return the block devices of one controller by namespace id (with nvme_core.multipath=N)."""
    return _blocks(controller.name)


def blocks_at(address: str) -> dict[int, Path]:
    """Return the block devices of the controller at a PCI address, whatever its name is now."""
    folder = Path("/sys/bus/pci/devices") / address / "nvme"
    names = [found.name for found in folder.iterdir()] if folder.is_dir() else []
    return _blocks(names[0]) if names else {}


def _blocks(name: str) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for folder in (SYSFS / name).glob(f"{name}n*"):
        try:
            found[int(_text(folder / "nsid"))] = Path("/dev") / folder.name
        except (OSError, ValueError):
            continue
    return found


def main() -> int:
    """Print what each drive says of itself."""
    for drive in drives():
        with Device(drive.primary.path) as device:
            print(f"{drive.serial} {drive.nqn} {' '.join(c.name for c in drive.controllers)}")
            for nsid, ids in device.attachments().items():
                print(f"  namespace {nsid}: controllers {sorted(ids)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

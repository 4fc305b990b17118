"""What an emulated Rabbit consists of, and the QEMU arguments that make it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_NSID = 256
"""Largest namespace id QEMU knows (hw/nvme/nvme.h, NVME_MAX_NAMESPACES)."""
EUI64 = 0x525400_0000000000
"""QEMU gives a namespace no identity of its own; real drives do. Drive and namespace id are added."""
PORTS_PER_SLOT = 8
FIRST_SLOT = 0x10
SLOTS = 8


class Kind(enum.StrEnum):
    """How hosts reach a drive."""

    SRIOV = "sriov"
    """One controller per drive with secondary controllers (virtual functions), as on a Rabbit."""
    PORTS = "ports"
    """Several plain controllers per drive, as on dual-port drives and JBOFs."""


class Medium(enum.StrEnum):
    """What holds the namespaces' data."""

    NULL = "null"
    """Nothing: writes vanish, reads give zeroes. The quickest."""
    FILE = "file"
    """Raw sparse files in the run's folder, readable from the host while the guest runs."""


class ShapeError(ValueError):
    """A shape that cannot be built; the text says which option to change."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """An emulated Rabbit. Drives are numbered from 0, virtual functions and namespaces from 1."""

    drives: int = 2
    kind: Kind = Kind.SRIOV
    secondaries: int = 5
    """Secondary controllers of each drive (`Kind.SRIOV`)."""
    controllers: int = 2
    """Controllers of each drive (`Kind.PORTS`)."""
    namespaces: int = 3
    """Shared namespaces of each drive; their ids are 1 to this."""
    ladder: tuple[int, ...] = ()
    """Shared namespaces of drive 0, 1, …, where they differ; `namespaces` is the largest."""
    first_nsid: int = 1
    """The lowest namespace id."""
    private: bool = False
    """One more namespace on each drive, not shared, attached to the first controller; its id is the last."""
    detached: bool = False
    """Shared namespaces start attached to no controller."""
    attached: tuple[int, ...] | None = None
    """Only these virtual functions (`Kind.PORTS`: controllers), with 0 for the first controller, have the
    shared namespaces. None: as QEMU leaves it, all controllers."""
    bound: tuple[int, ...] = ()
    """Virtual functions, on every drive, that are bound to the nvme driver: each a compute's view."""
    throttled: tuple[int, ...] = ()
    """Drives with a slow medium."""
    throttle_bps: int = 12000
    """Bytes per second written to a slow medium."""
    medium: Medium = Medium.NULL
    size_mib: int = 64
    """Size of each namespace."""
    multipath: bool = False
    """The guest's nvme_core.multipath."""
    io_timeout: int = 30
    """The guest's nvme_core.io_timeout: seconds after which its driver gives a command up."""
    memory_mib: int = 0
    """The guest's memory; 0 for as much as the shape needs."""

    def __post_init__(self) -> None:
        for name, low, high in _LIMITS:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ShapeError(f"{name} is {value}, it must be {low} to {high}")
        self._check_ladder()
        if self.last_nsid > MAX_NSID:
            raise ShapeError(f"namespace ids go up to {self.last_nsid}, QEMU knows {MAX_NSID}")
        for drive in self.throttled:
            if not 0 <= drive < self.drives:
                raise ShapeError(f"throttled drive {drive} does not exist, drives are 0 to {self.drives - 1}")
        if self.bound and self.kind is not Kind.SRIOV:
            raise ShapeError("bound is for virtual functions; with ports, every controller is bound")
        for function in self.bound:
            if not 1 <= function <= self.secondaries:
                raise ShapeError(f"bound VF {function} does not exist, VFs are 1 to {self.secondaries}")
        last = self.secondaries if self.kind is Kind.SRIOV else self.controllers - 1
        for controller in self.attached or ():
            if not 0 <= controller <= last:
                raise ShapeError(f"attached controller {controller} does not exist, they are 0 to {last}")
        if self.detached and self.attached is not None:
            raise ShapeError("detached and attached exclude each other")
        if self.root_ports > PORTS_PER_SLOT * SLOTS:
            raise ShapeError(f"{self.root_ports} PCI functions, the lab has {PORTS_PER_SLOT * SLOTS}")

    def _check_ladder(self) -> None:
        if self.ladder and (len(self.ladder) != self.drives or max(self.ladder) != self.namespaces):
            raise ShapeError(
                f"ladder has {len(self.ladder)} steps up to {max(self.ladder)}, "
                f"it must have {self.drives} up to {self.namespaces}"
            )

    @property
    def last_nsid(self) -> int:
        """The highest namespace id of each drive."""
        return self.first_nsid + self.namespaces - 1 + self.private

    def nsids(self, drive: int) -> range:
        """Return the namespace ids of a drive."""
        shared = self.ladder[drive] if self.ladder else self.namespaces
        return range(self.first_nsid, self.first_nsid + shared + self.private)

    @property
    def live(self) -> int:
        """Controllers that the guest's kernel drives before any virtual function is bound."""
        return self.drives if self.kind is Kind.SRIOV else self.drives * self.controllers

    @property
    def root_ports(self) -> int:
        """PCI Express root ports, one for each function that QEMU is told of."""
        return self.live

    @property
    def memory(self) -> int:
        """The guest's memory in MiB."""
        return self.memory_mib or 1024 + 48 * self.live + 4 * len(self.bound) * self.drives

    def serial(self, drive: int) -> str:
        """Return the serial number of a drive."""
        return f"RABBIT{drive:02d}"

    def describe(self) -> str:
        """Return the shape in a few words."""
        per = f"{self.secondaries} VFs" if self.kind is Kind.SRIOV else f"{self.controllers} controllers"
        namespaces = ", ".join(map(str, self.ladder)) or str(self.namespaces)
        return f"{self.drives} drives x {per} x {namespaces} namespaces"

    def as_json(self) -> dict[str, Any]:
        """Return the fields, for `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Shape:
        """Return the shape that `as_json` was called on."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**{**values, "kind": Kind(values["kind"]), "medium": Medium(values["medium"])})


_LIMITS = (
    ("drives", 1, 18),
    ("secondaries", 0, 17),
    ("controllers", 1, 8),
    ("namespaces", 0, MAX_NSID),
    ("first_nsid", 1, MAX_NSID),
    ("throttle_bps", 512, 1 << 40),
    ("size_mib", 1, 1 << 20),
    ("memory_mib", 0, 1 << 20),
    ("io_timeout", 1, 255),
)


def images(shape: Shape, folder: Path) -> dict[tuple[int, int], Path]:
    """Return the image file of each (drive, namespace id); empty for a shape without files."""
    if shape.medium is not Medium.FILE:
        return {}
    return {
        (drive, nsid): folder / f"drive{drive:02d}-ns{nsid:03d}.img"
        for drive in range(shape.drives)
        for nsid in shape.nsids(drive)
    }


def qemu_arguments(shape: Shape, folder: Path) -> list[str]:
    """Return the QEMU arguments that make `shape`, its image files being in `folder`."""
    arguments: list[str] = []
    files = images(shape, folder)
    port = iter(range(shape.root_ports))
    for drive in range(shape.drives):
        arguments += ["-device", f"nvme-subsys,id=s{drive},nqn=rabbit-drive-{drive:02d}"]
        for name, options in _controllers(shape, drive):
            arguments += _root_port(next(port), f"rp-{name}")
            arguments += ["-device", f"nvme,id={name},bus=rp-{name},subsys=s{drive},{options}"]
        for nsid in shape.nsids(drive):
            arguments += _namespace(shape, drive, nsid, files.get((drive, nsid)))
    return arguments


def _controllers(shape: Shape, drive: int) -> Iterator[tuple[str, str]]:
    serial = f"serial={shape.serial(drive)}"
    if shape.kind is Kind.PORTS:
        for controller in range(shape.controllers):
            yield f"c{drive}-{controller}", serial
    elif shape.secondaries:
        pool = 2 * shape.secondaries
        yield (
            f"c{drive}-0",
            f"{serial},sriov_max_vfs={shape.secondaries},sriov_vq_flexible={pool},sriov_vi_flexible={pool},"
            f"max_ioqpairs={pool + 2},msix_qsize={pool + 2}",
        )
    else:
        yield f"c{drive}-0", serial


def _root_port(index: int, name: str) -> list[str]:
    slot, function = divmod(index, PORTS_PER_SLOT)
    return [
        "-device",
        f"pcie-root-port,id={name},bus=pcie.0,addr={FIRST_SLOT + slot:#x}.{function},multifunction=on,"
        f"slot={index},chassis=1,io-reserve=0",
    ]


def _namespace(shape: Shape, drive: int, nsid: int, file: Path | None) -> list[str]:
    name = f"d{drive}n{nsid}"
    if file is None:
        backing = f"driver=null-co,size={shape.size_mib}M,read-zeroes=on,if=none,id={name}"
    else:
        # QEMU's option parser takes a doubled comma for a comma.
        backing = f"file={str(file).replace(',', ',,')},format=raw,if=none,id={name}"
    if drive in shape.throttled:
        backing += f",throttling.bps-write={shape.throttle_bps}"
    private = shape.private and nsid == shape.nsids(drive)[-1]
    options = "shared=off" if private else f"shared=on,detached={'on' if shape.detached else 'off'}"
    options += f",eui64={EUI64 + (drive << 16) + nsid}"
    return ["-drive", backing, "-device", f"nvme-ns,drive={name},bus=c{drive}-0,nsid={nsid},{options}"]


SHAPES: Mapping[str, Shape] = {
    "small": Shape(drives=3, secondaries=5, namespaces=3, bound=(2, 3), private=True),
    "rabbit": Shape(drives=18, secondaries=17, namespaces=4),
    "ports": Shape(drives=2, kind=Kind.PORTS, controllers=3, namespaces=2),
    "wide": Shape(drives=1, secondaries=2, namespaces=64),
    "slow": Shape(
        drives=2, secondaries=3, namespaces=2, bound=(1, 2), throttled=(0,), medium=Medium.FILE, size_mib=16
    ),
    "drains": Shape(
        drives=10,
        secondaries=3,
        namespaces=2,
        bound=(2,),
        throttled=tuple(range(10)),
        throttle_bps=48000,
        medium=Medium.FILE,
        size_mib=16,
        io_timeout=4,
    ),
    "gfs2": Shape(
        drives=1,
        secondaries=3,
        namespaces=2,
        bound=(2,),
        medium=Medium.FILE,
        size_mib=128,
        io_timeout=4,
        memory_mib=1792,
    ),
    "own-vf": Shape(drives=2, secondaries=4, namespaces=2, bound=(1, 3)),
    "ladder": Shape(
        drives=8, secondaries=17, namespaces=128, ladder=tuple(1 << n for n in range(8)), memory_mib=2560
    ),
    "sriov": Shape(),
    "chaos": Shape(drives=4, secondaries=9, namespaces=3, private=True),
    "cluster": Shape(drives=3, secondaries=4, namespaces=2, memory_mib=1536),
}
"""Shapes by name, for `--shape` and for the `shape` mark of guest tests."""

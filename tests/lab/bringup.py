"""Brings the emulated Rabbit up inside the guest, and back to its first state between tests."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tests.lab import faults, observer
from tests.lab.shape import Kind, Shape

PCI_DEVICES = faults.PCI / "devices"
NVME_CLASS = "0x010802"
Attachments = Mapping[str, Mapping[int, frozenset[int]]]
"""By serial number, by namespace id, the controllers."""
T = TypeVar("T")
R = TypeVar("R")


def each(call: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return `call(item)` of all items, side by side, so that the kernel's rescans coalesce."""
    todo = list(items)
    if not todo:
        return []
    with ThreadPoolExecutor(max_workers=min(len(todo), 64)) as pool:
        return list(pool.map(call, todo))


def bring_up(shape: Shape) -> dict[str, float]:
    """Load the driver, wait for the drives and set virtual functions up; return each step's seconds."""
    steps: dict[str, float] = {}
    started = time.monotonic()

    def mark(step: str) -> None:
        nonlocal started
        now = time.monotonic()
        steps[step] = round(now - started, 3)
        started = now

    subprocess.run(["modprobe", "nvme"], check=True, timeout=60)
    faults.wait_for(f"{shape.live} live controllers", lambda: len(_live()) >= shape.live, 120)
    mark("live")
    if shape.kind is Kind.SRIOV and shape.secondaries:
        each(lambda drive: online_secondaries(drive, shape.secondaries), observer.drives())
        mark("secondaries")
    bind_views(shape)
    mark("bound")
    if shape.attached is not None:
        restore({drive.serial: asked(drive, shape) for drive in observer.drives()})
    mark("attached")
    return steps


def _live() -> list[observer.Controller]:
    return [controller for controller in observer.controllers() if controller.state == "live"]


def online_secondaries(drive: observer.Drive, count: int) -> None:
    """Enable the virtual functions of a drive that has none yet, and set their controllers online."""
    sysfs = PCI_DEVICES / drive.primary.address
    with observer.Device(drive.primary.path) as device:
        for secondary in device.secondaries():
            device.assign(secondary.cntlid)
        if (sysfs / "sriov_numvfs").read_text().strip() == "0":
            faults.write(sysfs / "sriov_drivers_autoprobe", "0")
            faults.write(sysfs / "sriov_numvfs", str(count))
        for secondary in device.secondaries():
            device.online(secondary.cntlid)


def function_address(drive: observer.Drive, function: int) -> str:
    """Return the PCI address of a virtual function, bound or not."""
    return (PCI_DEVICES / drive.primary.address / f"virtfn{function - 1}").resolve(strict=True).name


def bind_views(shape: Shape) -> None:
    """Bind the shape's virtual functions that have no driver, and wait until all are live."""
    missing = [
        address
        for drive in observer.drives()
        for function in shape.bound
        if not (PCI_DEVICES / (address := function_address(drive, function)) / "driver").exists()
    ]
    each(faults.bind, missing)
    expected = shape.live + shape.drives * len(shape.bound)
    faults.wait_for(f"{expected} live controllers", lambda: len(_live()) >= expected, 120)


def asked(drive: observer.Drive, shape: Shape) -> dict[int, frozenset[int]]:
    """Return the attachments that `Shape.attached` asks for."""
    with observer.Device(drive.primary.path) as device:
        ids = {s.function: s.cntlid for s in device.secondaries()} if shape.kind is Kind.SRIOV else {}
        ids |= {index: c.cntlid for index, c in enumerate(drive.controllers) if c.function == 0}
        shared = range(shape.first_nsid, shape.first_nsid + shape.namespaces)
        wanted = frozenset(ids[number] for number in shape.attached or ())
        return {nsid: wanted if nsid in shared else now for nsid, now in device.attachments().items()}


def survey() -> dict[str, dict[int, frozenset[int]]]:
    """Return what is attached on all drives."""

    def attachments(drive: observer.Drive) -> dict[int, frozenset[int]]:
        with observer.Device(drive.primary.path) as device:
            return device.attachments()

    found = observer.drives()
    return dict(zip((drive.serial for drive in found), each(attachments, found), strict=True))


def restore(wanted: Attachments) -> int:
    """Repair the attachments that differ from `wanted`; return how many namespaces did."""
    differing = []
    now = survey()
    paths = {drive.serial: drive.primary.path for drive in observer.drives()}
    for serial, namespaces in wanted.items():
        for nsid, ids in namespaces.items():
            if now[serial][nsid] != ids:
                differing.append((paths[serial], nsid, ids - now[serial][nsid], now[serial][nsid] - ids))
    each(_repair, differing)
    if differing:
        _rescan_views(paths.keys())
    return len(differing)


def _repair(work: tuple[Path, int, frozenset[int], frozenset[int]]) -> None:
    path, nsid, missing, surplus = work
    with observer.Device(path) as device:
        if missing:
            device.attach(nsid, missing)
        if surplus:
            device.detach(nsid, surplus)


def _rescan_views(serials: Iterable[str]) -> None:
    """Have all controllers look for namespaces: QEMU raises no second change event for one never read."""
    known = set(serials)
    every = [c for c in observer.controllers() if c.serial in known and c.state == "live"]
    each(lambda c: faults.write(observer.SYSFS / c.name / "rescan_controller", "1"), every)


def physical_functions() -> list[Path]:
    """Return the NVMe controllers on the PCI bus that are no virtual functions, with a driver or without."""
    return [
        folder
        for folder in sorted(PCI_DEVICES.iterdir())
        if (folder / "class").read_text().strip() == NVME_CLASS and not (folder / "physfn").exists()
    ]


def heal(shape: Shape, wanted: Attachments) -> None:
    """Bring everything back that a test removed, unbound, set offline or detached."""
    if len(physical_functions()) < shape.live:
        faults.rescan()
    each(faults.bind, [f.name for f in physical_functions() if not (f / "driver").exists()])
    if len(_live()) < shape.live:
        faults.wait_for(f"{shape.live} live controllers", lambda: len(_live()) >= shape.live, 120)
    if shape.kind is Kind.SRIOV and shape.secondaries:
        each(lambda drive: _heal_secondaries(drive, shape), observer.drives())
    bind_views(shape)
    restore(wanted)


def _heal_secondaries(drive: observer.Drive, shape: Shape) -> None:
    if (PCI_DEVICES / drive.primary.address / "sriov_numvfs").read_text().strip() == "0":
        online_secondaries(drive, shape.secondaries)
        return
    with observer.Device(drive.primary.path) as device:
        offline = [s for s in device.secondaries() if not s.online]
    for secondary in offline:
        bound = [c for c in drive.controllers if c.cntlid == secondary.cntlid]
        if bound:
            faults.revive(drive, bound[0])
            continue
        with observer.Device(drive.primary.path) as device:
            device.assign(secondary.cntlid)
            device.online(secondary.cntlid)

"""Makes real faults, in the guest: surprise removal, unbinding, a controller that never answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.lab import observer

PCI = Path("/sys/bus/pci")
NVME_DRIVER = PCI / "drivers" / "nvme"
T = TypeVar("T")


class StuckError(TimeoutError):
    """Something that did not return in its time; the thread that waits for it is left behind."""


def within(seconds: float, what: str, call: Callable[[], T]) -> T:
    """Return `call()`, run in its own thread. Raises StuckError after `seconds`, else what `call` raises."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # handed to the caller
            errors.append(error)

    thread = threading.Thread(target=work, name=what, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise StuckError(f"{what} did not return in {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]


def wait_for(what: str, condition: Callable[[], T | None], seconds: float = 60) -> T:
    """Return the first true value of `condition`. Raises StuckError after `seconds`."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > until:
            raise StuckError(f"{what}: not so after {seconds:g} s")
        time.sleep(0.02)
    return value


def write(path: Path, text: str, seconds: float = 30) -> None:
    """Write to a sysfs attribute. Raises StuckError, OSError."""
    within(seconds, f"write to {path}", lambda: path.write_text(text))


def pull(address: str, seconds: float = 30) -> None:
    """Remove all functions behind a device's slot, as when it is pulled out; `rescan` finds them again.

    The slot's root port is removed. Removing a physical function alone leaves its virtual functions behind as
    orphans without `physfn`, which no hot-unplug does.
    """
    port = (PCI / "devices" / address).resolve(strict=True).parent.name
    write(PCI / "devices" / port / "remove", "1", seconds)


def rescan(seconds: float = 30) -> None:
    """Find PCI devices again that were removed."""
    write(PCI / "rescan", "1", seconds)


def unbind(address: str, seconds: float = 30) -> None:
    """Take a PCI device from the nvme driver."""
    write(NVME_DRIVER / "unbind", address, seconds)


def bind(address: str, seconds: float = 30) -> None:
    """Give a PCI device, virtual functions too, to the nvme driver."""
    physical = PCI / "devices" / address / "physfn"
    if physical.exists():
        # The kernel refuses to probe a virtual function, even by hand, while this is 0.
        write(physical / "sriov_drivers_autoprobe", "1", seconds)
    write(NVME_DRIVER / "bind", address, seconds)


def function_reset(address: str, seconds: float = 30) -> None:
    """Do a function-level reset, as a rebooting host does."""
    write(PCI / "devices" / address / "reset", "1", seconds)


def hang(drive: observer.Drive, function: int) -> observer.Controller:
    """Make `/dev/nvmeX` of a bound virtual function a drive that never answers; return that controller.

    The function goes offline behind its driver's back: sysfs still says live, and every command sent
    through it waits for the kernel's own timeout.
    """
    controller = drive.function(function)
    with observer.Device(drive.primary.path) as device:
        device.offline(controller.cntlid)
    return controller


def revive(drive: observer.Drive, controller: observer.Controller) -> None:
    """Undo `hang`: resources and online again, then what a rebooted host does to its function."""
    with observer.Device(drive.primary.path) as device:
        device.assign(controller.cntlid)
        device.online(controller.cntlid)
    driver = PCI / "devices" / controller.address / "driver"
    if driver.exists():
        unbind(controller.address, seconds=120)
    function_reset(controller.address)
    bind(controller.address)

"""The place where settings become drives and a way to reach them: real ones, or a simulated fleet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nvmefence.errors import AccessError
from nvmefence.inventory import drives
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.inventory.uevents import Uevents
from nvmefence.nvme.transport import Transport
from nvmefence.settings import Settings

_CAP_SYS_ADMIN: Final = 1 << 21


@dataclass(frozen=True, slots=True)
class Site:
    """Where a fence happens."""

    transport: Transport
    discover: Callable[[], Sequence[Drive]]
    """Finds the drives anew at each call; threads may call it side by side."""
    simulated: bool
    in_flight: Callable[[], int] | None = None
    """How many commands the kernel holds, also of those that nobody waits for; None: that cannot be told."""
    events: Uevents | None = None
    """What the kernel tells of drives; None where nobody tells anything."""


def open_site(settings: Settings) -> Site:
    """Open the drives' side of the settings.

    Raises AccessError when this process may not send admin commands or the backend is not to be had, ConfigError
    for a bad fleet file. Needs a process of its own for real drives: an event loop and threads follow.
    """
    if settings.simulate:
        return _simulated(settings.simulate)
    if not _may_administer():
        raise AccessError("sending NVMe admin commands needs CAP_SYS_ADMIN", "run as root")
    try:
        from nvmefence.nvme.queue import BackendUnavailable, open_queue
    except ImportError as error:
        raise AccessError(f"the submission queue cannot be loaded ({error})", "reinstall nvmefence") from None
    try:
        queue = open_queue(settings.backend)
    except BackendUnavailable as error:
        raise AccessError(f"backend {error}", "choose another with --backend auto") from None
    except OSError as error:
        raise AccessError(f"the submission queue cannot be opened: {error.strerror}") from None
    return Site(queue, drives.Discovery(), simulated=False, in_flight=queue.in_flight, events=Uevents())


def _simulated(path: str) -> Site:
    from nvmefence.nvme.simulation import SimulatedTransport, load_fleet

    fleet = load_fleet(path)

    def discover() -> list[Drive]:
        return drives.group(
            (
                c.nqn,
                c.serial,
                c.model,
                c.firmware,
                LocalController(c.name, c.path, c.cntlid, "", c.state, not c.physical),
            )
            for c in fleet.controllers()
        )

    return Site(SimulatedTransport(fleet), discover, simulated=True)


def _may_administer() -> bool:
    """Whether this process has CAP_SYS_ADMIN in effect (capabilities(7), /proc/self/status CapEff)."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & _CAP_SYS_ADMIN)
    return False

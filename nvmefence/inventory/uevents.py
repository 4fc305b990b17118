"""What the kernel tells of NVMe controllers and PCI functions that come, go or change (uevents, through pyudev)."""

from __future__ import annotations

from typing import Any, Final

from nvmefence.inventory.drives import pyudev

_SUBSYSTEMS: Final = frozenset({"nvme", "pci"})


class Uevents:
    """A source of hints. What it needs is loaded when it is made; nothing is open before `open`.

    The kernel's own messages are heard, not those that udevd sends on: they come without udevd as well, and into a
    network namespace of its own, as long as that belongs to the initial user namespace (`uevent_net_init` and
    `uevent_net_broadcast_untagged`, lib/kobject_uevent.c; udevd's stay in the namespace that it runs in).
    """

    def __init__(self) -> None:
        self._pyudev = pyudev()
        self._monitor: Any = None

    def open(self) -> int:
        """Listen from now on; return a descriptor that is readable when there is something. Raises OSError."""
        monitor = self._pyudev.Monitor.from_netlink(self._pyudev.Context(), source="kernel")
        # No filter: libudev would go through all that it lets pass, and not return before there is no more.
        monitor.start()
        self._monitor = monitor
        return int(monitor.fileno())

    def drain(self, most: int) -> bool:
        """Take in up to so many messages; return whether any is about NVMe or PCI. Never waits.

        Raises OSError when messages were lost, or the source is broken: close it then, and open it anew.
        """
        concerned = False
        for _message in range(most):
            device = self._monitor.poll(timeout=0)
            if device is None:
                break
            concerned = concerned or device.subsystem in _SUBSYSTEMS
        return concerned

    def close(self) -> None:
        """Listen no more; again is harmless."""
        self._monitor = None  # which closes it

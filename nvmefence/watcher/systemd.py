"""The service manager's side: readiness, status and watchdog over the notify socket (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

from nvmefence.plain import escaped

_VALUE_LIMIT: Final = 1000
"""Characters of a value. systemd ignores a message of more than 4096 bytes, or with a NUL in it, as a whole."""


class Notifier:
    """Says how the service is doing; to nobody where no service manager asked for it."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self.watchdog_s = _watchdog(environment) if address else 0.0
        """Seconds after which the service manager kills a service that has not pinged; 0: it does not look."""

    def tell(self, **assignments: object) -> None:
        """Send assignments such as READY=1. Never waits and never fails: a message may be lost."""
        if self._socket is None:
            return
        lines = [f"{key}={_short(escaped(str(value)))}" for key, value in assignments.items()]
        with contextlib.suppress(OSError):
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)


def _short(text: str) -> str:
    """Cut a text so that the message stays within 4096 bytes; a character has up to four of them."""
    return text if len(text) <= _VALUE_LIMIT else f"{text[: _VALUE_LIMIT - 3]}..."


def _watchdog(environment: Mapping[str, str]) -> float:
    """Return the watchdog's seconds if it is meant for this process (sd_watchdog_enabled(3))."""
    try:
        mine = int(environment.get("WATCHDOG_PID", os.getpid())) == os.getpid()
        return int(environment.get("WATCHDOG_USEC", "0")) / 1e6 if mine else 0.0
    except ValueError:
        return 0.0

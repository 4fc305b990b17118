"""Hints that something happened to drives: coalesced, so that a storm of events costs two wake-ups a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

PAUSE_S: Final = 0.5
"""Seconds, after each time something was heard, in which nothing is listened to."""
_AT_ONCE: Final = 256
"""Messages that are taken in at once."""


class Source(Protocol):
    """Where hints come from; `inventory.uevents.Uevents` is one."""

    def open(self) -> int:
        """Return a descriptor that is readable when there is something. Raises OSError."""
        ...

    def drain(self, most: int) -> bool:
        """Take in up to so many messages; return whether they matter. Raises OSError: to be opened anew."""
        ...

    def close(self) -> None:
        """Listen no more; again is harmless."""
        ...


class Hints:
    """Listens to a source, as long as it is open. Belongs to one event loop."""

    def __init__(self, source: Source | None, heard: Callable[[], None]) -> None:
        """`heard` is called at most once in PAUSE_S seconds. Without a source there are no hints."""
        self._source = source
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        self._timer: asyncio.TimerHandle | None = None
        self._wanted = False
        self.trouble = ""
        """Why nothing is heard; empty: all is well, or there is no source."""

    def open(self) -> None:
        """Listen from now on; again is harmless, and tries again what failed."""
        self._wanted = True
        if self._fd < 0 and self._timer is None:
            self._listen()

    def close(self) -> None:
        """Listen no more; again is harmless."""
        self._wanted = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._lose()

    def _lose(self) -> None:
        if self._fd >= 0 and self._source is not None:
            self._loop.remove_reader(self._fd)
            self._source.close()
        self._fd = -1

    def _listen(self) -> None:
        self._timer = None
        if self._source is None or not self._wanted:
            return
        try:
            if self._fd < 0:
                self._fd = self._source.open()
            self._loop.add_reader(self._fd, self._readable)
        except OSError as error:
            self.trouble = error.strerror or str(error)
            self._lose()
        else:
            self.trouble = ""

    def _readable(self) -> None:
        if self._source is None:
            return
        self._loop.remove_reader(self._fd)
        try:
            concerned = self._source.drain(_AT_ONCE)
        except OSError:  # an overflow, most likely: nobody knows what was lost
            concerned = True
            self._source.close()
            self._fd = -1
        self._timer = self._loop.call_later(PAUSE_S, self._listen)
        if concerned:
            self._heard()

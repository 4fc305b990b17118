"""A fence in this process, from the settings: the one place where `nvmefence detach` and the direct agent fence."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Final

from nvmefence.fencing.evidence import DriveEvidence, FenceReport
from nvmefence.fencing.fence import Options, Progress, fence
from nvmefence.fencing.survey import Survey, survey
from nvmefence.inventory.hostfile import load
from nvmefence.inventory.hostmap import Host
from nvmefence.records.beside import Beside
from nvmefence.records.places import places
from nvmefence.records.recorder import Keeper
from nvmefence.settings import Settings, check_deadline
from nvmefence.site import Site, open_site
from nvmefence.watcher.worker import Thread

RECORD_S: Final = 0.5
"""Seconds, at most, that a fence's result waits for the record of what was taken from one host."""
RECORDS_S: Final = 3.0
"""The same for all hosts."""


class Direct:
    """Hosts of the map and the drives that they are attached to. A context manager: inside, drives are open."""

    def __init__(
        self, settings: Settings, names: Iterable[str] | None = None, by: str = "command line", request_id: str = ""
    ) -> None:
        """`names` are hosts or their aliases; None: all hosts of the map. Raises ConfigError, UnknownHostError.

        `by` and `request_id` tell who wants a fence, for the record; without an id it gets one.
        """
        self.settings = settings
        self.by = by
        self.request_id = request_id or f"cli-{os.urandom(8).hex()}"
        self.hostmap = load(settings.hosts)
        found = self.hostmap.hosts.values() if names is None else map(self.hostmap.find, names)
        self.hosts: list[Host] = list({host.name: host for host in found}.values())
        self.seconds: dict[str, float] = {}
        """How long the last fence took: discovery, and fence, which includes it; record, after it; and total, from
        when it was asked for to its verdict, which is known once the record's time is over."""
        self.unrecorded: dict[str, str] = {}
        """Why what the last fence took is not on record, by host."""
        self._site: Site | None = None

    @property
    def names(self) -> list[str]:
        """The hosts' names in the map."""
        return [host.name for host in self.hosts]

    @property
    def site(self) -> Site:
        """The drives' side; there while it is open."""
        if self._site is None:
            raise RuntimeError("the drives are not open")
        return self._site

    def open(self) -> None:
        """Make the drives reachable. Raises AccessError, or ConfigError for a bad fleet file."""
        self._site = open_site(self.settings)

    def close(self) -> None:
        """Let go of the drives."""
        site, self._site = self.site, None
        site.transport.close()

    def __enter__(self) -> Direct:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def fence(self, progress: Progress | None = None, begun: float | None = None) -> FenceReport:
        """Cut the hosts off every expected drive, and prove it. No restore of them begins before this process ends.

        The deadline counts from the monotonic time `begun`, by default from now; finding the drives is part of it.
        Raises ConfigError for a deadline that leaves no time, OSError if drives cannot be looked for.
        """
        check_deadline(self.settings)
        loop = asyncio.get_running_loop()
        start = loop.time()
        asked_at = start if begun is None else begun
        until = asked_at + self.settings.deadline
        found = self.site.discover()
        self.seconds["discovery"] = loop.time() - start
        there = places(self.settings)
        keeper = Keeper(there.store, Thread("nvmefence-record"), time.time)
        asked = {name: [(self.request_id, self.by)] for name in self.names}
        beside = Beside(keeper, there.locks, asked, self.settings.quiesce.name, self.site.in_flight)

        def heard(drive: DriveEvidence, phase: str) -> None:
            beside.heard(drive, phase)
            if progress is not None:
                progress(drive, phase)

        options = beside.options(
            Options(quiesce=self.settings.quiesce, escalate=self.settings.escalate, until=until)
        )
        try:
            report = await fence(self.site.transport, self.hostmap, found, self.hosts, options, heard)
        except BaseException:  # a person ends it: what was taken until now is on record all the same
            await beside.finish(None, RECORD_S, RECORDS_S)
            raise
        self.seconds["fence"] = loop.time() - start
        self.unrecorded = await beside.record(report, RECORD_S, RECORDS_S)
        beside.leave()
        now = loop.time()
        self.seconds |= {"record": now - start - self.seconds["fence"], "total": now - asked_at}
        return report

    async def survey(self, within_s: float) -> Survey:
        """Read which of the hosts is attached to what, finding the drives included; changes nothing."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        found = self.site.discover()
        left = max(until - loop.time(), 0.0)
        return await survey(self.site.transport, self.hostmap, found, self.hosts, left)

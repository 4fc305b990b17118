"""Emulated fleets of any size in this process, hosts on them, and what is true of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nvmefence.fencing.evidence import FenceReport
from nvmefence.fencing.fence import fence
from nvmefence.fencing.options import Before, Options
from nvmefence.fencing.quiesce import Quiesce
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.nvme.emulated import EmulatedSubsystem, EmulatedTransport, Namespace
from tests.bench.formula import Size
from tests.bench.turns import WrongResult

DEADLINE_S = 600.0
Attached = Callable[[int, int], frozenset[int]]
"""From drive (from 0) and NSID to the controllers that the namespace is attached to."""


@dataclass(frozen=True)
class Site:
    """Drives with one physical function each, ours, and hosts behind their virtual functions.

    Drive d has `namespaces[d]` namespaces. Host h has `each` controllers, whose ids are their functions' numbers:
    h * each + 1 and those after it. One function more is nobody's.
    """

    namespaces: Sequence[int]
    hosts: int
    each: int = 1
    by_id: bool = False
    """The map names controllers, not virtual functions."""

    @property
    def secondaries(self) -> int:
        """Virtual functions of each drive."""
        return self.hosts * self.each + 1

    def controllers(self, host: int) -> frozenset[int]:
        """Return the controllers of a host, on any drive."""
        return frozenset(range(host * self.each + 1, (host + 1) * self.each + 1))

    def all_attached(self, _drive: int, _nsid: int) -> frozenset[int]:
        """Return every virtual function's controller."""
        return frozenset(range(1, self.secondaries + 1))


def name(host: int) -> str:
    """Return a host's name."""
    return f"c{host}"


class Fleet:
    """The drives of a site in memory."""

    def __init__(self, site: Site, attached: Attached | None = None, *, latency: float = 0.0) -> None:
        self.site = site
        self._attached = attached or site.all_attached
        self.subsystems = [
            EmulatedSubsystem(
                f"nqn.2014-08.org.nvmexpress:bench:{number}",
                f"BENCH{number:05d}",
                secondaries=range(1, site.secondaries + 1),
                namespaces=[Namespace(nsid) for nsid in range(1, count + 1)],
            )
            for number, count in enumerate(site.namespaces)
        ]
        devices = {path(number): (drive, 0) for number, drive in enumerate(self.subsystems)}
        self.transport = EmulatedTransport(devices, latency=latency, record=False)
        self.drives = [
            Drive(
                drive.nqn,
                drive.serial,
                drive.model,
                drive.firmware,
                (LocalController(f"nvme{number}", path(number), 0, "", "live", False),),
            )
            for number, drive in enumerate(self.subsystems)
        ]
        self.hostmap = hostfile.parse(_document(site), "hosts.toml")
        self.attach()

    def attach(self) -> None:
        """Attach everything as it was in the beginning."""
        for number, drive in enumerate(self.subsystems):
            for nsid in drive.namespaces:
                drive.set_attached(nsid, self._attached(number, nsid))

    def sizes(self, hosts: Sequence[int]) -> list[Size]:
        """Return each drive's size as it is now, for a fence of these hosts."""
        targets = frozenset().union(*(self.site.controllers(host) for host in hosts))
        return [
            Size(
                namespaces=len(drive.namespaces),
                cut=sum(not targets.isdisjoint(drive.attached(nsid)) for nsid in drive.namespaces),
                targets=len(targets),
                secondaries=self.site.secondaries,
                controllers=self.site.secondaries + 1,
            )
            for drive in self.subsystems
        ]

    def fence(
        self, hosts: Sequence[int], rule: Quiesce, transport: Any = None, *, again: bool = False
    ) -> FenceReport:
        """Fence hosts, which count as fenced if it is `again`. Raises WrongResult: not confirmed, or not true."""
        names = [name(host) for host in hosts]
        chosen = [self.hostmap.find(each) for each in names]
        used = transport or self.transport
        options = Options(DEADLINE_S, rule, before=Before(set(names) if again else set(), read=True))
        report = asyncio.run(fence(used, self.hostmap, self.drives, chosen, options))
        for host in names:
            if not report.confirmed(host):
                raise WrongResult(report.message(host))
        left = [size for size in self.sizes(hosts) if size.cut]
        if left:
            raise WrongResult(f"confirmed, and still attached: {left}")
        return report


def path(number: int) -> str:
    """Return the device of a drive."""
    return f"/dev/nvme{number}"


def _document(site: Site) -> dict[str, Any]:
    key = "controllers" if site.by_id else "vf"
    hosts = {name(host): {key: sorted(site.controllers(host))} for host in range(site.hosts)}
    return {"version": 1, "drives": {"count": len(site.namespaces)}, "hosts": hosts}

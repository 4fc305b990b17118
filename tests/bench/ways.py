"""The ways of cutting one host off, each a call that does it once and returns the seconds it took."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nvmefence.fencing import quiesce
from nvmefence.fencing.evidence import FenceReport
from nvmefence.fencing.fence import Options, fence
from nvmefence.inventory import hostfile
from nvmefence.nvme.transport import Transport
from nvmefence.settings import Settings
from nvmefence.site import open_site
from tests.bench import figures, local
from tests.bench.counting import Counting
from tests.bench.rabbit import HOST, Rabbit
from tests.bench.turns import WrongResult, timed

DEADLINE = 60.0
SLOTS = 16


@dataclass(frozen=True)
class Way:
    """One way."""

    name: str
    title: str
    cut: Callable[[], float]
    """Cut the target off; return the seconds it took."""
    count: Callable[[], int]
    """Return how many commands that takes, by doing it once where only that tells."""


def write_hostmap(path: Path, rabbit: Rabbit) -> None:
    """Write a map of all computes of a Rabbit, and of its drives or those that are to be fenced on."""
    serials = json.dumps([target.serial for target in rabbit.targets])
    hosts = "".join(f"[hosts.compute-{slot}]\nslot = {slot}\n" for slot in range(SLOTS))
    path.write_text(f"version = 1\n[drives]\nserials = {serials}\n{hosts}")


class Product:
    """nvmefence in this process, as the daemon has it: loaded, its queue open, the drives found anew each time."""

    def __init__(self, backend: str, hostmap: Path, hosts: Sequence[str] = (HOST,)) -> None:
        self._site = open_site(Settings(backend=backend, quiesce=quiesce.parse("none"), hosts=str(hostmap)))
        self._hostmap = hostfile.load(hostmap)
        self._hosts = [self._hostmap.find(host) for host in hosts]
        if self._site.transport.backend != backend:
            raise WrongResult(f"asked for {backend}, got {self._site.transport.backend}")

    def fence(self, transport: Transport | None = None) -> FenceReport:
        """Fence the hosts once. Raises WrongResult."""
        options = Options(DEADLINE, quiesce.parse("none"))
        used = transport or self._site.transport
        report = asyncio.run(fence(used, self._hostmap, self._site.discover(), self._hosts, options))
        for host in self._hosts:
            if not report.confirmed(host.name):
                raise WrongResult(report.message(host.name))
        return report

    def discover(self) -> float:
        """Find the drives; return the seconds it took."""
        started = time.monotonic()
        self._site.discover()
        return time.monotonic() - started

    def seconds(self) -> float:
        """Fence once; return the report's own seconds."""
        return self.fence().seconds

    def count(self) -> int:
        """Fence once; return how many commands were sent."""
        counting = Counting(self._site.transport)
        self.fence(counting)
        return counting.commands


def detach_command(backend: str, hostmap: Path) -> list[str]:
    """Return the command that an operator types."""
    program = str(local.GUEST / "bin" / "nvmefence")
    settings = ["--hosts", str(hostmap), "--quiesce", "none", "--backend", backend, "--deadline", f"{DEADLINE:g}"]
    return [program, "detach", "--host", HOST, *settings]


def nvme_script(rabbit: Rabbit, *, parallel: bool) -> str:
    """Return the usual shell script: `nvme detach-ns` for each namespace of each drive, one process each."""
    loops = []
    for target in rabbit.targets:
        lines = [
            f"nvme detach-ns {target.path} -n {nsid} -c {','.join(map(str, target.controllers))} || exit 1"
            for nsid in target.namespaces
        ]
        loops.append("(" + "\n".join(lines) + ")")
    if not parallel:
        return "\n".join(f"{loop} || exit 1" for loop in loops)
    return "\n".join(f'{loop} & pids="$pids $!"' for loop in loops) + "\nfor p in $pids; do wait $p || exit 1; done"


def all_ways(rabbit: Rabbit, hostmap: Path) -> list[Way]:
    """Return the ways, the quickest first."""

    def bare_seconds() -> float:
        return rabbit.run_bare("detach")[0]

    def bare_count() -> int:
        return rabbit.run_bare("detach")[1]

    ways = [Way(figures.BARE, "bare minimum of commands, C, io_uring", bare_seconds, bare_count)]
    for backend, name, command_name in (
        ("io_uring", figures.URING, figures.URING_COMMAND),
        ("ioctl", figures.IOCTL, figures.IOCTL_COMMAND),
    ):
        product = Product(backend, hostmap)
        ways.append(Way(name, f"nvmefence, {backend}: the fence", product.seconds, product.count))
        command = detach_command(backend, hostmap)
        ways.append(
            _process(command_name, f"nvmefence detach, {backend}: the whole command", command, product.count)
        )
    loop = ["/bin/sh", "-c", nvme_script(rabbit, parallel=False)]
    loops = ["/bin/sh", "-c", nvme_script(rabbit, parallel=True)]
    commands = rabbit.namespaces
    drives = len(rabbit.targets)
    ways.append(_process(figures.LOOPS, f"nvme detach-ns, {drives} loops side by side", loops, lambda: commands))
    ways.append(_process(figures.LOOP, "nvme detach-ns in a loop", loop, lambda: commands))
    return ways


def _process(name: str, title: str, command: list[str], count: Callable[[], int]) -> Way:
    return Way(name, title, lambda: timed(command), count)

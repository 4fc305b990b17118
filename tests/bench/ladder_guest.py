"""Runs inside the guest: fences drives with more and more namespaces; leaves FOLDER/bench.json.

python -m tests.bench.ladder_guest --folder FOLDER --rounds N --slow-rounds N
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nvmefence.nvme import commands
from nvmefence.nvme.queue import open_queue
from tests.bench import local, tracing
from tests.bench.ladder import FLIGHTS, PER_QUEUE, Flight, Rung
from tests.bench.rabbit import Rabbit
from tests.bench.turns import WrongResult, take_turns
from tests.bench.ways import Product, write_hostmap
from tests.lab import bringup, observer

LONG_S = 5.0
"""What takes longer is done once."""
WORKER = "nvmefence-ioctl"
"""What the ioctl backend's threads are called."""


class Step:
    """One drive."""

    def __init__(self, drive: observer.Drive) -> None:
        self.rabbit = Rabbit(local.GUEST / "bin" / "bare_minimum", drives=[drive])
        self.namespaces = self.rabbit.namespaces
        hostmap = local.GUEST / f"hosts-{drive.serial}.toml"
        write_hostmap(hostmap, self.rabbit)
        self._ring = Product("io_uring", hostmap)
        self._ioctl = Product("ioctl", hostmap)

    def measure(self, rounds: int, slow: int) -> Rung:
        """Fence in every way, in turn."""
        sent = self._ring.count()
        self.back()
        with tracing.driver() as by_ring:
            self._ring.seconds()
        self.back()
        with tracing.driver() as by_ioctl:
            first = self._ioctl.seconds()
        threads = _threads()
        self.back()
        ways: dict[str, Callable[[], float]] = {
            "bare": lambda: self.rabbit.run_bare("detach")[0],
            "io_uring": self._ring.seconds,
            "ioctl": self._ioctl.seconds,
        }
        took = take_turns(
            ways,
            {"bare": rounds, "io_uring": rounds, "ioctl": slow - 1 if first < LONG_S else 0},
            lambda *_: self.back(),
        )
        print(self.namespaces, f"{first:.3f}", by_ioctl, flush=True)
        return Rung(
            self.namespaces,
            sent,
            took["bare"],
            took["io_uring"],
            [first, *took["ioctl"]],
            by_ioctl.rescans,
            by_ioctl.identifies,
            threads,
            by_ring.rescans,
        )

    def flights(self, slow: int) -> list[Flight]:
        """Detach everything through the ioctl, more and more at a time."""
        found = []
        for at_once in FLIGHTS[self.namespaces]:
            with tracing.driver() as seen:
                seconds = [asyncio.run(self._detach(at_once))]
            self.back()
            for _ in range(slow - 1 if seconds[0] < LONG_S else 0):
                seconds.append(asyncio.run(self._detach(at_once)))
                self.back()
            found.append(Flight(self.namespaces, at_once, seconds, seen.rescans, seen.identifies))
            print(found[-1], flush=True)
        return found

    async def _detach(self, at_once: int) -> float:
        (target,) = self.rabbit.targets
        queues = [open_queue("ioctl") for _ in range(-(-at_once // PER_QUEUE))]
        devices = [(queue, queue.open(str(target.path))) for queue in queues]
        todo = iter(target.namespaces)

        async def work(number: int) -> None:
            queue, device = devices[number // PER_QUEUE]
            for nsid in todo:
                (answer,) = await queue.run(device, [commands.detach(nsid, target.controllers)])
                if answer.status:
                    raise WrongResult(f"namespace {nsid}: status {answer.status:x}h")

        started = time.monotonic()
        await asyncio.gather(*(work(number) for number in range(at_once)))
        took = time.monotonic() - started
        for queue in queues:
            queue.close()
        return took

    def back(self) -> None:
        """Check the cut, and attach again."""
        self.rabbit.check_cut()
        self.rabbit.restore()


def _threads() -> int:
    tasks = Path("/proc/self/task").iterdir()
    return sum((task / "comm").read_text().strip() == WORKER for task in tasks)


def main() -> int:
    """Measure; print progress."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--slow-rounds", type=int, required=True)
    options = parser.parse_args()
    steps = sorted(bringup.each(Step, observer.drives()), key=lambda step: step.namespaces)
    rungs = [step.measure(options.rounds, options.slow_rounds) for step in steps]
    flights = [one for step in steps if step.namespaces in FLIGHTS for one in step.flights(options.slow_rounds)]
    said = {
        "where": {"kernel": platform.release(), "Python": platform.python_version()},
        "rungs": rungs,
        "flights": flights,
        "checks": sum(step.rabbit.checks for step in steps),
    }
    (options.folder / "bench.json").write_text(json.dumps(said, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

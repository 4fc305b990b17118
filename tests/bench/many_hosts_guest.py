"""Runs inside the guest: one host and sixteen, on all drives and on a part of them; leaves FOLDER/bench.json.

python -m tests.bench.many_hosts_guest --folder FOLDER --rounds N --slow-rounds N
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import local
from tests.bench.many_hosts import BARE, DRIVES, HOSTS, IOCTL, LOOP, NAMESPACES, ONE_BY_ONE, PART, URING, Spot, Took
from tests.bench.rabbit import Rabbit
from tests.bench.turns import take_turns, timed
from tests.bench.ways import Product, nvme_script, write_hostmap
from tests.lab import observer


class Place:
    """Some drives and some hosts, and the ways to cut these off those."""

    def __init__(self, hosts: int, drives: list[observer.Drive]) -> None:
        self.rabbit = Rabbit(local.GUEST / "bin" / "bare_minimum", range(hosts), drives)
        self.spot = Spot(self.rabbit.namespaces // len(drives), len(drives), hosts)
        self._hostmap = local.GUEST / f"hosts-{hosts}-{len(drives)}.toml"
        write_hostmap(self._hostmap, self.rabbit)

    def way(self, name: str) -> tuple[Callable[[], float], Callable[[], int]]:
        """Return what cuts once and gives the seconds, and what cuts once and gives the commands."""
        if name == LOOP:
            script = ["/bin/sh", "-c", nvme_script(self.rabbit, parallel=False)]
            return lambda: timed(script), lambda: self._counted(script)
        if name in (BARE, ONE_BY_ONE):
            in_turn = name == ONE_BY_ONE

            def bare(of: int) -> float:
                return self.rabbit.run_bare("detach", one_by_one=in_turn)[of]

            return lambda: bare(0), lambda: int(bare(1))
        product = Product(name, self._hostmap, self.rabbit.hosts)
        return product.seconds, product.count

    def _counted(self, script: list[str]) -> int:
        timed(script)
        return self.rabbit.namespaces


def main() -> int:
    """Measure; print progress."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--slow-rounds", type=int, required=True)
    options = parser.parse_args()
    took, checks = [], 0
    for places, rounds in _groups(options.rounds, options.slow_rounds):
        took += _measure(places, rounds)
        checks += sum(place.rabbit.checks for place in places)
    version = subprocess.run(["nvme", "version"], capture_output=True, text=True, timeout=60, check=True).stdout
    where = {"kernel": platform.release(), "Python": platform.python_version(), "nvme-cli": version.split()[2]}
    said = {"where": where, "took": [one._asdict() for one in took], "checks": checks}
    (options.folder / "bench.json").write_text(json.dumps(said, indent=1))
    return 0


def _groups(rounds: int, slow: int) -> Iterator[tuple[list[Place], dict[str, int]]]:
    """Yield what takes turns with one another."""
    drives = observer.drives()
    every = [Place(hosts, drives) for hosts in HOSTS]
    yield every, {BARE: rounds, URING: rounds, IOCTL: slow}
    namespaces = every[0].spot.namespaces
    part = drives[: max(1, PART // namespaces)]
    yield (
        [Place(hosts, part) for hosts in HOSTS],
        {BARE: rounds, URING: rounds, IOCTL: slow, ONE_BY_ONE: slow, LOOP: slow},
    )
    if namespaces == NAMESPACES[0]:
        yield (
            [Place(1, drives[:number]) for number in DRIVES if number <= len(drives)],
            {BARE: rounds, URING: rounds},
        )


def _measure(places: list[Place], rounds: dict[str, int]) -> list[Took]:
    calls: dict[str, Callable[[], float]] = {}
    times: dict[str, int] = {}
    of: dict[str, tuple[Place, str, int]] = {}
    for place in places:
        for way, often in rounds.items():
            cut, counted = place.way(way)
            key = f"{place.spot.text()}, {way}"
            calls[key], times[key], of[key] = cut, often, (place, way, counted())  # also brings it into memory
            place.rabbit.restore()

    def after(key: str, number: int, took: float) -> None:
        rabbit = of[key][0].rabbit
        rabbit.check_cut()
        rabbit.restore()
        print(f"{number} {key} {took:.6f}", flush=True)

    seconds = take_turns(calls, times, after)
    return [Took(place.spot, way, sent, seconds[key]) for key, (place, way, sent) in of.items()]


if __name__ == "__main__":
    sys.exit(main())

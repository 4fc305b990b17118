"""`python -m tests.bench` (make bench): measure, print the tables, keep the figures.

Requests, load, growth, slower and late drives are measured here, on simulated drives; whole Rabbits in guests.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.bench import committed, growth, late, load, round_trips, slower, table
from tests.bench.committed import Compared
from tests.bench.figures import RoundTrips, Run
from tests.bench.sheet import Sheet
from tests.bench.table import Marked
from tests.bench.turns import WrongResult
from tests.lab import host
from tests.lab.host import LabError
from tests.lab.shape import SHAPES, ShapeError

RESULTS = host.ROOT / "results"
FIGURES = RESULTS / "bench.json"
PAGE = host.ROOT / "docs" / "performance.md"


class Part(NamedTuple):
    """One kind of run."""

    measure: Callable[[argparse.Namespace], Run | Sheet]
    kind: type[Run] | type[Sheet]
    table: Marked
    about: str


def _requests(options: argparse.Namespace) -> Run:
    return round_trips.measure(options.runs, options.polling_runs, options.rest)


def _growth(options: argparse.Namespace) -> Sheet:
    return growth.measure(options.growth_rounds)


def _load(options: argparse.Namespace) -> Sheet:
    return load.measure(options)


def _late(options: argparse.Namespace) -> Sheet:
    return late.measure(options.late_rounds)


def _slower(options: argparse.Namespace) -> Sheet:
    return slower.measure(options.slower_rounds)


# What these need of the laboratory, the others do without.


def _fences(options: argparse.Namespace) -> Run:
    from tests.bench import fences

    return fences.measure(options, RESULTS)


def _hosts(options: argparse.Namespace) -> Sheet:
    from tests.bench import many_hosts

    return many_hosts.measure(options)


def _ladder(options: argparse.Namespace) -> Sheet:
    from tests.bench import ladder

    return ladder.measure(options)


PARTS = {
    "requests": Part(_requests, RoundTrips, table.ROUND_TRIPS, "requests and responses"),
    "growth": Part(_growth, Sheet, table.GROWTH, "commands, processor and memory by size, on the emulation"),
    "load": Part(_load, Sheet, table.LOAD, "many requests at once; many rounds of fence and restore"),
    "late": Part(_late, Sheet, table.LATE, "a drive that answers late, or never"),
    "slower": Part(_slower, Sheet, table.SLOWER, "our own code beside drives that take their time"),
    "fences": Part(_fences, Run, table.FENCES, "one host of a whole Rabbit, in a guest"),
    "hosts": Part(_hosts, Sheet, table.HOSTS, "one and sixteen hosts, 4 and 32 namespaces, in two guests"),
    "ladder": Part(_ladder, Sheet, table.LADDER, "1 to 128 namespaces, and the kernel's rescans, in a guest"),
}
"""By the name of the option that asks for this one alone, and of its figures among those that are kept."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    if options.native:
        from tests.bench import native

        return native.main()
    if options.timeline:
        from tests.bench import one_fence

        return one_fence.main(options)
    RESULTS.mkdir(exist_ok=True)
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    before = committed.load()
    compared: list[Compared] = []
    measured: dict[str, Any] = {}
    code = 0
    for name in [name for name in PARTS if name in (options.only or PARTS)]:
        part = PARTS[name]
        try:
            run = part.kind.from_json(kept[name]) if options.from_results else part.measure(options)
        except KeyError:
            print(f"bench: {FIGURES} has no {name}", file=sys.stderr)
            code = 2
            continue
        except (LabError, ShapeError, WrongResult) as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            code = 2
            continue
        kept[name] = run.to_json()
        FIGURES.write_text(json.dumps(kept, indent=1) + "\n")
        if options.update_docs:
            part.table.update(PAGE, run)
        compared += committed.compare(name, run, before)
        if options.update_figures:
            committed.store(name, run)
        measured[name] = kept[name]
        if not options.json:
            print(part.table.text(run) + "\n", flush=True)
    if options.json:
        print(json.dumps({**measured, "compared": committed.to_json(compared)}, indent=1))
    elif compared:
        print(committed.text(compared, everything=options.all_figures))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure nvmefence beside the bare minimum, nvme-cli and others: on simulated drives, and on "
        "emulated Rabbits in guests. At the end the figures are compared with the committed ones.",
    )
    parts = parser.add_argument_group("parts", "all of them, or those that are named")
    for name, part in PARTS.items():
        parts.add_argument(f"--{name}", dest="only", action="append_const", const=name, help=part.about)
    parts.add_argument("--native", action="store_true", help="no guest: the cost of the code per command, here")
    parts.add_argument(
        "--timeline", action="store_true", help="in the guest: one fence, from the agent's start, as a picture"
    )
    sizes = parser.add_argument_group("sizes")
    full = SHAPES["rabbit"]
    sizes.add_argument("--runs", type=int, default=200, help="of agent, watcher, interpreter (%(default)s)")
    sizes.add_argument("--polling-runs", type=int, default=20, help="of the pair that polls (%(default)s)")
    sizes.add_argument("--rest", type=float, default=20.0, help="seconds of watching the watcher (%(default)s)")
    sizes.add_argument("--drives", type=int, default=full.drives, help="default: %(default)s")
    sizes.add_argument("--namespaces", type=int, default=full.namespaces, help="of each drive (%(default)s)")
    sizes.add_argument("--rounds", type=int, default=15, help="of the ways that take milliseconds (%(default)s)")
    sizes.add_argument("--command-rounds", type=int, default=5, help="of whole nvmefence commands (%(default)s)")
    sizes.add_argument("--ioctl-rounds", type=int, default=4, help="of the ioctl backend (%(default)s)")
    sizes.add_argument("--loop-rounds", type=int, default=2, help="of the nvme loops (%(default)s)")
    sizes.add_argument("--host-rounds", type=int, default=7, help="of one and sixteen hosts (%(default)s)")
    sizes.add_argument(
        "--slow-rounds", type=int, default=2, help="there, of the ways that take seconds (%(default)s)"
    )
    sizes.add_argument("--ladder-rounds", type=int, default=7, help="of each rung (%(default)s)")
    sizes.add_argument("--growth-rounds", type=int, default=3, help="of each size (%(default)s)")
    sizes.add_argument("--late-rounds", type=int, default=15, help="with a late drive, and without (%(default)s)")
    sizes.add_argument("--slower-rounds", type=int, default=100, help="at each pace of drives (%(default)s)")
    sizes.add_argument("--bursts", type=int, default=10, help="of requests (%(default)s)")
    sizes.add_argument("--burst", type=int, default=1000, help="requests at once (%(default)s)")
    sizes.add_argument(
        "--restores", type=int, default=10_000, help="fences and restores in this process (%(default)s)"
    )
    sizes.add_argument("--asked-restores", type=int, default=3000, help="and asked of a watcher (%(default)s)")
    parser.add_argument("--profile", action="store_true", help="also profile the fence inside the guest")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.add_argument("--update-docs", action="store_true", help=f"put the tables into {PAGE.name}")
    parser.add_argument("--from-results", action="store_true", help="no new run: take results/bench.json")
    parser.add_argument("--all-figures", action="store_true", help="compare also what is the same as committed")
    parser.add_argument(
        "--update-figures", action="store_true", help=f"commit to these: rewrite {committed.FILE.name}"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

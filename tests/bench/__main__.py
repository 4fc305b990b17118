"""`python -m tests.bench` (make bench): measure, print the tables, keep the figures.

Requests and responses are measured here, on simulated drives; fences of a whole Rabbit in a guest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.bench import round_trips, table
from tests.bench.figures import RoundTrips, Run
from tests.bench.table import Table
from tests.bench.turns import WrongResult
from tests.lab import host
from tests.lab.host import LabError
from tests.lab.shape import SHAPES, ShapeError

RESULTS = host.ROOT / "results"
FIGURES = RESULTS / "bench.json"
PAGE = host.ROOT / "docs" / "performance.md"


class Part(NamedTuple):
    """One kind of run."""

    measure: Callable[[argparse.Namespace], Run]
    kind: type[Run]
    table: Table


def _requests(options: argparse.Namespace) -> Run:
    return round_trips.measure(options.runs, options.polling_runs, options.rest)


def _fences(options: argparse.Namespace) -> Run:
    from tests.bench import fences  # what it needs of the laboratory, requests do without

    return fences.measure(options, RESULTS)


PARTS = {
    "requests": Part(_requests, RoundTrips, table.ROUND_TRIPS),
    "fences": Part(_fences, Run, table.FENCES),
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
    code = 0
    for name in [options.only] if options.only else list(PARTS):
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
        print(json.dumps(kept[name], indent=1) if options.json else part.table.text(run) + "\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure requests and responses on simulated drives, and fencing one compute of an emulated "
        "Rabbit: nvmefence, nvme-cli, the bare minimum.",
    )
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--requests", dest="only", action="store_const", const="requests", help="no guest: requests and responses"
    )
    parts.add_argument(
        "--fences", dest="only", action="store_const", const="fences", help="in the guest: fences alone"
    )
    parts.add_argument("--native", action="store_true", help="no guest: the cost of the code per command, here")
    parts.add_argument(
        "--timeline", action="store_true", help="in the guest: one fence, from the agent's start, as a picture"
    )
    full = SHAPES["rabbit"]
    parser.add_argument("--runs", type=int, default=200, help="of agent, watcher, interpreter (%(default)s)")
    parser.add_argument("--polling-runs", type=int, default=20, help="of the pair that polls (%(default)s)")
    parser.add_argument("--rest", type=float, default=20.0, help="seconds of watching the watcher (%(default)s)")
    parser.add_argument("--drives", type=int, default=full.drives, help="default: %(default)s")
    parser.add_argument("--namespaces", type=int, default=full.namespaces, help="of each drive (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="of the ways that take milliseconds (%(default)s)")
    parser.add_argument("--command-rounds", type=int, default=5, help="of whole nvmefence commands (%(default)s)")
    parser.add_argument("--ioctl-rounds", type=int, default=4, help="of the ioctl backend (%(default)s)")
    parser.add_argument("--loop-rounds", type=int, default=2, help="of the nvme loops (%(default)s)")
    parser.add_argument("--profile", action="store_true", help="also profile the fence inside the guest")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    parser.add_argument("--update-docs", action="store_true", help=f"put the tables into {PAGE.name}")
    parser.add_argument("--from-results", action="store_true", help="no new run: take results/bench.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())

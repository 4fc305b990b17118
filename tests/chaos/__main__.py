"""The long form: `python -m tests.chaos --seed 7 --budget 3600`; every fault gets its share of the time.

With `--lab`, the faults are those of real drives: random ones, fences and restores of many hosts in the laboratory.
"""

from __future__ import annotations

import argparse
import random
import sys
import textwrap
import time

from tests.chaos.catalogue import FAULTS
from tests.chaos.frame import Done, Fault, GaveWay, try_fault
from tests.lab import chaos_faults, chaos_run


def main(words: list[str]) -> int:
    """Try what is asked for; return 1 if something gave way, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--budget", type=float, default=600.0, metavar="SECONDS", help="for all (600)")
    parser.add_argument("--rounds", type=int, default=0, help="of each fault, instead of a time")
    parser.add_argument("--only", action="append", metavar="NAME", default=[])
    parser.add_argument("--list", action="store_true", help="say what there is, and try nothing")
    parser.add_argument("--lab", action="store_true", help="drives, fences and restores in the laboratory instead")
    given = parser.parse_args(words)
    names = [fault.name for fault in (chaos_faults.FAULTS if given.lab else FAULTS)]
    for name in given.only:
        if name not in names:
            parser.error(f"no fault is named {name!r}; choose from {', '.join(names)}")
    if given.lab:
        if given.list:
            print("\n".join(names))
            return 0
        print(f"seed {given.seed}", flush=True)
        return chaos_run.main(given.seed, given.budget, given.only)
    chosen = [fault for fault in FAULTS if not given.only or fault.name in given.only]
    if given.list:
        for fault in chosen:
            _tell(fault, fault.missing() and f"left out here: {fault.missing()}")
        return 0
    print(f"seed {given.seed}", flush=True)
    gave_way = run(chosen, given.seed, given.budget, given.rounds)
    for name in gave_way:
        print(f"GAVE WAY: {name}; again: python -m tests.chaos --seed {given.seed} --only {name}")
    return 1 if gave_way else 0


def run(chosen: list[Fault], seed: int, budget: float, rounds: int) -> list[str]:
    """Try faults one after another; return the names of those that something gave way to."""
    end = time.monotonic() + budget
    gave_way = []
    for number, fault in enumerate(chosen):
        why_not = fault.missing()
        if why_not:
            _tell(fault, f"left out here: {why_not}")
            continue
        share = (end - time.monotonic()) / (len(chosen) - number)
        try:
            _tell(fault, _held(try_fault(fault, seed, rounds, time.monotonic() + share)))
        except GaveWay as error:
            gave_way.append(fault.name)
            _tell(fault, f"GAVE WAY\n{error}")
    return gave_way


def _held(done: Done) -> str:
    rate = done.rounds / done.seconds if done.seconds else 0.0
    return f"{done.rounds} rounds in {done.seconds:.1f} s ({rate:.1f} a second), held: {done.fault.holds}"


def _tell(fault: Fault, what: str) -> None:
    text = "\n".join(textwrap.fill(line, 110) for line in (fault.does, *what.splitlines()) if line)
    print(f"{fault.name}\n{textwrap.indent(text, '    ')}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

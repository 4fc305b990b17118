"""The long form: `python -m tests.fuzz --seed 7 --inputs 1000000`, until something breaks or all is done."""

from __future__ import annotations

import argparse
import random
import sys
import time
from typing import Final

from tests.fuzz import runs
from tests.fuzz.storm import Storm

_SHARES: Final = {
    "requests": 0.35,
    "responses": 0.25,
    "host-maps": 0.05,
    "settings": 0.03,
    "fleets": 0.02,
    "request-files": 0.2 / 60,
    "response-files": 0.08 / 32,
    "audit-files": 0.02 / 50,
}
"""Of the inputs; a directory or an audit holds so many."""
_EVERY_S: Final = 5.0


class Teller:
    """Says how a run goes on, every few seconds."""

    def __init__(self) -> None:
        self._start = self._said = time.monotonic()
        self._kind = ""

    def __call__(self, kind: str, done: int, total: int) -> None:
        now = time.monotonic()
        if kind != self._kind:
            self._kind, self._start = kind, now
        if now - self._said < _EVERY_S:
            return
        self._said = now
        rate = done / (now - self._start) if now > self._start else 0.0
        print(f"  {kind}: {done} of {total}, {rate:.0f} a second", flush=True)


def main(words: list[str]) -> int:
    """Run what is asked for; return 1 for a failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in this process, of all kinds together")
    parser.add_argument("--storm", type=int, default=20_000, help="files thrown at a watcher process; 0: no storm")
    parser.add_argument("--only", metavar="KIND[:NUMBER]", help=f"one kind, or one input: {', '.join(runs.KINDS)}")
    given = parser.parse_args(words)
    print(f"seed {given.seed}", flush=True)
    try:
        if given.only:
            _only(given.seed, given.inputs, given.only)
        else:
            _all(given.seed, given.inputs, given.storm)
    except AssertionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _only(seed: int, inputs: int, asked: str) -> None:
    kind, _, number = asked.partition(":")
    numbers = range(int(number), int(number) + 1) if number else range(inputs)
    print(runs.KINDS[kind](seed, numbers, Teller()))


def _all(seed: int, inputs: int, storm: int) -> None:
    start = time.monotonic()
    total = 0
    for kind, share in _SHARES.items():
        done = runs.KINDS[kind](seed, range(max(1, round(inputs * share))), Teller())
        total += done.inputs
        print(done)
        for end, count in sorted(done.ends.items()):
            print(f"    {count:8} {end}")
    print(f"{total} inputs in {time.monotonic() - start:.0f} s, and nothing broke", flush=True)
    if storm:
        print(Storm(seed, storm, print).hold())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

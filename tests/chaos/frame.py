"""The frame: faults, each tried round after round with a seed, for some time or a number of rounds."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final, NamedTuple

MEMORY: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where the places of the rounds are: tests are to wait for no disk."""


class Campaign(NamedTuple):
    """What a fault is played with."""

    rng: random.Random
    path: Path
    """A directory of its own, which is empty."""


Rounds = Generator[None, None, None]
Play = Callable[[Campaign], Rounds]
"""Yields after each round, without end; raises AssertionError where something gave way. Closed, it ends what it
began."""


class Fault(NamedTuple):
    """Something that is done to nvmefence again and again."""

    name: str
    does: str
    """What is done."""
    holds: str
    """What must hold, and is looked at in each round."""
    play: Play
    short: int
    """Rounds in the short form, among the normal tests; 0: another test has it there."""
    missing: Callable[[], str] = lambda: ""
    """Why it cannot be tried here; empty: it can."""


class Done(NamedTuple):
    """Rounds without a failure."""

    fault: Fault
    rounds: int
    seconds: float


class GaveWay(AssertionError):
    """Something did not hold; says how to try it again."""


def try_fault(fault: Fault, seed: int, rounds: int = 0, until: float = 0.0) -> Done:
    """Play a fault for so many rounds, or until that monotonic time, yet once at least.

    What is chosen depends on the seed and the fault's name alone. Raises GaveWay.
    """
    start = time.monotonic()
    done = 0
    with tempfile.TemporaryDirectory(prefix="chaos-", dir=MEMORY) as directory:
        play = fault.play(Campaign(random.Random(f"{seed} {fault.name}"), Path(directory)))
        try:
            while done < rounds if rounds else (not done or time.monotonic() < until):
                next(play)
                done += 1
        except Exception as error:
            raise GaveWay(
                f"{fault.name}, round {done + 1}: {type(error).__name__}: {error}\n"
                f"must hold: {fault.holds}\n"
                f"the same again: python -m tests.chaos --seed {seed} --only {fault.name} --rounds {done + 1}"
            ) from error
        finally:
            play.close()
    return Done(fault, done, time.monotonic() - start)

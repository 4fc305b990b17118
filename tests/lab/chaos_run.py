"""The laboratory's long run, from the host: an hour of random faults, fences and restores, with a witness.

python -m tests.chaos --lab --seed 7 --budget 3600
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.lab import boot
from tests.lab.demo import Follower
from tests.lab.guest.watching import WATCHER
from tests.lab.host import ROOT, LabError
from tests.lab.shape import SHAPES

SHAPE: Final = "chaos"
RESULT: Final = ROOT / "results" / "chaos-lab.json"
SPARE_S: Final = 420.0
"""Seconds that the last round, its rest, and the start of everything, may take beyond the budget."""
_BOOTS: Final = 20
"""Guests at the most: QEMU 7.2 has faults of its own, and a run that meets one goes on in another guest."""


def main(seed: int, budget: float, only: Sequence[str] = (), result: Path = RESULT, watcher: str = WATCHER) -> int:
    """Run until the time is over; 0: everything held, 1: something did not, 2: the lab cannot be had."""
    documents: list[dict[str, Any]] = []
    crashes: list[str] = []
    left = budget
    for part in range(_BOOTS):
        folder = boot.new_folder()
        command = [
            sys.executable, "-m", "tests.lab.chaos_inside", "--seed", str(seed + part), "--budget", str(left),
            "--watcher", watcher, *(word for name in only for word in ("--only", name)),
        ]  # fmt: skip
        follower = Follower(folder / "stdout")
        follower.start()
        try:
            done = boot.run(boot.Plan(SHAPES[SHAPE], command, left + SPARE_S), lambda _text: None, folder)
        except LabError as error:
            print(f"the lab cannot be had here: {error}", file=sys.stderr)
            return 2
        finally:
            follower.finish()
        documents += _last(done.stdout)
        if done.exit_code is not None:
            if done.exit_code not in (0, 1):
                crashes.append(done.stderr[-2000:])
            break
        crashes.append(done.crashed or done.trouble())
        left -= done.seconds
        if not done.crashed or left < budget / 100:
            break
    _leave(result, documents, crashes)
    found = [text for document in documents for text in document["findings"]]
    print("\n".join([*(f"BROKEN: {text}" for text in found), *(f"ended early: {text}" for text in crashes)]))
    return 0 if documents and not found and not crashes else 1


def _last(output: str) -> list[dict[str, Any]]:
    """Return the document that ends the output, if it came to that."""
    lines = output.splitlines()
    return [json.loads(lines[-1])] if lines and lines[-1].startswith("{") else []


def _leave(path: Path, documents: list[dict[str, Any]], crashes: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"runs": documents, "ended_early": crashes}, indent=1) + "\n")
    print(f"results in {path}")

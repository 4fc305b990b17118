"""In the guests of a power cut's test: a fence begins and the machine dies in it; then, what came of it.

    python -m tests.lab.power_cut_inside cut FOLDER MOMENT     # MOMENT: cut, record or response
    python -m tests.lab.power_cut_inside after FOLDER

FOLDER takes the watcher's directories and outlives the guest. `after` prints what it found, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.lab import faults, observer
from tests.lab.guest.product import attached, hosts_toml, nvmefence, without
from tests.lab.guest.test_fencing import target
from tests.lab.guest.watching import Observed, Place, reaches
from tests.lab.inside import power_off
from tests.lab.sentinel import Sentinel
from tests.lab.shape import SHAPES

HOST, VF = "compute-0", 2
TIMEOUT_S = 900
"""Seconds that the agent of the request waits: longer than both boots."""


def cut(place: Place, moment: str) -> None:
    """Have a fence begin, and end this machine at a moment of it."""
    drives = observer.drives()
    victim = target(drives, VF)
    (name,) = place.drop([HOST], timeout=TIMEOUT_S).values()
    os.sync()
    place.start(quiesce="auto")
    record = place.records / f"{HOST}.json"
    with observer.Device(drives[-1].primary.path) as device:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            gone = victim[drives[-1].serial] not in device.attached(1)
            if {"cut": gone, "record": record.exists(), "response": (place.responses / name).exists()}[moment]:
                power_off()


def after(place: Place) -> dict[str, Any]:
    """Start the watcher again on what the power cut left; return what became of the request and of the host."""
    drives = observer.drives()
    before = attached(drives)
    victim = target(drives, VF)
    observed = Observed(drives)
    there = sorted(path.name for path in place.responses.glob("[!.]*.json"))
    told = [place.response(name)["success"] for name in there]
    recorded = [place.on_record(name) for name in there]
    with Sentinel(place.responses, observed) as sentinel:
        place.start(quiesce="auto")
        faults.wait_for("the request to be dealt with", lambda: not place.pending(), 60)
        time.sleep(1.5)
    answers = {path.name: place.response(path.name)["success"] for path in place.responses.glob("[!.]*.json")}
    early = [m for m in sentinel.moments if any(m.responses.values()) and reaches(m.sample, victim)]
    fenced = nvmefence(
        "detach", "--hosts", str(place.hosts), "--host", HOST, "--records", str(place.records), "--json"
    )
    cut_off = attached(drives) == without(before, victim)
    restored = nvmefence(
        "restore", "--hosts", str(place.hosts), "--host", HOST, "--records", str(place.records),
        "--response-dir", str(place.responses), "--json",
    )  # fmt: skip
    return {
        "responses_found": dict(zip(there, told, strict=True)),
        "on_record": recorded,
        "answers": answers,
        "false_success": len(early),
        "fenced_again": fenced.code,
        "cut_off": cut_off,
        "restore": [restored.code, restored.err],
        "as_before": attached(drives) == before,
        "stopped": place.stop(),
    }


def main() -> int:
    """Do what the command line says."""
    what, folder, *more = sys.argv[1:]
    place = Place(Path(folder), hosts_toml(SHAPES["sriov"]))
    if what == "cut":
        cut(place, *more)
        return 1
    print(json.dumps(after(place)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""In the guests of a power cut's test: what came of the last cut; then a fence begins, and the machine dies in it.

    python -m tests.lab.power_cut_inside FOLDER [--after] [--cut MOMENT]

MOMENT is cut, unrecorded, record, response, or so many seconds after the request. Unrecorded: all is cut, and what
was taken cannot be written down, since somebody holds the lock of the records; `cut.json` tells how it was then.
FOLDER outlives the guest: in it `disk` is an ext4 with the watcher's directories, which loses what was not flushed,
and `--after` leaves there what it found.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.lab import faults, observer
from tests.lab.guest.product import attached, hosts_toml, nvmefence, without
from tests.lab.guest.test_fencing import target
from tests.lab.guest.watching import Observed, Place, reaches
from tests.lab.inside import power_off
from tests.lab.sentinel import Sentinel
from tests.lab.shape import SHAPES

HOST, VF = "compute-0", 2
TIMEOUT_S: Final = 900
"""Seconds that the agent of the request waits: longer than both boots."""
_MOUNT: Final = Path("/tmp/power-cut")


def leave(path: Path, found: object) -> None:
    """Write something down that outlives this machine."""
    with path.open("w") as file:
        json.dump(found, file)
        file.flush()
        os.fsync(file.fileno())


def cut_unrecorded(place: Place, folder: Path) -> None:
    """Have a fence cut all, keep its record from being written, and end this machine."""
    drives = observer.drives()
    victim = target(drives, VF)
    observed = Observed(drives)
    place.records.mkdir(exist_ok=True)
    record = place.records / f"{HOST}.json"
    record.unlink(missing_ok=True)
    lock = os.open(place.records / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (name,) = place.drop([HOST], timeout=TIMEOUT_S).values()
    os.sync()
    place.start(quiesce="auto")
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if not (left := reaches(observed(), victim)):
            told = {"left": left, "record": record.exists(), "response": (place.responses / name).exists()}
            leave(folder / "cut.json", told)
            power_off()


def cut(place: Place, moment: str, folder: Path) -> None:
    """Have a fence begin, and end this machine at a moment of it."""
    drives = observer.drives()
    victim = target(drives, VF)
    if moment == "unrecorded":
        cut_unrecorded(place, folder)
        return
    if moment[0].isdigit():
        place.start(quiesce="auto")
        place.drop([HOST], timeout=TIMEOUT_S)
        os.sync()
        time.sleep(float(moment))
        power_off()
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


def audited(place: Place) -> set[str]:
    """Return the requests of which a whole line of the audit tells how they ended; a cut may leave parts."""
    names = set()
    for line in place.audit_file.read_bytes().splitlines() if place.audit_file.exists() else ():
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if found["event"] == "answer":
                names.add(found["file"])
    return names


def after(place: Place) -> dict[str, Any]:
    """Start the watcher again on what the power cut left; return what became of the request and of the host."""
    drives = observer.drives()
    before = attached(drives)
    victim = target(drives, VF)
    observed = Observed(drives)
    left = sorted(place.pending())
    there = sorted(path.name for path in place.responses.glob("[!.]*.json"))
    told = [place.response(name)["success"] for name in there]
    known = audited(place)
    recorded = [name in known for name in there]
    record = place.records / f"{HOST}.json"
    on_record = json.loads(record.read_bytes()) if record.exists() else None
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
    observed.close()
    return {
        "requests_found": left,
        "responses_found": dict(zip(there, told, strict=True)),
        "audited": recorded,
        "requests_audited": [name for name in left if name in known],
        "on_record": on_record is not None and len(on_record["drives"]),
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
    parser = argparse.ArgumentParser(prog="python -m tests.lab.power_cut_inside")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--after", action="store_true")
    parser.add_argument("--cut", default="", metavar="MOMENT")
    given = parser.parse_args()
    _MOUNT.mkdir(exist_ok=True)
    subprocess.run(["modprobe", "-a", "loop", "ext4"], check=True, timeout=60)
    subprocess.run(["mount", "-o", "loop", given.folder / "disk", _MOUNT], check=True, timeout=60)
    place = Place(_MOUNT, hosts_toml(SHAPES["sriov"]))
    if given.after:
        leave(given.folder / "found.json", after(place))
    if given.cut:
        cut(place, given.cut, given.folder)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

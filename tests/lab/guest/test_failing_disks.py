"""The disk under the watcher's and the agents' directories fails, is full or read-only: ext4 and xfs, for real."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from pathlib import Path

import pytest

from nvmefence.watcher.audit import FALLBACK
from tests.lab import bringup, disks, faults, observer
from tests.lab.guest.test_fencing import target
from tests.lab.guest.watching import Ended, Observed, Place, reaches

pytestmark = pytest.mark.shape("small")
ROUNDS = int(os.environ.get("NVMEFENCE_LAB_ROUNDS", "0"))
"""With each file system. 0: one, with one of them."""
HOSTS = {"compute-0": 2, "compute-1": 3}
"""Virtual functions by host."""
TIMEOUT_S = 5.0
SHORT_S = 3.0
SLACK_S = 60.0
"""Seconds beyond its time in which an agent must have ended, on an emulated processor with a disk that fails."""
ALL = ("requests", "responses", "logs", "records", "audit")
ON_THE_DISK = (ALL, ("responses",), ("requests", "logs"), ("records", "audit"), ("responses", "audit"))
"""What is there; the rest is on a disk that does not fail."""
ON_THE_FULL_DISK = (("responses", "logs", "records", "audit"), ("responses", "audit"), ("responses",), ALL)
"""The same, of a disk that is full or read-only; agents whose requests cannot be written fail at once."""
TROUBLES = {"full": disks.Disk.full, "read-only": disks.Disk.read_only}


def lay(place: Place, number: str, disk: Path, there: tuple[str, ...]) -> None:
    """Give the place new directories, some of them on the disk."""
    paths = {name: (disk if name in there else place.folder) / f"{number}-{name}" for name in ALL}
    for path in paths.values():
        path.mkdir()
    place.requests, place.responses, place.logs = paths["requests"], paths["responses"], paths["logs"]
    place.records, place.audit_file = paths["records"], paths["audit"] / "audit.jsonl"


def chosen_kinds(seed: int) -> list[str]:
    """Return the file systems to try; skips where one cannot be made."""
    kinds = list(disks.SIZE_MIB) if ROUNDS else [random.Random(seed).choice(list(disks.SIZE_MIB))]
    for reason in filter(None, map(disks.why_not, kinds)):
        assert os.environ.get("NVMEFENCE_LAB") != "require", reason
        pytest.skip(reason)
    return kinds


def on_record(place: Place) -> set[str]:
    """Return the hosts of which the audit, or its stand-in, says on this disk that they are fenced."""
    files = [place.audit_file, place.responses / FALLBACK]
    hosts = set()
    for line in [line for file in files if file.exists() for line in file.read_bytes().splitlines()]:
        with contextlib.suppress(ValueError):  # a part of one
            found = json.loads(line)
            if found["event"] == "answer" and found["result"] == "fenced":
                hosts.add(found["target_node"])
    return hosts


def asked_in_trouble(place: Place, disk: disks.Disk, how: str, delay: float) -> dict[str, Ended]:
    """Have one host fenced as the disk begins to fail, and one while it does."""
    first, second = HOSTS
    before = place.agent("off", first, TIMEOUT_S)
    time.sleep(delay)
    disk.fail(how)
    after = place.agent("off", second, TIMEOUT_S)
    ended = {host: agent.end(TIMEOUT_S + SLACK_S) for host, agent in ((first, before), (second, after))}
    assert place.stop() == 0, "a watcher that is told to end does so, whatever its disk does"
    disk.mend()
    return ended


@pytest.mark.limit(240 + 120 * ROUNDS)
def test_on_a_disk_that_fails_no_success_is_false_or_unrecorded_and_all_goes_on_when_it_is_mounted_again(
    place: Place, drives: list[observer.Drive], baseline: bringup.Attachments, tmp_path: Path
) -> None:
    seed = time.time_ns() % 2**31
    for kind in chosen_kinds(seed):
        folder = tmp_path / kind
        folder.mkdir()
        play(kind, seed, place, drives, baseline, folder)


def play(
    kind: str, seed: int, place: Place, drives: list[observer.Drive], baseline: bringup.Attachments, folder: Path
) -> None:
    """Let one file system's disk fail, round after round."""
    victims = {host: target(drives, function) for host, function in HOSTS.items()}
    observed = Observed(drives)
    with disks.Disk(kind, folder) as disk:
        for number in range(ROUNDS or 1):
            rng = random.Random(f"{seed} {number}")
            there, how, delay = rng.choice(ON_THE_DISK), rng.choice(list(disks.FAILURES)), rng.uniform(0, 2.5)
            print(f"{kind} seed {seed} round {number}: {how} after {delay:.2f} s under {', '.join(there)}")
            lay(place, f"{kind}-{number}", disk.path, there)
            place.start()
            ended = asked_in_trouble(place, disk, how, delay)
            seen = observed()
            for host, one in ended.items():
                print(f"  {host}: exit {one.code} after {one.seconds:.1f} s: {one.err.strip()[-300:]}")
                assert one.code in (0, 1)
                assert one.code == 0 or one.err.strip(), "a failure says why"
                assert one.code == 1 or not reaches(seen, victims[host]), f"{host} is not cut"
            disk.unmount()
            disk.mount()
            recorded = on_record(place)
            for host, one in ended.items():
                assert one.code == 1 or host in recorded, f"the success for {host} is on no audit"
            for path in place.responses.glob("[!.]*.json"):
                answer = place.response(path.name)
                assert not answer["success"] or answer["target_node"] in recorded, path.name
            place.start()
            faults.wait_for("old requests to be dealt with", lambda: not place.pending())
            for host, victim in victims.items():
                again = place.fence(host)
                assert again.code == 0, f"{host}, when all was well: {again.err}"
                assert not reaches(observed(), victim)
            assert place.stop() == 0
            bringup.restore(baseline)
    observed.close()


@pytest.mark.limit(240 + 120 * ROUNDS)
def test_on_a_disk_that_is_full_or_read_only_no_success_is_false_or_unrecorded_and_the_same_watcher_goes_on(
    place: Place, drives: list[observer.Drive], baseline: bringup.Attachments, tmp_path: Path
) -> None:
    """One host is fenced as the disk becomes so, and one while it is so; both when there is room again."""
    seed = time.time_ns() % 2**31
    observed = Observed(drives)
    for kind in chosen_kinds(seed):
        folder = tmp_path / kind
        folder.mkdir()
        with disks.Disk(kind, folder) as disk:
            for number in range(ROUNDS or 1):
                rng = random.Random(f"{seed} {number}")
                for trouble in TROUBLES:
                    there, delay = rng.choice(ON_THE_FULL_DISK), rng.uniform(0, 1.5)
                    print(f"{kind} seed {seed} round {number}: {trouble} after {delay:.2f} s: {', '.join(there)}")
                    lay(place, f"{kind}-{number}-{trouble}", disk.path, there)
                    place.start()
                    in_trouble(place, disk, trouble, delay, observed, drives)
                    all_is_well_again(place, disk, observed, drives)
                    bringup.restore(baseline)
    observed.close()


def in_trouble(
    place: Place, disk: disks.Disk, trouble: str, delay: float, observed: Observed, drives: list[observer.Drive]
) -> None:
    """Have one host fenced as the trouble begins, and one while it lasts, and judge what was said."""
    first, second = HOSTS
    before = place.agent("off", first, SHORT_S)
    time.sleep(delay)
    with TROUBLES[trouble](disk):
        after = place.agent("off", second, SHORT_S)
        ended = {host: agent.end(SHORT_S + SLACK_S) for host, agent in ((first, before), (second, after))}
        seen, recorded = observed(), on_record(place)
        answers = [place.response(path.name) for path in place.responses.glob("[!.]*.json")]
    for host, one in ended.items():
        print(f"  {host}: exit {one.code} after {one.seconds:.1f} s: {one.err.strip()[-300:]}")
        assert one.code in (0, 1)
        assert one.code == 0 or one.err.strip(), "a failure says why"
        assert one.code == 1 or not reaches(seen, target(drives, HOSTS[host])), f"{host} is not cut"
        assert one.code == 1 or host in recorded, f"the success for {host} is on no audit"
    for answer in answers:
        host = answer["target_node"]
        assert not answer["success"] or host in recorded, f"the success for {host} is on no audit"
        kept = (place.records / f"{host}.json").exists() or "not on record for a restore" in answer["message"]
        assert not answer["success"] or kept, f"{host}: what was taken is not on record, and nobody says so"


def all_is_well_again(place: Place, disk: disks.Disk, observed: Observed, drives: list[observer.Drive]) -> None:
    """The watcher that lived through it fences both hosts, and what it said is on the disk afterwards."""
    faults.wait_for("old requests to be dealt with", lambda: not place.pending())
    for host, function in HOSTS.items():
        again = place.fence(host)
        assert again.code == 0, f"{host}, when all was well: {again.err}"
        assert not reaches(observed(), target(drives, function))
    assert place.stop() == 0
    disk.unmount()
    disk.mount()
    recorded = on_record(place)
    assert recorded == set(HOSTS), "and on the audit, when the disk is mounted again"

"""io_uring stops to work in the middle of a fence: no false success, and the next fence goes by ioctl."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab import faults, observer
from tests.lab.guest.product import hosts_toml, without
from tests.lab.guest.test_fencing import target
from tests.lab.guest.watching import Observed, reaches
from tests.lab.shape import Shape

pytestmark = pytest.mark.shape("small")
ROUNDS = int(os.environ.get("NVMEFENCE_LAB_ROUNDS", "0"))
HOST, VF = "compute-2", 4
"""No driver of this guest is bound to that virtual function, so that none resets it when it goes offline."""
CASES = [
    ("cut", "denied"),
    ("read-back", "replaced"),
    ("look", "denied"),
    ("read-back", "denied"),
    ("cut", "replaced"),
]
REASONS = {"denied": "EPERM", "replaced": "ENOTSUP"}
"""What the kernel says to whom enters such a ring (io_uring_enter(2))."""
AFTERWARDS = {"denied": "ioctl", "replaced": "io_uring"}
"""What a new queue uses then."""


@contextmanager
def fencing(*words: object) -> Iterator[subprocess.Popen[str]]:
    """Start a process that fences twice, see `tests.lab.ring_lost`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.lab.ring_lost", *map(str, words)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def told(process: subprocess.Popen[str]) -> Any:
    """Return what came of its fence, as soon as it says so."""
    assert process.stdout is not None
    line = faults.within(60, "the fence", process.stdout.readline)
    assert line, "it ended without a word"
    return json.loads(line)


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize(("phase", "way"), CASES if ROUNDS else CASES[:2])
def test_a_fence_whose_ring_is_lost_in_the_middle_is_no_false_success_and_the_next_one_is_confirmed(
    shape: Shape, drives: list[observer.Drive], observed: Observed, tmp_path: Path, phase: str, way: str
) -> None:
    """Drives that answered through the ring are not asked by ioctl in the same fence: it fails, with the reason."""
    (tmp_path / "hosts.toml").write_text(hosts_toml(shape))
    before, victim = observed(), target(drives, VF)
    with fencing(tmp_path / "hosts.toml", HOST, drives[1].serial, phase, way) as process:
        first = told(process)
        reached = reaches(observed(), victim)
        print(f"{way} at the {phase}: {first['message']}; statuses of detaches {first['sent']}; left {reached}")
        assert first["lost"] == [phase]
        assert first["backend"] == "io_uring"
        assert not first["confirmed"], "no read-back of that drive came through"
        assert re.search(rf"\b{drives[1].serial}: .*{REASONS[way]}", first["message"]), first["message"]
        if phase != "read-back":
            assert reached.keys() >= {drives[1].serial}, "the ring was lost before that drive was cut"
        go_on(process)
        second = told(process)
    assert (second["confirmed"], second["backend"]) == (True, AFTERWARDS[way]), second["message"]
    assert observed() == without(before, victim)

"""A Rabbit that loses its power in a fence: nothing false was said, and the next start ends the work."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab import boot
from tests.lab.host import LabError, tool
from tests.lab.shape import SHAPES

LIMIT = 200
RANDOM = int(os.environ.get("NVMEFENCE_LAB_ROUNDS", "1"))
"""Cuts at random instants, beside those at chosen ones. Each is a boot."""
LONGEST_S = 1.5
"""Seconds from the request, within which an emulated processor has fenced a host, and answered."""
DISK_MIB = 32


@pytest.fixture(scope="module")
def lab() -> None:
    wish = os.environ.get("NVMEFENCE_LAB")
    try:
        if wish == "off":
            raise LabError("NVMEFENCE_LAB=off")
        boot.check(lambda _text: None)
    except LabError as error:
        if wish == "require":
            pytest.fail(f"NVMEFENCE_LAB=require, but: {error}", pytrace=False)
        pytest.skip(f"lab: {error}")


def run(state: Path, *words: str) -> boot.Result:
    """Run a guest on the state that the last one left, and keep what it leaves; another if QEMU died of its own."""
    before = state.with_name("before")
    shutil.copytree(state, before)
    result = run_once(state, *words)
    if result.exit_code is None and result.crashed:  # that is no power cut: the disk may lack what was durable
        shutil.rmtree(state)
        shutil.copytree(before, state)
        result = run_once(state, *words)
        assert result.exit_code is not None or not result.crashed, f"QEMU died twice: {result.trouble()}"
    shutil.rmtree(before)
    return result


def run_once(state: Path, *words: str) -> boot.Result:
    folder = boot.new_folder()
    there = folder / "state"
    shutil.move(state, there)
    command = [sys.executable, "-m", "tests.lab.power_cut_inside", str(there), *words]
    try:
        return boot.run(boot.Plan(SHAPES["sriov"], command, LIMIT), lambda _text: None, folder)
    finally:
        shutil.move(there, state)


def judge_unrecorded(told: dict[str, Any], found: dict[str, Any]) -> None:
    """The power went between cut and record: nothing knows what was taken, and the fence is done once more."""
    assert told == {"left": {}, "record": False, "response": False}, "all was cut, and nothing was said yet"
    assert found["on_record"] is False, "no record was durable"
    assert found["responses_found"] == {}, "no word was said"
    assert len(found["requests_found"]) == 1, "the request is there still"


def judge(found: dict[str, Any], moment: str) -> None:
    """What must hold after a power cut."""
    assert all(found["audited"]), "a response stands that the audit does not know"
    if moment == "response":  # a rename is seen before it is on the disk; the audit's line was there before
        assert list(found["responses_found"].values()) == [True] or (
            found["requests_found"] and found["requests_found"] == found["requests_audited"]
        ), "the response was visible; it is gone, and so is the audit's line, or the request"
    assert found["requests_found"] or found["responses_found"], "a request that was durable is gone, unanswered"
    assert list(found["answers"].values()) == [True], "the request has its one answer"
    # An emulated drive forgets its attachments with the power; a response of before then speaks of another drive.
    assert found["false_success"] == 0 or found["responses_found"]
    assert (found["fenced_again"], found["cut_off"]) == (0, True)
    assert found["restore"][0] == 0, found["restore"][1]
    assert found["as_before"]
    assert found["stopped"] == 0


@pytest.mark.lab
def test_after_a_power_cut_no_word_was_false_and_the_fence_is_completed(lab: None, tmp_path: Path) -> None:
    """At chosen moments and at random ones; each guest looks at what the last one left, on the same disk."""
    seed = time.time_ns() % 2**31
    rng = random.Random(seed)
    chosen = ["unrecorded", "response", *(["cut", "record"] if RANDOM > 1 else [])]
    moments = [*chosen, *(f"{rng.uniform(0, LONGEST_S):.3f}" for _ in range(RANDOM))]
    print(f"seed {seed}: {moments}")
    state = tmp_path / "state"
    state.mkdir()
    disk = state / "disk"
    with disk.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    make = tool("mkfs.ext4")
    assert make, "mkfs.ext4 (e2fsprogs) is missing"
    subprocess.run([make, "-q", "-F", disk], check=True, timeout=60)
    for last, moment in zip(["", *moments], [*moments, ""], strict=True):
        words = [*(["--after"] if last else []), *(["--cut", moment] if moment else [])]
        result = run(state, *words)
        trouble = f"{result.stdout}{result.stderr}"
        assert (result.exit_code is None) == bool(moment), f"at {moment}: {trouble}{result.trouble()}"
        if last:
            found: dict[str, Any] = json.loads((state / "found.json").read_text())
            print(last, found)
            judge(found, last)
            if last == "unrecorded":
                judge_unrecorded(json.loads((state / "cut.json").read_text()), found)
            (state / "found.json").unlink()

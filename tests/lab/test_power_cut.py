"""A Rabbit that loses its power in a fence: nothing false was said, and the next start ends the work."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab import boot
from tests.lab.host import LabError
from tests.lab.shape import SHAPES

LIMIT = 200


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
    """Run a guest on the state that the last one left, and keep what it leaves."""
    folder = boot.new_folder()
    there = folder / "state"
    if state.exists():
        shutil.copytree(state, there)
    else:
        there.mkdir()
    command = [sys.executable, "-m", "tests.lab.power_cut_inside", words[0], str(there), *words[1:]]
    result = boot.run(boot.Plan(SHAPES["sriov"], command, LIMIT), lambda _text: None, folder)
    shutil.rmtree(state, ignore_errors=True)
    shutil.copytree(there, state)
    return result


@pytest.mark.lab
@pytest.mark.parametrize("moment", ["cut", "response"])
def test_after_a_power_cut_no_word_was_false_and_the_fence_is_completed(
    lab: None, tmp_path: Path, moment: str
) -> None:
    state = tmp_path / "state"
    died = run(state, "cut", moment)
    assert died.exit_code is None, f"it did not die: {died.stdout}{died.stderr}"
    result = run(state, "after")
    assert result.exit_code == 0, f"{result.stdout}{result.stderr}{result.trouble()}"
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    print(moment, found)
    assert all(found["on_record"]), "a response stands that the audit does not know"
    if moment == "response":
        assert list(found["responses_found"].values()) == [True], "the response was visible, and is gone"
    assert list(found["answers"].values()) == [True], "the request has its one answer"
    # An emulated drive forgets its attachments with the power; a response of before then speaks of another drive.
    assert found["false_success"] == 0 or moment == "response"
    assert (found["fenced_again"], found["cut_off"]) == (0, True)
    assert found["restore"][0] == 0, found["restore"][1]
    assert found["as_before"]
    assert found["stopped"] == 0

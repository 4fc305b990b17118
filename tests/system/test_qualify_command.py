"""`nvmefence qualify` as a process on a simulated drive: the report, refusals, and a drive that is as it was."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.system.place import CLEAN, STATE, Place

FLEET = """[fleet]
drives = 1
secondary_controllers = 2
namespaces = 2
latency_ms = 1
[[drive]]
number = 0
serial = "Q0"
model = "MODEL 9"
secondary_controllers = [5]
"""
IGNORED = 'version = 1\n[drives]\ncount = 1\nignore = ["Q0"]\n[hosts.c1]\nslot = 0\n'
WORDS = (
    "qualify", "--drive=Q0", "--controller=5", "--namespace=1", "--rounds=1", "--timing-rounds=2", "--watch=1",
)  # fmt: skip


@pytest.fixture
def bench(place: Place) -> Place:
    return place.write(FLEET, IGNORED)


def as_it_was(place: Place) -> bool:
    state = place.path / STATE
    return not state.exists() or json.loads(state.read_text())["drives"] == {}


def test_the_report_is_printed_and_put_into_a_file_and_the_drive_is_as_it_was(bench: Place) -> None:
    done = bench.run(*WORDS, "--output=report.txt")
    assert (done.returncode, done.stderr) == (0, "")
    text = (bench.path / "report.txt").read_text()
    assert text == done.stdout
    for words in (
        "SIMULATED: no drive was measured", "MODEL 9", "Do late writes land after a detach", "every step worked",
        "# of 1 round, too few to rely on", '"MODEL 9" = "wait:', "as they were before: read back",
        "Everything that was asked was measured",
    ):  # fmt: skip
        assert words in text
    assert as_it_was(bench)


def test_the_object_has_figures_and_what_was_not_asked_is_no_gap(bench: Place) -> None:
    code, found = bench.json(*WORDS, "--only=times", "-o", "report.json")
    assert code == found["exit"] == 0
    assert json.loads((bench.path / "report.json").read_text()) == found
    assert [(one["action"], one["rounds"]) for one in found["times"]] == [("detach", 2), ("attach", 2)]
    assert all(one["p50_s"] >= 0.001 for one in found["times"])
    assert (found["simulated"], found["put_back"], found["unanswered"], found["settings"]) == (True, True, [], "")
    assert {one["verdict"] for one in found["quiesce"]} == {"not_known"}


def test_what_cannot_be_measured_is_named_and_the_exit_code_says_so(bench: Place) -> None:
    ports = '[fleet]\ndrives = 1\ncontrollers = 2\nnamespaces = 1\n[[drive]]\nnumber = 0\nserial = "Q0"\n'
    bench.write(f"{ports}controllers = [1, 5]\n", IGNORED)
    done = bench.run(*WORDS, "--only=drain")
    assert done.returncode == 8, done.stdout + done.stderr
    assert (
        "Not measured, or not to the end: drain: our controller gives no Secondary Controller List" in done.stdout
    )


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("--drive=Q1",), 5, "there is no drive Q1"),
        (("--controller=4",), 6, "Q0 has no controller 4"),
        (("--namespace=3",), 6, "Q0 has no namespace 3"),
        (("--write-size=1000",), 2, "must be a multiple of 4096"),
        (("--watch=0",), 2, "is not a number of seconds"),
    ],
)
def test_what_is_wrong_is_refused_and_the_drive_is_as_it_was(
    bench: Place, words: tuple[str, ...], code: int, why: str
) -> None:
    done = bench.run(*WORDS, *words)
    assert (done.returncode, why in done.stderr) == (code, True), done.stderr
    assert not (bench.path / STATE).exists()


def test_a_controller_of_a_host_of_the_map_is_refused(bench: Place) -> None:
    bench.write(FLEET, 'version = 1\n[drives]\nserials = ["Q0"]\n[hosts.c1]\ncontrollers = 5\n')
    done = bench.run(*WORDS)
    assert (done.returncode, "controller 5 is c1's by hosts.toml" in done.stderr) == (6, True), done.stderr
    assert not (bench.path / STATE).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_what_was_measured_and_a_drive_as_it_was(bench: Place, number: int) -> None:
    words = [*WORDS, "--only=writes", "--only=drain", "--rounds=50", "--watch=30", "--json"]
    process = subprocess.Popen(
        bench.command(*words), cwd=bench.path, env={**CLEAN}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 20
    while as_it_was(bench) and time.monotonic() < until:
        time.sleep(0.01)
    assert not as_it_was(bench)  # the first cut is made, and watched for half a minute
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    found = json.loads(out)
    assert (process.returncode, found["interrupted"], found["put_back"]) == (130, True, True)
    assert b"the drive is put back first" in err
    assert len(found["cuts"]) == 1
    assert as_it_was(bench)


def test_a_file_that_cannot_be_written_does_not_lose_the_report(bench: Place, tmp_path: Path) -> None:
    done = bench.run(*WORDS, "--only=times", f"--output={tmp_path}/nowhere/report.txt")
    assert done.returncode == 11
    assert "cannot be written" in done.stderr
    assert "How long does a detach take" in done.stdout

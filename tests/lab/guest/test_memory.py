"""A control group's memory limit kills who fences in the middle of it: no false word, and the next one ends it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from nvmefence.errors import Exit
from tests.lab import bringup, faults, observer
from tests.lab.cgroup import MemoryGroup
from tests.lab.guest.product import nvmefence, without
from tests.lab.guest.test_direct_agent import PROGRAM
from tests.lab.guest.test_fencing import target
from tests.lab.guest.test_watcher import arrived, false_success
from tests.lab.guest.watching import Observed, Place, reaches
from tests.lab.sentinel import Sentinel

pytestmark = pytest.mark.shape("small")
ROUNDS = int(os.environ.get("NVMEFENCE_LAB_ROUNDS", "0"))
"""Random instants of a fence at which the watcher's memory is gone, beside that of the cut."""
HOST, VF = "compute-2", 4
"""No driver of this guest is bound to that virtual function, so that none resets it when it goes offline."""
QUIESCE = "wait:0.5"
"""Between the cut and the answer there is time, in which the memory goes."""
LENGTH_S = 1.2
"""About as long as a fence takes here."""


@pytest.fixture
def group(tmp_path: Path) -> Iterator[MemoryGroup]:
    with MemoryGroup(tmp_path) as made:
        yield made


@pytest.fixture
def cut_begun(drives: list[observer.Drive]) -> Iterator[Callable[[], bool]]:
    """Whether the host has lost something of the first drive."""
    cntlid = target(drives, VF)[drives[0].serial]
    with observer.Device(drives[0].primary.path) as device:
        yield lambda: cntlid not in device.attached(1)


def take_memory(group: MemoryGroup) -> None:
    """Leave the group less than its processes have, so that the largest one is killed. It must have been."""
    before = group.killed
    group.limit(group.resident * 15 // 16)
    faults.wait_for("a process killed for its memory", lambda: group.killed > before, 20)
    group.free()


@pytest.mark.limit(240 + 30 * ROUNDS)
def test_a_watcher_killed_by_its_memory_limit_in_a_fence_leaves_no_false_word_and_its_successor_serves(
    baseline: bringup.Attachments,
    place: Place,
    drives: list[observer.Drive],
    observed: Observed,
    group: MemoryGroup,
    cut_begun: Callable[[], bool],
) -> None:
    before = observed()
    victim = target(drives, VF)
    for moment in [-1.0, *(random.uniform(0, LENGTH_S) for _ in range(ROUNDS))]:
        place.start(quiesce=QUIESCE, within=group.entering)
        with Sentinel(place.responses, observed) as sentinel:
            agent = place.agent("off", HOST)
            name, since = arrived(place)
            if moment < 0:
                faults.wait_for("the cut", cut_begun, 20)
            time.sleep(max(since + moment - time.monotonic(), 0))
            take_memory(group)
            place.kill()  # it is dead already, by the same signal
            answered = (place.responses / name).exists()
            place.start(quiesce=QUIESCE)
            ended = agent.end()
            faults.wait_for("a look after it", lambda: len(sentinel.since()) > 5)
        where = f"{f'{moment:.3f} s' if moment >= 0 else 'at the cut'}, {answered=}"
        print(f"out of memory after {where}; used {group.used >> 10} KiB")
        assert ended.code == 0, f"{where}: {ended.err}"
        assert moment >= 0 or not answered, "killed between the cut and the answer"
        assert not false_success(sentinel.moments, victim), where
        assert sentinel.moments[-1].responses == {name: True}, where
        assert observed() == without(before, victim), where
        faults.wait_for("the request to be removed", lambda: not place.pending())
        assert place.on_record(name), where
        assert place.stop() == 0
        place.archive()
        bringup.restore(baseline)


def commands(folder: Path) -> dict[str, tuple[Sequence[str], str]]:
    """Return how the direct agent and the command line fence the host, and their standard input."""
    given = {
        "action": "off", "nodename": HOST, "plug": HOST, "hosts_file": folder / "hosts.toml", "quiesce": QUIESCE,
        "deadline": 30, "log_dir": folder / "logs", "audit": folder / "audit.jsonl",
    }  # fmt: skip
    detach = [
        sys.executable, "-m", "nvmefence.cli.main", "detach", "--hosts", str(folder / "hosts.toml"), "--host", HOST,
        "--quiesce", QUIESCE, "--records", str(folder / "fenced"),
    ]  # fmt: skip
    return {
        "agent": (PROGRAM, "".join(f"{name}={value}\n" for name, value in given.items())),
        "detach": (detach, ""),
    }


@pytest.mark.parametrize("name", ["agent", "detach"] if ROUNDS else ["agent"])
def test_who_fences_without_a_watcher_and_is_killed_by_a_memory_limit_says_no_success_and_done_again_it_is_true(
    place: Place,
    drives: list[observer.Drive],
    observed: Observed,
    group: MemoryGroup,
    cut_begun: Callable[[], bool],
    name: str,
) -> None:
    """Of the agent it is the process that works on the drives; the agent lives, and says so."""
    before = observed()
    command, text = commands(place.folder)[name]
    process = subprocess.Popen(
        [*group.entering, *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.close()
    process.stdin = None
    try:
        faults.wait_for("the cut", cut_begun, 30)
        if name == "agent":  # not this one, and the process that it has started is a victim as before
            faults.write(Path(f"/proc/{process.pid}/oom_score_adj"), "-1000")
        take_memory(group)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    print(f"{name}: exit {process.returncode}: {err.strip()[-300:]}")
    assert process.returncode == (1 if name == "agent" else -signal.SIGKILL), err
    assert name != "agent" or "ended without a result" in err, "a failure says so"
    assert "confirmed" not in out
    again = nvmefence("detach", "--hosts", str(place.hosts), "--host", HOST, "--records", str(place.records))
    assert again.code == Exit.OK, again.out + again.err
    assert not reaches(observed(), target(drives, VF))
    assert observed() == without(before, target(drives, VF))

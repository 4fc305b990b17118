"""fence_nvmefence under a real kernel: what it says is so, and a command that the kernel holds holds nobody up."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import faults, observer
from tests.lab.guest.product import BACKENDS, attached, hosts_toml, without
from tests.lab.shape import Shape

both = pytest.mark.parametrize("backend", BACKENDS)
PLACES = [str(Path(__file__).resolve().parents[3]), sysconfig.get_path("purelib")]
START = f"import sys; sys.path += {PLACES!r}; from nvmefence.agents.fence_nvmefence import console; console()"
PROGRAM = [sys.executable, "-IS", "-c", START]
"""As an installed agent is started."""
HELD_S = 58.0
"""A little less than the kernel waits for a command that gets no answer."""


@dataclass(frozen=True)
class Ran:
    """A finished agent."""

    code: int
    out: str
    err: str
    seconds: float


def agent(folder: Path, action: str, node: str, **options: object) -> Ran:
    """Run the agent as Pacemaker does. Its map is `hosts.toml` in the folder, which takes logs and audit."""
    given = {
        "action": action, "nodename": node, "plug": node, "hosts_file": folder / "hosts.toml", "quiesce": "none",
        "deadline": 120, "log_dir": folder / "log", "audit": folder / "audit.jsonl", **options,
    }  # fmt: skip
    text = "".join(f"{name}={value}\n" for name, value in given.items())
    start = time.monotonic()
    done = subprocess.run(PROGRAM, input=text, capture_output=True, text=True, timeout=150, check=False)
    return Ran(done.returncode, done.stdout, done.stderr, time.monotonic() - start)


def target(drives: list[observer.Drive], function: int) -> dict[str, int]:
    """The controller id of a virtual function on each drive, by serial number, as the observer reads it."""
    ids = {}
    for drive in drives:
        with observer.Device(drive.primary.path) as device:
            ids[drive.serial] = next(s.cntlid for s in device.secondaries() if s.function == function)
    return ids


@pytest.mark.shape("small")
@pytest.mark.limit(600)
@both
def test_off_cuts_one_node_off_and_status_says_what_the_observer_sees(
    shape: Shape, drives: list[observer.Drive], tmp_path: Path, backend: str
) -> None:
    (tmp_path / "hosts.toml").write_text(hosts_toml(shape))
    before = attached(drives)
    ran = agent(tmp_path, "off", "compute-0", backend=backend)
    assert (ran.code, ran.out) == (0, ""), ran.err
    assert attached(drives) == without(before, target(drives, 2))
    assert agent(tmp_path, "status", "compute-0", backend=backend).code == 2
    assert agent(tmp_path, "status", "compute-1", backend=backend).code == 0
    assert attached(drives) == without(before, target(drives, 2))


@pytest.mark.shape("own-vf")
@pytest.mark.limit(480)
@both
def test_a_drive_whose_commands_the_kernel_holds_delays_neither_the_cut_on_the_other_nor_the_exit(
    drives: list[observer.Drive], shape: Shape, tmp_path: Path, backend: str
) -> None:
    (tmp_path / "hosts.toml").write_text(hosts_toml(shape, own="[1]", hosts="[hosts.compute]\ncontrollers = [3]"))
    before = attached(drives)
    silent = faults.hang(drives[0], 1)
    try:
        ran = agent(tmp_path, "off", "compute", backend=backend, deadline=12)
        assert (ran.code, ran.out) == (1, "")
        assert f"(1 of 2 drives cut): {drives[0].serial}: " in ran.err
        assert "no answer" in ran.err
        assert ran.seconds < HELD_S, "the agent's exit must not wait for what the kernel holds"
        assert attached(drives[1:]) == without({drives[1].serial: before[drives[1].serial]}, {drives[1].serial: 3})
        asked = agent(tmp_path, "monitor", "-", backend=backend, deadline=HELD_S)
        assert asked.code == 1, "however slow this machine is"
        assert asked.seconds < HELD_S
    finally:
        faults.revive(drives[0], silent)

"""The live matrix under a real kernel: a drive that hangs holds up neither the others nor the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab import faults, observer
from tests.lab.guest.product import attached, hosts_toml
from tests.lab.shape import Shape

# With ioctl a thread stays in the kernel, which is what could hold up the end; io_uring has none.
MAIN = [sys.executable, "-m", "nvmefence.cli.main"]


def states(line: str) -> dict[str, Any]:
    """The host's state on each drive."""
    return {drive["serial"]: drive["hosts"]["compute"]["state"] for drive in json.loads(line)["drives"]}


@pytest.mark.shape("own-vf")
@pytest.mark.limit(400)
def test_a_hung_drive_is_told_apart_and_ctrl_c_ends_at_once(
    shape: Shape, drives: list[observer.Drive], tmp_path: Path
) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text(hosts_toml(shape, own="[1]", hosts="[hosts.compute]\ncontrollers = [3]"))
    before = attached(drives)
    hung, good = drives[0].serial, drives[1].serial
    command = [*MAIN, "status", "--watch", "1", "--json", "--hosts", str(path), "--backend", "ioctl"]
    env = {**os.environ, "NVMEFENCE_RECORDS": str(tmp_path), "NVMEFENCE_RUN_DIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert states(process.stdout.readline()) == {hung: "attached", good: "attached"}
        silent = faults.hang(drives[0], 1)
        try:
            for _ in range(10):
                begun = time.monotonic()
                seen = states(process.stdout.readline())
                took = time.monotonic() - begun
                assert (seen[good], took < 30) == ("attached", True)
                if seen[hung] == "unknown":
                    break
            assert seen == {hung: "unknown", good: "attached"}
            line = process.stdout.readline()
            assert (
                "no answer" in json.loads(line)["drives"][0]["problem"] + json.loads(line)["drives"][1]["problem"]
            )
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(40) == 0
            took = time.monotonic() - begun
            print(f"ended {took:.2f} s after Ctrl-C, with a command that the kernel holds for 60 s")
            assert took < 30
        finally:
            faults.revive(drives[0], silent)
    assert attached(drives) == before

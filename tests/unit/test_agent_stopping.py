"""The agent's wait, which signals may end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WAITING = """
import os
from nvmefence.agents import stopping
stopping.hold_signals()
os.write(1, b"waiting")
print(repr(stopping.pause(0.2)), flush=True)
"""


HANGING = """
import time
from nvmefence.agents import {module}, fence_gfs2_recorder, stopping
stopping.HANGS_S = 0.3
{module}.{function} = lambda *_arguments, **_options: time.sleep(60)
fence_gfs2_recorder.console()
"""


@pytest.mark.parametrize(("module", "function"), [("exchange", "write_durably"), ("waiting", "wait")])
def test_an_agent_that_hangs_ends_soon_after_its_time_and_says_so(
    module: str, function: str, tmp_path: Path
) -> None:
    words = ["-o", "off", "-n", "c1", "--fence-timeout=0.2", *(f"--{n}-dir={tmp_path}" for n in ("request", "log"))]
    program = HANGING.format(module=module, function=function)
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, *words, f"--response-dir={tmp_path}"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "off of c1 is not confirmed" in done.stderr
    assert "hangs" in done.stderr
    assert 0.5 < time.monotonic() - start < 10


@pytest.fixture
def waiting() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 100) == b"waiting"
    return process


def test_a_wait_that_was_stopped_until_its_time_was_over_ends_without_a_signal(
    waiting: subprocess.Popen[bytes],
) -> None:
    time.sleep(0.05)
    waiting.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    waiting.send_signal(signal.SIGCONT)
    assert (waiting.communicate(timeout=10)[0], waiting.returncode) == (b"''\n", 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_wait_and_is_named(waiting: subprocess.Popen[bytes], number: signal.Signals) -> None:
    waiting.send_signal(number)
    assert waiting.communicate(timeout=10)[0] == f"'{number.name}'\n".encode()

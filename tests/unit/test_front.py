"""The front process: it always leaves with the truth, whatever becomes of the worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PRELUDE = """
import os, signal, sys, time
from nvmefence.cli import front
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has all that comes from it ignore this
def work():
{body}
sys.exit(front.run(work))
"""


def script(body: str) -> list[str]:
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    return [sys.executable, "-c", PRELUDE.replace("{body}", indented)]


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(script(body), capture_output=True, text=True, timeout=60, check=False)


def start(body: str) -> subprocess.Popen[str]:
    """Start, and return when the worker has printed its process id."""
    return subprocess.Popen(
        script(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def first_line(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def gone(pid: int) -> bool:
    for _ in range(1000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


# Short sleeps: an interrupt just before a sleep begins is noticed after it.
SLEEPER = "print(os.getpid(), flush=True)\nwhile True:\n    time.sleep(0.05)"


@pytest.mark.parametrize("code", [0, 1, 9, 70, 130, 255])
def test_verdict_is_the_exit_code_and_the_text_is_complete(code: int) -> None:
    done = run(f"print('result')\nprint('trouble', file=sys.stderr)\nreturn {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "result\n", "trouble\n")


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)", "os.abort()"])
def test_worker_that_ends_without_a_verdict_is_never_success(end: str) -> None:
    done = run(f"{end}\nreturn 0")
    assert done.returncode == 70
    assert "ended without a result: nothing is confirmed" in done.stderr


@pytest.mark.parametrize("end", ["raise RuntimeError('a defect')", "return None + 1"])
def test_worker_that_fails_is_never_success_and_says_why(end: str) -> None:
    done = run(end)
    assert done.returncode == 70
    assert done.stderr.strip()


def test_defect_is_shown_with_its_place() -> None:
    done = run("raise RuntimeError('a defect')")
    assert "RuntimeError: a defect" in done.stderr


def test_worker_that_hangs_after_its_verdict_delays_nobody() -> None:
    begin = time.monotonic()
    done = run("os._exit = lambda code: time.sleep(15)\nprint('result')\nreturn 3")
    assert (done.returncode, done.stdout) == (3, "result\n")
    assert time.monotonic() - begin < 12, "neither the exit nor the end of the streams waits for the worker"


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["buffered", "while working"])
@pytest.mark.parametrize("code", [0, 1])
def test_closed_pipe_changes_no_verdict(size: int, code: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    body = f"from nvmefence.cli.text import Screen\nScreen().raw('x' * {size})\nScreen().line('y')\nreturn {code}"
    try:
        done = subprocess.run(script(body), stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("from nvmefence.cli.text import Screen\nScreen().error('a', 'b')\nreturn 3", 3),
        ("raise RuntimeError('a defect')", 70),
        ("os._exit(0)", 70),
    ],
    ids=["error", "defect", "no verdict"],
)
def test_standard_error_that_takes_nothing_changes_no_verdict(body: str, code: int) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"#" * 4096)
    os.set_blocking(writer, True)
    try:
        done = subprocess.run(script(body), stdout=subprocess.PIPE, stderr=writer, timeout=60, check=False)
    finally:
        os.close(writer)
        os.close(reader)
    assert done.returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_ends_worker_and_front(number: signal.Signals) -> None:
    process = start(SLEEPER)
    worker = first_line(process)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode in (130, 70), "never success"
    assert gone(worker)
    if number != signal.SIGINT:
        assert process.returncode == 130


INTERRUPTIBLE = """
try:
    print(os.getpid(), flush=True)
    while True:
        time.sleep(0.05)
except KeyboardInterrupt:
    time.sleep(0.2)
    return 130"""


def test_worker_may_answer_a_signal_with_a_verdict() -> None:
    process = start(INTERRUPTIBLE)
    first_line(process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_interrupt_from_the_keyboard_reaches_both_and_is_never_success() -> None:
    process = start(INTERRUPTIBLE)
    worker = first_line(process)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert gone(worker)


def test_signal_that_the_worker_ignores_leaves_the_verdict_true() -> None:
    process = start(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(os.getpid(), flush=True)\ntime.sleep(0.5)\nreturn 1"
    )
    first_line(process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 1

"""A child at work: what it tells arrives, and nobody ever waits for its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PRELUDE = """
import os, signal, sys, time
from nvmefence.agents import apart
def work(tell):
{body}
def listen(within_s=10.0):
    until = time.monotonic() + within_s
    while told := child.hear(until):
        print(*map(ascii, told), flush=True)
child = apart.Child(work)
{then}
"""
LIMIT_S = 20


def script(body: str, then: str) -> list[str]:
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    return [sys.executable, "-u", "-c", PRELUDE.replace("{body}", indented).replace("{then}", then)]


def run(body: str, then: str = "listen()") -> subprocess.CompletedProcess[str]:
    return subprocess.run(script(body, then), capture_output=True, text=True, timeout=LIMIT_S, check=False)


def ends(pid: int) -> bool:
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        if stat.rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def test_what_is_told_arrives_in_order_and_whole() -> None:
    done = run("tell('say', 'one')\ntell('verdict', 'ok', '')\ntell('x' * 300000)")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["'say' 'one'", "'verdict' 'ok' ''", "'" + "x" * 300000 + "'"]


def test_no_text_can_pass_for_another() -> None:
    done = run(r"tell('say', 'a\nverdict\0fenced\x1b[2J')")
    assert done.stdout == r"'say' 'a\\nverdict\\x00fenced\\x1b[2J'" + "\n"


def test_an_error_is_told() -> None:
    assert run("raise RuntimeError('a defect')").stdout == "'defect' 'defect: RuntimeError: a defect'\n"


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "os.abort()"])
def test_the_end_is_heard(end: str) -> None:
    done = run(f"tell('last')\n{end}", "listen(); print('end')")
    assert done.stdout == "'last'\nend\n"


def test_the_child_writes_to_no_stream_of_the_agent() -> None:
    done = run("print('a'); os.write(1, b'b'); os.write(2, b'c')\nassert not os.read(0, 1)\ntell('d')")
    assert (done.stdout, done.stderr) == ("'d'\n", "")


def test_silence_is_late_and_a_child_that_never_ends_holds_up_nobody() -> None:
    start = time.monotonic()
    done = run(
        "tell(str(os.getpid()))\ntime.sleep(60)",
        "try:\n    listen(0.5)\nexcept apart.Late:\n    child.kill()\n    print('late')\nos._exit(3)",
    )
    assert time.monotonic() - start < 10
    assert (done.returncode, done.stdout.splitlines()[-1]) == (3, "late")
    assert ends(int(done.stdout.splitlines()[0].strip("'")))


def test_what_was_told_in_time_is_heard_late() -> None:
    done = run("tell('one')\ntell('two')\ntime.sleep(60)", (
        "time.sleep(0.5)\nprint(child.hear(0.0), child.hear(0.0))\nchild.kill()\nos._exit(0)"
    ))  # fmt: skip
    assert done.stdout == "['one'] ['two']\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("held", ["", "signal.pthread_sigmask(signal.SIG_BLOCK, [1, 2, 15])\n"])
def test_a_signal_ends_the_waiting(number: signal.Signals, held: str) -> None:
    then = "try:\n    listen()\nexcept apart.Stopped as error:\n    child.kill()\n    print(error)\nos._exit(0)"
    command = script("tell('up')\ntime.sleep(60)", then)
    command[-1] = command[-1].replace("child =", f"{held}child =")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "'up'\n"
    os.kill(process.pid, number)
    out, _ = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out) == (0, f"{number.name}\n")


def test_the_child_itself_can_be_ended_by_a_signal() -> None:
    done = run("tell('up')\nos.kill(os.getpid(), signal.SIGTERM)\ntell('still here')", "listen(); print('end')")
    assert done.stdout == "'up'\nend\n"


def test_a_second_child_can_follow_the_first() -> None:
    done = run("tell('one')", "listen(); child = apart.Child(lambda tell: tell('two')); listen()")
    assert done.stdout == "'one'\n'two'\n"

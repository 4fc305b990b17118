"""The recorder's wait with hints: it ends with a response, with a signal, or with its time."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nvmefence.agents import stopping, waiting
from nvmefence.agents.hints import Hints
from nvmefence.agents.stopping import SIGNALS

LONG_S = 30.0


def after(seconds: float, work: object) -> threading.Timer:
    timer = threading.Timer(seconds, work)  # type: ignore[arg-type]
    timer.start()
    return timer


def test_a_rename_into_the_directory_ends_it(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "new").write_text("{}")
    hints = Hints(str(tmp_path / "spool"), SIGNALS)
    begun = time.monotonic()
    timer = after(0.1, lambda: (tmp_path / "new").rename(tmp_path / "spool" / "r.json"))
    assert hints.pause(LONG_S) == ""
    timer.join()
    assert time.monotonic() - begun < LONG_S / 2
    begun = time.monotonic()
    assert hints.pause(0.1) == ""
    assert time.monotonic() - begun >= 0.09, "what was heard once is not heard again"


def test_a_file_that_is_written_in_place_ends_it(tmp_path: Path) -> None:
    hints = Hints(str(tmp_path), SIGNALS)
    begun = time.monotonic()
    timer = after(0.1, lambda: (tmp_path / "r.json").write_text("{}"))
    assert hints.pause(LONG_S) == ""
    timer.join()
    assert time.monotonic() - begun < LONG_S / 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_and_is_named(tmp_path: Path, number: signal.Signals) -> None:
    script = f"""
import os
from nvmefence.agents import stopping, waiting
stopping.hold_signals()
rest = waiting.listen({str(tmp_path)!r})
assert rest is not stopping.pause
print("ready", flush=True)
print(rest({LONG_S}), flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == f"{number.name}\n"
    assert process.returncode == 0


def test_a_directory_that_is_not_there_and_a_kernel_without_instances_leave_the_pauses_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert waiting.listen(str(tmp_path / "missing")) is stopping.pause
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            Hints(str(tmp_path / "missing"), SIGNALS)
    assert len(os.listdir("/proc/self/fd")) == before

    def none(*_arguments: object) -> int:
        raise OSError(errno.EMFILE, "inotify_init1")

    monkeypatch.setattr("nvmefence.agents.hints.call", none)
    assert waiting.listen(str(tmp_path)) is stopping.pause


def test_a_late_response_is_seen_long_before_the_next_look(tmp_path: Path) -> None:
    """By looks alone it would be seen after another twentieth of the time waited."""
    answer = '{"request_id": "r", "target_node": "c1", "success": true, "message": "m"}'
    late: list[float] = []

    def publish() -> None:
        (tmp_path / "new").write_text(answer)
        late.append(time.monotonic())
        (tmp_path / "new").rename(tmp_path / "r.json")

    looks = []
    for delay in (1.0, 1.2, 1.4):
        timer = after(delay, publish)
        verdict = waiting.wait(
            str(tmp_path), "r.json", "r", "c1", since=time.monotonic(), within_s=LONG_S, poll_s=20.0
        )
        timer.join()
        assert verdict.confirmed
        looks.append(verdict.seen - late.pop())
        (tmp_path / "r.json").unlink()
    assert min(looks) < 0.02, looks

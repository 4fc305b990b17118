"""`status --watch` as people and programs use it: on a terminal, in a pipe, and ended by Ctrl-C."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator

import pytest

from nvmefence.nvme.simulation import load_fleet
from tests.system.place import CLEAN, FLEET, HUNG, SLOT_0, Place

WITHIN_S = 15.0
CTRL_C = b"\x03"


class Terminal:
    """A process whose terminal is ours to look at and to type on."""

    def __init__(self, place: Place, *words: str, rows: int = 24, columns: int = 100, **variables: str) -> None:
        self.shown = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            self._become(place, words, rows, columns, variables)
        self.exit: int | None = None

    def _become(
        self, place: Place, words: tuple[str, ...], rows: int, columns: int, variables: dict[str, str]
    ) -> None:
        try:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.chdir(place.path)
            command = place.command("status", *words)
            environment = {**CLEAN, "TERM": "xterm", "LC_ALL": "C.UTF-8", **variables}
            os.execvpe(command[0], command, environment)
        finally:
            os._exit(99)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def sees(self, pattern: str) -> str:
        """Wait until what is shown from now on has something; return what came until then."""
        end, seen = time.monotonic() + WITHIN_S, ""
        while not re.search(pattern, seen, re.DOTALL):
            assert time.monotonic() < end, f"{pattern!r} is not seen: {seen[-3000:]!r}"
            seen += self._more()
        return seen

    def _more(self) -> str:
        if not select.select([self.fd], [], [], 0.2)[0]:
            return ""
        with contextlib.suppress(OSError):  # EIO: it has ended
            text = os.read(self.fd, 65536).decode()
            self.shown += text
            return text
        return ""

    def ended(self) -> int:
        """Wait for its end; return the exit code."""
        end = time.monotonic() + WITHIN_S
        while self.exit is None:
            self._more()
            pid, state = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.exit = os.waitstatus_to_exitcode(state)
            assert time.monotonic() < end, "it does not end"
        self._more()
        return self.exit

    def close(self) -> None:
        if self.exit is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


Start = Callable[..., Terminal]


@pytest.fixture
def terminal(place: Place) -> Iterator[Start]:
    made: list[Terminal] = []

    def start(*words: str, **options: object) -> Terminal:
        made.append(Terminal(place, *words, **options))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for one in made:
        one.close()


def detach_behind_its_back(place: Place) -> None:
    fleet = load_fleet(place.path / "fleet.toml")
    with fleet.store.locked():
        fleet.store.refresh()
        subsystem = fleet.subsystems[0]
        subsystem.set_attached(1, {*subsystem.attached(1)} - {SLOT_0})
        fleet.store.save(subsystem)


def test_on_a_terminal_a_change_is_seen_and_ctrl_c_ends_it_well(place: Place, terminal: Start) -> None:
    live = terminal("--watch", "1")
    live.sees("3 of 3 drives read.*attached.*attached")
    detach_behind_its_back(place)
    live.sees("partly 3/4")
    live.type(CTRL_C)
    assert live.ended() == 0
    assert live.shown.count("\x1b[?1049h") == live.shown.count("\x1b[?1049l") == 1
    left = live.shown.rpartition("\x1b[?1049l")[2]
    assert "partly 3/4" in left, "the last picture stays"
    assert "\x1b[?25h" in live.shown, "the cursor is back"
    assert "Traceback" not in live.shown


def test_a_terminal_of_another_size_is_filled_anew_at_once(place: Place, terminal: Start) -> None:
    live = terminal("--watch", "3600")
    live.sees("SIM00002")
    live.resize(24, 30)
    live.sees(r"c2\S*\s+\S*3 attached")
    live.resize(24, 100)
    live.sees("SIM00002")
    live.type(CTRL_C)
    assert live.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_ends_leave_the_terminal_in_order(terminal: Start, number: int) -> None:
    live = terminal("--watch")
    live.sees("SIM00002")
    os.kill(live.pid, number)
    assert live.ended() == 0
    assert "\x1b[?1049l" in live.shown


def test_a_dumb_terminal_gets_plain_pictures_one_after_another(terminal: Start) -> None:
    live = terminal("--watch", "1", TERM="dumb")
    live.sees("drive .*drive .*")
    live.type(CTRL_C)
    assert live.ended() == 0
    assert "\x1b" not in live.shown


def test_a_drive_that_hangs_holds_nothing_up(place: Place, terminal: Start) -> None:
    place.write(FLEET + HUNG)
    live = terminal("--watch", "1")
    live.sees("HUNG.*no answer")
    detach_behind_its_back(place)
    live.sees("partly 3/4")
    begun = time.monotonic()
    live.type(CTRL_C)
    assert live.ended() == 0
    assert time.monotonic() - begun < 8


def piped(place: Place, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        place.command("status", "--watch", "1", *words), cwd=place.path, env=CLEAN, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_in_a_pipe_each_look_is_an_object_a_line(place: Place) -> None:
    with piped(place, "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        detach_behind_its_back(place)
        second = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=WITHIN_S)
    assert (process.returncode, said) == (0, "")
    _, once = place.json("status")
    assert set(first) == {*once, "time", "troubles"}
    states = [one["drives"][0]["hosts"]["c1"]["state"] for one in (first, second)]
    assert states == ["attached", "partly"]
    assert first["time"] < second["time"]


def test_in_a_pipe_whose_reader_leaves_it_ends_well(place: Place) -> None:
    with piped(place) as process:
        assert process.stdout is not None
        assert "SIMULATED" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(WITHIN_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize("given", ["0.5", "0", "4000", "soon", "nan"])
def test_an_interval_that_cannot_be_meant_is_refused(place: Place, given: str) -> None:
    done = place.run("status", "--watch", given)
    assert done.returncode == 2
    assert "is not a number of seconds from 1 to 3600" in done.stderr

"""After a fence, and the guard, under a real systemd: what the sandbox forbids, and what the drop-in allows."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import machine
from tests.system.place import FLEET, HOSTS, MAIN
from tests.system.service_room import ServiceRoom
from tests.system.test_unit_file import FILE, UNIT, WHY_NOT, Service
from tests.system.watching import until

ROOT = Path(__file__).parents[2]
DROP_IN = ROOT / "packaging" / "systemd" / f"{UNIT}.d" / "after-fence.conf.example"
FENCER = machine.daemon("pacemaker-fenced")
pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT) and os.environ.get("NVMEFENCE_LAB") != "require", reason=WHY_NOT),
]


@contextmanager
def serving(place: Service, *words: str, drop_in: bool = False) -> Iterator[Service]:
    """Have the unit run in a room of its own, with words for the watcher, and with our drop-in or without."""
    command = [*MAIN, *place.arguments(*words)]
    test = (
        f"[Service]\nExecStart=\nExecStart={' '.join(command)}\nWorkingDirectory={place.path}\n"
        f"ReadWritePaths={place.path}\nProtectHome=no\nPrivateTmp=no\n"
        f"Environment=PYTHONPATH={ROOT} PYTHONDONTWRITEBYTECODE=1\n"
    )
    units = {UNIT: FILE.read_text(), f"{UNIT}.d/test.conf": test}
    if drop_in:
        units[f"{UNIT}.d/after-fence.conf"] = DROP_IN.read_text()
    (place.path / "room").mkdir()
    with ServiceRoom(place.path / "room", units) as place.room:
        yield place


def start(place: Service) -> None:
    started = place.room.run("systemctl", "start", UNIT)
    assert started.returncode == 0, place.room.systemctl("status", UNIT)


@pytest.fixture
def place(tmp_path: Path) -> Service:
    made = Service(tmp_path)
    made.write(FLEET, HOSTS + "[hosts.c3]\nslot = 2\n")
    (tmp_path / "hooks.d").mkdir(mode=0o755)
    return made


def hook(place: Service, script: str) -> list[str]:
    """Make a hook; returns the watcher's words for it."""
    path = place.path / "hooks.d" / "10-a"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return ["--after", "hooks", "--hooks-dir", str(path.parent)]


def outcome(place: Service) -> tuple[int | None, str]:
    """Fence, and return the hook's exit code and output."""
    assert place.answered(place.ask("r.json"))["success"] is True
    (line,) = until(lambda: place.lines("after"), "the hook has run")
    return line["exit"], line["output"]


CONNECT = """{python} -c '
import socket
socket.socket(socket.AF_UNIX).connect("\\0nvmefence-test-abstract")
print("reached")
'"""
LISTEN = """
import os, socket
listening = socket.socket(socket.AF_UNIX)
listening.bind("\\0nvmefence-test-abstract")
listening.listen()
if os.fork() == 0:
    os.setsid()
    for stream in (0, 1, 2):
        os.close(stream)
    listening.accept()
"""


@pytest.mark.parametrize("drop_in", [False, True])
def test_an_abstract_socket_is_reached_with_the_drop_in_only(place: Service, drop_in: bool) -> None:
    words = hook(place, CONNECT.format(python=sys.executable))
    with serving(place, *words, drop_in=drop_in):
        done = place.room.run(sys.executable, "-c", LISTEN)
        assert done.returncode == 0, done.stderr
        start(place)
        code, output = outcome(place)
    if drop_in:
        assert (code, output) == (0, "reached")
    else:
        assert code == 1
        assert "ConnectionRefusedError" in output


@pytest.mark.skipif(FENCER is None or shutil.which("stonith_admin") is None, reason="Pacemaker is not installed")
@pytest.mark.parametrize("drop_in", [False, True])
def test_pacemaker_is_reached_with_the_drop_in_only(place: Service, drop_in: bool) -> None:
    words = hook(place, "stonith_admin --list-registered")
    with serving(place, *words, drop_in=drop_in):
        log = place.path / "fencer.log"
        begin = f"mount -t tmpfs none /dev/shm; setsid {FENCER} --stand-alone --logfile {log} >/dev/null 2>&1 &"
        assert place.room.run("sh", "-c", begin).returncode == 0
        until(lambda: place.room.run("stonith_admin", "--list-registered").returncode == 0, "the fencer answers")
        start(place)
        code, output = outcome(place)
    assert (code == 0) == drop_in, output
    assert ("0 fence devices found" in output) == drop_in


def test_a_hook_can_speak_to_the_service_manager_and_ends_with_the_service(place: Service) -> None:
    words = hook(place, f"systemctl --no-pager is-active {UNIT} >>{place.path}/said; sleep 60")
    with serving(place, *words, "--after-timeout-s", "50"):
        start(place)
        assert place.answered(place.ask("r.json"))["success"] is True
        until(lambda: "sleep 60" in place.room.run("ps", "-ef").stdout, "the hook runs")
        assert (place.path / "said").read_text() == "active\n"
        assert place.room.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT).returncode == 0
        until(lambda: "sleep 60" not in place.room.run("ps", "-ef").stdout, "it has ended")


def test_a_persons_word_reaches_the_guard_in_its_sandbox_and_what_it_holds_outlives_a_restart(
    place: Service,
) -> None:
    def cut() -> set[int]:
        holders = {c for drive in place.attached().values() for ids in drive.values() for c in ids}
        return {2, 3, 4} - holders

    with serving(place, "--mass-fence-action", "hold", "--mass-fence-hosts", "1"):
        start(place)
        responses = [place.ask(f"r-{n}.json", target_node=f"c{n}", timeout_s=60) for n in (1, 2, 3)]
        until(lambda: len(cut()) == 1, "one is cut")
        before = place.main_process()
        assert place.room.run("systemctl", "restart", UNIT).returncode == 0
        assert place.main_process() != before
        until(lambda: "held, and still able to write" in place.room.shows(UNIT, "StatusText"), "it holds again")
        assert len(cut()) == 1
        told = place.room.run(*MAIN, "allow-mass-fence", "--config", "/dev/null")
        assert told.returncode == 0, told.stderr
        assert "held now: c" in told.stdout
        assert all(place.answered(response)["success"] for response in responses)
    assert len(cut()) == 3


def test_the_drop_in_gives_nothing_else_away() -> None:
    lines = [line for line in DROP_IN.read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ["[Service]", "PrivateNetwork=no"]

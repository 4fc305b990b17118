"""What lies in the place of a host map or of settings: every program refuses it at once, in a line, with code 3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.system.direct import Node
from tests.system.place import MAIN, Place
from tests.system.test_watch import Manager
from tests.system.watching import Watching

AT_ONCE_S = 5.0
"""Seconds, on a busy machine; the deadline of these fences is a minute."""
DEEP = "x = " + "[" * 3000
LONG = "version = " + "9" * 10_000
DOTTED = "a." * 500_000 + "a = 1"
"""Would keep the parser busy for an hour."""
REPORT = [sys.executable, "-m", "nvmefence.nnf.report", "--once", "--rabbit", "r", "--kubeconfig", "none"]
BROKEN = """
from nvmefence.inventory import hostfile
real, calls = hostfile.load, []
def load(path):
    calls.append(path)
    return real(path) if len(calls) == 1 else {}["a defect"]
hostfile.load = load
"""
"""Reads a map once."""
BY_MAP = (
    ["check"], ["detach", "--host", "c1"], ["status"], ["hosts", "show"], ["restore", "--host", "c1"], ["watch"],
)  # fmt: skip
BY_SETTINGS = (["detach", "--host", "c1"], ["watch"], ["history"], ["hosts", "discover"])
IN_ITS_PLACE = (
    ("--hosts", "fifo"), ("--config", "fifo"), ("--simulate", "fifo"), ("--hosts", "device"), ("--config", "large"),
    ("--hosts", "folder"), ("--hosts", "long"), ("--config", "long"), ("--hosts", "dotted"),
    ("--simulate", "dotted"),
)  # fmt: skip
AGENT = (
    ("off", "hosts_file"), ("monitor", "hosts_file"), ("status", "hosts_file"), ("list", "hosts_file"),
    ("off", "settings_file"), ("on", "settings_file"), ("validate-all", "settings_file"),
)  # fmt: skip


def make(path: Path, what: str) -> Path:
    """Put something into the place of a file."""
    if what == "fifo":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "large":
        os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC), 1 << 40)
    elif what == "folder":
        path.mkdir()
    else:
        path.write_text({"deep": DEEP, "long": LONG, "dotted": DOTTED}[what])
    return path


def refused(done: subprocess.CompletedProcess[str], name: str) -> None:
    """Fail unless a program said in a line what is wrong with a file, and ended as it should."""
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") <= 2, done.stderr
    assert name in done.stderr
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("words", BY_MAP, ids=" ".join)
def test_a_map_that_is_nested_too_deeply_is_refused(place: Place, words: list[str]) -> None:
    make(place.path / "deep.toml", "deep")
    here = ["--request-dir", str(place.path / "q"), "--response-dir", str(place.path / "r")]
    more = here if words == ["watch"] else []
    done = place.spawn([*MAIN, *words, "--simulate", "fleet.toml", "--hosts", "deep.toml", *more])
    refused(done, "deep.toml: nested more than 16 levels deep")


@pytest.mark.parametrize("words", BY_SETTINGS, ids=" ".join)
def test_settings_that_are_nested_too_deeply_are_refused(place: Place, words: list[str]) -> None:
    make(place.path / "deep.toml", "deep")
    refused(
        place.spawn([*MAIN, *words], NVMEFENCE_CONFIG="deep.toml"), "deep.toml: nested more than 16 levels deep"
    )


@pytest.mark.parametrize(("option", "what"), IN_ITS_PLACE)
def test_an_emergency_command_waits_for_nothing_in_the_place_of_a_file(
    place: Place, option: str, what: str
) -> None:
    make(place.path / "evil.toml", what)
    given = {"--hosts": "hosts.toml", "--simulate": "fleet.toml", option: "evil.toml"}
    words = [word for pair in given.items() for word in pair]
    start = time.monotonic()
    done = place.spawn([*MAIN, "detach", "--host", "c1", "--deadline", "60", *words])
    assert time.monotonic() - start < AT_ONCE_S
    refused(done, "evil.toml")
    assert "not a path" not in done.stderr


def test_the_reporter_refuses_such_settings(place: Place) -> None:
    for what in ("deep", "fifo"):
        make(place.path / f"{what}.toml", what)
        refused(place.spawn([*REPORT, "--config", f"{what}.toml"]), f"{what}.toml")


@pytest.mark.parametrize(("action", "option"), AGENT)
def test_the_direct_agent_fails_and_says_why(tmp_path: Path, action: str, option: str) -> None:
    node = Node(tmp_path)
    make(tmp_path / "deep.toml", "deep")
    result = node.call(action, nodename="c1", port="c1", **{option: "deep.toml"})
    assert (result.code, result.out) == (1, "")
    assert "deep.toml: nested more than 16 levels deep; correct the file" in result.err
    assert result.err.count("\n") <= 2
    assert node.cut_off() == set()


@pytest.mark.parametrize("what", ["deep", "fifo", "dotted"])
def test_a_watcher_that_is_told_to_read_such_a_map_keeps_its_own_and_says_so(tmp_path: Path, what: str) -> None:
    place = Watching(tmp_path)
    manager = Manager(tmp_path)
    with place.watcher(env=manager.environment) as running:
        assert manager.hears("READY=1")
        os.rename(make(tmp_path / "evil.toml", what), tmp_path / "hosts.toml")
        running.process.send_signal(signal.SIGHUP)
        assert manager.hears("RELOADING=1")
        assert manager.hears("READY=1")
        running.hears("host map: kept as it was, for the new one is refused: ")
        assert place.answered(place.ask("still.json"))["success"] is True
        assert "TROUBLE: host map: kept as it was" in manager.hears("STATUS=serving; last")["STATUS"]
        (tmp_path / "hosts.toml").unlink()
        place.write()
        running.process.send_signal(signal.SIGHUP)
        running.hears("host map: well again")
    assert "Traceback" not in running.text()
    assert "never retrieved" not in running.text()


def test_a_reload_that_ends_in_a_defect_is_over_all_the_same_and_is_said(tmp_path: Path) -> None:
    place = Watching(tmp_path)
    manager = Manager(tmp_path)
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    with place.watcher(env={**manager.environment, "PYTHONPATH": str(tmp_path)}) as running:
        assert manager.hears("READY=1")
        running.process.send_signal(signal.SIGHUP)
        assert manager.hears("RELOADING=1")
        assert manager.hears("READY=1")
        running.hears("host map: kept as it was, for the new one is refused: KeyError: ")
        assert place.answered(place.ask("still.json"))["success"] is True
    assert "never retrieved" not in running.text()


def test_nothing_at_all_is_no_settings(place: Place) -> None:
    assert place.run("hosts", "show", "--config", os.devnull).returncode == 0

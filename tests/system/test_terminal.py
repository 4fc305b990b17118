"""Who reads the command's output: pipes that close early, terminals with and without colours, or gone."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shlex
import subprocess
import termios
import time
from collections.abc import Callable, Iterator

import pytest

from tests.system.place import CLEAN, FLEET, HOSTS, REMOVED, SLOT_0, SLOW, STATE, UNFENCEABLE, Place, outcomes


@pytest.mark.parametrize(
    ("words", "fault", "code"),
    [
        (["status"], "", 0),
        (["check"], REMOVED, 9),
        (["detach", "--host", "c1"], "", 0),
        (["detach", "--host", "c1", "--json"], "", 0),
        (["detach", "--host", "c1"], UNFENCEABLE, 1),
        (["status", "--host", "x", "--json"], "", 4),
        (["hosts", "show"], "", 0),
        (["version"], "", 0),
    ],
)
def test_reader_that_has_left_changes_no_exit_code(place: Place, words: list[str], fault: str, code: int) -> None:
    place.write(FLEET + fault)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            place.command(*words), cwd=place.path, env=CLEAN, stdout=writer, stderr=subprocess.PIPE, text=True,
            timeout=30, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (code, "")


def test_reader_of_the_first_line_of_much_changes_no_exit_code(place: Place) -> None:
    place.write("[fleet]\ndrives = 40\nsecondary_controllers = 5\nnamespaces = 40\n", HOSTS.replace("3", "40", 1))
    command = " ".join(place.command("detach", "--host", "c1", "--json"))
    done = place.spawn(["bash", "-c", f"{command} | head -1; echo ${{PIPESTATUS[0]}}"])
    assert (done.stdout, done.stderr) == ("{\n0\n", "")


def on_terminal(place: Place, command: list[str], **variables: str) -> tuple[int, str]:
    """Run with standard output and error on a terminal of its own; return exit code and what it showed."""
    ours, theirs = pty.openpty()
    environment = {**CLEAN, "TERM": "xterm", "COLUMNS": "120", **variables}
    process = subprocess.Popen(command, cwd=place.path, env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # EIO: the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return process.wait(timeout=30), shown.decode()


@pytest.mark.parametrize(
    ("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)], ids=str
)
def test_colours_are_for_terminals_that_want_them(place: Place, variables: dict[str, str], coloured: bool) -> None:
    code, shown = on_terminal(place, place.command("status"), **variables)
    assert code == 0
    assert ("\x1b[32mattached" in shown) is coloured
    assert (re.search(r"\x1b\[\d+m", shown) is not None) is coloured
    assert "attached" in shown


def test_pipes_get_no_colour_and_no_progress(place: Place) -> None:
    done = place.write(FLEET + SLOW).run("detach", "--host", "c1")
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr == ""


def test_slow_fence_shows_on_a_terminal_what_it_waits_for(place: Place) -> None:
    place.write(FLEET + SLOW)
    code, shown = on_terminal(place, place.command("detach", "--host", "c1"))
    assert code == 0
    assert re.search(r"\d\.\d s  fencing c1: waiting for SLOW \((look|read|cut|read-back)\)", shown)
    assert re.search(r"SIM00000\s+cut", shown)
    assert shown.rindex("SIMULATED: Fenced c1") > shown.rindex("waiting for")


def test_terminal_that_is_gone_stops_no_cut(place: Place) -> None:
    place.write(FLEET + SLOW)
    ours, theirs = pty.openpty()
    environment = {**CLEAN, "TERM": "xterm"}
    command = [*place.command("detach", "--host", "c1"), "--json"]
    with open(place.path / "out.json", "w+") as out:
        process = subprocess.Popen(command, cwd=place.path, env=environment, stdout=out, stderr=theirs)
        os.close(theirs)
        os.close(ours)
        code = process.wait(timeout=30)
        out.seek(0)
        document = json.load(out)
    assert code == document["exit"] == 0
    assert set(outcomes(document).values()) == {"cut"}


def stop(terminal: int) -> None:
    """As Ctrl-S does."""
    termios.tcflow(terminal, termios.TCOOFF)


def leave_no_room(terminal: int) -> None:
    """As a line does that nobody reads at the other end."""
    again = os.open(os.ttyname(terminal), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    for size in (256, 1) * 10:  # the kernel moves what is written on, and so makes room once more
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(again, b"#" * size)
        time.sleep(0.01)
    os.close(again)


STUCK = pytest.mark.parametrize("stick", [stop, leave_no_room])


@contextlib.contextmanager
def terminal_pair() -> Iterator[tuple[int, int]]:
    """A terminal: our end and theirs."""
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


def ended(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code; one that does not end is killed, as nothing else would free it from its terminal."""
    try:
        return process.wait(timeout=15)
    finally:
        process.kill()
        process.wait()


def start_on(place: Place, command: list[str], out: int, err: int, **variables: str) -> subprocess.Popen[bytes]:
    environment = {**CLEAN, "TERM": "xterm", "COLUMNS": "120", **variables}
    return subprocess.Popen(command, cwd=place.path, env=environment, stdout=out, stderr=err)


@STUCK
@pytest.mark.parametrize(
    ("fault", "code"), [(SLOW, 0), (SLOW + REMOVED.replace("= 1", "= 2"), 5)], ids=["slow", "drive missing"]
)
def test_stuck_terminal_stops_no_cut(place: Place, fault: str, code: int, stick: Callable[[int], None]) -> None:
    place.write(FLEET + fault)
    results = place.path / "out.json"
    command = [*place.command("detach", "--host", "c1", "--json"), "--deadline", "25"]
    with terminal_pair() as (_, theirs), open(results, "w") as out:
        stick(theirs)
        # That the environment overrides the option is noted on the terminal before the fence.
        assert ended(start_on(place, command, out.fileno(), theirs, NVMEFENCE_DEADLINE="20")) == code
    document = json.loads(results.read_text())
    assert document["exit"] == code
    assert outcomes(document)["SIM00000"] == outcomes(document)["SLOW"] == "cut"
    assert place.attached()["SIM00000"]["1"] == [1, 3, 4, 5]


@STUCK
@pytest.mark.parametrize(
    ("words", "code"),
    [(["detach", "--host", "nobody"], 4), (["detach", "--host", "c1", "--deadline", "soon"], 3)],
    ids=["refused", "bad setting"],
)
def test_error_for_a_stuck_terminal_keeps_the_exit_code(
    place: Place, words: list[str], code: int, stick: Callable[[int], None]
) -> None:
    with terminal_pair() as (_, theirs):
        stick(theirs)
        assert ended(start_on(place, place.command(*words), subprocess.DEVNULL, theirs)) == code


def test_terminal_that_goes_on_after_the_fence_shows_the_results_last(place: Place) -> None:
    place.write(FLEET + SLOW)
    with terminal_pair() as (ours, theirs):
        command = place.command("detach", "--host", "c1")
        process = start_on(place, command, theirs, theirs)
        shown = b""
        while b"waiting for" not in shown:
            shown += soon(ours)
        stop(theirs)
        until_all_is_cut(place)
        time.sleep(1)
        termios.tcflow(theirs, termios.TCOON)
        while b"was already working" not in shown:
            shown += soon(ours)
        assert ended(process) == 0
    text = shown.decode()
    results = text.rpartition("waiting for")[2]
    assert "\r\x1b[2K" in results[: results.index("detached from")], "no rest of the live line before the results"
    assert "SIMULATED: Fenced c1" in results


def soon(terminal: int) -> bytes:
    """Return what a terminal shows next."""
    assert select.select([terminal], [], [], 15)[0], "it shows nothing more"
    return os.read(terminal, 65536)


def until_all_is_cut(place: Place) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, KeyError):
            masks = json.loads((place.path / STATE).read_text())["drives"]["SLOW"]["attached"].values()
            if len(masks) == 4 and not any(int(mask, 16) >> SLOT_0 & 1 for mask in masks):
                return
        time.sleep(0.02)
    pytest.fail("not cut")


def wide(hosts: int) -> str:
    return "".join(f'[hosts."compute-{n}.rack-1.example.org"]\nslot = {n}\n' for n in range(hosts))


def test_sixteen_hosts_are_readable_on_a_narrow_terminal(place: Place) -> None:
    place.write("[fleet]\ndrives = 1\nsecondary_controllers = 17\n", f"version=1\n[drives]\ncount=1\n{wide(16)}")
    _, shown = on_terminal(place, place.command("status"), COLUMNS="80")
    assert "compute-15.rack-1.example.org" in shown
    assert "…" not in shown


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize(("host", "code"), [("c1", 0), ("nobody", 4)])
def test_full_disk_under_the_output_keeps_the_exit_code_true(
    place: Place, host: str, code: int, form: list[str]
) -> None:
    command = shlex.join(place.command("detach", "--host", host, *form))
    assert place.spawn(["bash", "-c", f"{command} >/dev/full 2>/dev/full"]).returncode == code
    assert place.attached()["SIM00000"]["1"] == ([1, 3, 4, 5] if code == 0 else [1, 2, 3, 4, 5])


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_keep_no_fence_from_its_work(place: Place, closed: str) -> None:
    command = shlex.join(place.command("detach", "--host", "c1"))
    done = place.spawn(["bash", "-c", f"{command} {closed}; echo $? > code"])
    assert ((place.path / "code").read_text(), done.stderr) == ("0\n", "")
    assert all(2 not in ids for drive in place.attached().values() for ids in drive.values())

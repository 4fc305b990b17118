"""The watcher while its directories, audit and logs break: it says so, goes on, and never answers too early."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from tests.system.place import CLEAN, FLEET, MAIN, SLOT_0, SLOW
from tests.system.test_watch import Manager
from tests.system.watching import Running, Watching, until

FALLBACK: Final = ".audit.jsonl"
SAYS_FULL: Final = "No space left on device"
PAGE: Final = 4096


@pytest.fixture
def place(tmp_path: Path) -> Watching:
    return Watching(tmp_path)


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, timeout=10, capture_output=True)


def unmount(path: Path) -> None:
    """Take a file system away at once, however busy it is; its users keep what they have open."""
    subprocess.run(["umount", "-l", str(path)], check=False, timeout=10, capture_output=True)


@contextlib.contextmanager
def disk(path: Path) -> Iterator[Path]:
    """A file system of 64 KiB at a path."""
    if os.geteuid():
        pytest.skip("mounting needs root")
    path.mkdir(exist_ok=True)
    try:
        mount("-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a tmpfs cannot be mounted here: {error}")
    try:
        yield path
    finally:
        unmount(path)


def fill(path: Path) -> Path:
    """Leave no byte free on the disk of a directory; return the file that takes it all."""
    filler = path / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * PAGE)
    return filler


def refused(place: Watching, running: Running, text: str, pause: float = 2.5) -> None:
    """Nothing is answered for a while, and that is said exactly once."""
    running.hears(text)
    time.sleep(pause)
    assert list(place.answers.glob("*.json")) == []
    assert running.text().count(text) == 1, running.text()


def audited(path: Path) -> list[dict[str, Any]]:
    """The answers in an audit file."""
    found = [json.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []
    return [line for line in found if line["event"] == "answer"]


def test_directories_that_are_missing_at_the_start_are_served_when_they_come(place: Watching) -> None:
    place.requests.rmdir()
    place.answers.rmdir()
    with place.watcher() as running:
        for path in (place.requests, place.answers):
            running.hears(f"{path}: cannot open '{path}': No such file or directory")
        place.answers.mkdir()
        running.hears(f"{place.answers}: well again")
        place.requests.mkdir()
        assert place.answered(place.ask("r.json"))["success"] is True
        running.hears(f"{place.requests}: well again")


@pytest.mark.parametrize("which", ["requests", "answers"])
def test_a_directory_removed_and_made_again_is_served(place: Watching, which: str) -> None:
    path: Path = getattr(place, which)
    with place.watcher() as running:
        place.answered(place.ask("before.json"))
        until(lambda: not place.pending(), "the request is removed")
        shutil.rmtree(path)
        if which == "answers":
            place.ask("while.json", target_node="c2")
        running.hears(f"{path}: cannot open")
        path.mkdir()
        if which == "answers":
            assert place.answered(place.answers / "while.json")["success"] is True
        assert place.answered(place.ask("after.json"))["success"] is True
        running.hears("well again")
        assert running.text().count(f"{path}: cannot open") == 1


@pytest.mark.parametrize("which", ["requests", "answers"])
def test_a_directory_replaced_while_a_fence_runs_costs_no_answer(place: Watching, which: str) -> None:
    place.write(FLEET + SLOW)
    path: Path = getattr(place, which)
    with place.watcher() as running:
        response = place.ask("r.json")
        running.hears("fencing c1")
        path.rename(path.with_name("away"))
        path.mkdir()
        assert place.answered(response)["success"] is True
        if which == "requests":
            assert place.answered(place.ask("r-2.json"))["success"] is True
        running.stop()
    assert place.lines()[0]["file"] == "r.json"


def test_an_answer_waits_for_no_request_directory(place: Watching) -> None:
    place.write(FLEET + SLOW)
    with place.watcher() as running:
        response = place.ask("r.json")
        running.hears("fencing c1")
        place.requests.rename(place.path / "away")
        assert place.answered(response)["success"] is True
        (place.path / "away").rename(place.requests)
        until(lambda: not place.pending(), "the request is removed as answered")
    assert len(place.lines()) == 1


def test_a_directory_that_a_link_leads_elsewhere_is_followed(place: Watching) -> None:
    for name in ("one", "two"):
        (place.path / name).mkdir()
    place.requests.rmdir()
    place.requests.symlink_to("one")
    with place.watcher():
        assert place.answered(place.ask("r-1.json"))["success"] is True
        (place.path / "new").symlink_to("two")
        (place.path / "new").rename(place.requests)
        assert place.answered(place.ask("r-2.json"))["success"] is True


@pytest.mark.parametrize("which", ["requests", "answers"])
def test_a_file_system_unmounted_and_mounted_again_is_served(place: Watching, which: str) -> None:
    path: Path = getattr(place, which)
    with place.watcher() as running:
        for number in range(2):
            with disk(path):
                answer = place.answers / f"r-{number}.json"
                document = {"request_id": f"r-{number}", "action": "off", "target_node": "c1"}
                draft = place.requests / ".draft"
                draft.write_text(json.dumps(document))
                draft.chmod(0o600)
                draft.rename(place.requests / answer.name)
                assert place.answered(answer)["success"] is True
                until(lambda: not place.pending(), "the request is removed")
            assert list(path.glob("*.json")) == []
        assert place.answered(place.ask("under.json"))["success"] is True
        assert running.process.poll() is None


def test_full_responses_are_said_once_and_answered_when_there_is_room(place: Watching) -> None:
    with disk(place.answers), place.watcher() as running:
        filler = fill(place.answers)
        response = place.ask("r.json")
        refused(place, running, "answers: 1 not delivered and will be tried again: cannot write r.json")
        assert SAYS_FULL in running.text()
        assert [path.name for path in place.answers.iterdir()] == ["filler"]  # no draft is left behind
        assert place.pending() == ["r.json"]
        filler.unlink()
        assert place.answered(response)["success"] is True
        running.hears("answers: well again")
    assert [line["file"] for line in place.lines()] == ["r.json"]


def test_read_only_responses_are_said_once_and_answered_when_they_can_be_written(place: Watching) -> None:
    with disk(place.answers), place.watcher() as running:
        mount("-o", "remount,ro", str(place.answers))
        response = place.ask("r.json")
        refused(place, running, "Read-only file system")
        mount("-o", "remount,rw", str(place.answers))
        assert place.answered(response)["success"] is True
        running.hears("answers: well again")


def change_attribute(path: Path, change: str) -> None:
    done = subprocess.run(["chattr", change, str(path)], check=False, timeout=10, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file cannot be made immutable here: {done.stderr.strip()}")


def test_an_answered_request_that_cannot_be_removed_is_said_seldom_and_goes_in_the_end(place: Watching) -> None:
    place.write(FLEET + SLOW)
    with place.watcher("--max-request-age-s", "3") as running:
        request = place.requests / "r.json"
        response = place.ask(request.name)
        running.hears("fencing c1")
        change_attribute(request, "+i")
        try:
            assert place.answered(response)["success"] is True
            running.hears("not delivered and will be tried again: cannot remove r.json: Operation not permitted")
            running.hears("request r.json is given up")
            running.hears("r.json was answered before and is not executed again")
            time.sleep(1.5)
            assert len(running.text().splitlines()) < 20, running.text()
        finally:
            change_attribute(request, "-i")
        until(lambda: not place.pending(), "the request is removed")
        running.hears("answers: well again")
    assert len(place.lines()) == 1


def test_requests_on_a_full_disk_are_served_also_from_the_start(place: Watching) -> None:
    with disk(place.requests):
        for name in ("r-1", "r-2"):
            document = {"request_id": name, "action": "off", "target_node": "c1"}
            (place.requests / f"{name}.json").write_text(json.dumps(document))
        stale = place.requests / "bad.json"
        stale.write_text("x")
        os.utime(stale, (1, 1))
        filler = fill(place.requests)
        with place.watcher() as running:
            for name in ("r-1", "r-2"):
                assert place.answered(place.answers / f"{name}.json")["success"] is True
            until(lambda: not place.pending(), "all are removed or put aside")
            filler.unlink(missing_ok=True)
            assert running.process.poll() is None


def spoil(audit: Path, how: str) -> None:
    """Make an audit file unwritable."""
    if how == "full":
        fill(audit.parent)
    elif how == "missing":
        audit.parent.rename(audit.parent.with_name("away"))
    else:
        audit.mkdir()


def mend(audit: Path, how: str) -> None:
    if how == "full":
        (audit.parent / "filler").unlink()
    elif how == "missing":
        audit.parent.with_name("away").rename(audit.parent)
    else:
        audit.rmdir()


SAID: Final = {"full": SAYS_FULL, "missing": "No such file or directory", "a directory": "Is a directory"}


@pytest.mark.parametrize("how", SAID)
def test_what_the_audit_does_not_take_is_beside_the_responses_before_they_are_visible(
    place: Watching, how: str
) -> None:
    manager = Manager(place.path)
    with contextlib.ExitStack() as stack:
        place.audit = place.path / "disk" / "audit.jsonl"
        if how == "full":
            stack.enter_context(disk(place.audit.parent))
        else:
            place.audit.parent.mkdir()
        spoil(place.audit, how)
        running = stack.enter_context(place.watcher(env=manager.environment))
        for number in range(20):
            response = place.ask(f"r-{number}.json", target_node=f"c{1 + number % 2}")
            until(response.exists, response.name)
            lines = audited(place.answers / FALLBACK)
            assert [line["file"] for line in lines][-1] == response.name
        running.hears(text := f"{SAID[how]}; its lines go to {FALLBACK} beside the responses")
        until(lambda: text in manager.hears("STATUS=")["STATUS"], "the service manager hears of it")
        assert running.text().count(text) == 1
        mend(place.audit, how)
        place.answered(place.ask("mended.json"))
        running.hears("audit: well again")
        assert [line["file"] for line in audited(place.audit)] == ["mended.json"]
        assert "mended.json" not in (place.answers / FALLBACK).read_text()


def test_without_any_audit_there_is_no_answer_and_with_it_there_is(place: Watching) -> None:
    place.audit.mkdir()
    (place.answers / FALLBACK).mkdir()
    with place.watcher() as running:
        done = place.agent("-o", "off", "-n", "c1", "--fence-timeout", "1")
        assert done.returncode == 1
        response = place.ask("r.json", target_node="c2")
        refused(place, running, "; nothing can be answered", pause=1.0)
        assert SLOT_0 not in {c for drive in place.attached().values() for ids in drive.values() for c in ids}
        place.audit.rmdir()
        assert place.answered(response)["success"] is True
        running.hears("audit: well again")
    assert "r.json" in {line["file"] for line in place.lines()}


def test_an_answer_without_any_audit_is_given_up_and_that_is_said(place: Watching) -> None:
    place.audit.mkdir()
    (place.answers / FALLBACK).mkdir()
    with place.watcher("--max-request-age-s", "2") as running:
        place.ask("r.json")
        running.hears("request r.json is given up: its answer cannot be put on record")
        (place.answers / FALLBACK).rmdir()
        message = place.answered(place.answers / "r.json")["message"]
    assert "expired" in message  # the request is there still, and too old to be believed


def test_a_response_directory_replaced_while_the_audit_is_full_takes_its_lines_too(place: Watching) -> None:
    place.write(FLEET + SLOW)
    place.audit.mkdir()
    with place.watcher() as running:
        response = place.ask("r.json")
        running.hears("fencing c1")
        shutil.rmtree(place.answers)
        place.answers.mkdir()
        until(response.exists, "the response")
        assert [line["file"] for line in audited(place.answers / FALLBACK)] == ["r.json"]


def test_an_audit_that_logrotate_moves_goes_on_in_a_fresh_file(place: Watching) -> None:
    files = []
    with place.watcher():
        for number in range(6):
            place.answered(place.ask(f"r-{number}.json"))
            files.append(place.audit.with_suffix(f".{number}"))
            place.audit.rename(files[-1])
    names = [line["file"] for path in files for line in audited(path)]
    assert names == [f"r-{number}.json" for number in range(6)]
    assert place.audit.exists() is False


def log_lines(directory: Path) -> list[dict[str, Any]]:
    """What the detailed logs hold, each line whole; so are the lines of the others."""
    for path in directory.glob("fence-events*.log*"):
        text = path.read_text()
        assert text.endswith("\n")
        assert all(line.startswith("[20") for line in text.splitlines()), path.name
    return [
        json.loads(line)
        for path in directory.glob("fence-events-detailed.jsonl*")
        for line in path.read_text().splitlines()
    ]


def test_lines_of_agents_and_watcher_stay_whole_while_the_logs_are_rotated(place: Watching) -> None:
    def fence(number: int) -> int:
        return place.agent("-o", "off", "-n", f"c{1 + number % 2}").returncode

    with place.watcher() as running, ThreadPoolExecutor(4) as pool:
        agents = [pool.submit(fence, number) for number in range(16)]
        turn = 0
        while not all(agent.done() for agent in agents):
            turn += 1
            for path in list(place.logs.glob("*.log")) + list(place.logs.glob("*.jsonl")):
                path.rename(path.with_name(f"{path.name}.{turn}"))
            time.sleep(0.02)
        assert [agent.result() for agent in agents] == [0] * 16
        running.stop()
    lines = log_lines(place.logs)
    by_watcher = [line["request_id"] for line in lines if line["status"] == "fenced"]
    assert len(by_watcher) == len(set(by_watcher)) == 16
    assert len(lines) >= 32


@pytest.mark.parametrize("how", ["removed", "a file"])
def test_logs_that_cannot_be_written_cost_no_answer(place: Watching, how: str) -> None:
    with place.watcher() as running:
        shutil.rmtree(place.logs)
        if how == "a file":
            place.logs.write_text("")
        assert place.answered(place.ask("r-1.json"))["success"] is True
        if how == "a file":
            running.hears(f"log: {place.logs} cannot be written")
            place.logs.unlink()
            assert place.answered(place.ask("r-2.json"))["success"] is True
            running.hears("log: well again")
        until(lambda: place.logs.is_dir() and log_lines(place.logs), "the logs are there again")


def test_a_good_request_among_thousands_of_stale_ones_is_answered_soon(place: Watching) -> None:
    for number in range(2000):
        path = place.requests / f"{number:04}.json"
        path.write_text(
            "{" if number % 2 else f'{{"request_id": "{number}", "action": "off", "target_node": "c1"}}'
        )
        path.chmod(0o600)
        os.utime(path, (1e9, 1e9))
    with place.watcher():
        start = time.monotonic()
        response = place.ask("1000-good.json")
        assert place.answered(response)["success"] is True
        left = len(place.pending())
        assert left > 1000, f"answered with {left} files left, after {time.monotonic() - start:.1f} s"
        until(lambda: len(place.pending()) < left, "the others are worked off")
    assert SLOT_0 not in {c for drive in place.attached().values() for ids in drive.values() for c in ids}


def stopped(pid: int) -> bool:
    """Whether every thread of a process is stopped, which the signal alone does not wait for."""
    states = [task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


def test_the_sign_of_life_goes_stale_with_the_watcher(place: Watching) -> None:
    sign = place.requests / ".watcher"
    with place.watcher() as running:
        until(lambda: sign.exists() and sign.read_text(), "the sign of life")
        assert time.time() - sign.stat().st_mtime < 5
        assert json.loads(sign.read_text())["pid"] == running.process.pid
        assert place.agent("-o", "monitor").returncode == 0
        running.process.send_signal(signal.SIGSTOP)
        until(lambda: stopped(running.process.pid), "no thread of it gives a sign any more")
        old = time.time() - 400
        os.utime(sign, (old, old))
        done = place.agent("-o", "monitor")
        assert done.returncode == 1
        assert re.search(r"last sign of life 4\d\d s ago", done.stderr), done.stderr
        running.process.send_signal(signal.SIGCONT)
        until(lambda: sign.stat().st_mtime > old + 300, "a new sign")
        assert place.agent("-o", "monitor").returncode == 0


DEAF: Final = """
import sys
from nvmefence.cli import main
from nvmefence.watcher import kernel, service
def refuse():
    raise OSError(24, "Too many open files")
if sys.argv.pop(1) == "none":
    service.Inotify = refuse
else:
    kernel.Inotify.follow = lambda self, directory: None
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("how", ["none", "silent"])
def test_without_inotify_a_request_is_found_within_about_a_second(place: Watching, how: str) -> None:
    running = Running([sys.executable, "-c", DEAF, how, *place.arguments()], place.path)
    try:
        running.hears("serving")
        took = []
        for number in range(3):
            start = time.monotonic()
            assert place.answered(place.ask(f"r-{number}.json"))["success"] is True
            took.append(time.monotonic() - start)
        # Looks come each second. With the heartbeat's alone, every 5 s, what follows an answer would wait so long.
        assert min(took[1:]) < 4, took
        assert ("no inotify (Too many open files)" in running.text()) is (how == "none")
        assert running.stop() == 0
    finally:
        running.kill()


def test_fences_go_on_while_nobody_reads_what_the_watcher_says(place: Watching) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PAGE)
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 100)
    os.set_blocking(writer, True)
    process = subprocess.Popen([*MAIN, *place.arguments()], cwd=place.path, env=CLEAN, stderr=writer)
    os.close(writer)
    try:
        for number in range(50):
            response = place.ask(f"r-{number}.json", target_node=f"c{1 + number % 2}")
            assert place.answered(response)["success"] is True
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait(10)
        os.close(reader)

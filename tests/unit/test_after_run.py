"""One program, whatever it does: bounded in time and output, gone afterwards with what it left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from nvmefence.after import run as running
from nvmefence.after.run import TAIL, Ended, run

LIMIT_S = 0.4


def shell(script: str, limit_s: float = 10.0, given: bytes = b"") -> Ended:
    return run(["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin", "X": "1"}, limit_s, given)


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and unclaimed does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def gone(pid: int) -> bool:
    end = time.monotonic() + 20
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(pid)


@pytest.fixture(params=["pidfd", "no pidfd"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no pidfd":
        monkeypatch.setattr(running, "_pidfd", lambda _child: -1)


def test_exit_code_and_output_are_told() -> None:
    ended = shell("echo one; echo two >&2; exit 3")
    assert (ended.exit, ended.output, ended.problem) == (3, "one; two", "")
    assert ended.seconds < 20


def test_standard_input_is_what_was_given_to_the_last_byte() -> None:
    assert shell("cat | wc -c; cat | wc -c", given=b"x" * 100_000).output == "100000; 0"
    assert shell("cat").output == ""


def test_who_does_not_read_its_input_ends_all_the_same() -> None:
    assert shell("exec <&-; exit 0", given=b"x" * 1_000_000).exit == 0


def test_it_finds_nothing_of_ours() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        ended = shell("pwd; env | sort | tr '\\n' ' '; echo; ls /proc/self/fd | tr '\\n' ' '")
    finally:
        os.close(reader)
        os.close(writer)
    where, environment, descriptors = ended.output.split("; ")
    assert where == "/"
    assert set(environment.split()) == {"PATH=/usr/bin:/bin", "PWD=/", "X=1"} | (
        {"_=/usr/bin/env"} & set(environment.split())
    )
    assert descriptors.split() == ["0", "1", "2", "3"]


def test_signals_that_python_ignores_work_there() -> None:
    assert shell("kill -PIPE $$").exit == -signal.SIGPIPE
    assert "ended" not in shell("sleep 0.01").problem


def test_one_that_does_not_end_is_killed_with_its_children() -> None:
    ended = shell("trap '' TERM INT HUP; sleep 60 & echo $! $$; sleep 60", LIMIT_S)
    assert (ended.exit, ended.problem) == (None, f"killed after {LIMIT_S:g} s")
    assert LIMIT_S <= ended.seconds < LIMIT_S + 10
    assert all(gone(int(pid)) for pid in ended.output.split())


def test_a_child_that_keeps_the_pipe_is_not_waited_for_and_is_killed() -> None:
    ended = shell("sleep 60 & echo $!")
    assert (ended.exit, ended.problem) == (0, "")
    assert ended.seconds < 20
    assert gone(int(ended.output))


def test_a_child_in_a_session_of_its_own_is_not_waited_for() -> None:
    ended = shell("setsid sleep 15 & exit 4", 30)
    assert ended.exit == 4
    assert ended.seconds < 12


def test_of_a_flood_the_end_is_kept() -> None:
    ended = shell("while :; do echo flood; done", LIMIT_S)
    assert ended.problem == f"killed after {LIMIT_S:g} s"
    assert ended.seconds < LIMIT_S + 10
    assert ended.output.startswith("...")
    assert 100 < len(ended.output) < 2 * TAIL
    ended = shell("head -c 3000000 /dev/zero; echo; echo last")
    assert (ended.exit, ended.output.endswith("; last")) == (0, True)


def test_output_that_is_no_text_comes_through() -> None:
    assert shell("printf 'a\\377\\033b'").output == "a\ufffd\x1bb"


def test_one_that_closes_its_output_is_waited_for_without_haste() -> None:
    before = time.process_time()
    ended = shell("exec >&- 2>&-; sleep 0.5; exit 5")
    assert ended.exit == 5
    assert time.process_time() - before < 0.25


def test_what_cannot_be_run_says_why(tmp_path: Path) -> None:
    path = tmp_path / "hook"
    for text, mode, reason in (
        ("", 0o644, "Permission denied"),
        ("#!/no/such/interpreter\n", 0o755, "No such file or directory"),
        ("\x7fno format", 0o755, "Exec format error"),
    ):
        path.write_text(text)
        path.chmod(mode)
        ended = run([str(path)], {}, 10.0)
        assert (ended.exit, ended.output) == (127, f"{path}: {reason}")


def test_one_that_stops_itself_is_killed() -> None:
    assert shell("kill -STOP $$", LIMIT_S).problem == f"killed after {LIMIT_S:g} s"


def test_one_that_the_kernel_holds_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(running, "_kill", killed.append)
    monkeypatch.setattr(running, "_GRACE_S", 0.1)
    ended = shell("echo $$; exec sleep 60", LIMIT_S)
    assert (ended.exit, ended.problem) == (
        None,
        f"killed after {LIMIT_S:g} s, and not gone yet: the kernel holds it",
    )
    assert killed == [int(ended.output)]
    os.kill(killed[0], signal.SIGKILL)
    os.waitpid(killed[0], 0)


def test_no_descriptor_is_left() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for script in ("exit 0", "sleep 60"):
        shell(script, LIMIT_S, b"x")
    assert len(os.listdir("/proc/self/fd")) == before

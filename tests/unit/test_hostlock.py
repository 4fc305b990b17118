"""A restore has a host for itself, a fence never waits for it, and each knows of the other in another process."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nvmefence.errors import Exit, UnderWayError
from nvmefence.records import hostlock
from nvmefence.records.hostlock import UNANSWERED_S, HostLocks


@pytest.fixture
def locks(tmp_path: Path) -> HostLocks:
    return HostLocks(str(tmp_path / "run" / "hosts"))


@contextmanager
def another_process(work: Callable[[], object]) -> Iterator[int]:
    """A process that has done some work and then stays, until it is killed at the end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            held = work()
            os.write(writer, b"1")
            while held is not signal:
                signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"1", "it has done its work"
        yield pid
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def fenced(locks: HostLocks, host: str = "c1") -> hostlock.FenceLock:
    lock = locks.fence()
    assert lock.enter(host) == ""
    return lock


def test_fences_share_a_host_and_a_restore_is_refused_meanwhile(locks: HostLocks) -> None:
    with fenced(locks), fenced(locks):
        with pytest.raises(UnderWayError, match=r"a fence \(process \d+\) of c1 is under way") as refused:
            locks.restore("c1")
        assert refused.value.exit_code is Exit.UNDER_WAY
        locks.restore("c2").end()
    locks.restore("c1").end()


def test_a_host_is_the_same_in_any_case_of_its_name(locks: HostLocks) -> None:
    with fenced(locks, "Node-1"), pytest.raises(UnderWayError):
        locks.restore("node-1")


def test_two_restores_of_a_host_are_one_too_many(locks: HostLocks) -> None:
    first = locks.restore("c1")
    with pytest.raises(UnderWayError, match=r"a restore \(process \d+\) of c1 is under way"):
        locks.restore("c1")
    first.end()
    first.end()
    locks.restore("c1").end()


def test_a_fence_is_told_who_restores_and_the_restore_that_it_is_wanted(locks: HostLocks) -> None:
    restore = locks.restore("c1")
    assert restore.wanted() == ""
    lock = locks.fence()
    assert lock.enter("c1") == f"a restore (process {os.getpid()}) of c1 is under way"
    assert lock.enter("c2") == ""
    assert restore.wanted() == "a fence of c1 has begun"
    restore.end()
    assert lock.enter("c1") == ""
    with pytest.raises(UnderWayError):
        locks.restore("c1")
    lock.end()
    locks.restore("c1").end()


def test_what_a_fence_wants_is_forgotten_with_it(locks: HostLocks) -> None:
    restore = locks.restore("c1")
    lock = locks.fence()
    assert lock.enter("c1")
    lock.end()
    assert restore.wanted() == ""
    restore.end()


def test_another_process_has_it_until_it_is_gone(locks: HostLocks) -> None:
    with another_process(lambda: fenced(locks)) as pid, pytest.raises(UnderWayError, match=f"process {pid}"):
        locks.restore("c1")
    with another_process(lambda: locks.restore("c1")) as pid:
        lock = locks.fence()
        assert f"process {pid}" in lock.enter("c1")
    assert lock.enter("c1") == ""
    lock.end()


def test_a_restore_sees_the_fence_of_another_process(locks: HostLocks) -> None:
    restore = locks.restore("c1")
    with another_process(lambda: locks.fence().enter("c1")):
        assert restore.wanted() == "a fence of c1 has begun"
    assert restore.wanted() == ""
    restore.end()


def test_a_forked_child_does_not_keep_the_lock_of_its_parent_once_it_has_ended_it(locks: HostLocks) -> None:
    lock = fenced(locks)
    with another_process(lock.end):  # the front process and its worker share what was open before
        with pytest.raises(UnderWayError):
            locks.restore("c1")
        lock.end()
        locks.restore("c1").end()


@pytest.mark.parametrize("make", ["missing", "file", "read-only"])
def test_where_nobody_can_make_the_lock_a_fence_goes_on_and_a_restore_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str
) -> None:
    place = tmp_path / "place"
    if make == "file":
        place.write_bytes(b"")
    elif make == "missing":
        monkeypatch.setattr(os, "makedirs", failing(errno.ENOENT))
    else:
        monkeypatch.setattr(os, "open", failing(errno.EROFS))
    locks = HostLocks(str(place / "hosts"))
    lock = locks.fence()
    assert lock.enter("c1") == ""
    assert "c1" in lock.trouble
    with pytest.raises(UnderWayError, match="cannot be had"):
        locks.restore("c1")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ENOMEM, errno.EIO])
def test_where_only_we_cannot_have_the_lock_no_fence_is_confirmed(
    locks: HostLocks, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    lock = locks.fence()
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing(number))
        assert os.strerror(number) in lock.enter("c1")
    assert lock.enter("c1") == ""
    assert lock.trouble == ""
    lock.end()


def failing(number: int) -> Callable[..., int]:
    def call(*_arguments: object, **_named: object) -> int:
        raise OSError(number, os.strerror(number))

    return call


def test_on_a_read_only_file_system_a_fence_still_sees_a_restore(
    locks: HostLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = locks.restore("c1")
    real = os.open

    def read_only(path: str, flags: int, *more: int, **named: int) -> int:
        if flags & (os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, "read-only")
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", read_only)
    lock = locks.fence()
    assert "is under way" in lock.enter("c1")
    assert restore.wanted()
    restore.end()
    assert lock.enter("c1") == ""
    lock.end()


def test_a_restore_whose_lock_file_is_replaced_gives_up_and_a_fence_takes_the_new_one(locks: HostLocks) -> None:
    restore = locks.restore("c1")
    shutil.rmtree(locks.directory)
    assert restore.wanted() == "the lock of c1 was replaced"
    lock = fenced(locks)
    shutil.rmtree(locks.directory)
    assert lock.enter("c1") == ""
    with pytest.raises(UnderWayError):
        locks.restore("c1")
    lock.end()
    restore.end()


@pytest.mark.parametrize("host", ["../c1", "a/b", "c\0"])
def test_no_name_leads_out_of_the_directory(locks: HostLocks, host: str) -> None:
    with pytest.raises(UnderWayError):
        locks.restore(host)
    assert locks.fence().enter(host)


def test_what_is_no_file_is_no_lock(locks: HostLocks) -> None:
    fenced(locks).end()
    path = Path(locks.directory) / "c1.lock"
    path.unlink()
    path.symlink_to(os.devnull)
    with pytest.raises(UnderWayError):
        locks.restore("c1")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UnderWayError):
        locks.restore("c1")


def test_an_odd_signature_is_shown_escaped(locks: HostLocks) -> None:
    restore = locks.restore("c1")
    (Path(locks.directory) / "c1.lock").write_bytes(b"\x1b[31mred\n\xff")
    shown = locks.fence().enter("c1")
    assert shown.isprintable()
    restore.end()


# What a process leaves behind that ended without an answer


@pytest.fixture
def moment() -> list[float]:
    return [1000.0]


@pytest.fixture
def timed(tmp_path: Path, moment: list[float]) -> HostLocks:
    return HostLocks(str(tmp_path / "run" / "hosts"), lambda: moment[0])


def test_a_restore_that_is_killed_before_its_answer_keeps_fences_from_being_confirmed(
    timed: HostLocks, moment: list[float]
) -> None:
    def give() -> hostlock.RestoreLock:
        lock = timed.restore("c1")
        lock.note(True)
        return lock

    with another_process(give):
        assert "a restore (process" in timed.fence().enter("c1")
    lock = timed.fence()
    assert lock.enter("c1") == "a restore of c1 ended without an answer, which may still come for 150 s"
    assert lock.enter("c2") == ""
    with pytest.raises(UnderWayError):
        timed.restore("c1")
    moment[0] += UNANSWERED_S - 1
    assert "for 1 s" in lock.enter("c1")
    moment[0] += 1
    assert lock.enter("c1") == ""


def test_an_answer_strikes_it_out_and_what_another_left_stays(timed: HostLocks, moment: list[float]) -> None:
    def give() -> hostlock.RestoreLock:
        lock = timed.restore("c1")
        lock.note(True)
        return lock

    lock = give()
    lock.note(False)
    lock.end()
    with fenced(timed):
        pass
    with another_process(give):
        pass
    moment[0] += 10.0
    again = timed.restore("c1")
    for there in (True, False, True, False):
        again.note(there)
    again.end()
    assert "for 140 s" in timed.fence().enter("c1")


def test_a_fence_that_ends_without_an_answer_keeps_restores_away(timed: HostLocks, moment: list[float]) -> None:
    def cut() -> hostlock.FenceLock:
        lock = fenced(timed)
        lock.note(True)
        return lock

    with another_process(cut), pytest.raises(UnderWayError, match=r"a fence .* is under way"):
        timed.restore("c1")
    with pytest.raises(UnderWayError, match="ended without an answer from a drive, which may still cut for 150 s"):
        timed.restore("c1")
    with fenced(timed):
        pass
    moment[0] += UNANSWERED_S
    timed.restore("c1").end()
    lock = cut()
    lock.note(False)
    lock.end()
    timed.restore("c1").end()


@pytest.mark.parametrize("text", ["", "soon", "1e999 x", "nan", "2000.0", "999.0 another-boot", "-5"])
def test_what_is_no_note_of_this_boot_is_none(timed: HostLocks, text: str) -> None:
    timed.restore("c1").end()
    path = Path(timed.directory) / "c1.lock"
    with path.open("r+b") as file:
        for place in (256, 512):
            file.seek(place)
            file.write(text.encode().ljust(100))
    with fenced(timed):
        pass
    timed.restore("c1").end()

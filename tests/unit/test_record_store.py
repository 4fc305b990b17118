"""Records are changed whole, by one process at a time, and outlive whoever writes them."""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from nvmefence.records.record import Asked, Record, Taken
from nvmefence.records.store import ARCHIVE, UNREADABLE, RecordError, Store
from nvmefence.spool import files

T0 = "2026-03-01T00:00:00.000Z"
ONE = Record("c1", False, T0, taken=(Taken("S0", "nqn.0", 1, (2,), None, T0, "r-1"),))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "state" / "fenced"))


def put(record: Record | None) -> Callable[[Record | None], Record | None]:
    return lambda _before: record


def names_in(store: Store, *more: str) -> list[str]:
    path = Path(store.path).joinpath(*more)
    return sorted(one.name for one in path.iterdir()) if path.is_dir() else []


def test_without_a_directory_nothing_is_on_record_and_looking_makes_none(store: Store) -> None:
    assert store.load("c1") is None
    assert store.load_all() == ([], [])
    store.clear("c1")
    assert not Path(store.path).exists()


def test_a_record_is_kept_by_the_hosts_name_in_any_case_and_read_by_nobody_else(store: Store) -> None:
    assert store.update("c1", put(ONE)) == ONE
    assert store.load("c1") == store.load("C1") == ONE
    assert store.load("c2") is None
    assert store.load_all() == ([ONE], [])
    file = Path(store.path) / "c1.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert stat.S_IMODE(Path(store.path).stat().st_mode) & 0o007 == 0


def test_a_change_sees_what_is_on_record_and_one_that_changes_nothing_writes_nothing(store: Store) -> None:
    store.update("c1", put(ONE))
    inode = (Path(store.path) / "c1.json").stat().st_ino
    assert store.update("c1", lambda before: before) == ONE
    assert (Path(store.path) / "c1.json").stat().st_ino == inode


def test_a_record_that_is_put_away_is_whole_in_the_archive(store: Store) -> None:
    store.update("c1", put(ONE))
    store.clear("c1")
    assert store.load("c1") is None
    (name,) = names_in(store, ARCHIVE)
    assert name.startswith("c1.2")
    assert (Path(store.path) / ARCHIVE / name).read_bytes() == ONE.encode()
    store.update("c1", put(ONE))
    store.clear("c1")
    assert len(names_in(store, ARCHIVE)) == 2


@pytest.mark.parametrize("data", [b"", b"{", b"null", ONE.encode().replace(b'"c1"', b'"c2"')])
def test_what_cannot_be_believed_is_said_and_put_aside_by_the_next_fence(store: Store, data: bytes) -> None:
    store.update("c1", put(ONE))
    path = Path(store.path) / "c1.json"
    path.write_bytes(data)
    with pytest.raises(RecordError, match=r"the record of 'c1' in"):
        store.load("c1")
    found, troubles = store.load_all()
    assert (found, len(troubles)) == ([], 1)
    assert "c1.json" in troubles[0]
    seen: list[Record | None] = []

    def change(before: Record | None) -> Record:
        seen.append(before)
        return ONE

    store.update("c1", change)
    assert seen == [None]
    assert store.load("c1") == ONE
    (name,) = names_in(store, UNREADABLE)
    assert (Path(store.path) / UNREADABLE / name).read_bytes() == data


def test_a_link_or_a_file_that_others_may_write_is_not_believed(store: Store, tmp_path: Path) -> None:
    store.update("c1", put(ONE))
    path = Path(store.path) / "c1.json"
    path.chmod(0o666)
    with pytest.raises(RecordError):
        store.load("c1")
    path.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").chmod(0o640)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecordError):
        store.load("c1")


def test_simulated_and_real_drives_do_not_go_on_one_record(store: Store) -> None:
    with pytest.raises(RecordError, match="simulated"):
        store.update("c1", put(replace(ONE, simulated=True)))
    store.update("c1", put(ONE))
    other = Store(store.path, simulated=True)
    with pytest.raises(RecordError, match="real"):
        other.load("c1")
    assert other.load_all()[0] == []


@pytest.mark.parametrize("host", ["", "../c1", "a/b", ".c1", "c\0", "x" * 300, "c\n1"])
def test_no_name_leads_out_of_the_directory(store: Store, host: str) -> None:
    with pytest.raises(RecordError):
        store.load(host) or store.update(host, put(ONE))
    assert not names_in(store)


@pytest.mark.parametrize(
    ("function", "number"), [("fsync", errno.EIO), ("rename", errno.EROFS), ("write", errno.ENOSPC)]
)
def test_what_could_not_be_written_is_said_and_the_old_record_stands(
    store: Store, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    store.update("c1", put(ONE))

    def fails(*_arguments: Any, **_named: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, function, fails)
        with pytest.raises(RecordError, match="c1"):
            store.update("c1", put(replace(ONE, message="new")))
    assert store.load("c1") == ONE
    assert [name for name in os.listdir(store.path) if name.endswith(".tmp")] == []


def test_what_a_dead_writer_left_is_no_hindrance(store: Store) -> None:
    store.update("c1", put(ONE))
    (Path(store.path) / ".c1.json.tmp").write_bytes(b"half")
    store.update("c1", put(replace(ONE, message="new")))
    assert store.load("c1") == replace(ONE, message="new")
    assert names_in(store) == [".lock", "c1.json"]


def adding(n: int) -> Callable[[Record | None], Record]:
    def change(before: Record | None) -> Record:
        base = before or Record("c1", False, T0)
        return replace(base, asked=(*base.asked, Asked(T0, f"r-{n}", "test")))

    return change


def test_processes_beside_each_other_lose_nothing(store: Store) -> None:
    children = []
    for n in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                for m in range(25):
                    store.update("c1", adding(100 * n + m))
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    record = store.load("c1")
    assert record is not None
    assert sorted(one.request_id for one in record.asked) == sorted(
        f"r-{100 * n + m}" for n in range(4) for m in range(25)
    )


def test_what_is_kept_in_memory_counts_only_while_the_file_is_the_same(store: Store) -> None:
    other, seen = Store(store.path), []

    def change(before: Record | None) -> Record:
        seen.append(before)
        return replace(ONE, message=f"{len(seen)}")

    store.update("c1", change, keep=True)
    store.update("c1", change, keep=True)
    other.update("c1", put(replace(ONE, message="other")))
    store.update("c1", change, keep=True)
    other.clear("c1")
    store.update("c1", change)
    assert [before and before.message for before in seen] == [None, "1", "other", None]


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do work in a fork that is killed at a line of the store or of `spool.files`; returns whether it was."""
    pid = os.fork()
    if pid:
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    counted = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal counted
        name = frame.f_code.co_filename
        if not name.endswith(("records/store.py", "spool/files.py")):
            return None
        if event == "line":
            counted += 1
            if counted == step:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    try:
        sys.settrace(trace)
        work()
    finally:
        os._exit(0)


def test_killed_at_any_step_a_writer_leaves_the_old_record_or_the_new_one(store: Store) -> None:
    new = replace(ONE, message="new")
    store.update("c1", put(ONE))
    step, found = 1, set()
    while killed_at(step, lambda: store.update("c1", put(new))):
        now = store.load("c1")
        assert now in (ONE, new)
        found.add(now.message)
        assert store.update("c1", put(ONE)) == ONE, "the next writer gets through"
        assert store.load_all() == ([ONE], [])
        step += 1
    assert step > 50
    assert found == {"", "new"}
    assert store.load("c1") == new


def test_killed_at_any_step_putting_away_leaves_the_record_in_one_place(store: Store) -> None:
    step = 1
    store.update("c1", put(ONE))
    while killed_at(step, lambda: store.clear("c1")):
        archived = [(Path(store.path) / ARCHIVE / name).read_bytes() for name in names_in(store, ARCHIVE)]
        assert (store.load("c1") is not None) != (ONE.encode() in archived)
        for name in names_in(store, ARCHIVE):
            (Path(store.path) / ARCHIVE / name).unlink()
        store.update("c1", put(ONE))
        step += 1
    assert step > 50
    assert store.load("c1") is None


def test_replaced_files_are_durable_before_they_are_visible(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)

        def call(*arguments: Any, real: Any = real, name: str = name, **named: Any) -> Any:
            done.append(name)
            return real(*arguments, **named)

        monkeypatch.setattr(os, name, call)
    Path(store.path).mkdir(parents=True)
    with files.open_directory(store.path) as directory:
        files.replace(directory, "c1.json", b"1")
        files.replace(directory, "c1.json", b"2")
    assert done == ["fsync", "rename", "fsync"] * 2
    assert (Path(store.path) / "c1.json").read_bytes() == b"2"

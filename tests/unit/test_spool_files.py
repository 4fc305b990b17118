"""Files are read without trust and written durably."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nvmefence.spool import files, names
from nvmefence.spool.errors import (
    AlreadyThere,
    DirectoryLost,
    Gone,
    ReadFailed,
    Refused,
    SpoolError,
    UnsafeName,
    WriteFailed,
)
from nvmefence.spool.files import Directory


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


@pytest.fixture
def directory(place: Path) -> Iterator[Directory]:
    with files.open_directory(str(place)) as opened:
        yield opened


def put(place: Path, name: str, data: bytes = b"{}", mode: int = 0o640) -> Path:
    path = place / name
    path.write_bytes(data)
    path.chmod(mode)
    return path


def failing(monkeypatch: pytest.MonkeyPatch, function: str, number: int, when: Callable[..., bool]) -> None:
    """Make a function of `os` fail for some of its calls."""
    real = getattr(os, function)

    def call(*arguments: Any, **named: Any) -> Any:
        if when(*arguments, **named):
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    monkeypatch.setattr(os, function, call)


def is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".x.json", "-x.json", "a/b.json", "../x.json", "a\0b.json", "a\nb.json", "é.json", "a b.json",
     "\udcff.json", "$(x).json", "a" * 196 + ".json"],
)  # fmt: skip
def test_an_unsafe_name_is_refused_everywhere(directory: Directory, name: str) -> None:
    for use in (
        lambda: files.read(directory, name),
        lambda: files.write(directory, name, b""),
        lambda: files.exists(directory, name),
        lambda: files.remove(directory, name),
        lambda: files.remove_temporary(directory, name),
        lambda: files.sync(directory, name),
        lambda: files.move(directory, name, directory, "b.json"),
        lambda: files.move(directory, "b.json", directory, name),
        lambda: files.open_subdirectory(directory, name),
    ):
        with pytest.raises(UnsafeName) as caught:
            use()
        assert caught.value.reason.isascii()
        assert caught.value.reason.isprintable()


@pytest.mark.parametrize("name", ["x.json", "compute-node-3-550e8400.json", "a_b.c.json", "a" * 195 + ".json"])
def test_a_safe_name_is_written_and_read(directory: Directory, name: str) -> None:
    assert names.is_safe(name)
    files.write(directory, name, b"content")
    assert files.read(directory, name).data == b"content"


@pytest.mark.parametrize("mode", [0o600, 0o640])
@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_the_mode_does_not_depend_on_the_umask(directory: Directory, place: Path, mode: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        files.write(directory, "x.json", b"{}", mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((place / "x.json").stat().st_mode) == mode


def test_other_modes_are_a_defect_of_the_caller(directory: Directory, place: Path) -> None:
    with pytest.raises(ValueError, match="666"):
        files.write(directory, "x.json", b"{}", 0o666)
    assert os.listdir(place) == []


def test_data_is_durable_before_it_is_visible_and_the_entry_after(
    directory: Directory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    real_sync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        whole = is_directory(fd) or os.fstat(fd).st_size == 100_000
        steps.append(("directory" if is_directory(fd) else "file", whole, (place / "x.json").exists()))
        real_sync(fd)

    def rename(*arguments: Any, **named: Any) -> None:
        steps.append(("rename", True, (place / "x.json").exists()))
        real_rename(*arguments, **named)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    files.write(directory, "x.json", b"x" * 100_000)
    assert steps == [("file", True, False), ("rename", True, False), ("directory", True, True)]


def test_short_writes_are_continued(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:3])))
    files.write(directory, "x.json", b"0123456789")
    assert files.read(directory, "x.json").data == b"0123456789"


def test_short_reads_are_continued(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(directory, "x.json", b"0123456789")
    real = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: real(fd, min(size, 3)))
    assert files.read(directory, "x.json").data == b"0123456789"


def test_what_stands_is_never_overwritten(directory: Directory, place: Path) -> None:
    put(place, "x.json", b"first")
    with pytest.raises(AlreadyThere):
        files.write(directory, "x.json", b"second")
    assert (place / "x.json").read_bytes() == b"first"
    assert os.listdir(place) == ["x.json"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_temporary_in_the_way_is_not_written_through(directory: Directory, place: Path, kind: str) -> None:
    outside = place.parent / "outside"
    outside.write_bytes(b"untouched")
    temporary = place / ".x.json.tmp"
    if kind == "link":
        temporary.symlink_to(outside)
    else:
        temporary.write_bytes(b"someone else's")
    with pytest.raises(AlreadyThere):
        files.write(directory, "x.json", b"new")
    assert outside.read_bytes() == b"untouched"
    assert not (place / "x.json").exists()
    files.remove_temporary(directory, "x.json")
    files.remove_temporary(directory, "x.json")
    files.write(directory, "x.json", b"new")
    assert outside.read_bytes() == b"untouched"


def test_a_temporary_that_was_replaced_is_not_published(
    directory: Directory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def replace(fd: int) -> None:
        real(fd)
        (place / ".x.json.tmp").unlink()
        (place / ".x.json.tmp").write_bytes(b"forged")

    monkeypatch.setattr(os, "fsync", replace)
    with pytest.raises(WriteFailed):
        files.write(directory, "x.json", b"true")
    assert not (place / "x.json").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("function", ["open", "fchmod", "write", "fsync", "rename"])
def test_a_failed_write_leaves_nothing(
    directory: Directory, place: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, function, number, lambda *_a, **_n: True)
        with pytest.raises(WriteFailed) as caught:
            files.write(directory, "x.json", b"{}")
    assert (caught.value.errno, caught.value.visible) == (number, False)
    assert os.listdir(place) == []


def test_an_interrupted_write_leaves_nothing(
    directory: Directory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(directory, "x.json", b"{}")
    assert os.listdir(place) == []


def test_a_file_whose_entry_may_not_be_durable_is_reported_as_visible(
    directory: Directory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, "fsync", errno.EIO, is_directory)
        with pytest.raises(WriteFailed) as caught:
            files.write(directory, "x.json", b"{}")
        with pytest.raises(WriteFailed):
            files.sync(directory, "x.json")
    assert caught.value.visible
    assert (place / "x.json").exists()
    files.sync(directory, "x.json")


def test_a_directory_that_was_replaced_is_noticed_by_the_write(directory: Directory, place: Path) -> None:
    directory.verify()
    place.rename(place.parent / "old")
    place.mkdir()
    with pytest.raises(DirectoryLost) as caught:
        files.write(directory, "x.json", b"{}")
    assert caught.value.visible
    assert os.listdir(place) == []
    with pytest.raises(DirectoryLost):
        directory.verify()


def test_a_directory_that_was_removed_is_noticed(directory: Directory, place: Path) -> None:
    place.rmdir()
    with pytest.raises(DirectoryLost) as caught:
        files.write(directory, "x.json", b"{}")
    assert not caught.value.visible
    with pytest.raises(DirectoryLost):
        directory.verify()
    with pytest.raises(DirectoryLost):
        files.open_directory(str(place))


@pytest.mark.parametrize("path", ["a\0b", "/dev/null", "/nonexistent/\n"])
def test_what_is_no_directory_is_not_opened(path: str) -> None:
    with pytest.raises(DirectoryLost) as caught:
        files.open_directory(path)
    assert caught.value.reason.isprintable()


def test_a_closed_directory_fails_within_the_family(place: Path) -> None:
    directory = files.open_directory(str(place))
    directory.close()
    directory.close()
    for use in (
        lambda: files.read(directory, "x.json"),
        lambda: files.write(directory, "x.json", b""),
        lambda: files.exists(directory, "x.json"),
        lambda: files.remove(directory, "x.json"),
        lambda: files.sweep(directory, 0),
    ):
        with pytest.raises(SpoolError):
            use()


def test_a_missing_file_is_gone(directory: Directory) -> None:
    with pytest.raises(Gone):
        files.read(directory, "x.json")
    with pytest.raises(Gone):
        files.sync(directory, "x.json")
    assert not files.exists(directory, "x.json")
    assert not files.remove(directory, "x.json")


def test_a_file_at_the_limit_is_read_and_one_beyond_is_not(directory: Directory, place: Path) -> None:
    put(place, "at.json", b"x" * files.REQUEST_LIMIT)
    put(place, "beyond.json", b"x" * (files.REQUEST_LIMIT + 1))
    assert len(files.read(directory, "at.json").data) == 64 * 1024
    with pytest.raises(Refused):
        files.read(directory, "beyond.json")


def test_a_file_that_grows_while_it_is_read_is_refused(
    directory: Directory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(place, "x.json", b"x" * 10)
    real = os.read

    def read(fd: int, size: int) -> bytes:
        with path.open("ab") as more:
            more.write(b"x" * 50)
        return real(fd, size)

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(Refused):
        files.read(directory, "x.json", limit=100)


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o666, 0o777])
def test_a_file_that_others_may_write_is_refused(directory: Directory, place: Path, mode: int) -> None:
    put(place, "x.json", mode=mode)
    with pytest.raises(Refused):
        files.read(directory, "x.json")


def test_a_stranger_s_file_is_refused(directory: Directory, place: Path) -> None:
    put(place, "x.json")
    with pytest.raises(Refused, match="belongs to user"):
        files.read(directory, "x.json", owners=(os.geteuid() + 1,))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_only_root_and_ourselves_are_believed(directory: Directory, place: Path) -> None:
    path = put(place, "x.json")
    files.read(directory, "x.json")
    os.chown(path, 65534, 65534)
    with pytest.raises(Refused):
        files.read(directory, "x.json")


def special(place: Path, kind: str) -> None:
    path = place / "x.json"
    if kind == "link":
        path.symlink_to(put(place.parent, "target.json"))
    elif kind == "dangling":
        path.symlink_to("/nonexistent")
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "directory":
        path.mkdir(0o700)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    elif os.geteuid() == 0:
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("devices cannot be made here")
    else:
        pytest.skip("only root makes devices")


KINDS = ["link", "dangling", "fifo", "directory", "socket", "device"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_regular_file_is_refused_at_once(directory: Directory, place: Path, kind: str) -> None:
    special(place, kind)
    with pytest.raises(Refused):
        files.read(directory, "x.json")
    with pytest.raises(AlreadyThere):
        files.write(directory, "x.json", b"{}")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_regular_file_is_not_even_opened(
    directory: Directory, place: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    special(place, kind)
    failing(monkeypatch, "open", errno.EIO, lambda *_a, **_n: True)
    with pytest.raises(Refused):
        files.read(directory, "x.json")


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "directory", "socket"])
def test_a_file_swapped_between_the_looks_is_refused(
    directory: Directory, place: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    put(place, "x.json")
    real = os.open

    def swap(*arguments: Any, **named: Any) -> int:
        (place / "x.json").unlink()
        special(place, kind)
        return real(*arguments, **named)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(Refused):
        files.read(directory, "x.json")


@pytest.mark.parametrize("function", ["stat", "open", "fstat", "read"])
def test_a_system_that_does_not_read_is_not_the_file_s_fault(
    directory: Directory, place: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    put(place, "x.json")
    with monkeypatch.context() as patch:
        failing(patch, function, errno.EIO, lambda *_a, **_n: True)
        with pytest.raises(ReadFailed) as caught:
            files.read(directory, "x.json")
    assert caught.value.errno == errno.EIO
    before = len(os.listdir("/proc/self/fd"))
    files.read(directory, "x.json")
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_unknown_existence_is_not_absence(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        failing(patch, "stat", errno.EIO, lambda *_a, **_n: True)
        with pytest.raises(ReadFailed):
            files.exists(directory, "x.json")
        with pytest.raises(WriteFailed):
            files.write(directory, "x.json", b"{}")
        with pytest.raises(ReadFailed):
            directory.verify()
    assert not files.exists(directory, "x.json")


def test_removing_a_link_leaves_its_target(directory: Directory, place: Path) -> None:
    special(place, "link")
    assert files.remove(directory, "x.json")
    assert (place.parent / "target.json").exists()
    assert os.listdir(place) == []


def test_a_removal_and_a_move_are_durable_when_they_return(
    directory: Directory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append((fd, (place / "x.json").exists(), (place / "archive/x.json").exists()))
        real(fd)

    put(place, "x.json")
    with files.open_subdirectory(directory, "archive") as archive:
        monkeypatch.setattr(os, "fsync", fsync)
        files.move(directory, "x.json", archive, "x.json")
        assert synced == [(archive.fd, False, True), (directory.fd, False, True)]
        synced.clear()
        assert files.remove(archive, "x.json")
        assert synced == [(archive.fd, False, False)]


def test_a_removal_that_may_not_be_durable_has_failed(
    directory: Directory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(place, "x.json")
    failing(monkeypatch, "fsync", errno.EIO, is_directory)
    with pytest.raises(WriteFailed):
        files.remove(directory, "x.json")


def test_a_directory_is_not_removed(directory: Directory, place: Path) -> None:
    special(place, "directory")
    with pytest.raises(WriteFailed):
        files.remove(directory, "x.json")
    assert os.listdir(place) == ["x.json"]


def test_a_move_never_overwrites(directory: Directory, place: Path) -> None:
    put(place, "x.json", b"one")
    with files.open_subdirectory(directory, "archive") as archive:
        files.write(archive, "y.json", b"two")
        with pytest.raises(AlreadyThere):
            files.move(directory, "x.json", archive, "y.json")
        files.move(directory, "x.json", archive, "x.json")
        with pytest.raises(Gone):
            files.move(directory, "x.json", archive, "z.json")
    assert (place / "archive/x.json").read_bytes() == b"one"
    assert (place / "archive/y.json").read_bytes() == b"two"


def test_a_subdirectory_that_is_a_link_is_not_followed(directory: Directory, place: Path) -> None:
    (place.parent / "elsewhere").mkdir()
    (place / "archive").symlink_to(place.parent / "elsewhere")
    with pytest.raises(WriteFailed):
        files.open_subdirectory(directory, "archive")


def test_a_sweep_takes_old_temporaries_only(directory: Directory, place: Path) -> None:
    for name in (".old.json.tmp", ".new.json.tmp", ".other", "x.json", ".a b.tmp"):
        put(place, name)
        os.utime(place / name, (1000, 2000 if "new" in name else 1000))
    (place / ".dir.json.tmp").mkdir()
    os.utime(place / ".dir.json.tmp", (1000, 1000))
    assert files.sweep(directory, 1500) == 1
    assert sorted(os.listdir(place)) == [".a b.tmp", ".dir.json.tmp", ".new.json.tmp", ".other", "x.json"]

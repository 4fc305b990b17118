"""Which entries of the directory are run after a fence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nvmefence.after.hooks import MOST, Refused, find


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    directory = tmp_path / "hooks.d"
    directory.mkdir(mode=0o755)
    return directory


def put(directory: Path, name: str, mode: int = 0o755) -> Path:
    path = directory / name
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_executables_are_run_in_the_order_of_their_names(hooks: Path) -> None:
    for name in ("20-b", "10_a.sh", "30", "A", "a-Z.0", "x~y.disabled"):
        put(hooks, name)
    assert find(str(hooks)).names == ("10_a.sh", "20-b", "30", "A", "a-Z.0")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("10-a~", "a name has"),
        ("a b", "a name has"),
        ("a\nb", "a name has"),
        ("$(reboot)", "a name has"),
        ("a" * 101, "a name has"),
        ("10-a.dpkg-old", "leaves behind"),
        ("10-a.dpkg-new", "leaves behind"),
        ("10-a.rpmsave", "leaves behind"),
        ("10-a.rpmnew", "leaves behind"),
        ("10-a.ucf-dist", "leaves behind"),
        ("10-a.bak", "leaves behind"),
    ],
)
def test_a_name_that_is_none_is_refused_and_shown_harmlessly(hooks: Path, name: str, reason: str) -> None:
    put(hooks, name)
    put(hooks, "good")
    found = find(str(hooks))
    assert found.names == ("good",)
    ((shown, why),) = found.refused
    assert reason in why
    assert shown.isprintable()
    assert shown.isascii()


def as_link(path: Path) -> None:
    target = path.with_name(".target")
    path.rename(target)
    path.symlink_to(target)


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o755)


def as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.chmod(0o644), "not executable"),
        (lambda path: path.chmod(0o775), "may be written by others (mode 0775)"),
        (lambda path: path.chmod(0o757), "may be written by others (mode 0757)"),
        (lambda path: os.chown(path, 1234, 0), "belongs to user 1234"),
        (as_link, "not a regular file"),
        (as_pipe, "not a regular file"),
        (as_directory, "not a regular file"),
    ],
)
def test_what_another_may_have_written_is_refused(hooks: Path, spoil: Callable[[Path], None], reason: str) -> None:
    if "user" in reason and os.geteuid() != 0:
        pytest.skip("only root gives files away")
    spoil(put(hooks, "10-a"))
    found = find(str(hooks))
    assert (found.names, found.refused) == ((), (("10-a", reason),))


def test_what_begins_with_a_dot_is_passed_over(hooks: Path) -> None:
    put(hooks, ".placeholder")
    assert find(str(hooks)) == ((), ())


def test_there_is_an_end_to_hooks(hooks: Path) -> None:
    for number in range(MOST + 1):
        put(hooks, f"{number:03}")
    found = find(str(hooks))
    assert len(found.names) == MOST
    assert found.refused == ((f"{MOST:03}", f"{MOST} hooks are enough"),)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_directory_that_others_may_write_has_no_hooks(hooks: Path, mode: int) -> None:
    put(hooks, "10-a")
    hooks.chmod(mode)
    with pytest.raises(Refused, match="may be written by others"):
        find(str(hooks))


def test_a_directory_of_somebody_else_has_no_hooks(hooks: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    put(hooks, "10-a")
    os.chown(hooks, 1234, 0)
    with pytest.raises(Refused, match="belongs to user 1234"):
        find(str(hooks))


def test_what_is_no_directory_has_no_hooks(hooks: Path) -> None:
    for path in (hooks / "missing", put(hooks, "file")):
        with pytest.raises(Refused, match=path.name):
            find(str(path))
    (hooks / "link").symlink_to(hooks)
    with pytest.raises(Refused, match=r"[Nn]ot a directory"):
        find(str(hooks / "link"))

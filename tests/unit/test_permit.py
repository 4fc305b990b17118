"""A person's word to the mass-fence guard: it is believed from root, in this boot, for its time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nvmefence.cli import when
from nvmefence.spool.errors import SpoolError
from nvmefence.watcher import permit
from nvmefence.watcher.permit import Permit


@pytest.fixture
def run_dir(tmp_path: Path) -> str:
    return str(tmp_path / "run" / "nvmefence")


def change(run_dir: str, **fields: Any) -> None:
    path = Path(run_dir) / permit.PERMIT
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_it_holds_for_its_time(run_dir: str) -> None:
    assert permit.read(run_dir, 100) is None
    given = Permit(700.0, "root")
    permit.give(run_dir, given, 100)
    assert [permit.read(run_dir, now) for now in (100, 699.9, 700, 5000)] == [given, given, None, None]
    permit.give(run_dir, Permit(800.0, "jane"), 200)
    assert permit.read(run_dir, 750) == Permit(800.0, "jane")


def test_it_can_be_taken_back(run_dir: str) -> None:
    assert not permit.withdraw(run_dir)
    permit.give(run_dir, Permit(700.0, "root"), 100)
    assert permit.withdraw(run_dir)
    assert permit.read(run_dir, 150) is None
    assert not permit.withdraw(run_dir)


def test_one_from_a_boot_before_does_not_hold(run_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    permit.give(run_dir, Permit(700.0, "root"), 100)
    monkeypatch.setattr(permit, "_boot", lambda: "another")
    assert permit.read(run_dir, 150) is None
    monkeypatch.setattr(permit, "_boot", lambda: "")  # in the service's sandbox
    assert permit.read(run_dir, 150) is not None
    assert permit.read(run_dir, 50) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 2}, {"until": 1e9}, {"until": None}, {"given": "100"}, {"given": -1}, {"until": True},
        {"given": 100.0, "until": 100.0 + permit.LONGEST_S + 1},
    ],
)  # fmt: skip
def test_one_that_is_not_what_it_should_be_is_refused(run_dir: str, fields: dict[str, Any]) -> None:
    permit.give(run_dir, Permit(700.0, "root"), 100)
    change(run_dir, **fields)
    with pytest.raises(SpoolError):
        permit.read(run_dir, 150)


@pytest.mark.parametrize("what", ["writable", "foreign", "link", "garbage", "large", "directory writable"])
def test_one_that_another_can_have_written_is_refused(run_dir: str, what: str) -> None:
    permit.give(run_dir, Permit(700.0, "root"), 100)
    path = Path(run_dir) / permit.PERMIT
    if what == "writable":
        path.chmod(0o666)
    elif what == "foreign":
        if os.geteuid() != 0:
            pytest.skip("only root gives files away")
        os.chown(path, 1234, 0)
    elif what == "link":
        path.rename(path.with_name("other"))
        path.symlink_to("other")
    elif what == "garbage":
        path.write_text('{"version": 1, "version": 1}')
    elif what == "large":
        path.write_text(path.read_text() + " " * 100_000)
    else:
        Path(run_dir).chmod(0o777)
    with pytest.raises(SpoolError):
        permit.read(run_dir, 150)


def test_nobody_else_may_read_or_write_it(run_dir: str) -> None:
    before = os.umask(0)
    try:
        permit.give(run_dir, Permit(700.0, "root"), 100)
    finally:
        os.umask(before)
    assert (Path(run_dir) / permit.PERMIT).stat().st_mode & 0o777 == 0o600
    assert Path(run_dir).stat().st_mode & 0o777 == 0o750


def test_what_the_guard_wrote_down_comes_back_in_the_same_boot_only(
    run_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert permit.load(run_dir) == {}
    permit.save(run_dir, {"begun": {"c1": 5.0}, "held": {}})
    assert permit.load(run_dir)["begun"] == {"c1": 5.0}
    monkeypatch.setattr(permit, "_boot", lambda: "another")
    assert permit.load(run_dir) == {}


def test_the_command_offers_no_more_than_the_guard_believes() -> None:
    assert when.permitted("3600") == permit.LONGEST_S
    for text in ("3601", "0", "-5", "nan", "inf", "soon", ""):
        with pytest.raises(Exception, match="is not a number of seconds"):
            when.permitted(text)

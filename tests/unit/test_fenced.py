"""Who counts as fenced by the records, at what cost that is read, and who is in whose way at a host."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from nvmefence.errors import UnderWayError
from nvmefence.fencing.evidence import Identity
from nvmefence.records import merge
from nvmefence.records.fenced import Fenced, FencedHosts, counts
from nvmefence.records.hostlock import HostLocks
from nvmefence.records.record import Offline, Record, Taken
from nvmefence.records.store import Store

WHEN = "2026-11-24T04:09:25.000Z"
LATER = 1000.0
"""Seconds after which a change is old."""


def record(host: str = "c1", *, fenced_at: str | None = WHEN) -> Record:
    taken = tuple(
        Taken("S0", "nqn.x:0", nsid, (11,), Identity(f"{nsid:032x}", "", 1000, 512), WHEN, "r") for nsid in (1, 2)
    )
    return Record(host, False, WHEN, fenced_at, fenced_at is not None, taken=taken)


def put(store: Store, made: Record) -> None:
    store.update(made.host, lambda _before: made)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "fenced"))


def later(store: Store, follow: Callable[[int], None] | None = None) -> FencedHosts:
    """Read as if some time had passed since the last change."""
    return FencedHosts(store, follow, lambda: time.time() + LATER)


def hosts(fenced: Fenced) -> list[str]:
    return [one.host for one in fenced.records]


def test_a_host_counts_from_its_first_confirmed_fence_until_it_is_given_something() -> None:
    confirmed = record()
    assert counts(confirmed)
    assert counts(replace(confirmed, confirmed=False)), "a later fence failed, or is under way"
    assert not counts(record(fenced_at=None))
    assert not counts(merge.without(confirmed, confirmed.taken[:1], ()))
    assert merge.without(confirmed, (), ()) == confirmed


@pytest.mark.parametrize(("stays", "counted"), [(True, False), (False, True)])
def test_a_controller_brought_back_is_something_only_if_its_fence_left_it_offline(
    stays: bool, counted: bool
) -> None:
    offline = Offline("S0", "nqn.x:0", 11, 2, 2, WHEN, stays)
    assert counts(merge.without(replace(record(), offline=(offline,)), (), (offline,))) is counted


def test_only_those_that_count_are_returned(store: Store) -> None:
    put(store, record("c1"))
    put(store, record("c2", fenced_at=None))
    assert hosts(later(store).read()) == ["c1"]


def test_what_did_not_change_is_not_read_again(store: Store) -> None:
    put(store, record("c1"))
    fenced = later(store)
    fenced.read()
    with mock.patch.object(store, "load_all", side_effect=AssertionError("read again")):
        assert hosts(fenced.read()) == ["c1"]


@pytest.mark.parametrize("change", ["replaced", "another", "archived"])
def test_every_change_is_seen(store: Store, change: str) -> None:
    put(store, record("c1"))
    fenced = later(store)
    before = fenced.read()
    if change == "replaced":
        put(store, replace(record("c1"), message="another"))
    elif change == "another":
        put(store, record("c2"))
    else:
        store.update("c1", lambda _before: None)
    after = fenced.read()
    assert after != before
    assert after.records == tuple(store.load_all()[0])


def test_a_change_within_the_same_tick_of_the_file_systems_clock_is_seen(store: Store, tmp_path: Path) -> None:
    put(store, record("c1"))
    fenced = FencedHosts(store)
    path = tmp_path / "fenced" / "c1.json"
    assert hosts(fenced.read()) == ["c1"]
    dates = [(one, one.stat()) for one in (path, path.parent)]
    text = path.read_bytes()
    with path.open("r+b") as stream:  # the same inode and size, as a new file may have
        stream.write(text.replace(b"true", b"tru?"))
    for one, found in dates:
        os.utime(one, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert fenced.read().troubles


def test_a_missing_directory_is_made_and_followed(store: Store, tmp_path: Path) -> None:
    followed: list[int] = []

    def follow(fd: int) -> None:
        followed.append(os.fstat(fd).st_ino)

    fenced = later(store, follow)
    assert fenced.read() == Fenced(followed=True)
    assert fenced.read().followed
    assert followed == [(tmp_path / "fenced").stat().st_ino]
    (tmp_path / "fenced").rename(tmp_path / "away")
    assert fenced.read().followed
    assert followed[1:] == [(tmp_path / "fenced").stat().st_ino]


def test_a_directory_that_cannot_be_made_is_nobody_fenced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = later(Store(str(tmp_path / "file" / "fenced")), lambda _fd: None).read()
    assert (found.records, found.followed) == ((), False)


def test_where_it_cannot_be_followed_it_is_read_all_the_same(store: Store) -> None:
    put(store, record("c1"))

    def follow(_fd: int) -> None:
        raise OSError(28, "no more watches")

    found = later(store, follow).read()
    assert (hosts(found), found.followed) == (["c1"], False)


def test_what_cannot_be_believed_is_told_and_looked_at_again(store: Store, tmp_path: Path) -> None:
    put(store, record("c1"))
    bad = tmp_path / "fenced" / "c2.json"
    bad.write_text("{")
    fenced = later(store)
    for _ in range(2):
        found = fenced.read()
        assert hosts(found) == ["c1"]
        (trouble,) = found.troubles
        assert "c2.json" in trouble
    bad.unlink()
    assert fenced.read().troubles == ()


# Locks


@pytest.fixture
def locks(tmp_path: Path) -> HostLocks:
    return HostLocks(str(tmp_path / "run" / "hosts"))


def test_who_only_asks_is_in_nobodys_way(locks: HostLocks) -> None:
    assert locks.restoring("c1") == ""
    lock = locks.restore("c1")
    assert locks.restoring("c1") == f"a restore (process {os.getpid()}) of c1 is under way"
    assert lock.wanted() == ""
    assert locks.restoring("c2") == ""
    lock.end()
    assert locks.restoring("c1") == ""
    with locks.fence() as fence:
        assert fence.enter("c1") == ""
        assert locks.restoring("c1") == ""


def test_a_restore_is_left_in_peace_by_who_does_not_insist(locks: HostLocks) -> None:
    lock = locks.restore("c1")
    with locks.fence() as fence:
        assert fence.enter_unless_restored("c1") == f"a restore (process {os.getpid()}) of c1 is under way"
        assert lock.wanted() == "", "it goes on"
        lock.end()
        assert fence.enter_unless_restored("c1") == ""
        with pytest.raises(UnderWayError):
            locks.restore("c1")
        with locks.fence() as other:
            assert other.enter("c1") == "", "fences go together"
    locks.restore("c1").end()


def test_where_no_lock_can_be_had_no_restore_can_either(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    locks = HostLocks(str(tmp_path / "file" / "hosts"))
    assert locks.restoring("c1") == ""
    with locks.fence() as fence:
        assert fence.enter_unless_restored("c1") == fence.enter("c1")

"""A record is read strictly, and fences and restores change it so that nothing taken is forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nvmefence.fencing.evidence import DriveEvidence, Identity, Managed, SecondaryEvidence, Sent
from nvmefence.nvme.commands import VirtualizationAction
from nvmefence.nvme.transport import NO_ANSWER
from nvmefence.records import merge
from nvmefence.records.merge import FenceSoFar, merged, without
from nvmefence.records.record import RECORD_LIMIT, Asked, Offline, Record, Taken, parse
from nvmefence.spool.errors import Invalid, SpoolError

T0, T1, T2, T3 = (f"2026-03-01T00:00:0{n}.000Z" for n in range(4))
A = Identity("a" * 32, "a" * 16, 1000, 4096)
B = Identity("b" * 32, "", 1000, 4096)
OFFLINE, ONLINE = VirtualizationAction.SECONDARY_OFFLINE, VirtualizationAction.SECONDARY_ONLINE


def taken(
    nsid: int = 1, ids: tuple[int, ...] = (2,), which: Identity | None = A, when: str = T0, request: str = "r-1"
) -> Taken:
    return Taken("S0", "nqn.0", nsid, ids, which, when, request)


def offline(cntlid: int = 2, queues: int = 3, when: str = T0, stays: bool = False) -> Offline:
    return Offline("S0", "nqn.0", cntlid, queues, queues, when, stays)


def fence_of(*what: Taken, when: str = T0, request: str = "r-1", **more: Any) -> FenceSoFar:
    asked = (Asked(when, request, "watcher"),)
    return FenceSoFar("c1", False, when, asked, "drain", taken=what, **more)


FULL = Record(
    "c1", False, T0, T1, True, "drain", (Asked(T0, "r-1", "watcher"),),
    (taken(), taken(2, (2, 3), None), Taken("S1", "nqn.1", 1, (7,), B, T1, "r-2")),
    (offline(), Offline("S1", "nqn.1", 7, 0, 0, T1, True)), "Fenced c1",
)  # fmt: skip


def test_a_record_comes_back_as_it_was_written() -> None:
    for record in (FULL, Record("c1", True, T0)):
        assert parse(record.encode()) == record
    assert FULL.drives == (("nqn.0", "S0"), ("nqn.1", "S1"))


def test_as_much_as_a_large_enclosure_can_lose_is_read_again() -> None:
    every = tuple(
        Taken(f"SERIAL{drive:014}", f"nqn.2014-08.org.nvmexpress:uuid:{drive:036}", nsid, (5, 6), A, T0, "r" * 36)
        for drive in range(36)
        for nsid in range(1, 1025)
    )
    data = replace(FULL, taken=every).encode()
    assert len(data) < RECORD_LIMIT
    assert parse(data).taken == every


def edit(*path: str | int, to: Any = ...) -> Callable[[dict[str, Any]], None]:
    """Return what sets one value of a document, or removes it."""

    def change(document: dict[str, Any]) -> None:
        inside: Any = document
        for key in path[:-1]:
            inside = inside[key]
        if to is ...:
            del inside[path[-1]]
        else:
            inside[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        edit("version", to=2),
        edit("version", to=True),
        edit("host", to=""),
        edit("host"),
        edit("simulated", to="false"),
        edit("simulated", to=0),
        edit("confirmed", to=None),
        edit("fenced_at", to=None),
        edit("since", to="yesterday"),
        edit("since", to="2026-03-01T00:00:00"),
        edit("more", to=1),
        edit("asked", to={}),
        edit("asked", 0, "by", to=3),
        edit("asked", 0, "more", to=3),
        edit("drives", 0, to=[]),
        edit("drives", 0, "serial"),
        edit("drives", 0, "more", to=1),
        edit("drives", 0, "taken", 0, "nsid", to=0),
        edit("drives", 0, "taken", 0, "nsid", to=0xFFFFFFFF),
        edit("drives", 0, "taken", 0, "nsid", to=1.0),
        edit("drives", 0, "taken", 0, "nsid", to=True),
        edit("drives", 0, "taken", 0, "controllers", to=[]),
        edit("drives", 0, "taken", 0, "controllers", to=[3, 2]),
        edit("drives", 0, "taken", 0, "controllers", to=[2, 2]),
        edit("drives", 0, "taken", 0, "controllers", to=[-1]),
        edit("drives", 0, "taken", 0, "controllers", to=[0xFFF0]),
        edit("drives", 0, "taken", 0, "controllers", to="2"),
        edit("drives", 0, "taken", 0, "identity", "nguid", to="A" * 32),
        edit("drives", 0, "taken", 0, "identity", "nguid", to="a" * 31),
        edit("drives", 0, "taken", 0, "identity", "size", to=-1),
        edit("drives", 0, "taken", 0, "identity", "size"),
        edit("drives", 0, "taken", 0, "identity"),
        edit("drives", 0, "offline", 0, "stays", to=1),
        edit("drives", 0, "offline", 0, "queues", to=1 << 16),
        edit("drives", 0, "offline", 0, "controller", to=0xFFF0),
    ],
)
def test_what_a_writer_of_ours_would_not_write_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(FULL.encode())
    change(document)
    with pytest.raises(Invalid) as refused:
        parse(json.dumps(document).encode())
    assert refused.value.reason.isascii()
    assert refused.value.reason.isprintable()


def test_a_controller_that_is_offline_twice_is_refused() -> None:
    with pytest.raises(Invalid):
        parse(replace(FULL, offline=(offline(), offline(when=T1))).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"version": 1, "version": 1}', b'{"version": NaN}'])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(SpoolError):
        parse(data)


# What a fence changes


def test_a_fence_that_took_nothing_and_failed_is_not_on_record() -> None:
    assert merged(None, fence_of()) is None
    assert merged(None, fence_of(ended_at=T1, message="NOT fenced")) is None


def test_a_fence_that_is_confirmed_is_on_record_even_if_it_took_nothing() -> None:
    record = merged(None, fence_of(ended_at=T1, confirmed=True, message="Fenced c1: already"))
    assert record is not None
    assert record == Record(
        "c1", False, T0, T1, True, "drain", (Asked(T0, "r-1", "watcher"),), (), (), record.message
    )
    assert record.empty


def test_a_fence_under_way_is_on_record_as_not_confirmed() -> None:
    record = merged(None, fence_of(taken()))
    assert record is not None
    assert (record.taken, record.confirmed, record.fenced_at) == ((taken(),), False, None)


def test_merged_again_and_again_a_fence_is_on_record_once() -> None:
    record = merged(None, fence_of(taken(which=None)))
    record = merged(record, fence_of(taken(), taken(2)))
    record = merged(record, fence_of(taken(), taken(2), ended_at=T1, confirmed=True))
    assert record is not None
    assert record.taken == (taken(), taken(2))
    assert (record.confirmed, record.fenced_at, record.asked) == (True, T1, (Asked(T0, "r-1", "watcher"),))


def test_what_a_fence_wanted_to_take_and_did_not_is_not_on_record_in_the_end() -> None:
    record = merged(None, fence_of(taken(), taken(2)))
    record = merged(record, fence_of(taken(), ended_at=T1))
    assert record is not None
    assert record.taken == (taken(),)


def test_a_second_fence_adds_and_erases_nothing() -> None:
    first = merged(None, fence_of(taken(), ended_at=T1, confirmed=True))
    second = fence_of(taken(2, when=T2, request="r-2"), when=T2, request="r-2")
    between = merged(first, second)
    assert between is not None
    assert (between.confirmed, between.fenced_at) == (False, T1)
    after = merged(between, replace(second, ended_at=T3, confirmed=True))
    assert after is not None
    assert after.taken == (taken(), taken(2, when=T2, request="r-2"))
    assert (after.since, after.fenced_at, len(after.asked)) == (T0, T3, 2)


def test_a_fence_that_finds_everything_cut_changes_nothing_of_what_was_taken() -> None:
    first = merged(None, fence_of(taken(), ended_at=T1, confirmed=True))
    second = fence_of(when=T2, request="r-2")
    assert merged(first, second) == replace(first, asked=(*first.asked, *second.asked))  # type: ignore[type-var, union-attr]
    after = merged(first, replace(second, ended_at=T3, confirmed=True))
    assert after is not None
    assert (after.taken, after.fenced_at, after.confirmed) == ((taken(),), T3, True)


def test_what_is_taken_again_is_put_down_to_the_last_fence_once_that_has_ended() -> None:
    first = merged(None, fence_of(taken(ids=(2, 3)), ended_at=T1, confirmed=True))
    again = taken(when=T2, request="r-2")
    second = fence_of(again, when=T2, request="r-2")
    between = merged(first, second)
    assert between is not None
    assert between.taken == (taken(ids=(2, 3)), again), "until then it may turn out that it was not taken"
    after = merged(between, replace(second, ended_at=T3))
    assert after is not None
    assert after.taken == (taken(ids=(3,)), again)
    assert (after.confirmed, after.fenced_at) == (False, T1)


def test_another_namespace_of_the_same_number_is_another_entry() -> None:
    first = merged(None, fence_of(taken(), ended_at=T1))
    now = taken(which=B, when=T2, request="r-2")
    after = merged(first, fence_of(now, when=T2, request="r-2", ended_at=T3))
    assert after is not None
    assert after.taken == (taken(), now)


def test_a_controller_is_on_record_as_offline_until_it_is_seen_online() -> None:
    record = merged(None, fence_of(offline=(offline(),)))
    assert record is not None
    assert record.offline == (offline(),)
    back = fence_of(online=frozenset({("nqn.0", "S0", 2)}), ended_at=T1, confirmed=True)
    after = merged(record, back)
    assert after is not None
    assert after.offline == ()


def test_what_a_controller_had_is_not_forgotten_when_it_is_found_offline_later() -> None:
    record = merged(None, fence_of(offline=(offline(queues=5),)))
    found = offline(queues=0, when=T2, stays=True)
    after = merged(record, fence_of(when=T2, request="r-2", offline=(found,), ended_at=T3))
    assert after is not None
    assert after.offline == (replace(found, queues=5, interrupts=5),)


def test_who_asked_is_kept_within_bounds() -> None:
    record: Record | None = None
    for n in range(merge.MOST_ASKED + 50):
        fence = fence_of(when=T1, request=f"r-{n}", ended_at=T2, confirmed=True)
        record = merged(record, fence)
    assert record is not None
    ids = [one.request_id for one in record.asked]
    assert (len(ids), ids[0], ids[-1]) == (merge.MOST_ASKED, "r-0", f"r-{merge.MOST_ASKED + 49}")


# What a restore changes


def test_what_was_given_back_goes_from_the_record_and_the_rest_stays() -> None:
    record = replace(FULL, taken=(taken(ids=(2, 3)), taken(2)))
    rest = without(record, [taken(ids=(3,))], [offline()])
    assert rest.taken == (taken(), taken(2))
    assert rest.offline == FULL.offline[1:]
    assert not rest.empty
    assert (rest.fenced_at, rest.confirmed) == (None, False)
    assert without(rest, rest.taken, rest.offline).empty


def test_what_a_fence_has_taken_meanwhile_stays() -> None:
    again = taken(when=T2, request="r-2")
    record = replace(FULL, taken=(taken(), again), offline=(offline(when=T2),))
    rest = without(record, [taken()], [offline(when=T0)])
    assert (rest.taken, rest.offline) == ((again,), (offline(when=T2),))


# From a drive's evidence


def evidence(**more: Any) -> DriveEvidence:
    return DriveEvidence("S0", "nqn.0", "M", ("c1",), targets={"c1": (2, 3)}, **more)


def sent(nsid: int, *ids: int, status: int = 0) -> Sent:
    return Sent(nsid, ids, status, 0.0, 0.0)


def test_what_is_gone_after_a_cut_was_taken_and_what_is_still_there_was_not() -> None:
    drive = evidence(sent=[sent(1, 2, 3), sent(2, 2)], remaining={1: (3,)}, identities={1: A, 2: B})
    assert merge.taken_on(drive, "c1", T0, "r-1") == [taken(1, (2,), A), taken(2, (2,), B)]
    assert merge.taken_on(drive, "c2", T0, "r-1") == []


def test_what_a_cut_in_hand_names_may_be_taken_already() -> None:
    drive = evidence(cutting={1: (2, 9)}, remaining=None)
    assert merge.taken_on(drive, "c1", T0, "r-1") == [taken(1, (2,), None)]


def test_a_namespace_that_says_who_it_is_only_later_does_not_say_it_for_those_cut_before() -> None:
    drive = evidence(sent=[sent(1, 2), sent(1, 3)], remaining={}, identities={1: B}, unidentified={1: {2}})
    assert merge.taken_on(drive, "c1", T0, "r-1") == [taken(1, (3,), B), taken(1, (2,), None)]


def managed(status: int, action: VirtualizationAction = OFFLINE, cntlid: int = 2) -> Managed:
    return Managed(cntlid, action, status, 0.0, 0.0)


@pytest.mark.parametrize(
    ("answers", "back", "on_record"),
    [
        ([managed(0)], None, True),
        ([managed(0), managed(0, ONLINE)], True, False),
        ([managed(0), managed(0x120, ONLINE)], False, True),
        ([], None, True),
        ([managed(0x4002)], None, False),
        ([managed(0x4120)], None, True),
        ([managed(-4)], None, True),
        ([managed(NO_ANSWER), managed(0, ONLINE)], True, True),
    ],
    ids=["offline", "back", "not back", "not answered yet", "refused", "already", "cancelled", "may still go"],
)
def test_what_is_on_record_as_offline(answers: list[Managed], back: bool | None, on_record: bool) -> None:
    entry = SecondaryEvidence(3, 3, back=back)
    drive = evidence(secondaries={2: entry, 9: entry}, managed=answers)
    assert merge.offline_on(drive, "c1", T0, ended=False) == ([offline()] if on_record else [])
    assert merge.offline_on(drive, "c1", T0, ended=True) == ([offline(stays=True)] if on_record else [])
    assert merge.online_on(drive, "c1") == ([] if on_record or not back else [("nqn.0", "S0", 2)])

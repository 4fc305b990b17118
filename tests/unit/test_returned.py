"""What makes a fenced host one that is back, what is kept of it, and how it is said."""

from __future__ import annotations

from typing import Any

import pytest

from nvmefence.fencing.survey import DriveSurvey, HostOnDrive, State, Survey
from nvmefence.records.record import Offline, Record
from nvmefence.watcher.returned import Key, OnDrive, Returned, seen

WHEN = "2026-11-24T04:09:25.000Z"
KEY: Key = ("nqn.x:0", "S0")
ATTACHED = OnDrive("S0", "nqn.x:0", {1: (11,)}, ())


def record(*, stays: bool | None = None) -> Record:
    offline = () if stays is None else (Offline("S0", "nqn.x:0", 11, 2, 2, WHEN, stays),)
    return Record("c1", False, WHEN, WHEN, True, offline=offline)


def shown(state: State, **more: Any) -> Survey:
    entry = HostOnDrive(state, (11,), **more)
    return Survey([DriveSurvey("S0", "nqn.x:0", "M", hosts={"c1": entry})], [], "simulated")


@pytest.mark.parametrize(
    ("survey", "stays", "found"),
    [
        (shown(State.NONE), None, {KEY: None}),
        (shown(State.ATTACHED, attached={1: (11,)}), None, {KEY: ATTACHED}),
        (shown(State.UNKNOWN, attached={1: (11,)}), None, {KEY: ATTACHED}),
        (shown(State.UNKNOWN), None, {}),
        (shown(State.NONE, online=(11,)), None, {KEY: None}),
        (shown(State.NONE, online=(11,)), False, {KEY: None}),
        (shown(State.NONE, online=(11,)), True, {KEY: OnDrive("S0", "nqn.x:0", {}, (11,))}),
        (shown(State.NONE, online=()), True, {KEY: None}),
        (shown(State.NONE), True, {}),
    ],
)
def test_a_look_shows_what_it_read_and_nothing_else(
    survey: Survey, stays: bool | None, found: dict[Key, OnDrive | None]
) -> None:
    assert seen(survey, record(stays=stays)) == found


def test_what_a_look_did_not_show_stays_as_it_was() -> None:
    other: Key = ("nqn.x:1", "S1")
    returned = Returned("c1", WHEN)
    assert returned.take({KEY: ATTACHED})
    assert not returned.take({})
    assert not returned.take({other: None})
    assert returned.take({other: ATTACHED._replace(serial="S1", nqn="nqn.x:1")})
    assert returned.take({KEY: None})
    assert [drive.serial for drive in returned.ordered()] == ["S1"]


def test_it_is_said_in_one_line() -> None:
    attached = {1: (11,), 2: (11, 12)}
    drives = {(f"nqn.x:{n}", f"S{n}"): OnDrive(f"S{n}", f"nqn.x:{n}", attached, (11,)) for n in range(5)}
    assert Returned("c1", WHEN, drives).words() == (
        "c1 is attached again, fenced as it is since 2026-11-24T04:09:25.000Z: "
        "S0: attached to namespaces 1, 2 (controllers 11, 12), controller 11 online; "
        "S1: attached to namespaces 1, 2 (controllers 11, 12), controller 11 online; "
        "S2: attached to namespaces 1, 2 (controllers 11, 12), controller 11 online; and 2 more drives"
    )

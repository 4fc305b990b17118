"""The whole chain under a real kernel: agent, request file, watcher, drives, response file, and the writer cut."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.lab import bringup, faults, observer
from tests.lab.guest.product import attached, list_ctrl, without
from tests.lab.guest.streams import Sample, Streams, appeared, late
from tests.lab.guest.test_fencing import both, target
from tests.lab.guest.watching import Observed, Place, reaches
from tests.lab.sentinel import Moment, Sentinel
from tests.lab.shape import Shape

Seen = dict[str, dict[int, frozenset[int]]]
"""The controllers by serial number and namespace."""
FIRST_VF = 2
"""The virtual function of compute-0; that of compute-K is K more."""
ROUNDS = 2
AFTER_S = 2.5
"""Seconds for which the medium is watched after the response."""
KILLS = int(os.environ.get("NVMEFENCE_LAB_ROUNDS", "1"))
"""Instants at which the watcher is killed, beside those that are chosen."""
KILL_QUIESCE = "wait:0.1"


def false_success(moments: list[Moment[Seen]], victim: dict[str, int]) -> list[float]:
    """The times at which a response said success while the observer saw the host attached."""
    return [
        later.began
        for earlier, later in pairwise(moments)
        if any(earlier.responses.values()) and reaches(later.sample, victim)
    ]


@pytest.fixture
def streams(drives: list[observer.Drive], tmp_path: Path) -> Iterator[Streams]:
    """No writers yet; compute-1's view of the second drive is bound while the test lasts."""
    address = bringup.function_address(drives[1], FIRST_VF + 1)
    faults.bind(address)
    faults.wait_for("compute-1's view", lambda: len(observer.drives()[1].controllers) > len(drives[1].controllers))
    made = Streams(tmp_path, drives)
    yield made
    made.close()
    faults.unbind(address)


def check_round(streams: Streams, sentinel: Sentinel[Sample], victim: dict[str, int]) -> str:
    """Check that everything stopped at the cut, and was on its way until then; return the figures."""
    cut = next(moment for moment in sentinel.moments if not reaches(moment.sample.attached, victim))
    visible = sentinel.visible()
    for name in ("fenced", "fenced-slow"):
        assert late(name, sentinel) == set(), "a number came to the medium after the response"
        assert streams.ok(name, cut.looked) == []
        assert max(line.ended for line in streams.lines(name) if line.ok) < visible
        tries = [line for line in streams.lines(name) if line.started > visible]
        assert len(tries) > 5, f"{name} does not try any more"
    last = max(line.ended for line in streams.ok("fenced", 0))
    assert len(streams.ok("fenced", cut.began - 1, cut.looked)) >= 5
    assert cut.began - last < 2, "the writer did not write until the cut"
    assert len(late("other", sentinel)) > 5, "the other host's numbers came to a halt"
    assert all(line.ok for line in streams.lines("other"))
    between = sentinel.moments[sentinel.moments.index(cut) : sentinel.moments.index(sentinel.before()) + 1]
    return (
        f"last write {(cut.began - last) * 1e3:+.0f} ms before the cut was seen, response after "
        f"{visible - cut.began:.2f} s, meanwhile {len(appeared('fenced-slow', between))} late on the slow medium; "
        f"{len(sentinel.since())} samples in {sentinel.moments[-1].looked - visible:.1f} s after it, "
        f"{len(streams.ok('other', visible))} writes of the other"
    )


@pytest.mark.shape("slow")
@pytest.mark.limit(480)
@both
def test_from_the_instant_of_the_response_no_number_of_the_fenced_host_comes_to_the_medium(
    baseline: bringup.Attachments, place: Place, drives: list[observer.Drive], streams: Streams, backend: str
) -> None:
    before = attached(drives)
    victim = target(drives, FIRST_VF)
    place.start(backend, quiesce="wait:1.5")
    streams.start("fenced", drives[1], FIRST_VF)
    streams.start("fenced-slow", drives[0], FIRST_VF, depth=2)
    streams.start("other", drives[1], FIRST_VF + 1)
    for _ in range(ROUNDS):
        streams.wait(4)
        with Sentinel(place.responses, streams.sample) as sentinel:
            ended = place.fence("compute-0")
            faults.wait_for("the response", sentinel.since)
            time.sleep(AFTER_S)
        assert ended.code == 0, ended.err
        print(f"{backend}: agent {ended.seconds:.2f} s, {check_round(streams, sentinel, victim)}")
        expected = without(before, victim)
        assert [m.sample.attached for m in sentinel.since() if m.sample.attached != expected] == []
        assert place.audit("answer")[-1]["evidence"]["backend"] == backend
        place.archive()
        bringup.restore(baseline)
    assert place.stop() == 0


@pytest.mark.shape("slow")
@pytest.mark.limit(240)
def test_a_response_before_the_cut_would_be_noticed(
    place: Place, streams: Streams, drives: list[observer.Drive]
) -> None:
    streams.start("fenced", drives[1], FIRST_VF)
    streams.wait(5)
    with Sentinel(place.responses, streams.sample) as sentinel:
        time.sleep(0.3)
        (place.responses / ".early.tmp").write_text('{"success": true}')
        (place.responses / ".early.tmp").rename(place.responses / "early.json")
        time.sleep(0.5)
    assert late("fenced", sentinel)
    assert appeared("fenced", sentinel.since())


@pytest.mark.shape("slow")
@pytest.mark.limit(300)
def test_without_quiesce_writes_under_way_come_to_a_slow_medium_after_the_response(
    place: Place, streams: Streams, drives: list[observer.Drive]
) -> None:
    """The drives are such that the wait matters, and that a product without it would be found out."""
    place.start(quiesce="none")
    streams.start("fenced", drives[0], FIRST_VF, size=16384, depth=4)
    streams.wait(1)
    with Sentinel(place.responses, streams.sample) as sentinel:
        assert place.fence("compute-0").code == 0
        faults.wait_for(
            "a late number", lambda: len(sentinel.since()) > 1 and appeared("fenced", sentinel.since()), 20
        )


@pytest.mark.shape("rabbit")
@pytest.mark.limit(300)
def test_exit_0_means_that_no_controller_of_the_host_is_attached_to_any_namespace_of_18_drives(
    place: Place, drives: list[observer.Drive], observed: Observed
) -> None:
    before = observed()
    victim = target(drives, FIRST_VF + 7)
    place.start(quiesce="wait:0.5")
    with Sentinel(place.responses, observed) as sentinel:
        ended = place.fence("compute-7")
        faults.wait_for("a look after it", lambda: len(sentinel.since()) > 5)
    print(f"agent {ended.seconds:.2f} s, fence {place.audit('answer')[0]['times']}")
    assert ended.code == 0, ended.err
    expected = without(before, victim)
    assert sentinel.before().sample == expected, "and so it was already before the response was visible"
    assert all(moment.sample == expected for moment in sentinel.since())
    assert {drive.serial: list_ctrl(drive) for drive in drives} == expected
    assert place.stop() == 0


@pytest.mark.shape("rabbit")
@pytest.mark.limit(300)
def test_all_16_hosts_at_once_get_a_response_each_on_record_before_it_is_visible(
    place: Place, drives: list[observer.Drive], observed: Observed
) -> None:
    hosts = [f"compute-{slot}" for slot in range(16)]
    on_record: dict[str, bool] = {}

    def heard(name: str) -> None:
        on_record[name] = place.on_record(name)

    place.start(quiesce="wait:0.5")
    with Sentinel(place.responses, observed, heard) as sentinel:
        dropped = time.monotonic()
        names = place.drop(hosts)
        faults.wait_for("16 responses", lambda: [m for m in sentinel.moments[-1:] if len(m.responses) == 16], 60)
        faults.wait_for("a look after them", lambda: len(sentinel.since()) > 5)
    print(f"first response after {sentinel.visible() - dropped:.2f} s, last after {sentinel.since()[-1].began:.2f}")
    assert on_record == dict.fromkeys(names.values(), True)
    for slot, host in enumerate(hosts):
        response = place.response(names[host])
        assert (response["success"], response["target_node"]) == (True, host), response["message"]
        assert response["request_id"] == names[host].removesuffix(".json")
        assert not false_success(sentinel.moments, target(drives, FIRST_VF + slot))
    lines = {line["file"]: line for line in place.audit("answer")}
    assert len(lines) == len(place.audit("answer")) == 16
    for name, line in lines.items():
        visible = (place.responses / name).stat().st_mtime
        assert line["response"]["success"] is True
        assert line["time"] <= time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(visible)) + f"{visible % 1:.3f}"[1:]
    assert 1 <= len(place.audit("begun")) <= 3
    assert all(ids <= {0, 1} for by_nsid in observed().values() for ids in by_nsid.values())
    assert not place.pending()


@pytest.mark.shape("small")
@pytest.mark.limit(240)
def test_a_pulled_drive_fails_fences_by_name_until_it_is_back_and_the_watcher_goes_on(
    shape: Shape, baseline: bringup.Attachments, place: Place, drives: list[observer.Drive]
) -> None:
    before = attached(drives)
    victim = target(drives, FIRST_VF)
    gone = drives[1]
    rest = [drive for drive in drives if drive is not gone]
    place.start()
    watcher = place.pid
    faults.pull(gone.primary.address)
    failed = place.fence("compute-0")
    assert failed.code == 1
    assert gone.serial in failed.err
    assert not any(drive.serial in failed.err for drive in rest)
    kept = {serial: by_nsid for serial, by_nsid in before.items() if serial != gone.serial}
    assert attached(rest) == without(kept, victim), "the others are cut"
    bringup.heal(shape, baseline)
    assert attached(observer.drives()) == before
    done = place.fence("compute-0")
    assert done.code == 0, done.err
    assert attached(observer.drives()) == without(before, victim)
    assert place.pid == watcher
    assert place.stop() == 0


def killed_when(place: Place, moment: str, since: float, cut_begun: Callable[[], bool]) -> None:
    """Kill the watcher at a moment: so many seconds after `since`, or at a step of the fence."""
    answered = len(place.audit("answer"))
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if moment == "cut" and cut_begun():
            break
        if moment == "record" and place.audit_file.read_bytes().count(b'"event":"answer"') > answered:
            break
        if moment[0].isdigit() and time.monotonic() - since >= float(moment):
            break
    place.kill()


def stage(place: Place, name: str, now: dict[str, list[int]], whole: dict[str, list[int]]) -> str:
    """Say how far the fence was when its watcher was killed."""
    if (place.responses / name).exists():
        return "answered, request still there" if name in place.pending() else "answered"
    if place.on_record(name):
        return "on record"
    if not now:
        return "cut"
    return "untouched" if now == whole else f"in the cut, left: {now}"


def moments_to_kill(length: float) -> list[str]:
    """Random instants, one in each part of a fence's length, and two steps at which it matters most."""
    chance = random.Random()
    instants = [f"{(part + chance.random()) / KILLS * length:.4f}" for part in range(KILLS)]
    return ["cut", "record", *instants]


@pytest.mark.shape("small")
@pytest.mark.limit(600)
def test_a_watcher_killed_at_any_instant_leaves_no_false_word_and_its_successor_serves(
    baseline: bringup.Attachments, place: Place, drives: list[observer.Drive], observed: Observed
) -> None:
    before = attached(drives)
    victim = target(drives, FIRST_VF)
    place.start(quiesce=KILL_QUIESCE)
    with Sentinel(place.responses, observed) as undisturbed:
        agent = place.agent("off", "compute-0")
        _, since = arrived(place)
        assert agent.end().code == 0
        faults.wait_for("the response", lambda: len(undisturbed.since()) > 1)
    length = undisturbed.visible() - since
    stages = []
    with observer.Device(drives[0].primary.path) as device:
        for moment in moments_to_kill(length):
            place.archive()
            bringup.restore(baseline)
            with Sentinel(place.responses, observed) as sentinel:
                agent = place.agent("off", "compute-0")
                name, since = arrived(place)
                killed_when(place, moment, since, lambda: victim[drives[0].serial] not in device.attached(1))
                stages.append(stage(place, name, reaches(observed(), victim), reaches(before, victim)))
                place.start(quiesce=KILL_QUIESCE)
                ended = agent.end()
                faults.wait_for("a look after it", lambda: len(sentinel.since()) > 5)
            where = f"killed at {moment} of {length:.3f} s, {stages[-1]}"
            assert ended.code == 0, f"{where}: {ended.err}"
            assert not false_success(sentinel.moments, victim), where
            assert sentinel.moments[-1].responses == {name: True}, where
            assert observed() == without(before, victim), where
            faults.wait_for("the request to be removed", lambda: not place.pending())
            assert place.on_record(name), where
    print(f"a fence takes {length:.3f} s; killed {stages}")
    assert len([found for found in stages if not found.startswith("answered")]) >= 1, stages


def arrived(place: Place) -> tuple[str, float]:
    """Return the request's name as soon as it is there, and when that was."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if names := place.pending():
            return names.pop(), time.monotonic()
        time.sleep(0.001)
    raise faults.StuckError("the agent writes no request")


def unbind_all(drive: observer.Drive) -> None:
    """Take every function of a drive from its driver, the physical one last."""
    for controller in reversed(drive.controllers):
        faults.unbind(controller.address)


def names_of(drives: list[observer.Drive]) -> dict[str, str]:
    return {drive.serial: drive.primary.name for drive in drives}


@pytest.mark.shape("small")
@pytest.mark.limit(300)
def test_drives_that_change_their_numbers_are_fenced_by_identity(
    shape: Shape, baseline: bringup.Attachments, place: Place, drives: list[observer.Drive]
) -> None:
    before = attached(drives)
    victims = [target(drives, FIRST_VF), target(drives, FIRST_VF + 1)]
    place.start()
    assert place.stop() == 0
    names = names_of(drives)
    for drive in drives:
        unbind_all(drive)
    place.start()  # meets no drive at all
    for drive in [drives[2], drives[0], drives[1]]:
        faults.bind(drive.primary.address)
    bringup.heal(shape, baseline)
    moved = names_of(observer.drives())
    assert all(moved[serial] != name for serial, name in names.items()), (names, moved)
    assert attached(observer.drives()) == before
    ended = place.fence("compute-0")
    assert ended.code == 0, ended.err
    assert attached(observer.drives()) == without(before, victims[0])

    for drive in observer.drives()[:2]:
        unbind_all(drive)
    for drive in [drives[1], drives[0]]:  # while the watcher runs
        faults.bind(drive.primary.address)
    bringup.heal(shape, baseline)
    again = names_of(observer.drives())
    assert again != moved
    ended = place.fence("compute-1")
    assert ended.code == 0, ended.err
    assert attached(observer.drives()) == without(before, victims[1])
    print(f"numbers: {names}, then {moved}, then {again}")

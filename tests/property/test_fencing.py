"""What must hold whatever the fleet, the map and the faults: invariants 1 to 4 and 10, judged by the truth."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nvmefence.errors import UnknownHostError
from nvmefence.fencing.evidence import DriveEvidence, FenceReport, Outcome
from nvmefence.fencing.fence import Options, fence
from nvmefence.fencing.quiesce import Method, Quiesce, parse
from nvmefence.inventory.drives import Drive
from nvmefence.nvme.emulated import EmulatedSubsystem, fail, hang
from nvmefence.nvme.transport import Command, Completion
from tests.property import fleets
from tests.property.fleets import (
    ATTACHED,
    IDENTIFY,
    LIST,
    NAMESPACE_ATTACHMENT,
    VIRTUALIZATION,
    Case,
    Plan,
    Race,
    Recorder,
    Saboteur,
    TrueDrive,
    cases,
)
from tests.property.virtual_time import Clock, run

OVERSHOOT = 0.1
"""Seconds that an answer may come after the deadline: one pause between tries of a read."""
QUIESCE = st.sampled_from([0.0, 0.0, 0.5, 2.0])
RULES = st.sampled_from([*map(parse, ("auto:0.5", "auto:0", "drain", "offline", "none", "wait:0.5", "wait:2"))])
DEADLINE = st.sampled_from([0.3, 3.0, 10.0])

examples = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@dataclass
class Result:
    report: FenceReport
    transport: Recorder
    started: float
    ended: float


def do_fence(
    case: Case,
    *,
    deadline: float = 30.0,
    quiesce: float | Quiesce = 0.0,
    found: Sequence[Drive] | None = None,
    transport: Recorder | None = None,
) -> Result:
    """Fence the case's targets in virtual time."""
    clock = Clock()
    carrier = transport or case.transport()
    for drive in case.drives:
        drive.subsystem.history.clear()
        drive.subsystem.now = drive.subsystem._clock = clock
    hostmap = case.hostmap()
    hosts = [hostmap.find(name) for name in case.called]
    assert tuple(host.name for host in hosts) == case.hosts
    seen = [drive.seen() for drive in case.drives] if found is None else found
    rule = quiesce if isinstance(quiesce, Quiesce) else Quiesce(quiesce)
    report = run(fence(carrier, hostmap, seen, hosts, Options(deadline, rule)), clock)
    return Result(report, carrier, 1000.0, clock.now)


def sabotage(
    case: Case, transport: Recorder, plans: Sequence[Sequence[Plan]], races: Sequence[Sequence[Race]]
) -> None:
    for n, drive in enumerate(case.drives):
        transport.faults[drive.path] = Saboteur(
            case, drive, plans[n] if n < len(plans) else (), races[n] if n < len(races) else ()
        )


def evidence(result: Result, drive: TrueDrive) -> DriveEvidence:
    (found,) = [e for e in result.report.drives if e.serial == drive.subsystem.serial]
    return found


# The judges. They read the subsystems' memory or the bytes of the answers, nothing of the product's.


def truth_showed_nothing(drive: TrueDrive, controllers: frozenset[int], quiesce: float) -> bool:
    """Whether the last list, and the last look at each namespace of it, were at moments when it was cut."""
    lists = [p for p in drive.subsystem.history if p.opcode == IDENTIFY and p.cns == LIST]
    if not lists:
        return False
    looks = {p.nsid: p for p in drive.subsystem.history if p.opcode == IDENTIFY and p.cns == ATTACHED}
    cuts = [p for p in drive.subsystem.history if p.opcode == NAMESPACE_ATTACHMENT]
    last = max((p.when for p in cuts), default=0.0)
    quiet = max((p.when + quiesce for p in cuts if p.named & controllers), default=0.0)
    for nsid in lists[-1].truth:
        if nsid not in looks or controllers.intersection(looks[nsid].truth.get(nsid, ())):
            return False
        if looks[nsid].when < max(last, quiet) - 1e-6:
            return False
    return True


def nothing_is_under_way(drive: TrueDrive, controllers: frozenset[int]) -> bool:
    """Whether none of these controllers has a write in hand that may still land."""
    return all(write.cntlid not in controllers for write in drive.subsystem.settle())


def answers_showed_nothing(
    answers: Sequence[tuple[str, Command, Completion]], path: str, controllers: frozenset[int]
) -> bool:
    """Whether the drive's own last words, which may be lies, were that nothing is attached."""
    mine = [(command, answer) for at, command, answer in answers if at == path]
    lists = [a for c, a in mine if c.opcode == IDENTIFY and c.cdw10 & 0xFF == LIST and c.nsid == 0]
    nsids = ids_of(lists[-1], "I", 0) if lists else None
    if nsids is None:
        return False
    looks = {c.nsid: (n, a) for n, (c, a) in enumerate(mine) if c.opcode == IDENTIFY and c.cdw10 == ATTACHED}
    last_cut = max((n for n, (c, _) in enumerate(mine) if c.opcode == NAMESPACE_ATTACHMENT), default=-1)
    for nsid in nsids:
        position, answer = looks.get(nsid, (-1, None))
        ids = None if answer is None else ids_of(answer, "H", 1)
        if ids is None or controllers.intersection(ids) or position < last_cut:
            return False
    return True


def ids_of(answer: Completion, width: str, counted: int) -> list[int] | None:
    """Return the ascending ids of an answered list, None when it says nothing that can be believed."""
    if answer.status or len(answer.data) != fleets.PAGE or answer.data == b"\xff" * fleets.PAGE:
        return None
    values = list(struct.unpack(f"<{fleets.PAGE // struct.calcsize(width)}{width}", answer.data))
    if counted:
        ids, reserved = values[1 : 1 + values[0]], 0xFFF0
        if values[0] > 2047:
            return None
    else:
        ids, reserved = values[: values.index(0)] if 0 in values else values, 0xFFFFFFFF
    ascending = all(a < b for a, b in itertools.pairwise(ids))
    return ids if ascending and all(i < reserved for i in ids) else None


def wait_of(found: DriveEvidence, rule: Quiesce) -> float | None:
    """Return the seconds for which a drive must have been waited for, None if it was drained in place of that."""
    if found.quiesce in ("drain", "offline"):
        assert rule.method in (Method.AUTO, Method(found.quiesce)), "a method that nobody asked for"
        return None
    assert rule.method in (Method.AUTO, Method.WAIT)
    assert found.quiesce == Quiesce(rule.seconds).name
    return rule.seconds


def assert_only_targets_were_named(case: Case, transport: Recorder) -> None:
    by_path = {drive.path: drive for drive in case.drives}
    for sent in transport.log:
        command, drive = sent.command, by_path[sent.path]
        assert command.opcode in (IDENTIFY, NAMESPACE_ATTACHMENT, VIRTUALIZATION)
        if command.opcode == VIRTUALIZATION:
            assert command.cdw10 & 0xF in (7, 8, 9), "offline, assign, online of a secondary controller"
            assert command.cdw10 >> 16 in drive.targets(case.hosts)
        if command.opcode != NAMESPACE_ATTACHMENT:
            continue
        count = struct.unpack_from("<H", command.data)[0]
        ids = struct.unpack_from(f"<{count}H", command.data, 2)
        assert command.cdw10 == 1, "only detach"
        assert 0 < command.nsid < 0xFFFFFFFF
        assert count > 0
        assert not any(command.data[2 + 2 * count :])
        assert list(ids) == sorted(set(ids))
        assert frozenset(ids) <= drive.targets(case.hosts)
        assert drive.own not in ids
        assert case.zero_allowed or 0 not in ids


def assert_others_kept(case: Case) -> None:
    for drive in case.drives:
        targets = drive.targets(case.hosts)
        left = {nsid: frozenset(ids) - targets for nsid, ids in drive.subsystem.truth().items()}
        assert left == case.others[drive.subsystem.serial]


def assert_consistent(case: Case, result: Result, deadline: float) -> None:
    """What holds of every fence, good or bad."""
    assert_only_targets_were_named(case, result.transport)
    assert_others_kept(case)
    assert result.ended - result.started <= deadline + OVERSHOOT
    for host in case.hosts:
        message = result.report.message(host)
        assert message.startswith("SIMULATED: ")
        assert ("NOT fenced" in message) == (not result.report.confirmed(host))
        assert result.report.to_json(host)["confirmed"] == result.report.confirmed(host)


# Invariant 1


@examples
@given(
    case=cases(),
    plans=st.lists(fleets.honest_plans(), max_size=4),
    races=st.lists(fleets.races(), max_size=4),
    deadline=DEADLINE,
    rule=RULES,
)
def test_confirmed_means_that_every_drive_was_truly_cut(
    case: Case, plans: list[list[Plan]], races: list[list[Race]], deadline: float, rule: Quiesce
) -> None:
    transport = case.transport()
    sabotage(case, transport, plans, races)
    result = do_fence(case, deadline=deadline, quiesce=rule, transport=transport)
    assert_consistent(case, result, deadline)
    for host in case.hosts:
        for drive in case.drives:
            if evidence(result, drive).outcome(host).confirmed:
                quiesce = wait_of(evidence(result, drive), rule)
                assert truth_showed_nothing(drive, drive.owners[host], quiesce or 0.0)
                assert quiesce is not None or nothing_is_under_way(drive, drive.owners[host])
                assert answers_showed_nothing(transport.answers, drive.path, drive.owners[host])
        if result.report.confirmed(host):
            assert all(evidence(result, drive).outcome(host).confirmed for drive in case.drives)
            assert result.ended - result.started >= rule.least


@examples
@given(case=cases(), plans=st.lists(fleets.honest_plans(), max_size=4), deadline=DEADLINE)
def test_without_races_confirmed_is_what_the_drives_show_at_the_end(
    case: Case, plans: list[list[Plan]], deadline: float
) -> None:
    transport = case.transport()
    sabotage(case, transport, plans, [])
    result = do_fence(case, deadline=deadline, transport=transport)
    for host in case.hosts:
        for drive in case.drives:
            if evidence(result, drive).outcome(host).confirmed:
                assert all(drive.owners[host].isdisjoint(ids) for ids in drive.subsystem.truth().values())


@examples
@given(case=cases(), plans=st.lists(fleets.lying_plans(), min_size=1, max_size=4), deadline=DEADLINE)
def test_a_drive_that_lies_is_believed_only_where_its_own_last_words_are_complete(
    case: Case, plans: list[list[Plan]], deadline: float
) -> None:
    transport = case.transport()
    sabotage(case, transport, plans, [])
    result = do_fence(case, deadline=deadline, transport=transport)
    assert result.ended - result.started <= deadline + OVERSHOOT
    for host in case.hosts:
        for drive in case.drives:
            if evidence(result, drive).outcome(host).confirmed:
                named = frozenset(evidence(result, drive).targets[host])
                assert answers_showed_nothing(transport.answers, drive.path, named)


@examples
@given(
    case=cases(["everywhere", "per-serial", "per-nqn", "override"]),
    plans=st.lists(fleets.lying_plans(), max_size=4),
)
def test_lies_never_turn_explicit_ids_into_others(case: Case, plans: list[list[Plan]]) -> None:
    transport = case.transport()
    sabotage(case, transport, plans, [])
    do_fence(case, deadline=3.0, transport=transport)
    assert_only_targets_were_named(case, transport)
    assert_others_kept(case)


# Invariant 2


@examples
@given(case=cases(), absent=st.sets(st.integers(0, 3), min_size=1), quiesce=QUIESCE)
def test_a_missing_drive_is_never_success_and_the_others_are_cut(
    case: Case, absent: set[int], quiesce: float
) -> None:
    there = [drive for n, drive in enumerate(case.drives) if n not in absent]
    assume(len(there) < len(case.drives))
    result = do_fence(case, quiesce=quiesce, found=[drive.seen() for drive in there])
    assert result.report.missing
    for host in case.hosts:
        assert not result.report.confirmed(host)
        for drive in there:
            assert evidence(result, drive).outcome(host).confirmed
            assert all(drive.owners[host].isdisjoint(ids) for ids in drive.subsystem.truth().values())


@examples
@given(case=cases(), extra=st.integers(1, 2))
def test_more_drives_than_counted_is_never_success(case: Case, extra: int) -> None:
    assume("count" in case.document["drives"] and len(case.drives) > extra)
    case.document["drives"]["count"] -= extra
    result = do_fence(case)
    assert not any(result.report.confirmed(host) for host in case.hosts)


@examples
@given(case=cases(), silent=st.sets(st.integers(0, 3), min_size=1), cns=st.sampled_from([0x01, LIST, ATTACHED]))
def test_a_drive_that_does_not_answer_a_question_is_never_success(case: Case, silent: set[int], cns: int) -> None:
    mute = [drive for n, drive in enumerate(case.drives) if n in silent]
    assume(any(drive.subsystem.namespaces or cns != ATTACHED for drive in mute))
    transport = case.transport()
    sabotage(
        case, transport, [[Plan(hang(), IDENTIFY, cns, 0, None)] if d in mute else [] for d in case.drives], []
    )
    result = do_fence(case, deadline=0.3, transport=transport)
    assert not any(result.report.confirmed(host) for host in case.hosts)
    assert_consistent(case, result, 0.3)


@examples
@given(case=cases(), shift=st.integers(1, 3), confused=st.booleans())
def test_a_path_that_leads_to_another_drive_is_never_cut_nor_success(
    case: Case, shift: int, confused: bool
) -> None:
    count = len(case.drives)
    if count == 1:
        seen = [replace(case.drives[0].seen(), serial="S9")]
        case.document["drives"] = {"count": 1, "allow_controller_zero": True}
    else:
        assume(shift % count)
        paths = [case.drives[(n + shift) % count].seen().controllers[0] for n in range(count)]
        if not confused:  # else the controller ids are those of the drives that really are there
            paths = [replace(p, cntlid=d.own) for p, d in zip(paths, case.drives, strict=True)]
        seen = [replace(d.seen(), controllers=(p,)) for d, p in zip(case.drives, paths, strict=True)]
    result = do_fence(case, found=seen)
    assert not any(result.report.confirmed(host) for host in case.hosts)
    assert all(sent.command.opcode != NAMESPACE_ATTACHMENT for sent in result.transport.log)


@given(case=cases(), name=st.text(min_size=0, max_size=20))
@examples
def test_a_host_that_is_not_in_the_map_is_unknown(case: Case, name: str) -> None:
    hostmap = case.hostmap()
    known = {n.lower() for host in hostmap.hosts.values() for n in (host.name, *host.aliases)}
    known |= {n.split(".")[0] for n in known}
    assume(name.strip().lower().rstrip(".").split(".")[0] not in known)
    with pytest.raises(UnknownHostError):
        hostmap.find(name)


# Invariant 4


@examples
@given(case=cases(), rule=RULES)
def test_fencing_again_changes_nothing_and_says_already(case: Case, rule: Quiesce) -> None:
    first = do_fence(case, quiesce=rule)
    assume(all(first.report.confirmed(host) for host in case.hosts))  # a drain may be required and not to be had
    before = [drive.subsystem.snapshot() for drive in case.drives]
    again = do_fence(case, quiesce=rule)
    assert [drive.subsystem.snapshot() for drive in case.drives] == before
    assert all(sent.command.opcode != NAMESPACE_ATTACHMENT for sent in again.transport.log)
    if rule.method is Method.WAIT:
        assert all(sent.command.opcode == IDENTIFY for sent in again.transport.log)
    for host in case.hosts:
        assert again.report.confirmed(host)
        assert "already detached" in again.report.message(host)
        assert {drive.outcome(host) for drive in again.report.drives} == {Outcome.ALREADY}


@examples
@given(case=cases())
def test_what_was_attached_is_reported_as_cut_and_nothing_else(case: Case) -> None:
    before = {drive.subsystem.serial: drive.subsystem.truth() for drive in case.drives}
    result = do_fence(case)
    for host in case.hosts:
        for drive in case.drives:
            had = {
                nsid: tuple(sorted(drive.owners[host].intersection(ids)))
                for nsid, ids in sorted(before[drive.subsystem.serial].items())
                if drive.owners[host].intersection(ids)
            }
            assert evidence(result, drive).detached(host) == had
            assert evidence(result, drive).outcome(host) is (Outcome.CUT if had else Outcome.ALREADY)


# Invariant 10


@examples
@given(
    case=cases(),
    opcode=st.sampled_from([(0, 0), (NAMESPACE_ATTACHMENT, 0), (IDENTIFY, ATTACHED)]),
    skip=st.integers(0, 6),
    deadline=DEADLINE,
)
def test_a_hung_drive_delays_no_other_drive_and_no_answer(
    case: Case, opcode: tuple[int, int], skip: int, deadline: float
) -> None:
    assume(len(case.drives) > 1)
    transport = case.transport()
    sabotage(case, transport, [[Plan(hang(), *opcode, skip, None)]], [])
    result = do_fence(case, deadline=deadline, transport=transport)
    assert_consistent(case, result, deadline)
    rounds = 6 * case.latency  # look, read, cut, read-back
    for drive in case.drives[1:]:
        assert all(p.when <= result.started + rounds for p in drive.subsystem.history)
        for host in case.hosts:
            assert evidence(result, drive).outcome(host).confirmed
            assert all(drive.owners[host].isdisjoint(ids) for ids in drive.subsystem.truth().values())
    if transport.faults[case.drives[0].path].matched[0] > skip:  # type: ignore[attr-defined]
        assert not any(result.report.confirmed(host) for host in case.hosts)


# Writes under way


@examples
@given(
    case=cases(["vf", "slot", "mixed"]), rule=st.sampled_from([parse("auto"), parse("drain"), parse("offline")]),
    races=st.lists(fleets.races(), max_size=4),
)  # fmt: skip
def test_where_our_controller_is_primary_a_drain_is_quick_leaves_no_write_and_gives_back_what_it_took(
    case: Case, rule: Quiesce, races: list[list[Race]]
) -> None:
    before = [drive.subsystem.snapshot()["secondaries"] for drive in case.drives]
    for drive in case.drives:
        drive.subsystem._clock = lambda: 0.0
        for cntlid in drive.targets(case.hosts):
            for nsid in drive.subsystem.namespaces:
                drive.subsystem.start_write(cntlid, nsid, 5000.0)
    in_time = case.each_has_something()
    transport = case.transport()
    sabotage(case, transport, [], races)
    result = do_fence(case, deadline=90.0, quiesce=rule, transport=transport)
    assert_consistent(case, result, 90.0)
    for host in case.hosts:
        assert result.report.confirmed(host), result.report.message(host)
        assert all(nothing_is_under_way(drive, drive.owners[host]) for drive in case.drives)
    if in_time and not any(races):  # else somebody may have detached, just before, what has a write under way
        assert result.ended - result.started < 5.0
    for drive, had in zip(case.drives, before, strict=True):
        for text, state in drive.subsystem.snapshot()["secondaries"].items():
            stays = rule.method is Method.OFFLINE and int(text) in drive.targets(case.hosts)
            assert state == ([False, 0, 0] if stays else had[text])


# Liveness


@examples
@given(case=cases(), quiesce=QUIESCE)
def test_without_faults_a_fence_is_confirmed_at_once(case: Case, quiesce: float) -> None:
    result = do_fence(case, quiesce=quiesce)
    assert_consistent(case, result, 10.0)
    assert all(result.report.confirmed(host) for host in case.hosts)
    assert result.ended - result.started <= quiesce + 8 * case.latency + 1e-6


@examples
@given(
    case=cases(), plans=st.lists(fleets.transient_plans(), max_size=4),
    quiesce=st.sampled_from([Quiesce(0.0), Quiesce(0.5), Quiesce(2.0), parse("auto"), parse("auto:0.5")]),
)  # fmt: skip
def test_faults_that_pass_do_not_prevent_a_fence(case: Case, plans: list[list[Plan]], quiesce: Quiesce) -> None:
    transport = case.transport()
    sabotage(case, transport, plans, [])
    result = do_fence(case, deadline=30.0, quiesce=quiesce, transport=transport)
    assert_consistent(case, result, 30.0)
    for host in case.hosts:
        assert result.report.confirmed(host), result.report.message(host)


@examples
@given(case=cases(), skip=st.integers(0, 12), commands=st.integers(4, 60), status=st.sampled_from(fleets.TRANSIENT))
def test_a_controller_that_is_resetting_for_a_while_is_fenced_within_the_deadline(
    case: Case, skip: int, commands: int, status: int
) -> None:
    transport = case.transport()
    sabotage(case, transport, [[Plan(fail(status), 0, 0, skip, commands)]], [])
    result = do_fence(case, deadline=60.0, transport=transport)
    for host in case.hosts:
        assert result.report.confirmed(host), result.report.message(host)


@examples
@given(case=cases(), races=st.lists(fleets.races(), min_size=1, max_size=4), quiesce=QUIESCE)
def test_software_that_attaches_again_a_few_times_is_beaten(
    case: Case, races: list[list[Race]], quiesce: float
) -> None:
    transport = case.transport()
    sabotage(case, transport, [], races)
    result = do_fence(case, deadline=30.0, quiesce=quiesce, transport=transport)
    assert_consistent(case, result, 30.0)
    for host in case.hosts:
        assert result.report.confirmed(host), result.report.message(host)


def test_the_judge_of_truth_is_not_satisfied_by_a_drive_that_was_never_read() -> None:
    drive = TrueDrive("/dev/nvme0", 0, fleets.Witness("nqn.x", "S", controllers=[0, 1]), {}, False)
    drive.subsystem.history = []
    assert isinstance(drive.subsystem, EmulatedSubsystem)
    assert not truth_showed_nothing(drive, frozenset({1}), 0.0)

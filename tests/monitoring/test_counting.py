"""What is counted of fences: each once, for one reason of a closed set, with the durations of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from nvmefence.fencing.evidence import DriveEvidence, FenceReport
from nvmefence.inventory.hostmap import Host
from nvmefence.inventory.selectors import ByVirtualFunction
from nvmefence.spool.request import Action, Request
from nvmefence.watcher import counting
from nvmefence.watcher.answers import Result
from nvmefence.watcher.counting import Counts, Reason, why
from nvmefence.watcher.metrics import render
from nvmefence.watcher.passes import Pass, Ticket

HOSTS = [Host(name, ByVirtualFunction((number,))) for number, name in enumerate(("c1", "c2"), 2)]


def drive(**changed: Any) -> DriveEvidence:
    """A drive from which c1 is cut, unless something is changed."""
    usual: dict[str, Any] = {"targets": {"c1": (2,), "c2": (3,)}, "remaining": {}, "quiesced": {"c1", "c2"}}
    return DriveEvidence("S", "nqn", "M", ("c1", "c2"), **usual | changed)


def report(*drives: DriveEvidence, missing: Sequence[str] = ()) -> FenceReport:
    return FenceReport(("c1", "c2"), drives, missing, "ioctl", "2026-11-24T04:09:00Z", 1.0, False)


def made(result: FenceReport | None, defect: str = "", asked: Sequence[Host] = HOSTS[:1], **times: float) -> Pass:
    request = Request("a.json", "id", Action.OFF, "c1", 0.0, 0.0)
    tickets = [Ticket(request, host, read_at=10.0, until=70.0, waited=0.3) for host in asked]
    return Pass(tuple(HOSTS), tickets, 70.0, result, defect, times)


def lines(counts: Counts) -> list[str]:
    return [line for line in render(counts.samples()).splitlines() if not line.startswith("#")]


def above_zero(counts: Counts, name: str) -> dict[str, str]:
    found = dict(line.rsplit(" ", 1) for line in lines(counts) if line.startswith(f"nvmefence_{name}{{"))
    return {key.partition("=")[2].strip('"}'): number for key, number in found.items() if number != "0"}


FAILURES: list[tuple[Reason, Pass]] = [
    (Reason.DISCOVERY, made(None, "the drives were not found in time: not finished within 3 s")),
    (Reason.DEFECT, made(None, "defect in nvmefence: KeyError: 1")),
    (Reason.DEFECT, made(report(drive(remaining=None, problem="internal error: KeyError()")))),
    (Reason.MISSING, made(report(drive(), missing=["1 of 2 drives missing"]))),
    (Reason.MISSING, made(report())),
    (Reason.REFUSED, made(report(drive(refused={"c1": "controller 2 is this machine's own"}, targets={})))),
    (Reason.ATTACHED, made(report(drive(remaining={1: (2,)}, problem="still attached")))),
    (Reason.UNREAD, made(report(drive(remaining=None, problem="no answer in 5 s")))),
    (Reason.UNREAD, made(report(drive(targets={})))),
    (Reason.RESTORE, made(report(drive(quiesced=set(), held={"c1": "a restore of c1 is under way"})))),
    (Reason.QUIESCE, made(report(drive(quiesced={"c2"})))),
]


@pytest.mark.parametrize(("reason", "failed"), FAILURES, ids=lambda one: getattr(one, "value", ""))
def test_a_fence_that_is_not_confirmed_counts_once_with_its_reason(reason: Reason, failed: Pass) -> None:
    assert why(failed, "c1") is reason
    counts = Counts()
    counts.ended(failed, 12.0)
    assert above_zero(counts, "fence_failures_total") == {reason.value: "1"}
    assert above_zero(counts, "fences_total") == {"not_confirmed": "1"}


def test_every_reason_but_the_guards_is_tried_above() -> None:
    assert {reason for reason, _ in FAILURES} == set(Reason) - {Reason.GUARD}


def test_of_several_reasons_the_first_one_counts() -> None:
    both = made(report(drive(remaining=None), drive(remaining={1: (2,)}), missing=["one"]))
    assert why(both, "c1") is Reason.MISSING


def test_each_host_is_judged_by_itself_and_counts_once_however_many_asked() -> None:
    counts = Counts()
    counts.ended(made(report(drive(remaining={1: (3,)})), asked=[*HOSTS, HOSTS[0]]), 12.0)
    assert above_zero(counts, "fences_total") == {"confirmed": "1", "not_confirmed": "1"}
    assert above_zero(counts, "fence_failures_total") == {"attached": "1"}


def test_a_fence_that_nobody_asked_for_is_none_of_these() -> None:
    counts = Counts()
    before = lines(counts)
    counts.ended(made(report(drive()), asked=[], fence=1.0), 12.0)
    assert lines(counts) == before


def test_a_fence_that_the_guard_held_too_long_is_a_failure() -> None:
    counts = Counts()
    counts.held()
    assert above_zero(counts, "fence_failures_total") == {"guard": "1"}
    assert above_zero(counts, "fences_total") == {"not_confirmed": "1"}


def test_every_label_is_there_before_anything_happens() -> None:
    found = lines(Counts())
    for reason in Reason:
        assert f'nvmefence_fence_failures_total{{reason="{reason.value}"}} 0' in found
    for result in Result:
        assert f'nvmefence_answers_total{{result="{result.value.replace("-", "_")}"}} 0' in found
    for step in counting.STEPS:
        assert f'nvmefence_fence_step_seconds_count{{step="{step}"}} 0' in found


def test_durations_are_those_of_the_slowest_drive_in_buckets_that_add_up() -> None:
    counts = Counts()
    slow = drive(seconds={"open": 0.2, "look": 0.1, "read": 0.1, "cut": 0.02, "offline": 1.0, "quiesce": 2.0})
    quick = drive(seconds={"look": 0.05, "cut": 0.3, "read-back": 40.0})
    counts.ended(made(report(slow, quick), discovery=0.01, fence=41.0, record=0.001), 52.0)
    sums = {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in lines(counts) if "_seconds_sum" in line}
    assert sums == pytest.approx(
        {"waited": 0.3, "discovery": 0.01, "reading": 0.4, "cut": 0.3, "read_back": 40.0, "quiesce": 3.0,
         "fence": 41.0, "record": 0.001, "total": 42.0}
    )  # fmt: skip
    buckets = [line for line in lines(counts) if 'bucket{step="discovery"' in line]
    assert [line.rsplit(" ", 1)[1] for line in buckets] == ["0"] + ["1"] * 12, "a bound is within its bucket"
    assert 'nvmefence_fence_step_seconds_bucket{step="read_back",le="30"} 0' in lines(counts)
    assert 'nvmefence_fence_step_seconds_bucket{step="read_back",le="+Inf"} 1' in lines(counts)

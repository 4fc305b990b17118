"""The end of a fence is on record, or it is said that it is not: also where the disk holds earlier writing up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from nvmefence.fencing.evidence import DriveEvidence, FenceReport, Sent
from nvmefence.records.record import Record
from nvmefence.records.recorder import Keeper
from nvmefence.records.store import Store

ASKED = {"c1": [("r", "watcher")]}


class Held:
    """A writer that does its work when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def post(self, work: Callable[[], object]) -> bool:
        self.waiting.append(work)
        return True


def cut() -> DriveEvidence:
    drive = DriveEvidence("S0", "nqn.0", "M", ("c1",), targets={"c1": (11,)}, remaining={}, quiesced={"c1"})
    drive.sent.append(Sent(1, (11,), 0, 0.0, 0.0))
    return drive


def report(drive: DriveEvidence) -> FenceReport:
    return FenceReport(("c1",), [drive], [], "none", "2026-03-01T00:00:00.000Z", 1.0, False)


@pytest.mark.parametrize("done", [0, 1, 2])
def test_what_was_queued_while_the_fence_went_on_is_not_its_end(tmp_path: Path, done: int) -> None:
    """Of the queue, reading, what was so far, and the end, so many are done before the time is over."""

    async def story() -> tuple[dict[str, str], Record | None]:
        held, store = Held(), Store(str(tmp_path))
        recorder = Keeper(store, held, lambda: 1.7e9).recorder(ASKED, "drain")
        drive = cut()
        recorder.heard(drive, "cut")
        await asyncio.sleep(0.3)  # the recorder writes what is so far 0.1 s after the first cut
        finishing = asyncio.ensure_future(recorder.finish(report(drive), 0.1, 0.1))
        await asyncio.sleep(0)
        assert len(held.waiting) == 3
        for work in held.waiting[:done]:
            work()
        return await finishing, store.load("c1")

    troubles, record = asyncio.run(story())
    assert record is None
    assert list(troubles) == ["c1"]


def test_whether_the_host_counted_as_fenced_before_is_known_by_the_rule_that_was_met(tmp_path: Path) -> None:
    async def known(rule: str) -> bool:
        held = Held()
        recorder = Keeper(Store(str(tmp_path)), held, lambda: 1.7e9).recorder(ASKED, rule)
        before = recorder.before.read
        held.waiting[0]()
        assert (before, recorder.before.read) == (False, True)
        drive = cut()
        finishing = asyncio.ensure_future(recorder.finish(report(drive), 20, 20))
        await asyncio.sleep(0)
        held.waiting[1]()
        assert await finishing == {}
        return "c1" in recorder.before.quiet

    assert not asyncio.run(known("wait:1")), "nothing is on record"
    assert asyncio.run(known("wait:1")), "by the same rule"
    assert not asyncio.run(known("auto")), "by another rule"
    assert asyncio.run(known("drain")), "nothing is under way where it counted as fenced by default"
    assert asyncio.run(known("wait:20"))

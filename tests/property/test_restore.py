"""Invariant 9: a restore gives a host nothing that it did not have, or that is another now; never while fenced."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvmefence.fencing.evidence import FenceReport
from nvmefence.fencing.quiesce import Method, Quiesce, parse
from nvmefence.nvme.emulated import Fault, delay, on
from nvmefence.nvme.transport import Command
from nvmefence.records.hostlock import UNANSWERED_S
from nvmefence.restoring import Of
from nvmefence.spool.errors import ReadFailed
from tests.property import fleets
from tests.property.fleets import Case, Plan, Saboteur, cases
from tests.property.giving import (
    Change,
    World,
    changes,
    happen,
    judge_attaches,
    judge_fences,
    judge_nothing_is_lost,
    judge_online,
    judge_times,
)
from tests.property.virtual_time import run

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
RULES = st.sampled_from([*map(parse, ("auto:0.5", "auto:0", "drain", "offline", "none", "wait:0.5"))])

examples = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@contextlib.contextmanager
def world_of(case: Case, rule: Quiesce) -> Iterator[World]:
    case.hosts, case.called = case.hosts[:1], case.called[:1]
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        world = World(case, Path(place), rule)
        try:
            yield world
        finally:
            world.locks.die()


class on_attach:
    """A fault for one attach command, and when it was sent."""

    def __init__(self, fault: Fault, skip: int) -> None:
        self.fault, self.skip = fault, skip
        self.sent: float | None = None

    def __call__(self, _path: str, command: Command) -> Fault | None:
        if command.opcode != fleets.NAMESPACE_ATTACHMENT or command.cdw10 & 0xF or self.sent is not None:
            return None
        self.skip -= 1
        if self.skip >= 0:
            return None
        self.sent = asyncio.get_running_loop().time()
        return self.fault


def rule_fits(rule: Quiesce, world: World) -> bool:
    """Whether every drive can do what the rule wants."""
    return rule.method in (Method.AUTO, Method.WAIT) or all(drive.sriov for drive in world.case.drives)


def sabotage(world: World, plans: list[list[Plan]]) -> None:
    for n, drive in enumerate(world.case.drives):
        world.transport.faults[drive.path] = Saboteur(world.case, drive, plans[n] if n < len(plans) else (), ())


@examples
@given(case=cases(), rule=RULES)
def test_a_fence_and_a_restore_leave_every_drive_as_it_was(case: Case, rule: Quiesce) -> None:
    async def story(world: World) -> None:
        before, states = world.attached(), world.states()
        confirmed = (await world.fence()).confirmed(world.name)
        assert not world.attached() or not confirmed
        assert (world.record() is not None) == (confirmed or bool(before))
        ended = await world.restore()
        assert ended is not None
        assert ended.complete, ended.message()
        assert world.attached() == before
        assert world.states() == states
        assert world.record() is None
        again = await world.restore()
        assert again is not None
        assert (again.complete, again.report) == (True, None)

    with world_of(case, rule) as world:
        run(story(world), world.clock)


@examples
@given(case=cases(), rule=RULES, what=changes())
def test_what_changed_since_is_left_out_and_the_rest_is_given(
    case: Case, rule: Quiesce, what: list[Change]
) -> None:
    async def story(world: World) -> None:
        before = world.attached()
        owners = [world.mine(drive) for drive in world.case.drives]
        await world.fence()
        had = set(world.had)
        for change in what:
            happen(world, change)
        for drive in world.case.drives:
            drive.subsystem.history.clear()
        now = [world.mine(drive) for drive in world.case.drives]
        ended = await world.restore()
        assert ended is not None
        judge_attaches(world, had | world.had, [one & other for one, other in zip(owners, now, strict=True)])
        judge_online(world, now)
        there = {
            (d.subsystem.serial, nsid, which)
            for d in world.case.drives
            for nsid, which in d.subsystem.namespaces.items()
        }
        swapped = owners != now
        possible = {one for one in before if one[:3] in there and not swapped}
        free = {one for one in possible if one[2].shared}
        assert free <= world.attached(), "what can be given back is given"
        left = world.record()
        if ended.complete:
            assert left is None
        elif not swapped:
            assert left is not None
            assert {(t.serial, t.nsid, n) for t in left.taken for n in t.controllers}.isdisjoint(
                (serial, nsid, n) for serial, nsid, _which, n in free
            )

    with world_of(case, rule) as world:
        run(story(world), world.clock)


@examples
@given(
    case=cases(),
    rule=RULES,
    plans=st.lists(fleets.honest_plans(), max_size=4),
    offset=st.sampled_from([-0.01, -0.001, 0.0, 0.0005, 0.001, 0.003, 0.006, 0.02, 0.3, 1.0, 5.0]),
    deadlines=st.tuples(st.sampled_from([0.3, 3.0, 10.0]), st.sampled_from([0.3, 3.0, 10.0])),
    what=changes(),
)
def test_a_fence_and_a_restore_at_once_whatever_the_drives_do(
    case: Case, rule: Quiesce, plans: list[list[Plan]], offset: float, deadlines: tuple[float, float],
    what: list[Change],
) -> None:  # fmt: skip
    async def after(seconds: float, work: object) -> None:
        await asyncio.sleep(seconds)
        await work  # type: ignore[misc]

    async def story(world: World) -> None:
        await world.fence()
        for change in what:
            if change.what != "swap":
                happen(world, change)
        owners = [world.mine(drive) for drive in world.case.drives]
        sabotage(world, plans)
        tasks = [
            asyncio.create_task(after(max(-offset, 0.0), world.restore(deadlines[0]))),
            asyncio.create_task(after(max(offset, 0.0), world.fence(deadlines[1]))),
        ]
        await asyncio.gather(*tasks)
        await asyncio.sleep(30.0)  # what is delayed is carried out
        judge_attaches(world, world.had, owners)
        judge_online(world, owners)
        judge_times(world)
        judge_fences(world)
        judge_nothing_is_lost(world)
        world.transport.faults.clear()
        await asyncio.sleep(UNANSWERED_S)
        await mended(world)

    async def mended(world: World) -> None:
        """Without faults, whatever happened before, the host gets what is on record."""
        record = world.record()
        ended = await world.restore()
        if ended is None:
            assert any(not plan.fault.answers for one in plans for plan in one), "an attach hangs for good"
            return
        assert ended.complete == (world.record() is None)
        if not ended.complete or record is None:
            return
        for drive in world.case.drives:
            for taken in record.taken:
                if taken.serial == drive.subsystem.serial:
                    assert set(drive.subsystem.truth()[taken.nsid]).issuperset(taken.controllers)
            for one in record.offline:
                if one.serial == drive.subsystem.serial:
                    assert drive.subsystem.secondaries[one.cntlid].online

    with world_of(case, rule) as world:
        run(story(world), world.clock)


# One after another, at every moment


@examples
@given(
    case=cases(), rule=RULES, skip=st.integers(0, 6), seconds=st.floats(0.05, 6.0), begins=st.floats(0.0, 8.0),
    deadline=st.sampled_from([0.1, 1.0, 30.0]), fence_deadline=st.sampled_from([0.5, 3.0]),
)  # fmt: skip
def test_an_attach_that_a_drive_is_slow_with_keeps_every_fence_from_being_confirmed(
    case: Case, rule: Quiesce, skip: int, seconds: float, deadline: float, begins: float, fence_deadline: float
) -> None:
    async def story(world: World) -> None:
        await world.fence()
        slow = world.case.drives[0]
        hook = on_attach(delay(seconds), skip)
        world.transport.faults[slow.path] = hook
        restoring = asyncio.create_task(world.restore(deadline))
        await asyncio.sleep(begins)
        report = await world.fence(fence_deadline)
        confirmed, ended = report.confirmed(world.name), world.clock.now
        sent = hook.sent
        await asyncio.sleep(20.0)
        await restoring
        judge_times(world)
        judge_fences(world)
        late = sent is not None and sent + seconds > ended
        assert not (confirmed and late), "the attach was still to come"
        if late:
            assert "restore" in report.message(world.name)

    with world_of(case, rule) as world:
        run(story(world), world.clock)


@examples
@given(case=cases(), rule=RULES, fails=st.booleans())
def test_no_response_says_that_a_host_is_fenced_when_it_is_given_anything(
    case: Case, rule: Quiesce, fails: bool
) -> None:
    """Else a restore that is killed leaves a success for a host that has its storage again."""

    async def story(world: World) -> None:
        before = world.attached()
        await world.fence()
        cut, states, record = world.attached(), world.states(), world.record()
        archived: list[bool] = []

        def archive(_of: Of) -> list[str]:
            archived.append((world.attached(), world.states()) == (cut, states))
            if fails:
                raise ReadFailed("responses: Input/output error", errno.EIO)
            return ["r-1.json"]

        world.archive = archive
        ended = await world.restore()
        assert ended is not None
        assert all(archived), "something was given before"
        assert not before or archived
        if fails and before:
            assert not ended.complete
            assert "Input/output error" in ended.message()
            assert (world.attached(), world.states(), world.record()) == (cut, states, record)
            assert not world.transport.gave
        world.archive = lambda _of: []
        again = await world.restore()
        assert again is not None
        assert again.complete, again.message()
        assert world.attached() == before

    with world_of(case, rule) as world:
        run(story(world), world.clock)


@examples
@given(case=cases(), rule=RULES, at=st.integers(0, 40), slow=st.booleans())
def test_a_fence_that_begins_at_any_command_of_a_restore_loses_nothing(
    case: Case, rule: Quiesce, at: int, slow: bool
) -> None:
    async def story(world: World) -> None:
        before = world.attached()
        await world.fence()
        fences: list[asyncio.Task[FenceReport]] = []
        counted = 0

        def hook(path: str, command: Command) -> Fault | None:
            nonlocal counted
            counted += 1
            if counted == at + 1:
                fences.append(asyncio.create_task(world.fence()))
            attach = command.opcode == fleets.NAMESPACE_ATTACHMENT and command.cdw10 & 0xF == 0
            return delay(1.0) if slow and attach and path == world.case.drives[-1].path else None

        world.transport.faults = {drive.path: hook for drive in world.case.drives}
        await world.restore()
        world.transport.faults.clear()
        for task in fences:
            confirmed = (await task).confirmed(world.name)
            assert confirmed or not rule_fits(rule, world), task.result().message(world.name)
            assert not (confirmed and world.attached())
        judge_times(world)
        judge_nothing_is_lost(world)
        ended = await world.restore()
        assert ended is not None
        assert ended.complete, ended.message()
        assert world.attached() == before

    with world_of(case, rule) as world:
        run(story(world), world.clock)


@examples
@given(
    case=cases(), rule=RULES, seconds=st.floats(0.5, 60.0), begins=st.floats(0.0, 100.0),
    opcode=st.sampled_from([fleets.NAMESPACE_ATTACHMENT, fleets.VIRTUALIZATION]),
)  # fmt: skip
def test_what_a_drive_does_late_for_a_fence_takes_nothing_from_a_host_that_was_restored(
    case: Case, rule: Quiesce, seconds: float, begins: float, opcode: int
) -> None:
    async def story(world: World) -> None:
        before, states = world.attached(), world.states()
        world.transport.faults[world.case.drives[0].path] = on(opcode, delay(seconds))
        await world.fence(0.3)
        world.transport.faults.clear()
        await asyncio.sleep(begins)
        ended = await world.restore()
        if ended is None:
            await asyncio.sleep(UNANSWERED_S)
            ended = await world.restore()
        await asyncio.sleep(100.0)
        assert ended is not None
        assert ended.complete, ended.message()
        assert world.attached() == before
        assert world.states() == states

    with world_of(case, rule) as world:
        run(story(world), world.clock)

"""The emulated subsystem's own rules, and what the transport's faults do to commands."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from nvmefence.nvme import commands, status, structures
from nvmefence.nvme.commands import Resource, VirtualizationAction
from nvmefence.nvme.emulated import (
    QEMU_7_2,
    SPECIFICATION,
    EmulatedSubsystem,
    EmulatedTransport,
    Fault,
    Namespace,
    answer,
    delay,
    fail,
    hang,
    lie,
    on,
    remove,
    scripted,
)
from nvmefence.nvme.transport import NO_ANSWER, PAGE, Command, Completion

T = TypeVar("T")
PATH = "/dev/nvme0"
OWN, FIRST, SECOND = 10, 11, 12
IDENTIFY = commands.identify_controller()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(**changes: Any) -> EmulatedSubsystem:
    settings: dict[str, Any] = {
        "controllers": [OWN],
        "secondaries": [FIRST, SECOND],
        "namespaces": [Namespace(1), Namespace(2), Namespace(3, shared=False)],
    }
    return EmulatedSubsystem("nqn.2014-08.org.nvmexpress:test", "T1", **{**settings, **changes})


def send(drive: EmulatedSubsystem, command: Command, cntlid: int = OWN) -> int:
    code, _, _ = drive.execute(cntlid, command.sqe(), command.data)
    return status.code(code)


def read(drive: EmulatedSubsystem, command: Command, cntlid: int = OWN) -> bytes:
    code, _, data = drive.execute(cntlid, command.sqe(), command.data)
    assert code == 0
    return data


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(5):
            return await work

    return asyncio.run(bounded())


# The subsystem


def test_shared_namespaces_start_attached_to_everyone_but_us() -> None:
    drive = make()
    assert [drive.attached(nsid) for nsid in (1, 2, 3)] == [(FIRST, SECOND), (FIRST, SECOND), ()]
    assert make(attached=[OWN]).attached(1) == (OWN,)


@pytest.mark.parametrize("ids", [([], [1]), ([1], [1]), ([1, 1], []), ([-1], []), ([0xFFF0], [])])
def test_impossible_controller_ids_are_refused(ids: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ValueError, match="controller ids"):
        make(controllers=ids[0], secondaries=ids[1])


@pytest.mark.parametrize("quirks", [SPECIFICATION, QEMU_7_2])
def test_a_private_namespace_goes_to_one_controller_at_a_time(quirks: Any) -> None:
    drive = make(quirks=quirks)
    assert send(drive, commands.attach(3, [FIRST])) == status.SUCCESS
    assert send(drive, commands.attach(3, [SECOND])) == status.NAMESPACE_PRIVATE
    assert send(drive, commands.attach(3, [FIRST])) == status.NAMESPACE_ALREADY_ATTACHED
    assert drive.attached(3) == (FIRST,)
    assert send(drive, commands.detach(3, [FIRST])) == status.SUCCESS
    assert send(drive, commands.attach(3, [FIRST, SECOND])) == status.NAMESPACE_PRIVATE
    assert drive.attached(3) == (FIRST,)


def test_all_or_nothing_lists_change_nothing_when_they_fail() -> None:
    drive = make(quirks=replace(SPECIFICATION, partial_lists=False))
    assert send(drive, commands.attach(3, [FIRST, SECOND])) == status.NAMESPACE_PRIVATE
    assert send(drive, commands.detach(1, [FIRST, SECOND, 13])) == status.CONTROLLER_LIST_INVALID
    assert (drive.attached(3), drive.attached(1)) == ((), (FIRST, SECOND))


def test_without_namespace_management_attachment_is_an_invalid_opcode() -> None:
    drive = make(namespace_management=False)
    assert send(drive, commands.detach(1, [FIRST])) == status.INVALID_OPCODE
    assert not structures.identify_controller(read(drive, IDENTIFY)).namespace_management
    assert not structures.admin_effects(read(drive, commands.effects_log())).supported
    assert drive.attached(1) == (FIRST, SECOND)


def test_errors_say_do_not_retry() -> None:
    drive = make()
    for command in (
        commands.detach(9, [FIRST]),
        commands.identify(commands.Cns.ATTACHED_CONTROLLERS),
        Command(0xF),
    ):
        code, _, _ = drive.execute(OWN, command.sqe(), command.data)
        assert code & status.DNR


def test_an_offline_controller_answers_nothing_and_keeps_its_attachments() -> None:
    drive = make()
    offline = commands.virtualization(VirtualizationAction.SECONDARY_OFFLINE, FIRST)
    assert send(drive, IDENTIFY, FIRST) == status.SUCCESS
    assert drive.can_write(FIRST)
    assert send(drive, offline) == status.SUCCESS
    assert send(drive, IDENTIFY, FIRST) == NO_ANSWER
    assert not drive.can_write(FIRST)
    assert drive.attached(1) == (FIRST, SECOND)
    assert send(drive, IDENTIFY, SECOND) == status.SUCCESS


def test_a_reset_of_the_primary_takes_all_secondaries_offline() -> None:
    drive = make()
    drive.reset()
    assert [(s.online, s.vq, s.vi) for s in drive.secondaries.values()] == [(False, 0, 0)] * 2


@pytest.mark.parametrize(
    ("quirks", "exhausted"),
    [(SPECIFICATION, status.INVALID_RESOURCE_COUNT), (QEMU_7_2, status.INVALID_RESOURCE_ID)],
)
def test_resources_given_to_the_primary_are_missing_for_its_secondaries(quirks: Any, exhausted: int) -> None:
    drive = make(quirks=quirks)
    primary = commands.virtualization(VirtualizationAction.PRIMARY_FLEXIBLE, OWN, resource=Resource.VI, count=3)
    assert send(drive, primary) == exhausted
    drive.reset()
    assert send(drive, primary) == status.SUCCESS
    assert drive.primary_resources[Resource.VI] == 0
    drive.reset()
    assert drive.primary_resources[Resource.VI] == 3
    assign = commands.virtualization(VirtualizationAction.SECONDARY_ASSIGN, FIRST, resource=Resource.VI, count=2)
    assert send(drive, assign) == exhausted
    capabilities = structures.primary_capabilities(read(drive, commands.primary_capabilities()))
    assert (capabilities.vi_flexible, capabilities.vi_assigned) == (4, 0)


def test_only_the_primary_manages_secondaries() -> None:
    offline = commands.virtualization(VirtualizationAction.SECONDARY_OFFLINE, SECOND)
    specification, qemu = make(), make(quirks=QEMU_7_2)
    assert send(specification, offline, FIRST) == status.INVALID_OPCODE
    assert send(specification, commands.secondary_controllers(), FIRST) == status.INVALID_FIELD
    assert send(qemu, offline, FIRST) == status.INVALID_CONTROLLER_ID
    assert structures.secondary_controller_list(read(qemu, commands.secondary_controllers(), FIRST)) == []
    assert structures.primary_capabilities(read(qemu, commands.primary_capabilities(), FIRST)).cntlid == FIRST
    assert specification.can_write(SECOND)
    assert qemu.can_write(SECOND)


def test_more_than_a_page_of_namespaces_and_controllers() -> None:
    drive = make(
        controllers=range(3000), secondaries=[], namespaces=[Namespace(nsid) for nsid in range(1, 2500, 2)]
    )
    first = structures.namespace_list(read(drive, commands.allocated_namespaces()))
    rest = structures.namespace_list(read(drive, commands.allocated_namespaces(first[-1])), first[-1])
    assert (len(first), first + rest) == (1024, list(range(1, 2500, 2)))
    ids = structures.controller_list(read(drive, commands.attached_controllers(1)))
    more = structures.controller_list(read(drive, commands.attached_controllers(1, ids[-1] + 1)))
    assert (len(ids), ids + more) == (2047, list(range(1, 3000)))


def test_a_namespace_created_anew_has_another_identity_only_when_told() -> None:
    drive = make()
    before = structures.identify_namespace(read(drive, commands.allocated_namespace(1)))
    drive.add_namespace(Namespace(1, nguid=bytes(range(16))), [FIRST])
    after = structures.identify_namespace(read(drive, commands.allocated_namespace(1)))
    assert before.nguid != after.nguid
    assert after.nguid == bytes(range(16))
    drive.remove_namespace(1)
    assert structures.namespace_list(read(drive, commands.allocated_namespaces())) == [2, 3]
    with pytest.raises(ValueError, match="no such controller"):
        drive.add_namespace(Namespace(1), [99])


def test_a_snapshot_restores_what_commands_changed() -> None:
    drive = make()
    before = drive.snapshot()
    assert send(drive, commands.detach(1, [FIRST])) == 0
    assert send(drive, commands.virtualization(VirtualizationAction.SECONDARY_OFFLINE, SECOND)) == 0
    assert drive.snapshot() != before
    drive.restore(before)
    assert drive.snapshot() == before
    for broken in ({"attached": {"1": "1"}}, {"attached": {"1": "-1"}}, {"primary": [[1]]}):
        with pytest.raises(ValueError):  # noqa: PT011 - of int() and unpacking as well
            make().restore(broken)


# Writes under way


def test_a_write_under_way_outlives_the_detach_unless_it_is_drained() -> None:
    clock = Clock()
    drive = make(clock=clock)
    assert drive.start_write(FIRST, 1, 6.8)
    assert send(drive, commands.detach(1, [FIRST])) == status.SUCCESS
    assert not drive.start_write(FIRST, 1, 1.0)
    assert len(drive.settle()) == 1
    clock.now += 7
    assert drive.settle() == []
    assert [(write.cntlid, write.nsid) for write in drive.landed] == [(FIRST, 1)]


def test_secondary_offline_drains_that_controller_only() -> None:
    drive = make(clock=Clock())
    assert drive.start_write(FIRST, 1, 5.0)
    assert drive.start_write(SECOND, 1, 5.0)
    assert send(drive, commands.virtualization(VirtualizationAction.SECONDARY_OFFLINE, FIRST)) == 0
    assert [write.cntlid for write in drive.landed] == [FIRST]
    assert [write.cntlid for write in drive.settle()] == [SECOND]
    assert not drive.start_write(FIRST, 1, 5.0)


def test_draining_is_a_quirk() -> None:
    drive = make(clock=Clock(), quirks=replace(SPECIFICATION, offline_drains=False, detach_drains=True))
    assert drive.start_write(FIRST, 1, 5.0)
    assert drive.start_write(FIRST, 2, 5.0)
    assert send(drive, commands.virtualization(VirtualizationAction.SECONDARY_OFFLINE, FIRST)) == 0
    assert drive.landed == []
    assert send(drive, commands.detach(1, [FIRST])) == 0
    assert [write.nsid for write in drive.landed] == [1]


# The transport


def through(*faults: Fault | None, latency: float = 0.0) -> tuple[EmulatedSubsystem, EmulatedTransport, int]:
    drive = make()
    transport = EmulatedTransport({PATH: (drive, OWN)}, latency=latency)
    transport.faults[PATH] = scripted(*faults)
    return drive, transport, transport.open(PATH)


def run(transport: EmulatedTransport, device: int, *sent: Command, within: float | None = None) -> list[Completion]:
    async def main() -> list[Completion]:
        return await transport.run(device, sent, None if within is None else time.monotonic() + within)

    return wait_for(main())


def test_every_command_is_recorded_with_its_status() -> None:
    drive, transport, device = through(None, hang())
    sent = (commands.detach(1, [FIRST]), commands.detach(2, [FIRST]), commands.detach(1, [FIRST]))
    found = run(transport, device, *sent, within=0.01)
    codes = [status.code(answered.status) for answered in found]
    assert codes == [0, NO_ANSWER, status.NAMESPACE_NOT_ATTACHED]
    assert [(path, command) for path, command, _ in transport.log] == [(PATH, command) for command in sent]
    assert [status.code(logged.status) for logged in transport.log] == codes
    assert drive.attached(2) == (FIRST, SECOND)


def test_a_hung_command_ends_at_until_and_not_before() -> None:
    drive, transport, device = through(hang(applied=True))
    (found,) = run(transport, device, commands.detach(1, [FIRST]), within=0.02)
    assert found.status == NO_ANSWER
    assert 0.02 <= found.finished - found.started < 1
    assert found.data == b""
    assert drive.attached(1) == (SECOND,)


def test_a_hung_command_without_until_waits_for_ever_or_for_the_release() -> None:
    async def main() -> None:
        _, transport, device = through(hang())
        task = asyncio.create_task(transport.run(device, [IDENTIFY]))
        await asyncio.sleep(0.02)
        assert not task.done()
        transport.release(device)
        (found,) = await task
        assert found.status == NO_ANSWER

    wait_for(main())


def test_a_cancelled_run_leaves_nothing_behind() -> None:
    async def main() -> None:
        _, transport, device = through(hang())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await transport.run(device, [IDENTIFY])
        transport.release(device)
        assert transport.log[0].status == NO_ANSWER

    wait_for(main())


def test_after_until_nothing_is_sent() -> None:
    drive, transport, device = through()
    (found,) = run(transport, device, commands.detach(1, [FIRST]), within=-0.001)
    assert found.status == NO_ANSWER
    assert drive.attached(1) == (FIRST, SECOND)


def test_a_late_command_is_processed_although_nobody_waits() -> None:
    async def main() -> None:
        drive, transport, device = through(delay(0.03))
        (found,) = await transport.run(device, [commands.detach(1, [FIRST])], time.monotonic() + 0.01)
        assert found.status == NO_ANSWER
        assert drive.attached(1) == (FIRST, SECOND)
        await asyncio.sleep(0.05)
        assert drive.attached(1) == (SECOND,)
        assert transport.log[0].status == NO_ANSWER

    wait_for(main())


def test_a_slow_command_delays_its_own_answer_only() -> None:
    async def main() -> None:
        drives = {f"/dev/nvme{n}": (make(), OWN) for n in range(2)}
        transport = EmulatedTransport(drives)
        transport.faults["/dev/nvme0"] = scripted(delay(0.1))
        slow, quick = (transport.open(path) for path in drives)
        waiting = asyncio.create_task(transport.run(slow, [IDENTIFY, IDENTIFY]))
        await asyncio.sleep(0)
        (found,) = await transport.run(quick, [IDENTIFY])
        assert found.status == 0
        assert not waiting.done()
        late, prompt = await waiting
        assert (late.status, prompt.status) == (0, 0)
        assert late.finished - late.started >= 0.1 > prompt.finished - prompt.started

    wait_for(main())


def test_latency_is_that_of_a_batch_not_their_sum() -> None:
    _, transport, device = through(latency=0.02)
    found = run(transport, device, *[IDENTIFY] * 20)
    assert {answered.status for answered in found} == {0}
    assert 0.02 <= max(answered.finished for answered in found) - found[0].started < 0.3


def test_a_failure_comes_before_or_after_the_effect() -> None:
    drive, transport, device = through(fail(-errno.EINTR), fail(0x22, applied=True))
    found = run(transport, device, commands.detach(1, [FIRST]), commands.detach(2, [FIRST]))
    assert [answered.status for answered in found] == [-errno.EINTR, 0x22]
    assert (drive.attached(1), drive.attached(2)) == ((FIRST, SECOND), (SECOND,))


def test_a_lie_is_success_without_effect() -> None:
    drive, transport, device = through(lie(), lie(), lie(b"abc"), answer(bytes(PAGE)))
    found = run(transport, device, commands.detach(1, [FIRST]), IDENTIFY, IDENTIFY, IDENTIFY)
    assert [answered.status for answered in found] == [0] * 4
    assert drive.attached(1) == (FIRST, SECOND)
    assert [answered.data for answered in found] == [
        b"",
        b"\xff" * PAGE,
        b"abc" + b"\xff" * (PAGE - 3),
        bytes(PAGE),
    ]


@pytest.mark.parametrize("latency", [0.0, 0.01])
def test_a_drive_removed_in_the_middle_of_a_batch(latency: float) -> None:
    drive, transport, device = through(None, remove(), latency=latency)
    found = run(transport, device, *[commands.detach(nsid, [FIRST]) for nsid in (1, 2)], IDENTIFY)
    assert [answered.status for answered in found] == [0, -errno.ENODEV, -errno.ENODEV]
    assert drive.attached(2) == (FIRST, SECOND)
    with pytest.raises(FileNotFoundError):
        transport.open(PATH)
    transport.insert(PATH, drive, OWN)
    assert [a.status for a in run(transport, device, IDENTIFY)] == [-errno.ENODEV]
    assert [a.status for a in run(transport, transport.open(PATH), IDENTIFY)] == [0]


def test_a_removed_path_cannot_be_opened() -> None:
    drive, transport, device = through()
    transport.remove(PATH)
    with pytest.raises(FileNotFoundError):
        transport.open(PATH)
    assert [a.status for a in run(transport, device, IDENTIFY)] == [-errno.ENODEV]
    with pytest.raises(ValueError, match="no controller 99"):
        transport.insert(PATH, drive, 99)


def test_faults_by_opcode_count_what_they_skip() -> None:
    hook = on(commands.NAMESPACE_ATTACHMENT, fail(0x21), skip=1, times=1)
    cut = commands.detach(1, [FIRST])
    assert [hook(PATH, command) for command in (IDENTIFY, cut, IDENTIFY, cut, cut)] == [
        None,
        None,
        None,
        fail(0x21),
        None,
    ]
    for_good = on(commands.IDENTIFY, hang())
    assert [for_good(PATH, IDENTIFY) for _ in range(3)] == [hang()] * 3


def test_a_hook_may_change_the_drive_between_two_commands() -> None:
    drive, transport, device = through()

    def reattach(_path: str, command: Command) -> None:
        if command.cdw10 & 0xFF == commands.Cns.ATTACHED_CONTROLLERS:
            drive.set_attached(1, [FIRST])

    transport.faults[PATH] = reattach
    found = run(transport, device, commands.detach(1, [FIRST, SECOND]), commands.attached_controllers(1))
    assert found[0].status == 0
    assert structures.controller_list(found[1].data) == [FIRST]


def test_commands_through_an_offline_controller_hang() -> None:
    drive = make()
    transport = EmulatedTransport({PATH: (drive, FIRST)})
    drive.reset()
    (found,) = run(transport, transport.open(PATH), IDENTIFY, within=0.01)
    assert found.status == NO_ANSWER


@pytest.mark.parametrize(
    "command",
    [
        Command(6, read=PAGE + 1),
        Command(6, data=bytes(PAGE + 1)),
        Command(6, read=1, data=b"x"),
        Command(6, nsid=1 << 32),
    ],
)
def test_misuse_raises(command: Command) -> None:
    _, transport, device = through()
    with pytest.raises(ValueError):  # noqa: PT011 - the contract names the class only
        run(transport, device, command)
    assert transport.log == []


def test_stale_handles_are_refused() -> None:
    _, transport, device = through()
    transport.close()
    transport.close()
    with pytest.raises(ValueError, match="no such device handle"):
        run(transport, device, IDENTIFY)
    with pytest.raises(ValueError, match="no such device handle"):
        transport.release(device)


def test_no_commands_are_no_work() -> None:
    _, transport, device = through(fail(1))
    assert run(transport, device) == []
    assert transport.backend == "simulated"


def test_a_thousand_drives_are_usable() -> None:
    """Not a figure to keep: a guard against quadratic work. It takes less than a second."""
    namespaces = [Namespace(nsid) for nsid in range(1, 129)]
    drives = {
        f"/dev/nvme{n}": (make(controllers=[0], secondaries=range(1, 18), namespaces=namespaces), 0)
        for n in range(1000)
    }
    transport = EmulatedTransport(drives, record=False)

    async def survey(path: str) -> int:
        device = transport.open(path)
        asked = [commands.attached_controllers(namespace.nsid) for namespace in namespaces]
        return sum(answered.status == 0 for answered in await transport.run(device, asked))

    async def main() -> int:
        return sum(await asyncio.gather(*(survey(path) for path in drives)))

    started = time.process_time()
    assert asyncio.run(main()) == 128_000
    assert transport.log == []
    assert time.process_time() - started < 20

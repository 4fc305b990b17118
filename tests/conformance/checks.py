"""The checks. Each takes a bench and leaves it as it was; `CHECKS` lists them all."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest

from nvmefence.nvme import commands, status, structures
from nvmefence.nvme.commands import Attachment, Cns, Resource, VirtualizationAction
from nvmefence.nvme.emulated import SPECIFICATION
from nvmefence.nvme.transport import PAGE, UNWRITTEN, Command
from tests.conformance.bench import Bench, raw_attachment, raw_identify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Check = Callable[[Bench], Awaitable[None]]
CHECKS: Final[list[Check]] = []

ALL_NAMESPACES: Final = 0xFFFFFFFF
RESERVED_CNS: Final = 0xFE
RESERVED_OPCODE: Final = 0x0F
NO_CONTROLLER: Final = 0xFFEF


def check(function: Check) -> Check:
    CHECKS.append(function)
    return function


@asynccontextmanager
async def unchanged(bench: Bench) -> AsyncIterator[None]:
    """Require that the attachments of all namespaces are afterwards what they were."""
    before = await bench.everything()
    yield
    assert await bench.everything() == before


@asynccontextmanager
async def attachments(bench: Bench, nsid: int, wanted: list[int]) -> AsyncIterator[None]:
    """Attach exactly these targets (others are left alone), and bring back afterwards what was attached."""
    before = await bench.attached(nsid)
    try:
        await bench.put(nsid, sorted((set(before) - set(bench.targets)) | set(wanted)))
        yield
    finally:
        await bench.put(nsid, before)


async def targets_of(bench: Bench, nsid: int) -> list[int]:
    return [cntlid for cntlid in await bench.attached(nsid) if cntlid in bench.targets]


# Reading


@check
async def identify_controller_is_the_one_we_opened(bench: Bench) -> None:
    found = structures.identify_controller(await bench.page(commands.identify_controller()))
    assert (found.cntlid, found.serial, found.nqn) == (bench.cntlid, bench.serial, bench.nqn)
    assert found.namespace_management
    assert found.multi_controller
    assert found.version >= 0x00010200  # Namespace Attachment came with 1.2
    assert found.namespace_count >= max(bench.namespaces)
    if bench.quirks is not None:
        hidden = bench.quirks.oacs_hides_virtualization or not await bench.secondaries()
        assert found.virtualization_management is not hidden
        assert found.version == bench.quirks.version


@check
async def allocated_namespaces_page_on_from_above(bench: Bench) -> None:
    whole = structures.namespace_list(await bench.page(commands.allocated_namespaces()))
    assert set(bench.namespaces) <= set(whole)
    for above in (whole[0] - 1, *whole):
        rest = structures.namespace_list(await bench.page(commands.allocated_namespaces(above)), above)
        assert rest == [nsid for nsid in whole if nsid > above]


@check
async def a_namespace_list_above_the_last_possible_id_is_refused(bench: Bench) -> None:
    for above in (0xFFFFFFFE, ALL_NAMESPACES):
        assert await bench.status(commands.allocated_namespaces(above)) == status.INVALID_NAMESPACE


@check
async def active_namespaces_are_those_attached_to_the_controller_asked(bench: Bench) -> None:
    active = structures.namespace_list(await bench.page(commands.active_namespaces()))
    everything = await bench.everything()
    assert active == [nsid for nsid, attached in everything.items() if bench.cntlid in attached]


@check
async def controller_lists_page_on_from_the_first(bench: Bench) -> None:
    everyone = structures.controller_list(await bench.page(commands.subsystem_controllers()))
    assert {bench.cntlid, *bench.targets} <= set(everyone)
    nsid = bench.namespaces[0]
    attached = await bench.attached(nsid)
    for first in (everyone[0], everyone[0] + 1, everyone[-1], everyone[-1] + 1):
        page = await bench.page(commands.subsystem_controllers(first))
        assert structures.controller_list(page, first) == [c for c in everyone if c >= first]
        page = await bench.page(commands.attached_controllers(nsid, first))
        assert structures.controller_list(page, first) == [c for c in attached if c >= first]


@check
async def secondary_controllers_ascend_with_vf_numbers_by_position(bench: Bench) -> None:
    entries = await bench.secondaries()
    if not entries:
        pytest.skip("no secondary controllers on this drive")
    assert [entry.vf for entry in entries] == list(range(1, len(entries) + 1))
    assert {entry.primary for entry in entries} == {bench.cntlid}
    for entry in entries:
        page = await bench.page(commands.secondary_controllers(entry.cntlid))
        rest = structures.secondary_controller_list(page, entry.cntlid)
        assert rest == [found for found in entries if found.cntlid >= entry.cntlid]
    own = structures.primary_capabilities(await bench.page(commands.primary_capabilities()))
    assert own.cntlid == bench.cntlid
    assert own.vq_assigned == sum(entry.queues for entry in entries)
    assert own.vi_assigned == sum(entry.interrupts for entry in entries)


@check
async def an_allocated_namespace_is_described_attached_or_not(bench: Bench) -> None:
    nsid = bench.namespaces[0]
    shown = structures.identify_namespace(await bench.page(commands.allocated_namespace(nsid)))
    assert shown.shared
    assert shown.size > 0
    async with attachments(bench, nsid, []):
        page = await bench.page(commands.allocated_namespace(nsid))
        assert structures.identify_namespace(page) == shown


@check
async def a_namespace_that_is_not_allocated_is_empty_or_refused(bench: Bench) -> None:
    nsid = await free_nsid(bench)
    (found,) = await bench.ask(commands.allocated_namespace(nsid))
    if status.code(found.status) != status.INVALID_NAMESPACE:
        assert (found.status, found.data) == (0, bytes(PAGE))
    (found,) = await bench.ask(commands.attached_controllers(nsid))
    exact = bench.quirks.unallocated if bench.quirks else None
    bench.expect(status.code(found.status), exact, status.INVALID_NAMESPACE, status.INVALID_FIELD)
    assert found.data == b""


@check
async def effects_log_tells_of_namespace_attachment(bench: Bench) -> None:
    log = await bench.page(commands.effects_log())
    assert structures.admin_effects(log).supported
    assert structures.admin_effects(log, commands.IDENTIFY).supported
    assert not structures.admin_effects(log, RESERVED_OPCODE).supported
    if bench.quirks is not None:
        assert structures.admin_effects(log).namespace_inventory_change
        assert structures.admin_effects(log).exclusive == 0


@check
async def what_the_controller_did_not_write_stays_unwritten(bench: Bench) -> None:
    log = await bench.page(commands.effects_log())
    short = Command(commands.GET_LOG_PAGE, nsid=ALL_NAMESPACES, cdw10=127 << 16 | 0x05, read=PAGE)
    assert await bench.page(short) == log[:512] + bytes([UNWRITTEN]) * (PAGE - 512)


@check
async def reads_shorter_than_a_page_are_as_long_as_asked(bench: Bench) -> None:
    log = await bench.page(commands.effects_log())
    short = Command(commands.GET_LOG_PAGE, nsid=ALL_NAMESPACES, cdw10=127 << 16 | 0x05, read=512)
    assert await bench.page(short) == log[:512]


@check
async def unknown_requests_are_refused(bench: Bench) -> None:
    assert await bench.status(raw_identify(RESERVED_CNS)) == status.INVALID_FIELD
    assert await bench.status(Command(RESERVED_OPCODE)) == status.INVALID_OPCODE


@check
async def a_batch_answers_each_command_in_its_place(bench: Bench) -> None:
    first, second = bench.namespaces[:2]
    expected = [await bench.attached(first), await bench.attached(second)]
    async with attachments(bench, first, list(bench.targets[:1])):
        expected[0] = await bench.attached(first)
        found = await bench.ask(
            commands.attached_controllers(first),
            raw_identify(RESERVED_CNS),
            commands.attached_controllers(second),
            commands.identify_controller(),
        )
    assert [status.code(answer.status) for answer in found] == [0, status.INVALID_FIELD, 0, 0]
    assert [structures.controller_list(found[n].data) for n in (0, 2)] == expected
    assert structures.identify_controller(found[3].data).cntlid == bench.cntlid
    assert found[1].data == b""
    assert all(answer.started <= answer.finished for answer in found)


# Attaching and detaching


@check
async def detach_and_attach_are_seen_by_a_read_back(bench: Bench) -> None:
    nsid, other = bench.namespaces[:2]
    untouched = await bench.attached(other)
    targets = sorted(bench.targets[:2])
    async with attachments(bench, nsid, targets):
        before = await bench.attached(nsid)
        assert set(targets) <= set(before)
        assert await bench.status(commands.detach(nsid, targets)) == status.SUCCESS
        assert await bench.attached(nsid) == [c for c in before if c not in targets]
        assert await bench.status(commands.attach(nsid, targets)) == status.SUCCESS
        assert await bench.attached(nsid) == before
        assert await bench.attached(other) == untouched


@check
async def what_is_so_already_is_an_error_of_its_own(bench: Bench) -> None:
    nsid, target = bench.namespaces[0], bench.targets[0]
    async with attachments(bench, nsid, []), unchanged(bench):
        assert await bench.status(commands.detach(nsid, [target])) == status.NAMESPACE_NOT_ATTACHED
    async with attachments(bench, nsid, [target]), unchanged(bench):
        assert await bench.status(commands.attach(nsid, [target])) == status.NAMESPACE_ALREADY_ATTACHED


@check
async def a_controller_that_does_not_exist_is_refused(bench: Bench) -> None:
    exact = bench.quirks.unknown_controller if bench.quirks else None
    allowed = (status.CONTROLLER_LIST_INVALID, status.INVALID_CONTROLLER_ID, status.INVALID_FIELD)
    async with unchanged(bench):
        for change in (commands.attach, commands.detach):
            code = await bench.status(change(bench.namespaces[0], [NO_CONTROLLER]))
            bench.expect(code, exact, *allowed)


@check
async def an_empty_controller_list_is_refused(bench: Bench) -> None:
    async with unchanged(bench):
        for select in Attachment:
            code = await bench.status(raw_attachment(bench.namespaces[0], select, bytes(PAGE)))
            exact = status.CONTROLLER_LIST_INVALID
            bench.expect(code, exact, exact, status.INVALID_FIELD, status.INVALID_CONTROLLER_ID)


@check
async def a_list_with_an_impossible_count_changes_nothing(bench: Bench) -> None:
    async with unchanged(bench):
        code = await bench.status(raw_attachment(bench.namespaces[0], Attachment.DETACH, b"\xff" * PAGE))
        exact = status.CONTROLLER_LIST_INVALID
        bench.expect(code, exact, exact, status.INVALID_FIELD, status.INVALID_CONTROLLER_ID)


@check
async def a_list_that_does_not_ascend_is_refused_or_processed_whole(bench: Bench) -> None:
    nsid = bench.namespaces[0]
    low, high = sorted(bench.targets[:2])
    backwards = struct.pack("<3H", 2, high, low).ljust(PAGE, b"\0")
    async with attachments(bench, nsid, [low, high]):
        code = await bench.status(raw_attachment(nsid, Attachment.DETACH, backwards))
        lenient = bench.quirks is not None and bench.quirks.lenient_lists
        exact = status.SUCCESS if lenient else status.CONTROLLER_LIST_INVALID
        bench.expect(code, exact, status.SUCCESS, status.CONTROLLER_LIST_INVALID, status.INVALID_FIELD)
        assert await targets_of(bench, nsid) == ([] if code == status.SUCCESS else [low, high])


@check
async def a_failing_list_is_applied_up_to_the_failing_entry_at_most(bench: Bench) -> None:
    nsid = bench.namespaces[0]
    low, high = sorted(bench.targets[:2])
    partial = bench.quirks.partial_lists if bench.quirks else None
    async with attachments(bench, nsid, [low]):
        assert await bench.status(commands.detach(nsid, [low, high])) == status.NAMESPACE_NOT_ATTACHED
        left = await targets_of(bench, nsid)
        assert left in ([[], [low]] if partial is None else [[] if partial else [low]])
    async with attachments(bench, nsid, [high]):
        assert await bench.status(commands.detach(nsid, [low, high])) == status.NAMESPACE_NOT_ATTACHED
        assert await targets_of(bench, nsid) == [high]


@check
async def namespaces_that_cannot_be_attached_are_refused(bench: Bench) -> None:
    quirks = bench.quirks or SPECIFICATION
    data = commands.controller_list(bench.targets[:1])
    wanted = {
        0: status.INVALID_NAMESPACE,
        ALL_NAMESPACES: quirks.unallocated,
        await free_nsid(bench): quirks.unallocated,
    }
    async with unchanged(bench):
        for nsid, exact in wanted.items():
            for select in Attachment:
                code = await bench.status(raw_attachment(nsid, select, data))
                bench.expect(code, exact, status.INVALID_NAMESPACE, status.INVALID_FIELD)


@check
async def a_reserved_selection_is_refused(bench: Bench) -> None:
    data = commands.controller_list(bench.targets[:1])
    async with unchanged(bench):
        assert await bench.status(raw_attachment(bench.namespaces[0], 0xF, data)) == status.INVALID_FIELD


async def free_nsid(bench: Bench) -> int:
    """Return an NSID in range that is not allocated."""
    allocated = structures.namespace_list(await bench.page(commands.allocated_namespaces()))
    limit = structures.identify_controller(await bench.page(commands.identify_controller())).namespace_count
    free = next((nsid for nsid in range(1, limit + 1) if nsid not in allocated), 0)
    if not free:
        pytest.skip("all namespace ids of this drive are allocated")
    return free


# Secondary controllers


def virtualization(action: VirtualizationAction, cntlid: int, resource: int = 0, count: int = 0) -> Command:
    cdw10 = cntlid << 16 | resource << 8 | action
    return Command(commands.VIRTUALIZATION_MANAGEMENT, cdw10=cdw10, cdw11=count)


async def secondary(bench: Bench, cntlid: int) -> structures.SecondaryController:
    return next(entry for entry in await bench.secondaries() if entry.cntlid == cntlid)


@check
async def offline_keeps_attachments_and_online_needs_resources(bench: Bench) -> None:
    target = bench.targets[-1]
    if target not in [entry.cntlid for entry in await bench.secondaries()]:
        pytest.skip("no secondary controllers on this drive")
    before = await secondary(bench, target)
    assert before.online
    online = virtualization(VirtualizationAction.SECONDARY_ONLINE, target)
    counts = {Resource.VQ: before.queues, Resource.VI: before.interrupts}
    assign = {r: virtualization(VirtualizationAction.SECONDARY_ASSIGN, target, r, n) for r, n in counts.items()}
    async with unchanged(bench):
        assert await bench.status(assign[Resource.VQ]) == status.INVALID_SECONDARY_STATE
        for _ in range(2):  # offline is idempotent
            offline = virtualization(VirtualizationAction.SECONDARY_OFFLINE, target)
            assert await bench.status(offline) == status.SUCCESS
            found = await secondary(bench, target)
            assert (found.online, found.queues, found.interrupts) == (False, 0, 0)
        assert await bench.status(online) == status.INVALID_SECONDARY_STATE
        too_many = virtualization(VirtualizationAction.SECONDARY_ASSIGN, target, Resource.VQ, 0xFFFF)
        assert await bench.status(too_many) == status.INVALID_RESOURCE_COUNT
        for resource, command in assign.items():
            (answer,) = await bench.ask(command)
            assert (answer.status, answer.result) == (0, counts[resource])
        assert await bench.status(online) == status.SUCCESS
        assert await secondary(bench, target) == before


@check
async def virtualization_management_refuses_what_is_no_secondary_controller(bench: Bench) -> None:
    has_secondaries = bool(await bench.secondaries())
    everywhere = bench.quirks is not None and bench.quirks.virtualization_everywhere
    exact = status.INVALID_CONTROLLER_ID if has_secondaries or everywhere else status.INVALID_OPCODE
    for cntlid in (bench.cntlid, NO_CONTROLLER):
        code = await bench.status(virtualization(VirtualizationAction.SECONDARY_OFFLINE, cntlid))
        bench.expect(code, exact, status.INVALID_CONTROLLER_ID, status.INVALID_OPCODE, status.INVALID_FIELD)
    if has_secondaries:
        bad = virtualization(VirtualizationAction.SECONDARY_ASSIGN, bench.targets[-1], resource=7)
        code = await bench.status(bad)
        bench.expect(code, status.INVALID_RESOURCE_ID, status.INVALID_RESOURCE_ID, status.INVALID_FIELD)
        reserved = Command(commands.VIRTUALIZATION_MANAGEMENT, cdw10=bench.targets[-1] << 16 | 0xF)
        assert await bench.status(reserved) == status.INVALID_FIELD


@check
async def a_controller_without_secondaries_says_so(bench: Bench) -> None:
    if await bench.secondaries():
        pytest.skip("this drive has secondary controllers")
    everywhere = bench.quirks is not None and bench.quirks.virtualization_everywhere
    exact = status.SUCCESS if everywhere else status.INVALID_FIELD
    for cns in (Cns.PRIMARY_CAPABILITIES, Cns.SECONDARY_CONTROLLERS):
        bench.expect(await bench.status(commands.identify(cns)), exact, status.SUCCESS, status.INVALID_FIELD)

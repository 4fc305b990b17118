"""Commands, byte for byte as the specification has them."""

from __future__ import annotations

import struct

import pytest

from nvmefence.nvme import commands
from nvmefence.nvme.commands import Attachment, Cns, Resource, VirtualizationAction
from nvmefence.nvme.transport import PAGE, Command


def dwords(command: Command) -> tuple[int, ...]:
    return struct.unpack("<16I", command.sqe())


def test_an_entry_has_64_bytes_with_every_field_in_its_dword() -> None:
    found = dwords(Command(0x15, nsid=2, cdw10=3, cdw11=4, cdw12=5, cdw13=6, cdw14=7, cdw15=8))
    assert found == (0x15, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 5, 6, 7, 8)


def test_data_and_timeout_are_no_part_of_the_entry() -> None:
    assert Command(6, data=b"x", read=9, timeout_ms=5).sqe() == Command(6).sqe()


@pytest.mark.parametrize(
    ("command", "cns", "nsid", "cntid"),
    [
        (commands.identify_controller(), 0x01, 0, 0),
        (commands.active_namespaces(7), 0x02, 7, 0),
        (commands.allocated_namespaces(1024), 0x10, 1024, 0),
        (commands.allocated_namespace(9), 0x11, 9, 0),
        (commands.attached_controllers(9, 0x1234), 0x12, 9, 0x1234),
        (commands.subsystem_controllers(5), 0x13, 0, 5),
        (commands.primary_capabilities(), 0x14, 0, 0),
        (commands.secondary_controllers(0xFFEF), 0x15, 0, 0xFFEF),
        (commands.identify(Cns.CONTROLLER), 0x01, 0, 0),
    ],
)
def test_identify(command: Command, cns: int, nsid: int, cntid: int) -> None:
    assert (command.opcode, command.nsid, command.cdw10) == (0x06, nsid, cntid << 16 | cns)
    assert (command.read, command.data) == (PAGE, b"")


def test_namespace_attachment_sends_a_controller_list() -> None:
    command = commands.detach(7, [0x0102, 3])
    assert (command.opcode, command.nsid, command.cdw10, command.read) == (0x15, 7, 1, 0)
    assert command.data == b"\x02\x00\x03\x00\x02\x01".ljust(4096, b"\0")
    assert commands.attach(7, [3]).cdw10 == 0
    assert commands.namespace_attachment(7, Attachment.ATTACH, [3]) == commands.attach(7, [3])


@pytest.mark.parametrize(
    ("controllers", "reason"),
    [
        ([], "at least one"),
        ([1, 1], "once"),
        ([-1], "run from 0"),
        ([0xFFF0], "run from 0"),
        (range(2048), "holds 2047"),
    ],
)
def test_a_controller_list_that_names_nobody_or_somebody_else_is_refused(
    controllers: list[int], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        commands.controller_list(controllers)


def test_the_longest_controller_list_fills_the_page() -> None:
    page = commands.controller_list(range(2047))
    assert len(page) == PAGE
    assert page[-2:] == (2046).to_bytes(2, "little")


@pytest.mark.parametrize("nsid", [0, -1, 0xFFFFFFFF, 1 << 32])
def test_namespaces_that_are_none_or_all_are_refused(nsid: int) -> None:
    for change in (commands.attach, commands.detach):
        with pytest.raises(ValueError, match="namespace ids"):
            change(nsid, [1])


def test_virtualization_management() -> None:
    command = commands.virtualization(VirtualizationAction.SECONDARY_ASSIGN, 0x1234, resource=Resource.VI, count=5)
    assert (command.opcode, command.cdw10, command.cdw11) == (0x1C, 0x12340108, 5)
    assert (command.read, command.data) == (0, b"")
    assert commands.virtualization(VirtualizationAction.SECONDARY_OFFLINE, 3).cdw10 == 0x00030007
    assert commands.virtualization(VirtualizationAction.SECONDARY_ONLINE, 3).cdw10 == 0x00030009
    with pytest.raises(ValueError, match="controller ids"):
        commands.virtualization(VirtualizationAction.SECONDARY_OFFLINE, 0xFFF0)


def test_effects_log_asks_for_a_whole_page() -> None:
    command = commands.effects_log()
    assert (command.opcode, command.nsid, command.cdw10) == (0x02, 0xFFFFFFFF, 1023 << 16 | 5)
    assert command.read == 4096

"""Parsers: every field at its offset, and each way of being malformed refused."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from nvmefence.nvme import structures
from nvmefence.nvme.structures import MalformedData
from nvmefence.nvme.transport import PAGE

Parser = Callable[[bytes], object]
PARSERS: list[Parser] = [
    structures.namespace_list,
    structures.controller_list,
    structures.identify_controller,
    structures.identify_namespace,
    structures.secondary_controller_list,
    structures.primary_capabilities,
    structures.admin_effects,
]


def page(*parts: tuple[int, bytes]) -> bytes:
    data = bytearray(PAGE)
    for offset, part in parts:
        data[offset : offset + len(part)] = part
    return bytes(data)


def u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def u16(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}H", *values)


@pytest.mark.parametrize("parser", PARSERS)
def test_a_page_that_was_never_written_is_malformed(parser: Parser) -> None:
    with pytest.raises(MalformedData, match="wrote nothing"):
        parser(b"\xff" * PAGE)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("length", [0, 512, PAGE - 1, PAGE + 1])
def test_a_page_of_another_length_is_malformed(parser: Parser, length: int) -> None:
    with pytest.raises(MalformedData, match=f"{length} bytes"):
        parser(bytes(length))


def test_namespace_list_ends_at_zero() -> None:
    assert structures.namespace_list(page((0, u32(1, 5, 0xFFFFFFFE, 0, 9)))) == [1, 5, 0xFFFFFFFE]
    assert structures.namespace_list(bytes(PAGE)) == []


def test_a_full_namespace_list_needs_no_zero() -> None:
    assert structures.namespace_list(u32(*range(1, 1025))) == list(range(1, 1025))


@pytest.mark.parametrize(("nsids", "above"), [((2, 1), 0), ((2, 2), 0), ((3,), 3), ((0xFFFFFFFF,), 0)])
def test_a_namespace_list_that_does_not_ascend_is_malformed(nsids: tuple[int, ...], above: int) -> None:
    with pytest.raises(MalformedData, match="ascend"):
        structures.namespace_list(page((0, u32(*nsids))), above)


def test_controller_list_takes_as_many_as_it_counts() -> None:
    assert structures.controller_list(page((0, u16(2, 0, 7, 9)))) == [0, 7]
    assert structures.controller_list(u16(2047, *range(2047))) == list(range(2047))


@pytest.mark.parametrize(
    ("values", "first"), [((2, 7, 7), 0), ((2, 7, 3), 0), ((1, 4), 5), ((1, 0xFFF0), 0), ((3, 1, 2), 0)]
)
def test_a_controller_list_that_does_not_ascend_is_malformed(values: tuple[int, ...], first: int) -> None:
    with pytest.raises(MalformedData, match="ascend"):
        structures.controller_list(page((0, u16(*values))), first)


def test_a_controller_list_that_counts_too_many_is_malformed() -> None:
    with pytest.raises(MalformedData, match="2048 entries"):
        structures.controller_list(page((0, u16(2048))))


def test_identify_controller() -> None:
    found = structures.identify_controller(
        page(
            (0, u16(0x1AF4)),
            (4, b"SERIAL".ljust(20)),
            (24, b"A model\x1b[31m\xc3\xa9".ljust(40)),
            (64, b"1.0".ljust(8)),
            (76, b"\x02"),
            (78, u16(0x41)),
            (80, u32(0x00010400)),
            (128, u16(1, 2, 3)),
            (256, u16(0x010A)),
            (516, u32(256)),
            (768, b"nqn.2014-08.org.example:1\0garbage"),
        )
    )
    assert (found.vid, found.serial, found.firmware, found.cntlid) == (0x1AF4, "SERIAL", "1.0", 0x41)
    assert found.model == "A model\ufffd[31m\ufffd\ufffd"
    assert (found.version, found.retry_delays, found.namespace_count) == (0x00010400, (1, 2, 3), 256)
    assert found.nqn == "nqn.2014-08.org.example:1"
    assert found.namespace_management
    assert found.multi_controller
    assert not found.virtualization_management


def test_capability_bits_are_read_one_by_one() -> None:
    found = structures.identify_controller(page((256, u16(1 << 7)), (76, b"\x05")))
    assert (found.virtualization_management, found.namespace_management) == (True, False)
    assert not found.multi_controller


def test_a_reserved_cntlid_is_malformed() -> None:
    with pytest.raises(MalformedData, match="FFF0h is reserved"):
        structures.identify_controller(page((78, u16(0xFFF0))))


def test_identify_namespace_reads_the_format_in_use() -> None:
    # FLBAS bits 3:0 and 6:5 make the index of the format: 0x21 is 17
    formats = page((0, struct.pack("<Q", 1 << 40)), (26, b"\x21"), (30, b"\x01"), (128 + 4 * 17 + 2, b"\x0c"))
    found = structures.identify_namespace(formats)
    assert (found.size, found.block_size, found.shared) == (1 << 40, 4096, True)
    ids = page((30, b"\xfe"), (104, bytes(range(16))), (120, bytes(range(8))), (130, b"\x09"))
    found = structures.identify_namespace(ids)
    assert (found.nguid, found.eui64, found.block_size) == (bytes(range(16)), bytes(range(8)), 512)
    assert not found.shared


def test_a_namespace_that_is_not_allocated_is_malformed() -> None:
    with pytest.raises(MalformedData, match="not allocated"):
        structures.identify_namespace(bytes(PAGE))


@pytest.mark.parametrize("exponent", [0, 8, 32, 255])
def test_an_impossible_block_size_is_malformed(exponent: int) -> None:
    with pytest.raises(MalformedData, match="logical block"):
        structures.identify_namespace(page((0, b"\1"), (130, bytes([exponent]))))


def test_secondary_controller_list() -> None:
    entry = struct.pack("<HHB3xHHH", 5, 1, 0x81, 3, 4, 2)
    other = struct.pack("<HHB3xHHH", 9, 1, 0x80, 4, 0, 0)
    found = structures.secondary_controller_list(page((0, b"\2"), (32, entry), (64, other)))
    assert found == [
        structures.SecondaryController(cntlid=5, primary=1, state=0x81, vf=3, queues=4, interrupts=2),
        structures.SecondaryController(cntlid=9, primary=1, state=0x80, vf=4, queues=0, interrupts=0),
    ]
    assert [entry.online for entry in found] == [True, False]
    assert structures.secondary_controller_list(bytes(PAGE)) == []


@pytest.mark.parametrize("entries", [[(5, 1), (5, 1)], [(5, 1), (4, 1)], [(0xFFF0, 1)], [(5, 0xFFF0)]])
def test_secondary_controllers_that_do_not_ascend_are_malformed(entries: list[tuple[int, int]]) -> None:
    parts = [(32 + 32 * n, u16(*ids)) for n, ids in enumerate(entries)]
    with pytest.raises(MalformedData):
        structures.secondary_controller_list(page((0, bytes([len(entries)])), *parts))


def test_secondary_controllers_below_the_first_are_malformed() -> None:
    with pytest.raises(MalformedData):
        structures.secondary_controller_list(page((0, b"\1"), (32, u16(4, 0))), 5)


def test_more_than_127_secondary_controllers_are_malformed() -> None:
    with pytest.raises(MalformedData, match="128 entries"):
        structures.secondary_controller_list(page((0, b"\x80")))


def test_primary_capabilities() -> None:
    found = structures.primary_capabilities(page((0, u16(1, 0) + b"\x02"), (32, u32(10, 4)), (64, u32(12, 6))))
    assert (found.cntlid, found.vq_supported, found.vi_supported) == (1, False, True)
    assert (found.vq_flexible, found.vq_assigned, found.vi_flexible, found.vi_assigned) == (10, 4, 12, 6)


def test_effects_of_an_admin_command() -> None:
    log = page((4 * 0x15, u32(0x9)), (4 * 0x1C, u32(0x20001)), (1024 + 4 * 0x06, u32(0xFFFFFFFF)))
    assert structures.admin_effects(log) == structures.Effects(True, True, 0)
    assert structures.admin_effects(log, 0x1C) == structures.Effects(True, False, 2)
    assert structures.admin_effects(log, 0x06) == structures.Effects(False, False, 0)

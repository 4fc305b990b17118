"""Whatever a controller returns, a parser gives a value or says MalformedData; valid pages come back."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from nvmefence.nvme import commands, structures
from nvmefence.nvme.emulated_data import Secondary, bits, controller_page, mask_of, namespace_page, secondary_page
from nvmefence.nvme.structures import MalformedData
from nvmefence.nvme.transport import PAGE

PARSERS: list[Callable[[bytes], object]] = [
    structures.namespace_list,
    structures.controller_list,
    structures.identify_controller,
    structures.identify_namespace,
    structures.secondary_controller_list,
    structures.primary_capabilities,
    structures.admin_effects,
    lambda data: structures.admin_effects(data, 0xFF),
    lambda data: structures.namespace_list(data, 0xFFFFFFFE),
    lambda data: structures.controller_list(data, 0xFFEF),
    lambda data: structures.secondary_controller_list(data, 0xFFEF),
]

CNTLIDS = st.integers(0, commands.MAX_CNTLID)
NSIDS = st.integers(1, commands.MAX_NSID)


@st.composite
def pages(draw: st.DrawFn) -> bytes:
    """Draw a page: a background with a few islands of anything, so that counts and ids meet all limits."""
    data = bytearray(bytes([draw(st.sampled_from([0x00, 0x00, 0xFF, 0x01, 0x20]))]) * PAGE)
    for _ in range(draw(st.integers(0, 6))):
        island = draw(st.binary(min_size=1, max_size=80))
        offset = draw(st.sampled_from([0, 1, 2, 26, 32, 64, 76, 104, 128, 130, 256, 516, 768, 4000]))
        data[offset : offset + len(island)] = island
    return bytes(data[:PAGE])


@given(pages())
@settings(max_examples=200, deadline=None)
def test_any_page_gives_a_value_or_is_malformed(data: bytes) -> None:
    for parser in PARSERS:
        with suppress(MalformedData):
            parser(data)


@given(st.binary(max_size=64), st.integers(0, 2 * PAGE).filter(lambda length: length != PAGE))
@settings(max_examples=100, deadline=None)
def test_any_other_length_is_malformed(start: bytes, length: int) -> None:
    data = start[:length].ljust(length, b"\1")
    for parser in PARSERS:
        try:
            parser(data)
        except MalformedData:
            continue
        raise AssertionError(f"{length} bytes were taken for a page")


@given(st.lists(st.integers(0, 0xFFFFFFFF), max_size=1024), st.integers(0, 0xFFFFFFFF))
@settings(max_examples=200, deadline=None)
def test_a_namespace_list_is_never_taken_unless_it_ascends_from_above(nsids: list[int], above: int) -> None:
    data = struct.pack(f"<{len(nsids)}I", *nsids).ljust(PAGE, b"\0")
    try:
        found = structures.namespace_list(data, above)
    except MalformedData:
        return
    assert found == nsids[: len(found)]
    assert all(a < b for a, b in zip([above, *found], found, strict=False))
    assert found == nsids or nsids[len(found)] == 0


@given(st.sets(CNTLIDS, min_size=1, max_size=2047), CNTLIDS)
@settings(max_examples=100, deadline=None)
def test_controller_lists_come_back_as_they_were_sent(ids: set[int], first: int) -> None:
    assert structures.controller_list(commands.controller_list(ids)) == sorted(ids)
    assert bits(mask_of(ids)) == tuple(sorted(ids))
    page = controller_page(mask_of(ids), first)
    assert structures.controller_list(page, first) == sorted(cntlid for cntlid in ids if cntlid >= first)


@given(st.sets(NSIDS, max_size=1500), st.integers(0, commands.MAX_NSID))
@settings(max_examples=100, deadline=None)
def test_namespace_lists_come_back_page_by_page(nsids: set[int], above: int) -> None:
    wanted = sorted(nsid for nsid in nsids if nsid > above)
    assert structures.namespace_list(namespace_page(nsids, above), above) == wanted[:1024]


@given(st.sets(CNTLIDS, max_size=200), CNTLIDS, st.booleans())
@settings(max_examples=100, deadline=None)
def test_secondary_controller_lists_come_back(ids: set[int], first: int, online: bool) -> None:
    entries = [Secondary(cntlid, vf, online, vf % 7, vf % 5) for vf, cntlid in enumerate(sorted(ids), 1)]
    found = structures.secondary_controller_list(secondary_page(entries, 3, first), first)
    wanted = [entry for entry in entries if entry.cntlid >= first][:127]
    assert [(f.cntlid, f.vf, f.online, f.queues, f.interrupts) for f in found] == [
        (entry.cntlid, entry.vf, entry.online, entry.vq, entry.vi) for entry in wanted
    ]
    assert {entry.primary for entry in found} <= {3}


@given(st.binary(min_size=256, max_size=256), st.binary(min_size=40, max_size=40))
@settings(max_examples=200, deadline=None)
def test_text_of_a_controller_is_always_printable(nqn: bytes, model: bytes) -> None:
    data = bytearray(PAGE)
    data[24:64], data[768:1024] = model, nqn
    found = structures.identify_controller(bytes(data))
    assert found.model.isprintable()
    assert found.nqn.isprintable()

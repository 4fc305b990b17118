"""The table of docs/reliability.md names tests and faults that exist, and leaves none of ours out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.catalogue import FAULTS
from tests.docs import manual

PAGE: Final = "docs/reliability.md"
CLASSES: Final = {
    "1. Drives": 9, "2. Identity": 5, "3. In flight": 3, "4. Protocol": 10, "5. Processes": 8,
    "6. Records and file systems": 5, "7. Cluster": 4, "8. Recovery": 3,
}  # fmt: skip
"""Sections, and the faults of that class that were to be tried."""


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return the names of the tests in a file."""
    found = ast.walk(ast.parse(path.read_text("utf-8")))
    return frozenset(
        node.name for node in found if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def named() -> list[str]:
    text = (manual.ROOT / PAGE).read_text("utf-8")
    return re.findall(r"`(tests/[^`]+::[^`]+)`", text)


def test_every_test_that_is_named_exists() -> None:
    assert len(named()) > 100
    for name in named():
        path, _, test = name.partition("::")
        assert (manual.ROOT / path).is_file(), name
        assert test in names_in(manual.ROOT / path), name


def test_every_fault_of_ours_is_in_the_table_and_no_other() -> None:
    text = (manual.ROOT / PAGE).read_text("utf-8")
    known = {fault.name for fault in FAULTS}
    assert set(re.findall(r"`chaos:([a-z-]+)`", text)) == known
    assert len(known) == len(FAULTS)


def test_every_fault_has_a_short_form() -> None:
    assert all(fault.short > 0 for fault in FAULTS)


@pytest.mark.parametrize("heading", CLASSES)
def test_every_row_of_a_class_says_how_where_how_often_and_what_held(heading: str) -> None:
    rows = manual.table(PAGE, heading)
    assert len(rows) >= CLASSES[heading]
    for fault, how, where, rounds, held in rows:
        there = re.findall(r"`(?:tests/|chaos:)", where)
        assert there, fault
        assert all((fault, how, rounds, held)), fault


def test_every_invariant_has_a_property_test_and_one_in_the_lab() -> None:
    rows = manual.table(PAGE, "What must never happen")
    assert [row[0] for row in rows] == [str(number) for number in range(1, 11)]
    for number, _, properties, lab in rows:
        assert "`tests/" in properties, number
        assert "`tests/lab/" in lab or number == "8", number

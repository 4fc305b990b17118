"""The number of commands of a fence is what the formula says, and what the documentation says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmefence.fencing import quiesce
from tests.bench import formula
from tests.bench.counting import Counting
from tests.bench.emulation import Fleet, Site
from tests.bench.formula import Size

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
RULES = ("none", "wait:0.001", "drain", "offline")


def sent(fleet: Fleet, hosts: list[int], rule: str, *, again: bool = False) -> int:
    counting = Counting(fleet.transport)
    fleet.fence(hosts, quiesce.parse(rule), counting, again=again)
    return counting.commands


def predicted(fleet: Fleet, hosts: list[int], rule: str) -> int:
    by_id = fleet.site.by_id
    return formula.commands_of_all(fleet.sizes(hosts), quiesce.parse(rule), by_id=by_id, by_function=not by_id)


@settings(max_examples=60, deadline=None)
@given(
    namespaces=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    hosts=st.integers(1, 4),
    each=st.integers(1, 3),
    by_id=st.booleans(),
    rule=st.sampled_from(RULES),
    data=st.data(),
)
def test_a_fence_sends_as_many_commands_as_the_formula_says(
    namespaces: list[int], hosts: int, each: int, by_id: bool, rule: str, data: st.DataObject
) -> None:
    site = Site(namespaces, hosts, each, by_id)
    every = range(1, site.secondaries + 1)
    ids = st.frozensets(st.sampled_from(every))
    attached = {(d, n): data.draw(ids) for d, count in enumerate(namespaces) for n in range(1, count + 1)}
    fenced = data.draw(st.lists(st.sampled_from(range(hosts)), min_size=1, unique=True))
    if rule in ("drain", "offline"):  # who has nothing there is waited for
        targets = frozenset().union(*(site.controllers(host) for host in fenced))
        attached |= {(d, 1): attached[d, 1] | targets for d, count in enumerate(namespaces) if count}
    fleet = Fleet(site, lambda drive, nsid: attached[drive, nsid])
    expected = predicted(fleet, fenced, rule)
    assert sent(fleet, fenced, rule) == expected
    if rule != "offline":  # controllers that are offline have nothing to get back
        again = predicted(fleet, fenced, rule)
        assert sent(fleet, fenced, rule, again=True) == again <= expected


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("namespaces", "hosts", "by_id"), [(1023, 1, False), (1024, 1, False), (2, 126, False)])
def test_lists_of_several_pages_are_counted(namespaces: int, hosts: int, by_id: bool, rule: str) -> None:
    fleet = Fleet(Site([namespaces], hosts, by_id=by_id))
    expected = predicted(fleet, [0], rule)
    assert sent(fleet, [0], rule) == expected


@pytest.mark.parametrize("rule", ["none", "wait:0.001"])
def test_more_hosts_take_no_more_commands(rule: str) -> None:
    site = Site([4, 4], 16)
    assert sent(Fleet(site), [3], rule) == sent(Fleet(site), list(range(16)), rule)


def test_a_full_rabbit_takes_twenty_commands_a_drive() -> None:
    size = Size(namespaces=4, cut=4, targets=1, secondaries=17, controllers=18)
    assert formula.commands(size, quiesce.parse("none")) == 20


def documented() -> list[tuple[str, str]]:
    """The lines of the documentation's formula: names and what they are."""
    block = re.search(r"```text\n(survey +=.*?)```", PAGE.read_text(), re.DOTALL)
    assert block, "docs/performance.md has no formula"
    lines = (line.partition("=") for line in block[1].splitlines() if "=" in line)
    return [(name.strip(), expression.split("  #")[0].strip()) for name, _, expression in lines]


@given(
    size=st.builds(
        lambda n, cut, targets, sec: Size(n, min(cut, n), targets, sec, sec + 1),
        st.integers(0, 3000),
        st.integers(0, 3000),
        st.integers(1, 300),
        st.integers(0, 300),
    ),
    rule=st.sampled_from(RULES),
    by_id=st.booleans(),
    by_function=st.booleans(),
)
def test_the_documentation_has_the_same_formula(size: Size, rule: str, by_id: bool, by_function: bool) -> None:
    chosen = quiesce.parse(rule)
    known = formula.terms(size, chosen, by_id=by_id, by_function=by_function)
    for name, expression in documented():
        known[name] = eval(expression, {"__builtins__": {}}, known)
    assert known[rule.partition(":")[0]] == formula.commands(size, chosen, by_id=by_id, by_function=by_function)

"""How many commands a fence sends: exactly, from what is there. docs/performance.md has the same in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nvmefence.fencing.quiesce import Method, Quiesce
from nvmefence.nvme.commands import CONTROLLERS_PER_LIST
from nvmefence.nvme.structures import NAMESPACES_PER_LIST, SECONDARIES_PER_LIST


@dataclass(frozen=True)
class Size:
    """One drive that answers, as a fence finds it, and what of it is the fenced hosts'."""

    namespaces: int
    """Allocated."""
    cut: int
    """Of them, those that some controller of the fenced hosts is attached to."""
    targets: int
    """Controllers of the fenced hosts on the drive, of all these hosts together, attached or not."""
    secondaries: int
    """Entries of our controller's Secondary Controller List."""
    controllers: int
    """Of the subsystem."""


def pages(entries: int, of: int) -> int:
    """Return how many commands read a list: a page that is full is not known to be the last."""
    return 1 + entries // of


def terms(size: Size, rule: Quiesce, *, by_id: bool, by_function: bool) -> dict[str, int]:
    """Return the formula's terms. `by_id`, `by_function`: some host of the map is named so, fenced or not."""
    takes_offline = rule.method is not Method.WAIT
    return {
        "N": size.namespaces,
        "A": size.cut,
        "T": size.targets,
        "L": pages(size.namespaces, NAMESPACES_PER_LIST),
        "C": pages(size.controllers, CONTROLLERS_PER_LIST) if by_id else 0,
        "S": pages(size.secondaries, SECONDARIES_PER_LIST) if by_function or takes_offline else 0,
    }


def commands(size: Size, rule: Quiesce, *, by_id: bool = False, by_function: bool = True) -> int:
    """Return the commands that one drive is sent, where nothing goes wrong and nothing is attached meanwhile.

    `rule` is what is done on this drive: not "auto", which is "drain" or "wait". Every controller that is taken
    offline has queues and interrupts to get back.
    """
    term = terms(size, rule, by_id=by_id, by_function=by_function)
    n, cut, offline, lists, sec = term["N"], term["A"], term["T"], term["L"], term["S"]
    survey = 1 + lists + term["C"] + sec + n
    read = lists + n
    if rule.method is Method.WAIT:
        sent = survey + 2 * cut + (read if cut else 0)
        return sent + (read if rule.seconds else 0)
    sent = survey + offline + 2 * cut + read + sec
    return sent + (3 * offline + read + sec if rule.method is Method.DRAIN else 0)


def commands_of_all(sizes: Iterable[Size], rule: Quiesce, *, by_id: bool = False, by_function: bool = True) -> int:
    """Return the commands of a fence: what each drive is sent does not depend on the others."""
    return sum(commands(size, rule, by_id=by_id, by_function=by_function) for size in sizes)

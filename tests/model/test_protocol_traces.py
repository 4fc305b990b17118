"""The model is in step with the code: what the code does the model can do, and all that the model does was seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model import spin, stories
from tests.model.tracing import Seen, function

needs_spin = pytest.mark.skipif(bool(spin.missing()), reason=spin.missing())
BOUNDS = {
    name: 2 if name == "REQUESTS" else 9
    for name in ("REQUESTS", "CRASHES", "CUTS", "RESTORES", "KILLS", "STOPS", "REPLAYS", "FAULTS", "EXPIRES")
}
UNSEEN = {"POWER", "DIE"}
"""Events of the world that no story has: tests in the lab cut the power, and kill a restore."""

SWAPPED = (
    ("AUDITED", "VISIBLE"), ("DURABLE", "REMOVE"), ("LOCK", "WANTED"), ("WANTED", "READ"), ("RECORD", "ANSWER"),
    ("VISIBLE", "UNLOCK"), ("DETACH", "CONFIRMED"), ("VISIBLE", "SUCCEED"),
)  # fmt: skip


def codes(trace: list[Seen]) -> list[int]:
    events = spin.events()
    return [spin.code(events[seen.event], 0, seen.request) for seen in trace]


def short(trace: list[Seen], far: int) -> str:
    return " ".join(f"{seen.event}{seen.request}" for seen in trace[max(far - 12, 0) : far + 1])


@pytest.fixture(scope="module")
def traces() -> dict[str, list[Seen]]:
    """What happens in all stories, by their names."""
    found = {}
    for story in (*stories.WATCHED, *stories.ALONE):
        with stories.told() as told:
            told.play(story, watched=story in stories.WATCHED)
            found[story.__name__] = told.tracer.seen
    turns, whole = stories.killed(0)
    found["whole"] = whole
    for last in sorted({1 + turns * n // stories.DEATHS for n in range(stories.DEATHS)}):
        found[f"killed at turn {last}"] = stories.killed(last)[1]
    return found


@pytest.mark.parametrize("event", spin.events().values(), ids=lambda event: event.name)
def test_every_transition_of_the_model_names_a_function_that_is_there(event: spin.Event) -> None:
    assert event.made_by == "world" or callable(function(event))


def test_every_transition_of_the_model_is_seen_in_the_code(traces: dict[str, list[Seen]]) -> None:
    seen = {one.event for trace in traces.values() for one in trace}
    assert seen == spin.events().keys() - UNSEEN


@needs_spin
def test_whatever_the_code_does_the_model_can_do(traces: dict[str, list[Seen]], tmp_path: Path) -> None:
    far, errors = spin.accepted(tmp_path, [codes(trace) for trace in traces.values()], BOUNDS)
    stuck = {
        name: short(trace, steps)
        for (name, trace), steps in zip(traces.items(), far, strict=True)
        if steps != len(trace)
    }
    assert stuck == {}
    assert errors == 0


@needs_spin
def test_steps_in_another_order_are_not_those_of_the_model(traces: dict[str, list[Seen]], tmp_path: Path) -> None:
    swapped, places = [], []
    for first, second in SWAPPED:
        trace = list(traces["fence"])
        here, there = (next(n for n, seen in enumerate(trace) if seen.event == name) for name in (first, second))
        trace.insert(here, trace.pop(there))
        swapped.append(codes(trace))
        places.append(here)
    far, _errors = spin.accepted(tmp_path, swapped, BOUNDS)
    assert far == places

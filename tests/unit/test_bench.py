"""The arithmetic of the benchmark: percentiles, ratios, aims, turns, and the tables in the documentation."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from tests.bench import at_rest, figures, table, turns
from tests.bench.figures import Aim, Figures, Rest, RoundTrips, Run, percentile

REST = Rest(
    resident=27_000_000, private=19_000_000, seconds=20.0, moments=20, explained=24, switches=71, awake=2, threads=6
)


def round_trips(agent: float, *, watcher: float = 0.0065, rest: Rest = REST) -> RoundTrips:
    ways = [
        Figures(figures.WATCHER, "watcher", 0, [watcher]),
        Figures(figures.ON_DISK, "disk", 0, [0.003]),
        Figures(figures.INTERPRETER, "bare", 0, [0.010, 0.010, 0.011]),
        Figures(figures.AGENT, "agent", 0, [agent] * 3),
        Figures(figures.POLLING, "polling", 0, [0.5]),
    ]
    return RoundTrips({"CPUs": "2"}, ways, {figures.FENCE: 0.001}, 3, rest)


@pytest.mark.parametrize(("percent", "expected"), [(50, 100), (99, 198), (99.5, 199), (100, 200), (0, 1), (0.1, 1)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    assert percentile([float(n) for n in range(200, 0, -1)], percent) == expected


def test_the_99th_percentile_of_few_is_the_largest() -> None:
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0
    assert percentile([7.0], 50) == 7.0


def test_aims_are_reached_up_to_the_bound_and_not_beyond() -> None:
    for value, at_most, reached in (
        (2.5, True, True),
        (2.51, True, False),
        (20, False, True),
        (19.9, False, False),
    ):
        assert Aim("x", value, 2.5 if at_most else 20, at_most, "x").reached is reached


def test_every_aim_is_told_with_its_figure_and_its_outcome() -> None:
    assert table.aims(round_trips(0.020)) == [
        "agent, start to exit, to a bare interpreter's start and exit: 2.00 x (aim: at most 2.5 x, reached)",
        "agent, start to exit, faster than the polling pair: 25 x (aim: at least 20 x, reached)",
        "watcher, request to response, beyond the fence and the disk: 2.5 ms (aim: at most 3 ms, reached)",
        "watcher at rest, resident memory: 27 MB (aim: at most 30 MB, reached)",
        "watcher at rest, wake-ups in 20 s: 20 (aim: at most 24, reached)",
    ]
    worse = dataclasses.replace(REST, resident=40_500_000, moments=25)
    assert all(line.endswith("not reached)") for line in table.aims(round_trips(0.030, watcher=0.0071, rest=worse)))


def test_what_was_not_measured_has_no_ratio_and_no_aim() -> None:
    run = Run({}, [Figures(figures.BARE, "bare", 234, [0.005])], {}, 1)
    assert run.ratio(figures.URING, figures.BARE) is None
    assert run.aims() == []
    assert "| bare | 234 | 1 | 5.0 ms | 5.0 ms .. 5.0 ms | - | - |" in table.FENCES.markdown(run)


def test_figures_outlive_json() -> None:
    run = round_trips(0.020)
    assert RoundTrips.from_json(run.to_json()) == run
    kept = next(way for way in run.to_json()["ways"] if way["way"] == figures.AGENT)
    assert (kept["to_interpreter"], kept["to_polling_pair"], kept["p99"]) == (2.0, 0.04, 0.020)


def test_each_table_is_put_between_its_own_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    fences, requests = table.FENCES, table.ROUND_TRIPS
    page.write_text(f"a\n{fences.begin}\nold\n{fences.end}\nb\n{requests.begin}\nold\n{requests.end}\nc\n")
    requests.update(page, round_trips(0.020))
    before, after = page.read_text().split(f"{fences.begin}\nold\n{fences.end}\n")
    assert before == "a\n"
    assert after.startswith(f"b\n{requests.begin}\n| way | runs |")
    assert after.endswith(f"\n{requests.end}\nc\n")
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no marks"):
        requests.update(page, round_trips(0.020))


def test_the_documentation_has_the_marks_of_every_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    for one in (table.FENCES, table.ROUND_TRIPS):
        assert (page.count(one.begin), page.count(one.end)) == (1, 1)


def test_turns_are_taken_there_and_back_and_rare_ways_are_spread() -> None:
    order: list[str] = []

    def way(name: str) -> float:
        order.append(name)
        return float(len(order))

    seen: list[tuple[str, int, float]] = []
    seconds = turns.take_turns(
        {"a": lambda: way("a"), "b": lambda: way("b"), "c": lambda: way("c")},
        {"a": 4, "b": 2, "c": 0},
        lambda *what: seen.append(what),
    )
    assert order == ["a", "b", "a", "a", "b", "a"]
    assert seconds["c"] == []
    assert [len(seconds[name]) for name in "ab"] == [4, 2]
    assert [number for name, number, _ in seen if name == "b"] == [1, 3]
    assert [name for name, number, _ in seen if number == 1] == ["b", "a"]


def test_a_command_that_fails_has_no_time() -> None:
    assert 0 < turns.timed(["/bin/true"]) < turns.PATIENCE_S
    with pytest.raises(turns.WrongResult, match="ended with 3:\nwhy"):
        turns.timed(["/bin/sh", "-c", "echo why; exit 3"])


def test_a_process_at_rest_is_told_by_what_the_kernel_says_of_it() -> None:
    found = at_rest.rest(os.getpid(), 0.05)
    assert 0 < found.private <= found.resident
    assert 1 <= found.awake <= found.threads
    assert found.switches >= found.moments >= 1

"""A run beside the committed figures: what is better, the same, worse; and the tables of parts that are no race."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench import committed, growth, late, table, tracing
from tests.bench.committed import Spread, Verdict
from tests.bench.figures import BARE, LOOP, URING, Aim, Figures, Run
from tests.bench.growth import Point
from tests.bench.left_behind import holding
from tests.bench.many_hosts import Spot, Took
from tests.bench.many_hosts import sheet as hosts_sheet
from tests.bench.sheet import Cell, Grid, Row, Sheet, Unit, shown
from tests.bench.turns import WrongResult

ROOT = Path(__file__).resolve().parents[2]
RUN = Run(
    {"CPUs": "2"},
    [
        Figures(BARE, "bare", 234, [0.004, 0.005, 0.006]),
        Figures(URING, "ours", 360, [0.05, 0.05, 0.055]),
        Figures(LOOP, "loop", 72, [5.0]),
    ],
    {},
    3,
)


def spread(median: float, low: float, high: float, unit: Unit = Unit.RATIO) -> Spread:
    return Spread(median, low, high, unit)


def a_sheet(ratio: float, commands: int = 20) -> Sheet:
    cells = {
        "commands": Cell([commands], Unit.COUNT),
        "time": Cell([0.1, 0.2], Unit.SECONDS),
        "to base": Cell([ratio], Unit.RATIO),
    }
    grid = Grid("Sizes", "size", ("commands", "time", "to base", "left out"), [Row("one", "One", cells)])
    return Sheet({"CPUs": "2"}, [grid], [Aim("to base", ratio, 2, True, "x")], "checked")


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        (spread(10, 8, 14), spread(13, 12.9, 13.1), Verdict.SAME),
        (spread(13, 12.9, 13.1), spread(10, 8, 14), Verdict.SAME),
        (spread(10, 10, 10), spread(10.9, 10.9, 10.9), Verdict.SAME),
        (spread(10, 9.5, 10.5), spread(11.5, 11, 12), Verdict.WORSE),
        (spread(10, 9.5, 10.5), spread(8.5, 8, 9), Verdict.BETTER),
        (spread(360, 360, 360, Unit.COUNT), spread(361, 361, 361, Unit.COUNT), Verdict.WORSE),
        (spread(360, 360, 360, Unit.COUNT), spread(359, 359, 359, Unit.COUNT), Verdict.BETTER),
        (spread(0, 0, 0, Unit.COUNT), spread(0, 0, 0, Unit.COUNT), Verdict.SAME),
    ],
)
def test_a_ratio_is_worse_beyond_both_spreads_and_a_count_by_one(
    before: Spread, now: Spread, verdict: Verdict
) -> None:
    assert now.verdict(before) is verdict


def test_ratios_and_counts_are_compared_and_no_times() -> None:
    found = committed.figures(RUN)
    assert found[f"{URING}, to_bare"] == spread(10, 10, 11)
    assert found[f"{URING}, to_loop"].median == 0.01
    assert found[f"{BARE}, commands"] == spread(234, 234, 234, Unit.COUNT)
    assert f"{BARE}, to_bare" not in found
    assert set(committed.figures(a_sheet(1.5))) == {"one, commands", "one, to base"}


def test_figures_are_kept_by_part_and_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "committed.json"
    assert committed.load(path) == {}
    committed.store("fences", RUN, path)
    committed.store("growth", a_sheet(3), path)
    committed.store("growth", a_sheet(1.5), path)
    assert committed.load(path) == {"fences": committed.figures(RUN), "growth": committed.figures(a_sheet(1.5))}
    assert sum('"median"' in line for line in path.read_text().splitlines()) == len(committed.figures(RUN)) + 2


def test_the_table_begins_with_what_became_worse() -> None:
    before = {"growth": {**committed.figures(a_sheet(1.5)), "gone, x": spread(1, 1, 1)}}
    found = committed.compare("growth", a_sheet(3.0, commands=19), before)
    lines = committed.text(found).splitlines()
    assert lines[0].split() == ["figure", "committed", "now", "verdict"]
    assert "growth: one, to base" in lines[1]
    assert lines[1].endswith("WORSE")
    assert {line.rsplit("  ", 1)[1].strip() for line in lines[2:-1]} == {"better", "not measured"}
    assert lines[-1] == "compared with committed.json: 1 better, 1 WORSE, 1 not measured"
    new = committed.compare("growth", a_sheet(1.5), {})
    assert committed.text(new) == "compared with committed.json: 2 new"
    same = committed.compare("growth", a_sheet(1.5), {"growth": committed.figures(a_sheet(1.5))})
    assert committed.text(same) == "compared with committed.json: 2 same"
    assert committed.text(same, everything=True).count("same") == 3
    assert [one["verdict"] for one in committed.to_json(same)] == ["same", "same"]


def test_a_sheet_outlives_json_and_has_its_place_in_the_documentation() -> None:
    one = a_sheet(1.5)
    assert committed.figures(Sheet.from_json(one.to_json())) == committed.figures(one)
    assert table.GROWTH.markdown(Sheet.from_json(one.to_json())) == table.GROWTH.markdown(one)
    text = table.GROWTH.markdown(one)
    assert "| One | 20 | 150 ms (100 ms .. 200 ms) | 1.50 x | - |" in text
    assert "- to base: 1.50 x (aim: at most 2 x, reached)" in text
    page = bench.PAGE.read_text()
    for part in bench.PARTS.values():
        assert (page.count(part.table.begin), page.count(part.table.end)) == (1, 1)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (21000, Unit.COUNT, "21,000"),
        (0.25, Unit.SEEN, "0.2"),
        (1234.0, Unit.RATIO, "1,234 x"),
        (45_900_000, Unit.BYTES, "45.9 MB"),
        (-59_800, Unit.BYTES, "-59.8 kB"),
        (0.0014, Unit.SECONDS, "1.4 ms"),
    ],
)
def test_numbers_are_shown_with_their_unit(value: float, unit: Unit, text: str) -> None:
    assert shown(value, unit) == text


def test_growth_counts_commands_and_compares_with_the_first() -> None:
    found = growth.measure(1, [("Drives", (Point(1, 4, 1), Point(3, 4, 2)))], rules=["none"])
    cells = found.cells()
    assert cells["drives: 1 drives x 4 namespaces, 1 hosts, commands"].median == 20
    assert cells["drives: 3 drives x 4 namespaces, 2 hosts, commands"].median == 60
    assert cells["drives: 3 drives x 4 namespaces, 2 hosts, beyond the formula"].median == 0
    assert found.found[0].reached


def test_others_are_cut_at_once_beside_a_drive_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = dataclasses.replace(late.KINDS[1], deadline=0.4)
    found = asyncio.run(late._fence(kind))
    assert len(found.cut) == late.DRIVES - 1
    assert max(found.cut) < 0.4 <= found.answer


def test_a_slow_way_is_compared_where_it_was_measured() -> None:
    whole, part = Spot(4, 18, 1), Spot(4, 8, 1)
    took = [Took(whole, "bare", 234, [0.01]), Took(whole, "io_uring", 360, [0.02])]
    took += [
        Took(part, "bare", 104, [0.005]),
        Took(part, "io_uring", 160, [0.02]),
        Took(part, "nvme-loop", 32, [4]),
    ]
    found = hosts_sheet(took, {}, "")
    cells = found.cells()
    assert cells["io_uring, 18 drives x 4 namespaces, 1 host, to the bare minimum"].median == 2
    assert "io_uring, 18 drives x 4 namespaces, 1 host, to the nvme loop" not in cells
    assert cells["io_uring, 8 drives x 4 namespaces, 1 host, to the bare minimum"].median == 4
    assert cells["io_uring, 8 drives x 4 namespaces, 1 host, to the nvme loop"].median == 0.005


TRACE = """\
  python-7   [000] .....  9.1: nvme_setup_cmd: nvme3: qid=0, cmdid=1, nsid=2, flags=0x0, meta=0x0, \
cmd=(nvme_admin_identify cns=18, ctrlid=0)
  kworker-9  [000] .....  9.2: nvme_setup_cmd: nvme3: qid=0, cmdid=2, nsid=0, flags=0x0, meta=0x0, \
cmd=(nvme_admin_identify cns=2, ctrlid=0)
  kworker-9  [001] .....  9.3: nvme_setup_cmd: nvme3: qid=0, cmdid=3, nsid=1, flags=0x0, meta=0x0, \
cmd=(nvme_admin_identify cns=3, ctrlid=0)
  python-7   [000] .....  9.4: nvme_setup_cmd: nvme3: qid=0, cmdid=1, nsid=2, flags=0x0, meta=0x0, \
cmd=(nvme_admin_ns_attach cdw10=01 00 00 00)
"""


def test_a_rescan_is_told_from_our_own_commands() -> None:
    seen = tracing.Seen()
    tracing.count(TRACE, seen)
    assert seen == tracing.Seen(rescans=1, identifies=2)


def test_the_first_command_is_the_one_that_came_first() -> None:
    assert tracing.first("# tracer: nop\n" + TRACE) == 9.1
    with pytest.raises(WrongResult, match="no command"):
        tracing.first("# tracer: nop\n")


def test_what_a_process_holds_is_counted(tmp_path: Path) -> None:
    before = holding(os.getpid(), [tmp_path])
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "kept").write_text("")
    with (tmp_path / "file").open("w"):
        after = holding(os.getpid(), [tmp_path])
    assert (after.descriptors - before.descriptors, after.files - before.files) == (1, 1)
    assert after.threads == before.threads
    assert after.memory > 1_000_000


def test_the_time_of_a_whole_run_is_told_alike_and_is_that_of_its_parts() -> None:
    parts = json.loads((ROOT / "tests/bench/committed.json").read_text())
    seconds = sum(int(part["where"]["whole run"].removesuffix(" s")) for part in parts.values())
    for page, command in (("Makefile", "make bench "), ("docs/performance.md", "    make bench ")):
        (told,) = re.findall(rf"{command}.* about (\d+) minutes", (ROOT / page).read_text())
        assert seconds <= int(told) * 60 <= 1.3 * seconds, page  # guests have to boot, too

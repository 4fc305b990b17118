"""A timeline says what was told, in order, and claims nothing more; its picture is XML whatever is in it."""

from __future__ import annotations

import argparse
import io
import json
import os
import stat
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from nvmefence import clock
from nvmefence.cli.explain import explain
from nvmefence.cli.text import Screen
from nvmefence.errors import FileError
from nvmefence.fencing.evidence import MOST_STEPS
from nvmefence.settings import Settings
from nvmefence.spool import response as responses
from nvmefence.timeline import bars, made, parts, svg
from nvmefence.timeline.made import Timeline
from nvmefence.watcher import timing
from tests.unit.test_explain import EVIL, drive, report, response

CLOCK = "b00t/1"
BEFORE = {
    "writer": "watcher", "clock": CLOCK, "wall": 1_800_000_000.060, "monotonic": 100.060, "hint": "inotify",
    "request_written": 1_800_000_000.018, "woken": 100.021, "read": 100.022, "begun": 100.023, "found": 100.025,
    "ended": 100.055, "recorded": 100.058, "answered": 100.060,
}  # fmt: skip
AFTER = {"writer": "watcher", "clock": CLOCK, "audited": 100.063, "visible": 100.064, "durable": 100.0645}
AGENT = {
    "writer": "fence_gfs2_recorder", "clock": CLOCK, "began": 100.0, "ready": 100.015, "asked": 100.016,
    "visible": 100.020, "durable": 100.0205, "waiting": 100.026, "seen": 100.065, "judged": 100.066,
}  # fmt: skip
FIRST = [["open", 0.001], ["look", 0.002], ["read", 0.004], ["cut", 0.006], ["read-back", 0.009], ["done", 0.010]]
LAST = [["open", 0.001], ["look", 0.002], ["read", 0.008], ["cut", 0.009], ["read-back", 0.011], ["done", 0.029]]
WAY = [
    "start", "prepare", "request", "wake-up", "read", "begin", "find", "fence", "record", "answer", "audit",
    "response", "notice", "judge",
]  # fmt: skip
SVG = "{http://www.w3.org/2000/svg}"


def document(before: Any = BEFORE, **facts: Any) -> dict[str, Any]:
    evidence = report(drive("S1"), drive("S2")).to_json("c1") | {"seconds": 0.030}
    for one, steps in zip(evidence["drives"], (FIRST, LAST), strict=True):
        one["steps"] = steps
    told = {} if before is None else {"timeline": before}
    return response(evidence | facts.pop("evidence", {}), **told, **facts)


def event(told: Any, **other: Any) -> str:
    return json.dumps({"request_id": "id-1", "target_node": "c1", "timeline": told, **other}) + "\n"


def logged(tmp_path: Path, *told: Any) -> Path:
    (tmp_path / parts.LOG).write_text("".join(map(event, told)))
    return tmp_path


def line(tmp_path: Path, found: dict[str, Any], *told: Any) -> Timeline:
    answer = responses.parse(json.dumps(found).encode())
    return made.make(answer, parts.of(answer, str(logged(tmp_path, *told))))


def holds(one: Timeline) -> None:
    """No bar claims more than the whole, and the way leaves nothing out."""
    assert 0 <= one.seconds <= bars.LONGEST_S
    now = 0.0
    for step in one.way:
        assert step.start == pytest.approx(now)
        assert now <= step.end
        now = step.end
    assert now == pytest.approx(one.seconds)
    every: list[bars.Bar] = [*one.way, *one.beside, *one.critical]
    for bar in every + [bar for found in one.drives for bar in found.phases]:
        assert 0 <= bar.start <= bar.end <= one.seconds + 0.0001
    for found in one.drives:
        for earlier, later in zip(found.phases, found.phases[1:], strict=False):
            assert earlier.end <= later.start
    assert sum(step.seconds for step in one.critical) == pytest.approx(one.seconds)
    assert all(0 <= bar.start <= bar.end for bar in one.apart)


def shown(
    tmp_path: Path,
    found: dict[str, Any],
    *told: Any,
    as_json: bool = False,
    svg_file: str = "",
    every: bool = False,
) -> tuple[int, str]:
    path = tmp_path / "response.json"
    path.write_text(json.dumps(found))
    out = io.StringIO()
    arguments = argparse.Namespace(response=str(path), json=as_json, timeline=True, all=every, svg=svg_file)
    settings = Settings(log_dir=str(logged(tmp_path, *told)))
    code = explain(arguments, settings, Screen(out, io.StringIO()))
    return code, out.getvalue()


def test_every_step_is_there_in_its_order_and_nothing_is_left_out_between(tmp_path: Path) -> None:
    one = line(tmp_path, document(), AFTER, AGENT)
    holds(one)
    assert [step.name for step in one.way] == WAY
    assert one.begins == "the agent's start"
    assert one.seconds == pytest.approx(0.066)
    assert one.started_at == "2027-01-15T08:00:00.000Z"
    assert [step.name for step in one.beside] == ["request durable", "get ready", "wait", "response durable"]
    assert one.notes == []


def test_the_critical_path_goes_through_the_drive_that_was_done_last(tmp_path: Path) -> None:
    one = line(tmp_path, document(), AFTER, AGENT)
    assert one.last is not None
    assert one.last.serial == "S2"
    through = [(step.name, round(step.seconds, 6)) for step in one.critical if "S2" in step.who]
    assert through == [
        ("wait", 0.001), ("open", 0.001), ("look", 0.006), ("read", 0.001), ("cut", 0.002), ("read-back", 0.018),
    ]  # fmt: skip
    first, second = svg.waited_for(one)
    assert "waited for drive S2, done last of 2, 19.0 ms after the one before it: read-back 18.0 ms" in first
    assert "drive S2, read-back: 18.0 ms, 27 % of the whole" in second


def test_without_the_logs_it_says_what_is_not_known_and_begins_with_the_file(tmp_path: Path) -> None:
    one = line(tmp_path, document())
    holds(one)
    assert [step.name for step in one.way] == WAY[3:10]
    assert one.begins == "the request's file time"
    assert one.way[0].seconds == pytest.approx(0.003, abs=1e-6)
    for words in ("the agent's part is not known", "audit and response are not on the line", "by a wall clock"):
        assert any(words in note for note in one.notes)


def test_a_file_that_is_dated_after_the_watchers_wake_up_begins_nothing(tmp_path: Path) -> None:
    one = line(tmp_path, document(BEFORE | {"request_written": 1_800_000_005.0}))
    holds(one)
    assert one.begins == "the watcher's wake-up"
    assert one.way[0].name == "read"
    assert any("dated 4.979 s after the watcher's wake-up: clocks that differ" in note for note in one.notes)


@pytest.mark.parametrize("other", ["another/1", ""])
def test_clocks_of_two_machines_are_not_put_on_one_line(tmp_path: Path, other: str) -> None:
    away = {name: when + 5000 for name, when in AGENT.items() if isinstance(when, float)} | {"clock": other}
    one = line(tmp_path, document(), AFTER, away)
    holds(one)
    assert [step.name for step in one.way] == WAY[3:12]
    assert [bar.name for bar in one.apart] == ["start", "prepare", "request", "wait", "judge"]
    assert any("clocks of their own" in note for note in one.notes)
    # 45 ms from the request to the look that found the response; 43 of them from the watcher's wake-up on.
    assert any("45.0 ms went by" in note and "back took 2.0 ms" in note for note in one.notes)


def test_a_watcher_that_looks_already_is_not_woken(tmp_path: Path) -> None:
    one = line(tmp_path, document(BEFORE | {"woken": 100.0195}), AFTER, AGENT)
    holds(one)
    assert [step.name for step in one.way] == [name for name in WAY if name != "wake-up"]
    assert one.notes == []


def test_who_joins_a_fence_sees_what_was_left_of_it(tmp_path: Path) -> None:
    one = line(tmp_path, document(BEFORE | {"begun": 99.9, "found": 99.99}), AFTER, AGENT)
    holds(one)
    assert [step.name for step in one.way] == [name for name in WAY if name not in ("begin", "find")]
    assert one.notes == ["this request joined a fence of the same host that was under way"]
    assert [found.phases[-1].name for found in one.drives if found.phases] == ["read-back"]


def test_an_agent_that_had_given_up_is_not_shown_as_waiting(tmp_path: Path) -> None:
    gone = {key: when for key, when in AGENT.items() if key != "seen"} | {"judged": 100.05}
    one = line(tmp_path, document(), AFTER, gone)
    holds(one)
    assert one.way[-1].name == "response"
    assert one.notes == ["the agent had given up before the response was visible"]


def test_an_old_response_is_shown_as_far_as_it_tells(tmp_path: Path) -> None:
    old = document(None)
    for one in old["evidence"]["drives"]:
        del one["steps"]
        one["seconds"] = {"open": 0.001, "read-back": 0.002, "cut": 0.003, "total": 0.010}
    found = line(tmp_path, old)
    holds(found)
    assert [(step.name, step.seconds) for step in found.way] == [("fence", 0.030)]
    assert [bar.name for bar in found.drives[0].phases] == ["open", "cut", "read-back"]
    assert "this response tells no times but those of the drives" in found.notes
    assert any("their order is the usual one" in note for note in found.notes)


def test_a_drive_that_went_through_very_many_phases_says_so_and_overlaps_nothing() -> None:
    steps = [["cut" if n % 2 else "read-back", n * 0.01] for n in range(MOST_STEPS)]
    told = bars.told({"steps": [*steps, ["more", 1.0], ["done", 30.0]]})
    assert (told.broken, told.phases[-1]) == (False, bars.Bar("more", 1.0, 30.0))


@pytest.mark.parametrize("bad", [0.003, -1, 1e300, "0.02", None, True])
def test_a_phase_that_begins_before_the_one_before_it_is_left_out_with_all_after_it(
    tmp_path: Path, bad: Any
) -> None:
    steps = [["open", 0.001], ["look", 0.004], ["read", bad], ["cut", 0.009], ["done", 0.010]]
    told = bars.told({"steps": steps})
    assert (told.broken, told.phases) == (True, [bars.Bar("open", 0.001, 0.004)])
    found = document()
    found["evidence"]["drives"][0]["steps"] = steps
    one = line(tmp_path, found, AFTER, AGENT)
    holds(one)
    assert one.notes == ["some times of drives cannot be so: they are left out, or end with the fence"]


NONSENSE = [
    None, True, [], {}, "0", EVIL, -1, -0.5, 1e308, 10**400, float(10**15), [1.0], {"a": 1}, 0, 100.03, 99.0,
]  # fmt: skip


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: repr(value)[:12])
def test_nonsense_in_any_one_place_costs_that_alone(tmp_path: Path, value: Any) -> None:
    for key in BEFORE:
        holds(line(tmp_path, document(BEFORE | {key: value}), AFTER, AGENT))
    for key in AFTER:
        holds(line(tmp_path, document(), AFTER | {key: value}, AGENT))
    for key in AGENT:
        holds(line(tmp_path, document(), AFTER, AGENT | {key: value}))
    for facts in (
        {"seconds": value}, {"drives": value}, {"drives": [value]}, {"drives": [{"steps": value}]},
        {"drives": [{"seconds": {"cut": value, "open": 1}}]}, {"drives": [{"steps": [value, ["x", value]]}]},
    ):  # fmt: skip
        holds(line(tmp_path, document(evidence=facts), AFTER, AGENT))
        holds(line(tmp_path, document(None, evidence=facts)))
    holds(line(tmp_path, document(value), value, AGENT))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_are_no_json_are_no_moments_of_a_log(tmp_path: Path, constant: str) -> None:
    answer = responses.parse(json.dumps(document()).encode())
    (tmp_path / parts.LOG).write_text(event(AGENT).replace("100.066", constant) + event(AFTER))
    one = made.make(answer, parts.of(answer, str(tmp_path)))
    holds(one)
    assert [step.name for step in one.way] == WAY[:-1]


def test_only_lines_of_this_request_and_node_are_taken(tmp_path: Path) -> None:
    others = event(AGENT, request_id="id-2") + event(AGENT, target_node="c2") + 'id-1 "timeline" \n[1]\n\xff\n'
    (tmp_path / parts.LOG).write_bytes(others.encode("latin-1"))
    answer = responses.parse(json.dumps(document()).encode())
    assert parts.of(answer, str(tmp_path)).agent is None


def test_a_log_that_was_rotated_away_is_found(tmp_path: Path) -> None:
    (tmp_path / f"{parts.LOG}.1").write_text(event(AGENT))
    (tmp_path / parts.LOG).write_text(event(AFTER))
    answer = responses.parse(json.dumps(document()).encode())
    found = parts.of(answer, str(tmp_path))
    assert (found.agent is not None, found.after is not None) == (True, True)


def test_a_log_that_is_no_file_is_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    (tmp_path / parts.LOG).mkdir()
    answer = responses.parse(json.dumps(document()).encode())
    one = made.make(answer, parts.of(answer, str(tmp_path)))
    holds(one)
    assert any(f"{parts.LOG} cannot be read: not a regular file" in note for note in one.notes)


def test_text_has_a_line_for_each_step_and_the_last_drives(tmp_path: Path) -> None:
    code, text = shown(tmp_path, document(), AFTER, AGENT)
    assert code == 0
    rows = text.splitlines()
    assert rows[0] == "c1 is fenced: cut from all of 2 expected drives"
    assert rows[1].startswith("off of c1, request id-1: 66.0 ms from the agent's start, 2027-01-15T08:00:00.000Z")
    (fence,) = [row for row in rows if "survey, cut, read-back" in row]
    assert fence.split()[:4] == ["25.0", "ms", "30.0", "ms"]
    (slow,) = [row for row in rows if " S2 " in row and "answer" not in row]
    assert slow.rstrip().endswith("b")
    assert "\x1b" not in text


def test_what_it_is_told_steers_no_terminal_and_no_picture(tmp_path: Path) -> None:
    evil = document(request_id="id-1", message=EVIL, action=EVIL)
    evil["evidence"]["drives"][1]["serial"] = f"{EVIL}<script>&\"'"
    evil["evidence"]["drives"][1]["steps"][2][0] = EVIL
    evil["evidence"]["drives"][1]["hosts"]["c1"]["outcome"] = EVIL
    path = tmp_path / "picture.svg"
    _, text = shown(tmp_path, evil, AFTER, AGENT, every=True, svg_file=str(path))
    assert all(c.isprintable() for c in text.replace("\n", ""))
    root = ET.fromstring(path.read_bytes())
    assert {element.tag for element in root.iter()} == {
        SVG + tag for tag in ("svg", "title", "desc", "style", "rect", "line", "text")
    }
    assert all(c.isprintable() for c in "".join(root.itertext()).replace("\n", ""))
    assert any("<script>" in (element.text or "") for element in root.iter(f"{SVG}text"))


def test_the_picture_needs_nothing_else_and_knows_the_dark(tmp_path: Path) -> None:
    picture = svg.draw(line(tmp_path, document(), AFTER, AGENT), "Said", "off of c1")
    for word in ("script", "href", "url(", "@import", "font-face", "foreignObject"):
        assert word not in picture
    assert picture.count("http") == 1  # the name of the format
    assert "@media (prefers-color-scheme: dark)" in picture
    found = [rect for rect in ET.fromstring(picture).iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    assert len(found) == len(WAY) + 10
    for rect in found:
        assert 280 <= float(rect.attrib["x"]) <= float(rect.attrib["x"]) + float(rect.attrib["width"]) <= 920.01


def test_json_has_the_timeline_beside_what_explain_says(tmp_path: Path) -> None:
    code, text = shown(tmp_path, document(), AFTER, AGENT, as_json=True)
    found = json.loads(text)
    assert (code, found["verdict"]) == (0, "fenced")
    assert set(found["timeline"]) == {
        "begins", "started_at", "seconds", "steps", "beside", "drives", "last_drive", "critical_path",
        "agent_apart", "notes",
    }  # fmt: skip
    assert [step["name"] for step in found["timeline"]["steps"]] == WAY
    assert found["timeline"]["last_drive"] == "S2"


def test_the_picture_appears_whole_and_leaves_no_draft(tmp_path: Path) -> None:
    place = tmp_path / "pictures"
    place.mkdir()
    target = place / "one.svg"
    target.write_text("old")
    link = place / "link.svg"
    link.symlink_to(target)
    shown(tmp_path, document(), AFTER, AGENT, svg_file=str(link))
    assert (link.is_symlink(), stat.S_IMODE(target.stat().st_mode)) == (True, 0o644)
    assert ET.parse(target).getroot().tag == f"{SVG}svg"
    assert sorted(path.name for path in place.iterdir()) == ["link.svg", "one.svg"]


@pytest.mark.parametrize("bad", ["missing/x.svg", "directory", "fifo"])
def test_a_picture_that_cannot_be_written_is_an_error_with_the_files_name(tmp_path: Path, bad: str) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileError, match=bad):
        shown(tmp_path, document(), AFTER, AGENT, svg_file=str(tmp_path / bad))
    assert not list(tmp_path.glob(".timeline-*"))


def test_where_no_times_are_told_nothing_is_drawn(tmp_path: Path) -> None:
    foreign = response(None)
    code, text = shown(tmp_path, foreign)
    assert (code, "no times are told" in text) == (0, True)
    with pytest.raises(FileError, match="nothing to draw"):
        shown(tmp_path, foreign, svg_file=str(tmp_path / "x.svg"))
    assert not (tmp_path / "x.svg").exists()


def test_a_response_that_contradicts_itself_is_said_above_its_timeline(tmp_path: Path) -> None:
    code, text = shown(tmp_path, document(evidence={"confirmed": False}), AFTER, AGENT)
    assert (code, text.splitlines()[0]) == (11, "c1: DO NOT RELY on this response: it contradicts itself")


def test_the_clock_has_one_name_in_all_processes_of_a_machine() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "from nvmefence import clock; print(clock.identity())"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert told.stdout.strip() == clock.identity() != ""


def test_where_the_kernels_settings_are_hidden_the_service_manager_tells_the_boot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = clock.identity()
    monkeypatch.setattr(clock, "_BOOT_ID", "/nowhere")
    assert clock.identity() == ""
    monkeypatch.setenv("BOOT_ID", seen.partition("/")[0])
    assert clock.identity() == seen


def test_a_process_began_before_it_says_so_and_after_it_was_made() -> None:
    code = "from time import *; from nvmefence.clock import *; n = monotonic(); print(began(n, process_time()), n)"
    before = time.monotonic()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    began, said = map(float, told.stdout.split())
    assert before <= began + 0.002
    assert began <= said


def test_the_first_hint_since_the_last_look_is_what_woke_the_watcher() -> None:
    wakeup = timing.Wakeup()
    wakeup.begin(1.0)
    assert wakeup.last == (1.0, "rescan")
    wakeup.hinted(2.0)
    wakeup.hinted(3.0)
    wakeup.begin(4.0)
    assert wakeup.last == (2.0, "inotify")
    wakeup.begin(5.0)
    assert wakeup.last == (5.0, "rescan")

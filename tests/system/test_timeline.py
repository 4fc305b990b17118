"""A real agent and a real watcher: each step between them is on the timeline, in order, no longer than it was."""

from __future__ import annotations

import json
import signal
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.system.place import FLEET, HOSTS, MAIN
from tests.system.watching import Watching, until

WAY = [
    "start", "prepare", "request", "wake-up", "read", "begin", "find", "fence", "record", "answer", "audit",
    "response", "notice", "judge",
]  # fmt: skip
MAY_BE_AWAKE = ("wake-up", "notice")


@pytest.fixture
def place(tmp_path: Path) -> Watching:
    made = Watching(tmp_path)
    made.write(FLEET, HOSTS)
    return made


def explained(place: Watching, *words: str) -> Any:
    """What explain says in JSON of the one response that is there."""
    (path,) = place.answers.glob("*.json")
    directories = ["--response-dir", str(place.answers), "--log-dir", str(place.logs)]
    done = place.spawn([*MAIN, "explain", path.stem, "--timeline", "--json", *directories, *words])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["timeline"]


def fenced_at(place: Watching) -> tuple[float, float]:
    """Have the agent fence a host; return when it was started and when it had ended, by the monotonic clock."""
    started = time.monotonic()
    done = place.agent("--action=off", "--plug=c1")
    assert done.returncode == 0, done.stderr
    return started, time.monotonic()


def logged(place: Watching) -> list[dict[str, Any]]:
    """The lines of the log that tell of the time: of the watcher and of the agent, when both are there."""
    log = place.logs / "fence-events-detailed.jsonl"

    def told() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in log.read_text().splitlines()]
        return [line["timeline"] for line in found if "timeline" in line]

    return until(lambda: found if len(found := told()) == 2 else [], "both lines are there")


def test_every_step_of_a_fence_is_on_the_line_in_its_order(place: Watching) -> None:
    with place.watcher():
        started, ended = fenced_at(place)
        parts = logged(place)
    found = explained(place, "--svg", str(place.path / "picture.svg"))
    names = [step["name"] for step in found["steps"]]
    # Who looks just when a file appears is not woken by it, neither the watcher nor the agent.
    assert [name for name in names if name not in MAY_BE_AWAKE] == [
        name for name in WAY if name not in MAY_BE_AWAKE
    ]
    assert found["notes"] == []
    assert found["begins"] == "the agent's start"
    assert 0 < found["seconds"] <= ended - started + 0.002
    assert [step["start_s"] for step in found["steps"][1:]] == [step["end_s"] for step in found["steps"][:-1]]
    assert found["last_drive"] in {drive["serial"] for drive in found["drives"]}
    for drive in found["drives"]:
        assert [bar["name"] for bar in drive["phases"]] == ["open", "look", "read", "cut", "read-back"]
    for part in parts:
        moments = {name: when for name, when in part.items() if isinstance(when, float) and name != "wall"}
        if part["writer"] == "watcher":
            del moments["durable"]  # the agent may be gone by then
        assert all(started - 0.002 <= when <= ended for when in moments.values()), (started, ended, moments)
    assert ET.parse(place.path / "picture.svg").getroot().tag.endswith("svg")


def test_a_request_that_waits_for_the_watcher_shows_what_it_waited_for(place: Watching) -> None:
    with place.watcher() as running:
        running.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{running.process.pid}/stat")
        until(lambda: stat.read_text().rpartition(") ")[2].startswith("T"), "the watcher is stopped")
        response = place.ask("late.json")
        time.sleep(0.3)
        running.process.send_signal(signal.SIGCONT)
        place.answered(response)
        until((place.logs / "fence-events-detailed.jsonl").exists, "the watcher's line is there")
    found = explained(place)
    assert found["begins"] == "the request's file time"
    assert found["steps"][0]["name"] in ("wake-up", "read")  # it may have been looking when it was stopped
    assert 0.25 <= found["steps"][0]["end_s"] < 10
    assert any("agent's part is not known" in note for note in found["notes"])


def test_an_agent_whose_log_is_of_another_boot_stands_apart(place: Watching) -> None:
    with place.watcher():
        fenced_at(place)
        logged(place)
    log = place.logs / "fence-events-detailed.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if line.get("timeline", {}).get("writer") == "fence_gfs2_recorder":
            line["timeline"]["clock"] = "another/1"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = explained(place)
    assert [bar["name"] for bar in found["agent_apart"]] == ["start", "prepare", "request", "wait", "judge"]
    assert found["steps"][-1]["name"] == "response"
    assert any("clocks of their own" in note for note in found["notes"])
    assert any("the way there and back took" in note for note in found["notes"])

"""The picture in the documentation is what the documented command draws of the fence that is kept beside it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bench import one_fence


def test_the_picture_is_drawn_from_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "timeline.svg"
    done = one_fence.explain("--svg", str(path))
    assert done.returncode == 0, done.stderr
    assert path.read_text() == one_fence.PICTURE.read_text(), "draw it anew: python -m tests.bench --timeline"


def test_the_picture_is_of_a_whole_rabbit_from_the_agents_start_to_its_verdict() -> None:
    done = one_fence.explain("--timeline", "--json")
    told = json.loads(done.stdout)
    assert (told["verdict"], told["simulated"], len(told["drives"])) == ("fenced", False, 18)
    steps = told["timeline"]["steps"]
    assert (told["timeline"]["begins"], steps[-1]["name"]) == ("the agent's start", "judge")
    assert told["timeline"]["notes"] == []

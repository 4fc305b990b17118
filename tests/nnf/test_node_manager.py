"""By the NNF node manager's rules a real watcher's responses mean what they mean by ours."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvmefence.watcher.unfenced import UNFENCED_FOR_S
from tests.nnf import node_manager
from tests.nnf.node_manager import Watch
from tests.system.place import HUNG, REMOVED
from tests.system.watching import Running, Watching, until


@pytest.fixture
def place(tmp_path: Path) -> Watching:
    return Watching(tmp_path)


@pytest.fixture
def watcher(place: Watching) -> Iterator[Running]:
    with place.watcher() as running:
        yield running


def test_a_fenced_host_reads_as_fenced_until_it_has_its_storage_again(place: Watching, watcher: Running) -> None:
    for name, host, action in (("r-1.json", "c1", "off"), ("r-2.json", "c2", "reboot")):
        assert place.answered(place.ask(name, target_node=host, action=action))["success"] is True
    assert node_manager.fenced(place.answers) == node_manager.kept_away(place.answers) == {"c1", "c2"}
    directories = ["--response-dir", str(place.answers)]
    assert place.run("restore", "--host", "c1", *directories).returncode == 0
    assert node_manager.fenced(place.answers) == {"c2"}
    assert place.run("unfence", "--host", "c2", *directories).returncode == 0
    assert node_manager.fenced(place.answers) == node_manager.kept_away(place.answers) == set()


def test_a_host_is_fenced_under_the_name_that_was_asked_for(place: Watching, watcher: Running) -> None:
    place.answered(place.ask("r-1.json", target_node="c1-ib"))
    assert node_manager.fenced(place.answers) == {"c1-ib"}


@pytest.mark.parametrize(
    ("fleet", "fields"),
    [
        ("", {"target_node": "nobody"}),
        ("", {"timestamp": "2020-01-01T00:00:00Z"}),
        ("", {"action": "explode"}),
        (REMOVED, {}),
        (HUNG, {"timeout_s": 1}),
    ],
)
def test_what_failed_does_not_read_as_fenced(place: Watching, fleet: str, fields: dict[str, object]) -> None:
    place.write((place.path / "fleet.toml").read_text() + fleet)
    with place.watcher():
        assert place.answered(place.ask("r-1.json", **fields))["success"] is False
    assert node_manager.fenced(place.answers) == set()


def test_an_unfence_by_an_agent_reads_as_fenced_only_until_it_is_archived(place: Watching) -> None:
    response = place.ask("r-1.json", action="on")
    with place.watcher():
        assert place.answered(response)["success"] is True
    assert node_manager.fenced(place.answers) == {"c1"}
    os.utime(response, (time.time() - UNFENCED_FOR_S, time.time() - UNFENCED_FOR_S))
    with place.watcher():
        until(lambda: not response.exists(), "it is archived")
    assert node_manager.fenced(place.answers) == set()


def test_its_watch_wakes_it_before_a_response_is_there_and_not_when_one_goes(
    place: Watching, watcher: Running
) -> None:
    watch = Watch(place.answers)
    try:
        place.answered(place.ask("r-1.json"))
        events = until(watch.events, "something happened")
        woken = [name for name, wakes in events if wakes]
        assert set(woken) == {".r-1.json.tmp"}
        assert ("r-1.json", False) in events
        place.run("unfence", "--host", "c1", "--response-dir", str(place.answers))
        assert not [name for name, wakes in watch.events() if wakes]
    finally:
        watch.close()


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ('{"target_node": "x", "success": true}', {"x"}),
        ('{"target_node": "x", "success": false, "status": "success"}', {"x"}),
        ('{"TARGET_NODE": "x", "Success": true}', {"x"}),
        ('{"target_node": "x", "success": true, "success": false}', set()),
        ('{"target_node": "x", "success": "true"}', set()),
        ('{"target_node": "x", "success": null, "status": "error"}', set()),
        ('{"target_node": "x", "success": tr', set()),
    ],
)
def test_the_oracle_reads_as_go_does(tmp_path: Path, text: str, hosts: set[str]) -> None:
    (tmp_path / "r.json").write_text(text)
    for name in ("r.json.tmp", "r.txt"):
        (tmp_path / name).write_text(json.dumps({"target_node": name, "success": True}))
    (tmp_path / "d.json").mkdir()
    assert node_manager.fenced(tmp_path) == hosts

"""fence_nvmefence cuts nodes off by itself, proves it, and can always leave."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.direct import LIMIT_S, Node, Result
from tests.system.place import FLEET, HUNG, REMOVED, SLOT_0, SLOT_1, SLOW, STATE, UNFENCEABLE

REFUSED = "version = 1\n[drives]\ncount = 3\n[hosts.c1]\ncontrollers = [2]\n[hosts.c2]\ncontrollers = [77]\n"
OWN = (
    "version = 1\n[drives]\ncount = 3\nallow_controller_zero = true\n"
    "[hosts.c1]\ncontrollers = [2]\n[hosts.c2]\ncontrollers = [0]\n"
)
"""Controller 0 is our own on every drive."""


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize("target", ["c1", "C1", "c1-ib", "c1.example.org"])
def test_off_cuts_the_node_off_every_drive_and_no_other(node: Node, target: str) -> None:
    result = node.fence(target=target)
    assert (result.code, result.out) == (0, "")
    assert node.cut_off() == {SLOT_0}
    assert result.err.startswith(f"fence_nvmefence: off of {target}: SIMULATED: Fenced c1: detached 12 attachments")
    assert result.err.count("\n") == 1


def test_off_again_succeeds_and_says_already(node: Node) -> None:
    assert node.fence().code == 0
    again = node.fence()
    assert (again.code, "already detached" in again.err) == (0, True)


def test_reboot_is_off_and_says_that_nobody_switched_the_node_off(node: Node) -> None:
    result = node.fence("Reboot")
    assert (result.code, result.out) == (0, "")
    assert "nobody power-cycled the node" in result.err
    assert node.cut_off() == {SLOT_0}
    assert node.lines()[0]["request"]["action"] == "reboot"


def test_on_succeeds_changes_nothing_and_says_so(node: Node) -> None:
    node.fence()
    result = node.fence("on")
    assert (result.code, result.out) == (0, "")
    assert "nothing was changed for c1" in result.err
    assert "its storage is still cut" in result.err
    assert node.cut_off() == {SLOT_0}
    assert [line["result"] for line in node.lines(2)] == ["fenced", "unchanged"]


def test_on_gives_back_what_was_taken_where_agents_may(node: Node) -> None:
    settings = node.path / "settings.toml"
    settings.write_text(f'agents_may_restore = true\nresponse_dir = "{node.path}/responses"\n')
    node.fence()
    assert node.cut_off() == {SLOT_0}
    result = node.fence("on", settings_file=settings)
    assert (result.code, "Restored c1" in result.err) == (0, True)
    assert node.cut_off() == set()
    again = node.fence("on", settings_file=settings)
    assert (again.code, "Nothing is on record" in again.err) == (0, True)
    assert [line["result"] for line in node.lines(3)] == ["fenced", "restored", "restored"]


def test_on_that_cannot_give_all_back_fails_and_names_what_is_left(node: Node) -> None:
    settings = node.path / "settings.toml"
    settings.write_text(f'agents_may_restore = true\nresponse_dir = "{node.path}/responses"\n')
    node.fence()
    node.write(fleet=FLEET + REMOVED)
    result = node.fence("on", settings_file=settings)
    assert result.code == 1
    assert "GONE" in result.err or "SIM00001" in result.err


@pytest.mark.parametrize("action", ["off", "reboot", "on", "status"])
def test_a_node_that_the_map_lacks_is_a_failure(node: Node, action: str) -> None:
    result = node.fence(action, "c11")
    assert (result.code, result.out) == (1, "")
    assert "host 'c11' is not in hosts.toml (did you mean 'c1'?)" in result.err
    assert node.cut_off() == set()


def test_a_missing_drive_fails_the_fence_and_the_others_are_cut(node: Node) -> None:
    node.write(FLEET + REMOVED)
    result = node.fence()
    assert result.code == 1
    assert "is not confirmed" in result.err
    assert "1 of 3 drives missing" in result.err
    assert node.lines()[0]["result"] == "not-fenced"
    assert all(SLOT_0 not in ids for ids in node.attached()["SIM00002"].values())


def test_a_hung_drive_fails_the_fence_at_the_deadline_and_is_named(node: Node) -> None:
    node.write(FLEET + HUNG)
    start = time.monotonic()
    result = node.fence(deadline=6)
    assert result.code == 1
    assert 6 <= time.monotonic() - start < 25
    assert "NOT fenced c1 (2 of 3 drives cut): HUNG: Identify Controller: no answer" in result.err
    assert result.err.count("\n") == 1
    assert all(SLOT_0 not in ids for ids in node.attached()["SIM00002"].values())


def test_a_node_whose_controllers_cannot_be_told_is_refused(node: Node) -> None:
    node.write(hosts=REFUSED)
    result = node.fence(target="c2")
    assert result.code == 1
    assert "NOT fenced c2" in result.err
    assert "77" in result.err
    assert node.cut_off() == set()
    assert node.fence(target="c1").code == 0


def test_this_machines_own_controller_is_never_cut(node: Node) -> None:
    node.write(hosts=OWN)
    result = node.fence(target="c2")
    assert result.code == 1
    assert "this machine's own" in result.err
    assert node.cut_off() == set()


def test_a_process_that_hangs_at_a_drive_does_not_hold_up_the_exit(node: Node) -> None:
    start = time.monotonic()
    with node.stuck():
        result = node.fence(deadline=3)
        assert 7 <= time.monotonic() - start < 25
    assert result.code == 1
    assert "no end within 7 s" in result.err
    time.sleep(0.5)
    assert node.cut_off() == set(), "nothing is cut after the failure was told"
    (line,) = node.lines()
    assert (line["result"], line["target_node"], line["evidence"]) == ("not-fenced", "c1", None)
    assert [event["status"] for event in node.events(2)] == ["begun", "timeout"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_fence_as_a_failure(node: Node, number: signal.Signals) -> None:
    with node.stuck():
        process = node.start(node.options(action="off", port="c1"))
        node.until_it_cuts()
        process.send_signal(number)
        result = Result(process)
    assert result.code == 1
    assert f"stopped by {number.name}" in result.err
    time.sleep(0.3)
    assert node.cut_off() == set()
    assert node.lines()[0]["result"] == "not-fenced"


def test_a_signal_during_the_delay_leaves_the_node_alone(node: Node) -> None:
    process = node.start(node.options(action="off", port="c1", delay=20))
    node.until_it_waits_for_signals(process)
    process.terminate()
    result = Result(process)
    assert (result.code, "stopped by SIGTERM before anything was done" in result.err) == (1, True)
    assert node.cut_off() == set()


def test_the_delay_comes_before_the_fence_and_is_no_part_of_its_deadline(node: Node) -> None:
    start = time.monotonic()
    assert node.fence(delay=6.5, deadline=6).code == 0
    assert time.monotonic() - start >= 6.5


@pytest.mark.parametrize("kill", [os.killpg, os.kill], ids=["all processes", "the agent alone"])
def test_nothing_is_cut_after_a_kill(node: Node, kill: Callable[[int, int], None]) -> None:
    with node.stuck():
        process = node.start(node.options(action="off", port="c1"))
        node.until_it_cuts()
        kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT_S)
    time.sleep(0.5)
    assert node.cut_off() == set()


def test_status_asks_the_drives(node: Node) -> None:
    found = node.fence("status")
    assert (found.code, found.out, found.err) == (0, "Status: ON\n", "")
    node.fence()
    found = node.fence("status", "c1-ib")
    assert (found.code, found.out, found.err) == (2, "Status: OFF\n", "")
    assert node.fence("status", "c2").code == 0
    assert node.call("status").code == 1


@pytest.mark.parametrize(("fault", "word"), [(HUNG, "HUNG"), (REMOVED, "1 of 3 drives missing")])
def test_status_is_off_only_if_every_expected_drive_says_so(node: Node, fault: str, word: str) -> None:
    node.write(FLEET + fault)
    found = node.fence("status", deadline=6)
    assert (found.code, found.out) == (0, "Status: ON\n"), "what is attached anywhere is not off"
    node.fence(deadline=6)
    found = node.fence("status", deadline=2)
    assert (found.code, found.out) == (1, "")
    assert word in found.err


def test_list_names_hosts_and_aliases_as_pacemaker_reads_them(node: Node) -> None:
    node.write(hosts=(node.path / "hosts.toml").read_text() + 'aliases = ["b.example.org", "variable-2", "b3"]\n')
    found = node.call("list", simulate=None)
    assert (found.code, found.out, found.err) == (0, "c1,c1-ib\nc2,b.example.org\nc2,b3\n", "")


def test_list_status_asks_the_drives(node: Node) -> None:
    node.fence()
    found = node.call("list_status")
    assert (found.code, found.out, found.err) == (0, "c1,c1-ib,OFF\nc2,,ON\n", "")
    (node.path / STATE).unlink()
    node.write(FLEET + HUNG)
    node.fence(deadline=2)
    found = node.call("list-status", deadline=2)
    assert (found.code, found.out) == (0, "c1,c1-ib,UNKNOWN\nc2,,ON\n")
    assert "HUNG" in found.err


def test_monitor_succeeds_where_a_fence_would(node: Node) -> None:
    found = node.call("monitor")
    assert (found.code, found.out, found.err) == (0, "", "")
    assert not (node.path / STATE).exists()
    assert not node.logs.exists()
    node.fence()
    assert node.call("monitor").code == 0


@pytest.mark.parametrize(
    ("fleet", "options", "word"),
    [
        (FLEET + REMOVED, {}, "drives: 1 of 3 drives missing"),
        (FLEET + HUNG, {"deadline": 2}, "HUNG: "),
        (FLEET + UNFENCEABLE, {}, "OLD: our controller does not support Namespace Attachment"),
        (FLEET, {"hosts_file": "none.toml"}, "there is no host map none.toml"),
        (FLEET, {"quiesce": "wait:20"}, "leaves nothing of the deadline"),
        (FLEET, {"simulate": "none.toml"}, "none.toml"),
    ],
)
def test_monitor_fails_where_a_fence_would(node: Node, fleet: str, options: dict[str, object], word: str) -> None:
    node.write(fleet)
    start = time.monotonic()
    found = node.call("monitor", **options)
    assert (found.code, found.out) == (1, "")
    assert word in found.err
    assert found.err.count("\n") == 1
    assert time.monotonic() - start < 10
    assert node.call("off", port="c1", **options).code == 1


def test_a_slow_drive_is_waited_for(node: Node) -> None:
    node.write(FLEET + SLOW)
    assert node.fence().code == 0


def test_two_agents_at_once_do_not_harm_each_other(node: Node) -> None:
    running = [node.start(node.options(action="off", port=name)) for name in ("c1", "c2", "c1", "c2")]
    assert [Result(process).code for process in running] == [0] * 4
    assert node.cut_off() == {SLOT_0, SLOT_1}
    assert len(node.lines(4)) == 4

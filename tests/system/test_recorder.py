"""fence_gfs2_recorder as Pacemaker runs it: a process, options on standard input, files, an exit code."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from tests.system.recording import LOGS, Cluster, Request, Result, response, saying


@pytest.mark.parametrize("action", ["off", "reboot", "on", "OFF", "Reboot"])
def test_a_true_success_is_the_only_exit_0(cluster: Cluster, action: str) -> None:
    cluster.answer(saying())
    result = cluster.fence(action)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert [request["action"] for request in cluster.seen] == [action.lower()]


def test_the_request_is_what_the_contract_says(cluster: Cluster) -> None:
    modes = []

    def answerer(request: Request, path: Path) -> None:
        file = cluster.requests / path.name
        modes.append(stat.S_IMODE(file.stat().st_mode))
        assert path.stem == request["request_id"]
        saying()(request, path)

    cluster.answer(answerer)
    assert cluster.fence("reboot", fence_timeout="7", gfs2_filesystems="fs-1, fs-2").code == 0
    request = cluster.seen[0]
    assert modes == [0o640]
    assert (
        abs(
            time.mktime(time.strptime(request["timestamp"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone - time.time()
        )
        < 9
    )
    assert {k: v for k, v in request.items() if k not in ("request_id", "timestamp")} == {
        "action": "reboot",
        "target_node": "node1",
        "gfs2_filesystems": ["fs-1", "fs-2"],
        "recorder_node": os.uname().nodename,
        "timeout_s": 7,
    }
    assert request["request_id"][14] == "4"
    assert len(request["request_id"]) == 36


def test_two_fences_have_two_ids(cluster: Cluster) -> None:
    cluster.answer(saying())
    assert cluster.fence().code == cluster.fence().code == 0
    assert cluster.seen[0]["request_id"] != cluster.seen[1]["request_id"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"success": False, "message": "drive S1: no answer"}, "drive S1: no answer"),
        ({"request_id": "550e8400-e29b-41d4-a716-446655440000"}, "request_id"),
        ({"target_node": "node2"}, "target_node"),
        ({"target_node": "NODE1"}, "target_node"),
        ({"success": "true"}, "neither true nor false"),
        ({"success": 1}, "neither true nor false"),
        ({"success": None}, "neither true nor false"),
        ({"status": "error"}, "contradicts itself"),
        ({"message": ["x"]}, "not a string"),
        ({"success": False, "message": "a\nSTATUS=success\x1b[2J"}, "a\\nSTATUS=success\\x1b[2J"),
    ],
)
def test_any_other_response_is_a_failure_with_its_reason(
    cluster: Cluster, changes: dict[str, object], word: str
) -> None:
    cluster.answer(saying(**changes))
    result = cluster.fence()
    assert result.code == 1
    assert word in result.err
    assert result.err.count("\n") == 1
    assert cluster.left() == []


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "true",
        '{"success": true, "success": true, "request_id": "ID", "target_node": "node1"}',
        '{"success": true, "request_id": "ID", "target_node": "node1", "n": NaN}',
        '{"success": true, "request_id": "ID", "target_node": "node1"',
        '{"success": true, "request_id": "ID", "target_node": "node1"} {}',
        "[" * 200000,
        "",
    ],
)
def test_what_never_becomes_one_object_is_given_up_after_two_seconds(cluster: Cluster, text: str) -> None:
    cluster.answer(lambda request, path: void(path.write_text(text.replace("ID", request["request_id"]))))
    start = time.monotonic()
    result = cluster.fence(fence_timeout=25)
    assert result.code == 1
    assert "cannot be read" in result.err
    assert 1.9 < time.monotonic() - start < 20
    assert cluster.left() == []


def void(_: object) -> None:
    """Drop a value."""


def test_a_response_written_in_place_is_looked_at_again(cluster: Cluster) -> None:
    def answerer(request: Request, path: Path) -> None:
        whole = json.dumps(response(request))
        with path.open("w") as file:
            for part in (whole[:40], whole[40:90], whole[90:]):
                file.write(part)
                file.flush()
                time.sleep(0.15)

    cluster.answer(answerer)
    assert cluster.fence().code == 0


def test_a_large_response_is_read_and_an_oversized_one_refused(cluster: Cluster) -> None:
    cluster.answer(saying(evidence="x" * 1_000_000))
    assert cluster.fence().code == 0
    cluster.close()
    cluster._stop.clear()
    cluster.answer(saying(evidence="x" * 4 * 1024 * 1024))
    result = cluster.fence()
    assert result.code == 1
    assert "has more than 4194304 bytes" in result.err


def test_a_response_that_others_may_write_is_not_believed(cluster: Cluster) -> None:
    def answerer(request: Request, path: Path) -> None:
        draft = path.with_name(".draft")
        draft.write_text(json.dumps(response(request)))
        draft.chmod(0o666)
        draft.rename(path)

    cluster.answer(answerer)
    result = cluster.fence()
    assert result.code == 1
    assert "may be written by others" in result.err


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_only_a_regular_file_is_a_response(cluster: Cluster, kind: str) -> None:
    def answerer(request: Request, path: Path) -> None:
        if kind == "symlink":
            (cluster.path / "true.json").write_text(json.dumps(response(request)))
            path.symlink_to(cluster.path / "true.json")
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.mkdir()

    cluster.answer(answerer)
    result = cluster.fence()
    assert result.code == 1
    assert "not a regular file" in result.err
    assert cluster.left() == []


def test_without_a_response_the_request_is_withdrawn_at_the_deadline(cluster: Cluster) -> None:
    start = time.monotonic()
    result = cluster.fence(fence_timeout="0.4")
    assert result.code == 1
    assert 0.4 <= time.monotonic() - start < 20
    assert "no response within 0.4 s" in result.err
    assert cluster.left() == []
    assert "STATUS=timeout" in (cluster.logs / LOGS[1]).read_text()


def test_a_response_that_stands_from_another_fence_says_nothing(cluster: Cluster) -> None:
    old: Request = {"request_id": "550e8400-e29b-41d4-a716-446655440000", "action": "off", "target_node": "node1"}
    (cluster.responses / f"{old['request_id']}.json").write_text(json.dumps(response(old)))
    assert cluster.fence(fence_timeout="0.3").code == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_withdraws_the_request(cluster: Cluster, number: signal.Signals) -> None:
    process = cluster.start(cluster.options(action="off", port="node1"))
    until = time.monotonic() + 10
    while not any(name.endswith(".json") for name in cluster.left()):
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(number)
    result = Result(process)
    assert result.code == 1
    assert f"stopped by {number.name}" in result.err
    assert cluster.left() == []
    assert "STATUS=stopped" in (cluster.logs / LOGS[1]).read_text()


def test_a_signal_during_the_delay_leaves_no_request(cluster: Cluster) -> None:
    cluster.answer(saying())
    process = cluster.start(cluster.options(action="off", port="node1", delay="20"))
    time.sleep(0.5)
    process.terminate()
    assert process.wait(timeout=10) in (1, -signal.SIGTERM)
    assert cluster.seen == []


def test_the_delay_comes_before_the_request(cluster: Cluster) -> None:
    cluster.answer(saying())
    start = time.monotonic()
    assert cluster.fence(delay="0.5").code == 0
    assert time.monotonic() - start >= 0.5


@pytest.mark.parametrize("option", ["request_dir", "response_dir"])
def test_missing_directories_fail_fence_and_monitor(cluster: Cluster, option: str) -> None:
    changes: dict[str, object] = {option: cluster.path / "none", "fence_timeout": "0.2", "heartbeat_check": "0"}
    for action in ("off", "monitor"):
        result = Result(cluster.start(cluster.options(action=action, port="node1", **changes)))
        assert result.code == 1
        assert f"{cluster.path}/none" in result.err
        assert "No such file or directory" in result.err
    assert cluster.left() == []


def test_monitor_wants_a_young_heartbeat_unless_told_not_to(cluster: Cluster) -> None:
    beat = cluster.requests / ".watcher"
    result = cluster.call("monitor")
    assert (result.code, "no watcher serves" in result.err) == (1, True)
    assert cluster.call("monitor", heartbeat_check="off").code == 0
    beat.write_text(json.dumps({"pid": 1, "time": time.time()}))
    assert cluster.call("monitor").code == 0
    for offset, expected in ((-25, 0), (-31, 1), (+60, 1)):
        os.utime(beat, (time.time() + offset,) * 2)
        assert cluster.call("monitor").code == expected, offset
    assert cluster.left() == [".watcher"]

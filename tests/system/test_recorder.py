"""fence_gfs2_recorder as Pacemaker runs it: a process, options on standard input, files, an exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nvmefence import config

AGENT = [sys.executable, "-m", "nvmefence.agents.fence_gfs2_recorder"]
ROOT = Path(__file__).resolve().parents[2]
LOGS = ("fence-events.log", "fence-events-readable.log", "fence-events-detailed.jsonl")
Request = dict[str, Any]
Answerer = Callable[[Request, Path], None]


class Cluster:
    """The two directories, the logs, an agent to call, and a responder that answers as told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests = path / "requests"
        self.responses = path / "responses"
        self.logs = path / "logs"
        self.requests.mkdir()
        self.responses.mkdir()
        self.seen: list[Request] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def answer(self, answerer: Answerer) -> None:
        self._thread = threading.Thread(target=self._respond, args=(answerer,), daemon=True)
        self._thread.start()

    def _respond(self, answerer: Answerer) -> None:
        done = set()
        while not self._stop.is_set():
            for file in self.requests.glob("[!.]*.json"):
                if file.name not in done:
                    done.add(file.name)
                    request = json.loads(file.read_text())
                    self.seen.append(request)
                    answerer(request, self.responses / file.name)
            time.sleep(0.002)

    def close(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def options(self, **changes: object) -> str:
        given: dict[str, object] = {
            "request_dir": self.requests,
            "response_dir": self.responses,
            "log_dir": self.logs,
            "fence_timeout": 10,
            **changes,
        }
        return "".join(f"{name}={value}\n" for name, value in given.items() if value is not None)

    def start(self, text: str = "", *words: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*AGENT, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment},
            cwd=self.path,
            umask=0o026,
        )
        assert process.stdin is not None
        process.stdin.write(text)
        process.stdin.close()
        process.stdin = None
        return process

    def call(self, action: str, **options: object) -> Result:
        return Result(self.start(self.options(action=action, **options)))

    def fence(self, action: str = "off", **options: object) -> Result:
        return Result(self.start(self.options(action=action, nodename="node1", port="node1", **options)))

    def left(self) -> list[str]:
        return os.listdir(self.requests)


class Result:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.out, self.err = process.communicate(timeout=30)
        self.code = process.returncode
        assert "Traceback" not in self.err
        assert "defect" not in self.err


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    before = os.umask(0o022)  # the agent believes no file that others may write
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()
    os.umask(before)


def response(request: Request, **changes: object) -> dict[str, object]:
    return {
        "request_id": request["request_id"],
        "success": True,
        "action_performed": request["action"],
        "target_node": request["target_node"],
        "message": "detached 36 namespaces",
        "timestamp": "2025-10-20T14:30:15Z",
        **changes,
    }


def saying(**changes: object) -> Answerer:
    """Answer like the watcher: whole or not at all, the request removed."""

    def answerer(request: Request, path: Path) -> None:
        draft = path.with_name(f".{path.name}.tmp")
        draft.write_text(json.dumps(response(request, **changes)))
        draft.chmod(0o640)
        draft.rename(path)
        (path.parents[1] / "requests" / path.name).unlink(missing_ok=True)

    return answerer


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
    result = cluster.fence()
    assert result.code == 1
    assert "cannot be read" in result.err
    assert 1.9 < time.monotonic() - start < 8
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
    assert 0.4 <= time.monotonic() - start < 5
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


def standing(cluster: Cluster, name: str, **content: object) -> None:
    (cluster.responses / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"target_node": "node1", "success": True}, 2),
        ({"target_node": "node1", "status": "success"}, 2),
        ({"target_node": "node1", "success": False}, 0),
        ({"target_node": "node1", "success": "true"}, 0),
        ({"target_node": "node1", "success": False, "status": "success"}, 0),
        ({"target_node": "node1", "success": True, "action_performed": "on"}, 0),
        ({"target_node": "node2", "success": True}, 0),
        ({}, 0),
    ],
)
def test_status_is_off_only_while_a_success_for_the_node_stands(
    cluster: Cluster, content: dict[str, object], code: int
) -> None:
    standing(cluster, "any-name.json", **content)
    (cluster.responses / "half.json").write_text('{"target_node": "no')
    assert cluster.call("status", port="node1").code == code
    (cluster.responses / "any-name.json").rename(cluster.responses / ".hidden.json")
    assert cluster.call("status", port="node1").code == 0


def test_status_that_cannot_be_told_is_1(cluster: Cluster) -> None:
    assert cluster.call("status", port="node1", response_dir=cluster.path / "none").code == 1
    assert cluster.call("status").code == 1


def test_list_names_the_known_hosts_and_their_state(cluster: Cluster) -> None:
    standing(cluster, "r.json", target_node="c-1", success=True)
    assert cluster.call("list").out == ""
    assert cluster.call("list", hosts="c-1,c-2").out == "c-1,\nc-2,\n"
    assert cluster.call("list_status", hosts="c-1 c-2").out == "c-1,,OFF\nc-2,,ON\n"
    lost = cluster.call("list-status", hosts="c-1", response_dir=cluster.path / "none")
    assert lost.out == "c-1,,UNKNOWN\n"


def test_environment_before_options_before_defaults(cluster: Cluster) -> None:
    for name in ("requests-env", "responses-env"):
        (cluster.path / name).mkdir()
    environment = {
        "FENCE_TIMEOUT": "0.3",
        "LOG_DIR": str(cluster.path / "logs-env"),
        "NNF_FENCE_REQUEST_DIR": str(cluster.path / "requests-env"),
        "NNF_FENCE_RESPONSE_DIR": str(cluster.path / "responses-env"),
    }
    cluster.answer(saying())
    text = cluster.options(action="off", port="node1")
    result = Result(cluster.start(text, **environment))
    assert (result.code, "no response within 0.3 s" in result.err) == (1, True)
    assert cluster.seen == []
    assert not cluster.logs.exists()
    assert (cluster.path / "logs-env" / LOGS[0]).exists()
    assert Result(cluster.start(text, **dict.fromkeys(environment, ""))).code == 0


def test_the_command_line_does_what_standard_input_does(cluster: Cluster) -> None:
    cluster.answer(saying())
    words = [
        f"--request_dir={cluster.requests}",
        "--response-dir",
        str(cluster.responses),
        f"--log-dir={cluster.logs}",
    ]
    result = Result(cluster.start("port=other\n", *words, "-o", "off", "-nnode1", "-v"))
    assert result.code == 0
    assert cluster.seen[0]["target_node"] == "node1"
    assert "detached 36 namespaces" in result.err


def test_hyphenated_names_pass_unchanged_and_hyphenated_keys_count(cluster: Cluster) -> None:
    cluster.answer(saying())
    text = cluster.options(action="off", **{"PLUG": "compute-node_3.x", "FENCE-Timeout": "9"})
    assert Result(cluster.start("# a comment\n\nunknown=1\nport\n" + text)).code == 0
    assert cluster.seen[0]["target_node"] == "compute-node_3.x"
    assert cluster.seen[0]["timeout_s"] == 9


@pytest.mark.parametrize(
    "options",
    [
        {"port": "node1", "plug": "node2"},
        {"port": None, "nodename": None},
        {"port": "../node1"},
        {"port": "node1", "fence_timeout": "soon"},
        {"port": "node1", "fence_timeout": "nan"},
        {"port": "node1", "fence_timeout": "-1"},
        {"port": "node1", "request_dir": "requests"},
        {"port": "node1", "action": "fence"},
        {"port": "node1", "action": ""},
    ],
)
def test_a_call_that_is_not_clear_asks_nobody(cluster: Cluster, options: dict[str, object]) -> None:
    cluster.answer(saying())
    result = Result(cluster.start(cluster.options(**{"action": "off", **options})))
    assert result.code == 1
    assert result.err.startswith("fence_gfs2_recorder: ")
    assert cluster.seen == []


def test_the_logs_have_their_formats_and_one_line_an_event(cluster: Cluster) -> None:
    cluster.answer(saying(message='cut "all"\n[x] ACTION=forged \u202e'))
    assert cluster.fence(gfs2_filesystems="fs-1").code == 0
    plain, readable, detailed = ((cluster.logs / name).read_text().splitlines() for name in LOGS)
    assert len(plain) == len(readable) == len(detailed) == 2
    head = r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] "
    assert re.match(head + r"\[INFO\] Fence off of node1: requested: ", plain[0])
    assert re.match(head + r"ACTION=off TARGET=node1 STATUS=requested DETAILS=waiting", readable[0])
    assert r'STATUS=success DETAILS=cut "all"\n[x] ACTION=forged \u202e' in readable[1]
    event = json.loads(detailed[1])
    assert event["status"] == "success"
    assert event["target_node"] == "node1"
    assert event["gfs2_filesystems"] == ["fs-1"]
    assert event["request_id"] == cluster.seen[0]["request_id"]
    assert all(stat.S_IMODE((cluster.logs / name).stat().st_mode) == 0o640 for name in LOGS)


@pytest.mark.parametrize("obstacle", ["file", "fifo", "loop", "full"])
def test_logs_that_cannot_be_written_change_nothing(cluster: Cluster, obstacle: str) -> None:
    if obstacle == "file":
        cluster.logs.write_text("")
    elif obstacle == "loop":
        cluster.logs.symlink_to(cluster.logs)
    else:
        cluster.logs.mkdir()
        for name in LOGS:
            os.mkfifo(cluster.logs / name) if obstacle == "fifo" else (cluster.logs / name).symlink_to("/dev/full")
    cluster.answer(saying())
    start = time.monotonic()
    result = cluster.fence()
    assert result.code == 0
    assert "no log" in result.err
    assert time.monotonic() - start < 5


def test_many_agents_share_the_logs_without_mixing_lines(cluster: Cluster) -> None:
    cluster.answer(saying(message="m" * 1500))
    running = [cluster.start(cluster.options(action="off", port=f"node{n}")) for n in range(8)]
    assert [Result(process).code for process in running] == [0] * 8
    events = [json.loads(line) for line in (cluster.logs / LOGS[2]).read_text().splitlines()]
    assert sorted(event["target_node"] for event in events if event["status"] == "success") == [
        f"node{n}" for n in range(8)
    ]
    assert len((cluster.logs / LOGS[1]).read_text().splitlines()) == 16


def test_closed_standard_streams_harm_nothing(cluster: Cluster) -> None:
    cluster.answer(saying())
    words = [
        f"--request-dir={cluster.requests}",
        f"--response-dir={cluster.responses}",
        f"--log-dir={cluster.logs}",
    ]
    command = " ".join([*AGENT, *words, "-o off -n node1 -v", "<&- >&- 2>&-"])
    assert subprocess.run(["sh", "-c", command], cwd=ROOT, timeout=30, check=False).returncode == 0
    assert [request["target_node"] for request in cluster.seen] == ["node1"]


@pytest.mark.parametrize("word", ["metadata", "meta-data", "META_DATA"])
def test_metadata_is_what_pacemaker_wants(cluster: Cluster, word: str) -> None:
    result = Result(cluster.start(f"action={word}\n"))
    assert result.code == 0
    root = ET.fromstring(result.out)
    assert root.attrib["name"] == "fence_gfs2_recorder"
    assert [child.tag for child in root] == ["longdesc", "vendor-url", "parameters", "actions"]
    parameters = {p.attrib["name"]: p for p in root.iter("parameter")}
    assert {"action", "port", "plug", "request_dir", "response_dir", "log_dir", "fence_timeout"} <= set(parameters)
    for parameter in parameters.values():
        assert [child.tag for child in parameter] == ["getopt", "content", "shortdesc"]
        assert parameter.attrib["required"] == "0"
        default = parameter[1].attrib.get("default")
        assert default is None or f"(default: {default})" in (parameter[2].text or "")
    assert parameters["request_dir"][1].attrib["default"] == config.REQUEST_DIR
    actions = {action.attrib["name"]: action.attrib for action in root.iter("action")}
    assert actions["on"] == {"name": "on", "automatic": "0"}
    assert set(actions) == {
        "on", "off", "reboot", "status", "monitor", "list", "list-status", "metadata", "validate-all", "manpage",
    }  # fmt: skip


def test_metadata_is_valid_by_the_schema_of_clusterlabs(cluster: Cluster) -> None:
    schema = Path(os.environ.get("FENCE_METADATA_RNG", "/usr/share/cluster/relaxng/metadata.rng"))
    if not schema.exists():
        pytest.skip(f"{schema} is missing: package fence-agents")
    out = Result(cluster.start("action=metadata\n")).out
    try:
        check = subprocess.run(
            ["xmllint", "--noout", "--relaxng", str(schema), "-"],
            input=out,
            text=True,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("xmllint is missing: package libxml2-utils")
    assert check.returncode == 0, check.stderr


def test_help_version_manpage_and_validate_all(cluster: Cluster) -> None:
    assert "--fence-timeout=[seconds]" in Result(cluster.start("", "--help")).out
    assert Result(cluster.start("", "-V")).out.startswith("fence_gfs2_recorder ")
    assert Result(cluster.start("action=manpage\n")).out.startswith(".TH FENCE_GFS2_RECORDER 8")
    assert cluster.call("validate-all", nodename="node1", port="node1").code == 0
    assert cluster.call("validate-all", fence_timeout="x").code == 1

"""fence_gfs2_recorder called for other things than a fence; its options, logs and metadata."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from nvmefence import config
from tests.system.recording import AGENT, LOGS, ROOT, Cluster, Result, saying


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
    result = cluster.fence(fence_timeout=25)
    assert result.code == 0
    assert "no log" in result.err
    assert time.monotonic() - start < 20


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

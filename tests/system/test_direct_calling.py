"""How fence_nvmefence is called, where its settings come from, what it tells of itself and leaves on record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.system.direct import LIMIT_S, LOGS, PROGRAM, ROOT, Node, Result
from tests.system.place import FLEET, MAIN, REMOVED, SLOT_0, SLOT_1, STATE


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_validate_all_looks_at_settings_and_map_and_not_at_the_node(node: Node) -> None:
    for options in ({"port": "node1", "nodename": "node1"}, {}):
        found = node.call("validate-all", **options)
        assert (found.code, found.out, found.err) == (0, "", "")
    for changes, word in (
        ({"deadline": "soon"}, "deadline"),
        ({"quiesce": "later"}, "quiesce"),
        ({"quiesce": "wait:20"}, "leaves nothing of the deadline"),
        ({"backend": "floppy"}, "backend"),
        ({"hosts_file": "none.toml"}, "none.toml"),
        ({"log_dir": "logs"}, "absolute path"),
        ({"delay": "x"}, "delay"),
        ({"settings_file": "none"}, "none"),
    ):
        found = node.call("validate-all", **changes)
        assert (found.code, found.out) == (1, ""), changes
        assert word in found.err


@pytest.mark.parametrize(
    "options",
    [
        {"port": "c1", "plug": "c2"},
        {"port": None, "nodename": None},
        {"port": "../c1"},
        {"port": "c1", "deadline": "soon"},
        {"port": "c1", "deadline": "0"},
        {"port": "c1", "delay": "-1"},
        {"port": "c1", "action": "fence"},
        {"port": "c1", "action": ""},
    ],
)
def test_a_call_that_is_not_clear_cuts_nobody(node: Node, options: dict[str, object]) -> None:
    result = Result(node.start(node.options(**{"action": "off", **options})))
    assert result.code == 1
    assert result.err.startswith("fence_nvmefence: ")
    assert node.cut_off() == set()


def test_the_command_line_does_what_standard_input_does(node: Node) -> None:
    words = ["--hosts-file=hosts.toml", "--simulate", "fleet.toml", "--quiesce=none", f"--audit={node.audit}"]
    result = Result(node.start("port=c2\n", *words, f"--log_dir={node.logs}", "-o", "off", "-nc1", "-v"))
    assert result.code == 0
    assert node.cut_off() == {SLOT_0}
    assert "SIM00001: cut" in result.err


def test_environment_before_parameters_before_the_settings_file(node: Node) -> None:
    (node.path / "n.toml").write_text(f'deadline = 7\nquiesce = "wait:7"\nlog_dir = "{node.path}/logs-file"\n')
    text = node.options(action="off", port="c1", deadline=None, quiesce=None, log_dir=None, settings_file="n.toml")
    found = Result(node.start(text))
    assert (found.code, "quiesce wait:7 leaves nothing of the deadline of 7 s" in found.err) == (1, True)
    assert (node.path / "logs-file" / LOGS[0]).exists()
    found = Result(node.start(f"{text}quiesce=wait:8\n"))
    assert (found.code, "quiesce wait:8 leaves nothing" in found.err) == (1, True)
    found = Result(node.start(f"{text}quiesce=wait:8\n", environment={"NVMEFENCE_QUIESCE": "none"}))
    assert found.code == 0
    other = (node.path / "hosts.toml").read_text().replace("hosts.c2", "hosts.c3")
    (node.path / "other.toml").write_text(other)
    environment = {"NVMEFENCE_HOSTS": "other.toml", "LOG_DIR": f"{node.path}/logs-env", "NVMEFENCE_QUIESCE": "none"}
    assert Result(node.start(node.options(action="off", port="c3"), environment=environment)).code == 0
    assert node.cut_off() == {SLOT_0, SLOT_1}
    assert (node.path / "logs-env" / LOGS[0]).exists()


@pytest.mark.parametrize("action", ["off", "on", "status", "monitor", "list-status", "validate-all"])
@pytest.mark.parametrize("source", ["environment", "file"])
def test_simulated_drives_are_for_a_device_that_asks_for_them(node: Node, action: str, source: str) -> None:
    (node.path / "n.toml").write_text('simulate = "fleet.toml"\n' if source == "file" else "")
    environment = {"NVMEFENCE_SIMULATE": "fleet.toml"} if source == "environment" else {}
    text = node.options(action=action, port="c1", simulate=None, settings_file="n.toml")
    result = Result(node.start(text, environment=environment))
    assert result.code == 1
    assert "the settings say that drives are simulated (fleet.toml), and the device does not" in result.err
    assert node.cut_off() == set()


def test_a_fence_is_in_the_logs_and_in_the_history(node: Node) -> None:
    assert node.fence(target="c1-ib").code == 0
    node.write(FLEET + REMOVED)
    (node.path / STATE).unlink()
    assert node.fence().code == 1
    events = node.events(4)
    assert [event["status"] for event in events] == ["begun", "fenced", "begun", "not-fenced"]
    assert [event["level"] for event in events] == ["INFO", "INFO", "INFO", "ERROR"]
    assert "ACTION=off TARGET=c1-ib STATUS=fenced" in (node.logs / LOGS[1]).read_text()
    assert all((node.logs / name).stat().st_mode & 0o777 == 0o640 for name in LOGS)
    lines = node.lines(2)
    assert [(line["by"], line["result"]) for line in lines] == [
        ("fence_nvmefence", "fenced"), ("fence_nvmefence", "not-fenced"),
    ]  # fmt: skip
    assert lines[0]["request"]["request_id"] == events[0]["request_id"]
    assert (node.audit.stat().st_mode & 0o777, node.audit.parent.stat().st_mode & 0o777) == (0o640, 0o750)
    where = ["--audit", str(node.audit), "--response-dir", str(node.path)]
    done = node.spawn([*MAIN, "history", "--json", "--host", "c1", *where])
    assert (done.returncode, done.stderr) == (0, "")
    good, bad = json.loads(done.stdout)["records"]
    assert (good["result"], good["target_node"], good["hosts"], good["drives"]) == (
        "fenced", "c1-ib", ["c1"], {"cut": 3, "total": 3},
    )  # fmt: skip
    assert (good["recorder_node"], good["simulated"], good["action"]) == (os.uname().nodename, True, "off")
    assert 0 < good["seconds"]["fence"] < good["seconds"]["total"] < LIMIT_S
    assert bad["seconds"]["total"] > bad["seconds"]["fence"] > 0
    assert (bad["result"], bad["drives"]) == ("not-fenced", {"cut": 2, "total": 2})
    shown = node.spawn([*MAIN, "history", *where]).stdout
    assert "c1-ib (c1)" in shown
    assert "not-fenced SIMULATED" in shown


@pytest.mark.parametrize("obstacle", ["file", "fifo", "loop", "full"])
def test_logs_and_audit_that_cannot_be_written_change_nothing(node: Node, obstacle: str) -> None:
    node.audit.parent.mkdir()
    if obstacle == "file":
        node.logs.write_text("")
        node.audit.mkdir()
    elif obstacle == "loop":
        node.logs.symlink_to(node.logs)
        node.audit.symlink_to(node.audit)
    else:
        node.logs.mkdir()
        for path in (*(node.logs / name for name in LOGS), node.audit):
            os.mkfifo(path) if obstacle == "fifo" else path.symlink_to("/dev/full")
    start = time.monotonic()
    result = node.fence()
    assert result.code == 0
    assert "fence_nvmefence: no log: " in result.err
    assert f"fence_nvmefence: no audit line: {node.audit}: " in result.err
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("options", [{"log_dir": "logs"}, {"audit": "audit.jsonl"}])
def test_places_for_records_that_cannot_be_meant_keep_no_fence_from_its_work(
    node: Node, options: dict[str, object]
) -> None:
    default = f'log_dir = "{node.path}/default"\naudit = "{node.path}/default.jsonl"\n'
    (node.path / "n.toml").write_text(default)
    result = node.call("off", port="c1", settings_file="n.toml", **options)
    assert result.code == 0
    assert "logs and audit go where they go by default" in result.err
    assert node.cut_off() == {SLOT_0}
    assert (node.path / "default" / LOGS[0]).exists()
    assert (node.path / "default.jsonl").exists()


def test_an_audit_that_hangs_holds_up_a_success_for_half_a_second(node: Node) -> None:
    program = (
        "import time\nfrom nvmefence.watcher import audit\naudit.append = lambda *_: time.sleep(8)\n"
        "from nvmefence.agents import fence_nvmefence\nfence_nvmefence.console()"
    )
    start = time.monotonic()
    result = Result(node.start(node.options(action="off", port="c1"), program=["-c", program]))
    assert result.code == 0
    assert "did not take it within 0.5 s" in result.said
    assert time.monotonic() - start < 7


def test_a_defect_is_never_success(node: Node) -> None:
    program = (
        "from nvmefence.agents import at_drives, fence_nvmefence\n"
        "at_drives._off = lambda *_: 1 / 0\nfence_nvmefence.console()"
    )
    process = node.start(node.options(action="off", port="c1"), program=["-c", program])
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert "off of c1 is not confirmed: defect: ZeroDivisionError" in err


def test_nothing_that_a_drive_says_becomes_a_line_of_its_own(node: Node) -> None:
    node.write(FLEET + '\n[[drive]]\nnumber = 1\nserial = "E\\u001b[2J"\nanswers = "removed"\n', hosts=(
        'version = 1\n[drives]\nserials = ["E\\u001b[2J\\nfence"]\n[hosts.c1]\nslot = 0\n'
    ))  # fmt: skip
    result = node.fence()
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "\x1b" not in result.err


def test_closed_standard_streams_harm_nothing(node: Node) -> None:
    words = "--hosts-file=hosts.toml --simulate=fleet.toml --quiesce=none -o off -n c1 -v"
    places = f"--log-dir={node.logs} --audit={node.audit}"
    command = " ".join([sys.executable, *PROGRAM, words, places, "<&- >&- 2>&-"])
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", command], cwd=node.path, env=environment, timeout=LIMIT_S, check=False)
    assert done.returncode == 0
    assert node.cut_off() == {SLOT_0}


@pytest.mark.parametrize("word", ["metadata", "meta-data", "META_DATA"])
def test_metadata_is_that_of_a_fabric_agent(node: Node, word: str) -> None:
    result = Result(node.start(f"action={word}\n"))
    assert (result.code, result.err) == (0, "")
    root = ET.fromstring(result.out)
    assert root.attrib["name"] == "fence_nvmefence"
    assert [child.tag for child in root] == ["longdesc", "vendor-url", "parameters", "actions"]
    parameters = {p.attrib["name"]: p for p in root.iter("parameter")}
    assert {"action", "port", "plug", "hosts_file", "deadline", "quiesce", "backend"} <= set(parameters)
    assert (parameters["simulate"][2].text or "").startswith("FOR TESTS ONLY")
    for parameter in parameters.values():
        assert [child.tag for child in parameter] == ["getopt", "content", "shortdesc"]
        assert parameter.attrib["required"] == "0"
    actions = {action.attrib["name"]: action.attrib for action in root.iter("action")}
    assert actions["on"] == {"name": "on", "automatic": "0"}
    assert set(actions) == {
        "on", "off", "status", "monitor", "list", "list-status", "metadata", "validate-all", "manpage",
    }  # fmt: skip


def test_metadata_is_valid_by_the_schema_of_clusterlabs(node: Node) -> None:
    schema = Path(os.environ.get("FENCE_METADATA_RNG", "/usr/share/cluster/relaxng/metadata.rng"))
    if not schema.exists():
        pytest.skip(f"{schema} is missing: package fence-agents")
    out = Result(node.start("action=metadata\n")).out
    command = ["xmllint", "--noout", "--relaxng", str(schema), "-"]
    try:
        check = subprocess.run(command, input=out, text=True, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("xmllint is missing: package libxml2-utils")
    assert check.returncode == 0, check.stderr


def test_help_version_and_manpage(node: Node) -> None:
    help_text = Result(node.start("", "--help")).out
    assert "--deadline=[seconds]" in help_text
    assert "environment NVMEFENCE_DEADLINE takes precedence" in help_text
    assert Result(node.start("", "-V")).out.startswith("fence_nvmefence ")
    assert Result(node.start("action=manpage\n")).out.startswith(".TH FENCE_NVMEFENCE 8")


@pytest.mark.parametrize(
    ("action", "unwanted"),
    [
        ("metadata", {"nvmefence.settings", "nvmefence.agents.at_map"}),
        ("list", {"asyncio", "nvmefence.fencing.fence"}),
    ],
)
def test_what_asks_no_drive_does_not_load_what_does(node: Node, action: str, unwanted: set[str]) -> None:
    program = (
        "import os, sys\nfrom nvmefence.agents import fence_nvmefence\n"
        f"os._exit = lambda code: sys.exit(code or bool({unwanted!r} & sys.modules.keys()))\n"
        "fence_nvmefence.console()"
    )
    assert Result(node.start(node.options(action=action), program=["-c", program])).code == 0

"""The reporter's unit file under a real systemd: its sandbox lets it report, and do nothing else; it comes back."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml

from tests.nnf.answers import write
from tests.nnf.api_server import ApiServer, kubeconfig, make_keys, serving
from tests.nnf.resources import RABBIT, node
from tests.system.service_room import TARGET, ServiceRoom, missing
from tests.system.watching import until

ROOT = Path(__file__).parents[2]
UNIT = "nvmefence-nnf-report.service"
FILE = ROOT / "packaging" / "systemd" / UNIT
WHY_NOT = missing()


@pytest.mark.skipif(bool(WHY_NOT) and os.environ.get("NVMEFENCE_LAB") != "require", reason=WHY_NOT)
def test_the_service_reports_in_its_sandbox_and_reads_new_credentials(tmp_path: Path) -> None:
    for folder in ("responses", "room"):
        (tmp_path / folder).mkdir()
    keys, config, responses = make_keys(tmp_path), tmp_path / "kubeconfig", tmp_path / "responses"
    drop_in = (
        # Another user could not read where this project lies; test_report_program has it run as another user.
        "[Service]\nUser=root\nGroup=root\nProtectHome=no\nPrivateTmp=no\nRestartSec=100ms\nExecStart=\n"
        f"ExecStart={sys.executable} -m nvmefence.nnf.report --kubeconfig {config} $REPORT_OPTIONS\n"
        f'Environment=PYTHONPATH={ROOT} PYTHONDONTWRITEBYTECODE=1 "REPORT_OPTIONS=--rabbit {RABBIT} --rescan 0.2 '
        f'--response-dir {responses}"\n'
    )
    units = {UNIT: FILE.read_text(), f"{UNIT}.d/test.conf": drop_in, "network-online.target": TARGET}
    server = ApiServer(node())
    with ServiceRoom(tmp_path / "room", units) as room:
        assert room.run("ip", "link", "set", "lo", "up").returncode == 0
        with serving(server, keys, room.first):
            kubeconfig(server, config, keys)
            started = room.run("systemctl", "start", UNIT)
            assert started.returncode == 0, room.systemctl("status", UNIT)
            write(responses, "r-1", "c2")
            until(lambda: server.statuses()["c2"] == "Fenced", "it reports")
            until(
                lambda: "says what the responses show; fenced by 1" in room.shows(UNIT, "StatusText"), "it says so"
            )
            before = room.shows(UNIT, "MainPID")
            server.token = "another"
            kubeconfig(server, config, keys, token="another")
            write(responses, "r-2", "c1")
            until(lambda: server.statuses()["c1"] == "Fenced", "it has read the new credentials")
            assert room.shows(UNIT, "MainPID") != before
            assert room.run("systemctl", "stop", UNIT).returncode == 0
            assert room.shows(UNIT, "Result") == "success"
    assert server.refused == []


def test_the_rights_in_the_cluster_are_those_that_are_used_and_no_others() -> None:
    documents = list(yaml.safe_load_all((ROOT / "packaging/kubernetes/nvmefence-nnf-report.yaml").read_text()))
    (role,) = [one for one in documents if one["kind"] == "Role"]
    rights = {
        (group, resource, name, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule["resourceNames"]
        for verb in rule["verbs"]
    }
    assert rights == {
        ("nnf.cray.hpe.com", "nnfnodes", "nnf-nlc", "get"),
        ("nnf.cray.hpe.com", "nnfnodes/status", "nnf-nlc", "patch"),
    }


def test_the_user_of_the_unit_is_made_and_can_read_the_responses() -> None:
    unit = FILE.read_text()
    assert "User=nvmefence-report\nGroup=nvmefence-report\n" in unit
    assert "\nu nvmefence-report " in (ROOT / "packaging/sysusers.d/nvmefence-nnf-report.conf").read_text()
    tmpfiles = (ROOT / "packaging/tmpfiles.d/nvmefence-nnf-report.conf").read_text()
    assert "\nZ /localdisk/gfs2-fencing/responses ~2750 root nvmefence-report -\n" in tmpfiles

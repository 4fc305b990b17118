"""What the reporter is given: rights in a cluster, a user, the responses. tests/docs/test_reporter.py runs it."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
UNIT = "nvmefence-nnf-report.service"
FILE = ROOT / "packaging" / "systemd" / UNIT


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

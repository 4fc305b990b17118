"""What is reported to Kubernetes, and what is not: against a server that checks each request."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nvmefence.errors import ConfigError
from nvmefence.nnf.cluster import ClusterError, NnfNodeResource, Trouble, connect
from nvmefence.nnf.confirmed import Responses
from nvmefence.nnf.reporter import Reporter
from nvmefence.spool.response import RESPONSE_LIMIT
from nvmefence.watcher.journal import Journal
from tests.nnf.answers import evidence, write
from tests.nnf.api_server import TOKEN, ApiServer, kubeconfig, make_keys, serving
from tests.nnf.resources import RABBIT, node

CURRENT = {"c1": "Ready", "c2": "Ready"}


class Desk:
    """A reporter with a clock that is set by hand."""

    def __init__(self, folder: Path, server: ApiServer, **options: Any) -> None:
        self.server = server
        self.answers = folder / "responses"
        self.answers.mkdir(exist_ok=True)
        self.now = 1000.0
        self.said: list[str] = []
        config = str(kubeconfig(server, folder / "kubeconfig"))
        self.responses = Responses(str(self.answers), simulated=options.pop("simulated", False))
        self.reporter = Reporter(
            self.responses, connect(RABBIT, config, None, 0.3), RABBIT, Journal(self.said.append, "plain"),
            clock=lambda: self.now, jitter=lambda: 1.0, **options,
        )  # fmt: skip

    def turn(self, after: float = 0.0) -> dict[str, str]:
        """Let it have a turn some seconds later; return what the server says then."""
        self.now += after
        self.reporter.turn()
        return self.server.statuses()

    def archive(self, path: Path) -> None:
        """Put a response away, as an unfence does."""
        (self.answers / "archive").mkdir(exist_ok=True)
        path.rename(self.answers / "archive" / path.name)

    def heard(self, text: str) -> bool:
        return any(text in one for one in self.said)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with serving(ApiServer(node())) as running:
        yield running
    assert running.refused == []


@pytest.fixture
def desk(tmp_path: Path, server: ApiServer) -> Desk:
    return Desk(tmp_path, server)


def test_a_confirmed_fence_is_said_of_its_server_and_of_no_other(desk: Desk) -> None:
    write(desk.answers, "r-1", "c2")
    assert desk.turn() == {"c1": "Ready", "c2": "Fenced"}
    servers = desk.server.node["status"]["servers"]
    assert [one["health"] for one in servers] == ["OK", "OK", "Critical", "OK", "OK"]
    assert desk.heard("NnfNode rabbit-1/nnf-nlc: c2 is Fenced (response r-1.json)")


def test_what_is_said_already_is_not_said_again(desk: Desk) -> None:
    write(desk.answers, "r-1", "c2")
    for _ in range(5):
        desk.turn(40)
    write(desk.answers, "r-2", "c2")
    desk.turn(40)
    assert len(desk.server.patches) == 1


def test_a_reporter_that_starts_anew_finds_out_by_itself(tmp_path: Path, desk: Desk) -> None:
    write(desk.answers, "r-1", "c2")
    desk.turn()
    Desk(tmp_path, desk.server).turn()
    assert len(desk.server.patches) == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"success": False, "message": "NOT fenced"}, ""),
        ({"action_performed": "on", "evidence": None}, ""),
        ({"action_performed": "on"}, ""),
        ({"evidence": None}, "it has no evidence of ours"),
        ({"evidence": {"storage_groups": 1}}, "it has no evidence of ours"),
        ({"evidence": evidence("c2", read_back={"1": [2]})}, "its evidence contradicts it"),
        ({"evidence": {**evidence("c2"), "confirmed": False}}, "its evidence contradicts it"),
        ({"evidence": {**evidence("c2"), "missing": ["1 of 2 drives missing"]}}, "its evidence contradicts it"),
        ({"evidence": {**evidence("c2"), "drives": []}}, "its evidence contradicts it"),
        ({"evidence": evidence("c2", simulated=True)}, "its drives were simulated"),
        ({"evidence": {k: v for k, v in evidence("c2").items() if k != "simulated"}}, "its drives were simulated"),
        ({"evidence": {"omitted": "too large"}, "message": "SIMULATED: Fenced c2"}, "its drives were simulated"),
    ],
)  # fmt: skip
def test_what_is_no_confirmed_fence_is_not_reported(desk: Desk, fields: dict[str, Any], says: str) -> None:
    write(desk.answers, "r-1", "c2", **fields)
    assert desk.turn() == CURRENT
    assert desk.heard(f"response r-1.json claims a fence, and is not reported: {says}") == bool(says)
    assert desk.server.patches == []


def test_a_fence_whose_evidence_was_too_large_is_reported(desk: Desk) -> None:
    large = {**evidence("c2"), "padding": "x" * RESPONSE_LIMIT}
    write(desk.answers, "r-1", "c2", evidence=large)
    assert desk.turn()["c2"] == "Fenced"


def test_files_that_are_no_responses_are_passed_over(desk: Desk) -> None:
    genuine = write(desk.answers, "r-1", "c1")
    for name, mode in (("group-writable.json", 0o660), (".r-3.json", 0o640), ("r-4.json.tmp", 0o640)):
        (desk.answers / name).write_bytes(genuine.read_bytes().replace(b"c1", b"c2"))
        (desk.answers / name).chmod(mode)
    (desk.answers / "half.json").write_bytes(genuine.read_bytes()[:-20].replace(b"c1", b"c2"))
    (desk.answers / "link.json").symlink_to(genuine)
    os.mkfifo(desk.answers / "pipe.json")
    (desk.answers / "directory.json").mkdir()
    assert desk.turn() == {"c1": "Fenced", "c2": "Ready"}


def test_names_in_the_request_and_in_the_map_both_find_the_server(desk: Desk) -> None:
    write(desk.answers, "r-1", "c2.example.org", evidence=evidence("c2"))
    assert desk.turn()["c2"] == "Fenced"


def test_a_host_that_the_rabbit_does_not_have_is_named_once(desk: Desk) -> None:
    write(desk.answers, "r-1", "elsewhere")
    desk.turn()
    desk.turn(60)
    assert sum("has no server called elsewhere" in one for one in desk.said) == 1


def test_a_host_that_is_fenced_no_longer_is_left_to_its_node_manager(desk: Desk) -> None:
    def manager(found: dict[str, Any]) -> None:
        for one in found["status"]["servers"]:
            if one["status"] == "Offline":
                one["status"] = "Ready"  # which it, and nobody else, knows by the link

    answer = write(desk.answers, "r-1", "c2")
    desk.turn()
    desk.archive(answer)
    desk.server.changed = manager
    assert desk.turn(5) == CURRENT
    assert desk.server.patches[-1][-1]["value"] == "Offline"
    assert desk.heard("c2 is fenced no longer, so it is Offline until its node manager says what it is")


@pytest.mark.parametrize("standing", [None, {"evidence": None}, {"action_performed": "on", "evidence": None}])
def test_only_what_was_fenced_by_us_and_is_claimed_by_nobody_is_handed_back(
    desk: Desk, standing: dict[str, Any] | None
) -> None:
    desk.server.put("c2", "Fenced")
    if standing is not None:
        desk.archive(write(desk.answers, "r-1", "c2"))
        write(desk.answers, "r-2", "c2", **standing)
    assert desk.turn()["c2"] == "Fenced"


def test_one_host_is_handed_back_beside_one_that_is_claimed(desk: Desk) -> None:
    for host in ("c1", "c2"):
        desk.server.put(host, "Fenced")
        desk.archive(write(desk.answers, f"r-{host}", host))
    write(desk.answers, "r-3", "c2", evidence=None)
    assert desk.turn() == {"c1": "Offline", "c2": "Fenced"}


def test_the_rabbit_itself_is_never_said_to_be_fenced(desk: Desk) -> None:
    write(desk.answers, "r-1", RABBIT)
    desk.turn()
    assert desk.server.patches == []


def test_a_status_can_be_left_as_it_is(tmp_path: Path, server: ApiServer) -> None:
    desk = Desk(tmp_path, server, hand_back=False)
    answer = write(desk.answers, "r-1", "c2")
    desk.turn()
    desk.archive(answer)
    assert desk.turn(60)["c2"] == "Fenced"


def test_a_directory_that_is_gone_or_unreadable_says_nothing_about_anybody(desk: Desk) -> None:
    answer = write(desk.answers, "r-1", "c2")
    desk.turn()
    desk.archive(answer)
    away = desk.answers.rename(desk.answers.parent / "away")
    assert desk.turn(60)["c2"] == "Fenced"
    assert desk.heard("responses: cannot open")
    away.rename(desk.answers)
    assert desk.turn(60)["c2"] == "Offline"
    assert desk.heard("responses: well again")


def test_who_is_overruled_says_it_ever_less_often_and_says_why(desk: Desk) -> None:
    def overrule(found: dict[str, Any]) -> None:
        for one in found["status"]["servers"]:
            one["status"] = "Ready"

    desk.server.changed = overrule
    write(desk.answers, "r-1", "c2")
    for _ in range(300):
        desk.turn(2)
    within_ten_minutes = len(desk.server.patches)
    assert 5 <= within_ten_minutes <= 10
    assert sum("the node manager does not find its response" in one for one in desk.said) == 1
    assert "is set back by others again and again: c2" in desk.reporter.status
    desk.server.changed = lambda _node: None
    for _ in range(60):
        desk.turn(5)
    assert desk.server.statuses()["c2"] == "Fenced"
    for _ in range(14):
        desk.turn(5)
    assert "says what the responses show; fenced by 1" in desk.reporter.status
    desk.server.put("c2", "Ready")
    assert desk.turn(31)["c2"] == "Fenced"  # at once again, as the quarrel is over


def test_a_conflict_in_a_quarrel_is_resolved_as_well(desk: Desk) -> None:
    write(desk.answers, "r-1", "c2")
    desk.turn()
    desk.server.put("c2", "Ready")
    desk.server.faults = ["", "", "409"]
    desk.reporter._cluster = connect(RABBIT, str(desk.answers.parent / "kubeconfig"), None, 1.0)
    assert desk.turn(2)["c2"] == "Fenced"


@pytest.mark.parametrize("fault", ["409", "422"])
def test_a_conflict_is_resolved_by_reading_anew(desk: Desk, fault: str) -> None:
    write(desk.answers, "r-1", "c2")
    desk.server.faults = ["", "", fault]  # v1alpha11, which is not served; v1alpha10; the patch
    assert desk.turn()["c2"] == "Fenced"
    assert [method for method, _ in desk.server.requests].count("PATCH") == 2


@pytest.mark.parametrize("what", ["places", "names"])
def test_servers_that_are_others_meanwhile_are_not_mixed_up(desk: Desk, what: str) -> None:
    write(desk.answers, "r-1", "c2")
    resource = connect(RABBIT, str(desk.answers.parent / "kubeconfig"), None, 1.0)
    stale = resource.get()
    servers = desk.server.node["status"]["servers"]
    if what == "places":
        servers[1], servers[2] = servers[2], servers[1]
    else:
        servers[1]["hostname"], servers[2]["hostname"] = servers[2]["hostname"], servers[1]["hostname"]

    class Once(NnfNodeResource):
        def __init__(self) -> None:
            self.stale = [stale]

        def get(self) -> dict[str, Any]:
            return self.stale.pop() if self.stale else resource.get()

        def patch(self, operations: Any) -> None:
            resource.patch(operations)

    desk.reporter._cluster = Once()
    assert desk.turn() == {"c1": "Ready", "c2": "Fenced"}


@pytest.mark.parametrize("fault", ["500", "410", "429", "503", "html", "drop", "slow"])
def test_a_server_in_trouble_is_asked_again_with_growing_pauses(desk: Desk, fault: str) -> None:
    desk.server.delay_s = 0.6
    write(desk.answers, "r-1", "c2")
    desk.server.faults = [fault] * 3
    assert desk.turn() == CURRENT
    assert desk.heard("error: cluster: ")
    asked = len(desk.server.requests)
    desk.turn(0.5)
    assert len(desk.server.requests) == asked
    desk.turn(0.6)
    desk.turn(1.0)
    assert len(desk.server.requests) == asked + 1
    desk.turn(1.1)
    assert desk.turn(4.1)["c2"] == "Fenced"
    assert desk.heard("cluster: well again")


def test_a_server_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    with serving(ApiServer(node())) as server:
        desk = Desk(tmp_path, server)
    write(desk.answers, "r-1", "c2")
    for _ in range(20):
        desk.turn(60)
    assert sum("error: cluster: " in one for one in desk.said) == 1
    assert desk.reporter.in_trouble


def test_a_missing_right_is_said_and_waited_for(desk: Desk) -> None:
    desk.server.forbidden = True
    write(desk.answers, "r-1", "c2")
    assert desk.turn() == CURRENT
    assert desk.heard("It needs the right to get nnfnodes and to patch nnfnodes/status")
    desk.server.forbidden = False
    assert desk.turn(61)["c2"] == "Fenced"


def test_credentials_that_are_not_believed_end_it(desk: Desk) -> None:
    desk.server.token = "another"
    with pytest.raises(ClusterError) as caught:
        desk.turn()
    assert caught.value.kind is Trouble.UNAUTHORIZED


def test_a_rabbit_that_is_not_there_is_another_trouble_than_a_version_that_is_not(desk: Desk) -> None:
    desk.server.node["metadata"]["namespace"] = "rabbit-2"
    desk.turn()
    assert desk.heard("Is the Rabbit's name right? See --rabbit")
    desk.server.versions = ("v1alpha8",)
    desk.turn(61)
    assert desk.heard("the server has NnfNode in none of the versions v1alpha11, v1alpha10. See --api-version")


def test_the_newest_known_version_is_spoken_also_after_an_upgrade(desk: Desk) -> None:
    write(desk.answers, "r-1", "c2")
    desk.turn()
    assert desk.server.requests[-1][1].startswith("/apis/nnf.cray.hpe.com/v1alpha10/")
    desk.server.versions = ("v1alpha11",)
    write(desk.answers, "r-2", "c1")
    assert desk.turn(31)["c1"] == "Fenced"
    assert desk.server.requests[-1][1].startswith("/apis/nnf.cray.hpe.com/v1alpha11/")


def test_a_resource_that_is_not_filled_in_is_waited_for(desk: Desk) -> None:
    write(desk.answers, "r-1", "c2")
    status = desk.server.node.pop("status")
    desk.reporter.turn()
    assert desk.heard("has no status.servers yet")
    desk.server.node["status"] = status
    assert desk.turn(61)["c2"] == "Fenced"


def test_a_dry_run_changes_nothing(tmp_path: Path, server: ApiServer) -> None:
    desk = Desk(tmp_path, server, dry_run=True)
    write(desk.answers, "r-1", "c2")
    assert desk.turn() == CURRENT
    assert desk.heard("dry run: would say: NnfNode rabbit-1/nnf-nlc: c2 is Fenced")


def test_the_service_account_of_a_pod_is_taken_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = make_keys(tmp_path)
    (tmp_path / "ca.crt").write_bytes((keys / "tls.crt").read_bytes())
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "namespace").write_text("anywhere")
    with serving(ApiServer(node()), keys) as server:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", server.url.rpartition(":")[2])
        found = connect(RABBIT, None, None, 1.0, service_account=str(tmp_path)).get()
        assert found["metadata"]["namespace"] == RABBIT


def test_a_kubeconfig_may_have_the_certificate_in_it(tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    with serving(ApiServer(node()), keys) as server:
        config = kubeconfig(server, tmp_path / "kubeconfig", keys, embedded=True)
        (tmp_path / "tls.crt").unlink()
        assert connect(RABBIT, str(config), None, 1.0).get()["kind"] == "NnfNode"


def test_a_server_with_a_certificate_of_somebody_elses_is_not_spoken_to(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    ours, theirs = make_keys(tmp_path / "ours"), make_keys(tmp_path / "theirs")
    with serving(ApiServer(node()), theirs) as server:
        config = str(kubeconfig(server, tmp_path / "kubeconfig", ours))
        with pytest.raises(ClusterError, match="certificate verify failed"):
            connect(RABBIT, config, None, 1.0).get()
        assert server.requests == []


@pytest.mark.parametrize("text", ["", "{", json.dumps({"clusters": []}), "- 1"])
def test_a_kubeconfig_that_cannot_be_used_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "kubeconfig").write_text(text)
    with pytest.raises(ConfigError, match=r"no way to the cluster|no current context"):
        connect(RABBIT, str(tmp_path / "kubeconfig"), None, 1.0)

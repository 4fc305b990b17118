"""The documentation's commands at a node of a real Pacemaker: what it says works, and what it says does not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cluster import fencer, nodes
from tests.cluster.fencer import Fencer
from tests.cluster.nodes import Cluster
from tests.docs import manual
from tests.docs.machine import ATTACHMENTS, MAP, Machine, readme_map
from tests.docs.scenes import Desk, Node
from tests.docs.steps import Step, follow

pytestmark = pytest.mark.cluster
DEVICE = "fence-c2"
CREATE = (
    "pcs stonith create fence-c2 fence_gfs2_recorder pcmk_host_list=compute-2 "
    "fence_timeout=60 pcmk_off_timeout=70 pcmk_reboot_timeout=70"
)
ENVIRONMENT = "/etc/default/pacemaker"
OLD_S = 60.0


def newest(desk: Desk) -> str:
    return desk.machine.response()


def compute_2_is_cut_off(desk: Desk) -> None:
    assert desk.machine.cut_off() == {"compute-2": ATTACHMENTS}


def it_fences_compute_1_too(node: Node) -> None:
    done = node.cluster.pcs("stonith", "fence", "compute-1")
    assert done.returncode == 0, done.stderr
    assert node.machine.cut_off() == {"compute-1": ATTACHMENTS}


def fail_a_fence(node: Node) -> None:
    """Have a fence fail for lack of a watcher, and let the watcher's last sign of life grow old."""
    node.stop_watcher()
    node.room.must("pcs", "stonith", "update", DEVICE, "fence_timeout=2", "pcmk_reboot_retries=1")
    assert node.fence().returncode == 1
    then = time.time() - OLD_S
    os.utime(node.machine.inside("/localdisk/gfs2-fencing/requests/.watcher"), (then, then))


def miss_a_drive(node: Node) -> None:
    node.machine.inside(MAP).write_text(readme_map().replace("count = 18", "count = 19"))


def miss_none(node: Node) -> None:
    node.machine.inside(MAP).write_text(readme_map())


def waits(seconds: int) -> partial[None]:
    return partial(Node.waits, seconds=seconds)


INTEGRATION: list[Step[Node]] = [
    Step(CREATE, never=["."]),
    Step("pcs stonith describe fence_gfs2_recorder", says=[r"^  fence_timeout: .* \(default: 60\)"]),
    Step("pcs stonith config fence-c2", says=["fence_timeout=60", "pcmk_off_timeout=70"]),
    Step("pcs stonith fence compute-2", says=["Node: compute-2 fenced"], after=compute_2_is_cut_off),
    Step("ls -l /localdisk/gfs2-fencing/requests/", says=["^total 0$"], never=["json"]),
    Step("ls -l /localdisk/gfs2-fencing/responses/", says=[r"^-rw.* ID\.json$".replace("ID", "[-0-9a-f]{36}")]),
    Step("tail /var/log/gfs2-fencing/fence-events-readable.log", says=["TARGET=compute-2 STATUS=success"]),
    Step("nvmefence history --host compute-2 --last 1", says=["compute-2 +reboot +rabbit-node-1 +fenced"]),
    Step("nvmefence explain ID", says=["compute-2 is fenced"], fill={"ID": newest}),
    Step("nvmefence status --host compute-2", says=["4 +none$"], never=["attached"]),
]
ADVICE: list[Step[Node]] = [
    Step('pcs resource update fence-c2 meta env="FENCE_TIMEOUT=90" meta env="LOG_DIR=/custom/log/path"',
         exit=1, says=["duplicate option 'env'"]),
    Step('pcs stonith update fence-c2 meta env="FENCE_TIMEOUT=90"', never=["."], after=waits(60)),
    Step("pcs stonith update fence-c2 log-dir=/custom/log/path", exit=1, says=["invalid stonith option 'log-dir'"]),
    Step("pcs resource update fence-c2 op monitor interval=60s params log-dir=/custom/log/path", exit=1,
         says=["log-dir is not a valid op option"]),
    Step("pcs stonith update fence-c2 fence_timeout=90 pcmk_off_timeout=100 pcmk_reboot_timeout=100",
         never=["."], after=waits(90)),
    Step("pcs resource update fence-c2 fence_timeout=90", exit=None, says=["pcs stonith update"]),
    Step("pcs property set stonith-timeout=80s"),
    Step("pcs property set stonith-timeout=140s"),
    Step("pcs stonith update fence-c2 fence_timeout=120 pcmk_off_timeout=130 pcmk_reboot_timeout=130",
         never=["."], after=waits(120)),
]  # fmt: skip
FAILURE: list[Step[Node]] = [
    Step("grep stderr: /var/log/pacemaker/pacemaker.log", before=fail_a_fence,
         says=["no response within 2 s; is the watcher running?"]),
    Step("tail /var/log/gfs2-fencing/fence-events-readable.log", says=["STATUS=timeout .*no response within 2 s"]),
    Step("fence_gfs2_recorder --action=monitor; echo $?", says=["last sign of life", "^1$"]),
    Step("pcs stonith history", says=["reboot of compute-2 failed"], never=["no response"]),
    Step("pcs status", says=["reboot of compute-2 .* last failed"], never=["no response"]),
    Step("pcs stonith cleanup fence-c2", says=["Cleaned up fence-c2"]),
    Step("nvmefence detach --host compute-2 && pcs stonith confirm compute-2 --force", before=miss_a_drive,
         exit=5, says=["NOT fenced compute-2"], never=["confirmed fenced"]),
    Step("nvmefence detach --host compute-2 && pcs stonith confirm compute-2 --force", before=miss_none,
         says=["compute-2 confirmed fenced"]),
]  # fmt: skip
FOR_ALL: list[Step[Node]] = [
    Step(
        'pcs stonith create fence-computes fence_gfs2_recorder pcmk_host_list="compute-1 compute-2" '
        "fence_timeout=60 pcmk_off_timeout=70 pcmk_reboot_timeout=70",
        never=["."], after=it_fences_compute_1_too,
    ),
]  # fmt: skip
STEPS = [*INTEGRATION, *ADVICE, *FAILURE, *FOR_ALL]


@pytest.fixture(scope="module")
def cluster(pacemaker: None, machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give a cluster of one node, on the machine."""
    machine.reset(readme_map())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes, "Room", machine.room)
        cluster = Cluster(["rabbit-node-1"], tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture
def node(cluster: Cluster, machine: Machine) -> Iterator[Node]:
    """Give its node, with a watcher that serves and no fence device."""
    machine.reset(readme_map())
    node = Node(machine, cluster)
    node.start_watcher()
    yield node
    node.kill_watcher()
    for device in cluster.pcs("stonith", "status").stdout.split():
        if device.startswith("fence-"):
            cluster.pcs("stonith", "delete", device, "--force")


@pytest.fixture
def device(node: Node) -> Node:
    """Give the node with the device that the documentation creates."""
    follow(node, [Step(CREATE)])
    return node


def test_the_integration_is_tested_as_written(node: Node) -> None:
    follow(node, INTEGRATION)


def test_advice_is_refused_or_does_nothing_and_what_is_said_instead_works(device: Node) -> None:
    follow(device, ADVICE)


def test_a_fence_that_fails_leaves_its_reason_where_it_is_said_to_be(device: Node) -> None:
    follow(device, FAILURE)


def test_one_device_fences_several_nodes(node: Node) -> None:
    follow(node, FOR_ALL)


def test_the_environment_of_pacemakerd_takes_precedence_over_the_device(
    pacemaker: None, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.reset(readme_map())
    line = "FENCE_TIMEOUT=75"
    assert f"`{line}`" in (manual.ROOT / "docs/pacemaker.md").read_text()
    machine.inside(ENVIRONMENT).write_text(f"{line}\n")
    reads = f"set -a; . {ENVIRONMENT}; set +a"  # as the unit file of Pacemaker has it read
    monkeypatch.setattr(fencer, "Room", partial(machine.room, first=reads))
    alone = Fencer(tmp_path / "fencer")
    try:
        desk = Desk(machine, alone.room)
        desk.start_watcher()
        alone.register("storage", pcmk_host_list="compute-2", fence_timeout=60)
        assert alone.admin("--reboot", "compute-2").returncode == 0
        assert "STATUS=requested DETAILS=waiting 75 s" in machine.events()
        compute_2_is_cut_off(desk)
    finally:
        alone.room.kill()
        machine.inside(ENVIRONMENT).unlink()


def test_an_agent_that_pacemaker_kills_says_requested_and_nothing_more(
    pacemaker: None, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.reset(readme_map())
    monkeypatch.setattr(fencer, "Room", machine.room)
    alone = Fencer(tmp_path / "fencer")
    try:
        alone.room.must("systemd-tmpfiles", "--create", "nvmefence.conf")
        alone.register("storage", pcmk_host_list="compute-2", fence_timeout=60, pcmk_reboot_timeout=1)
        assert alone.admin("--reboot", "compute-2").returncode != 0
        *_, last = machine.events().splitlines()
        assert "STATUS=requested" in last
    finally:
        alone.room.kill()

"""The documentation's commands for the direct agent, at a node of a real Pacemaker."""

from __future__ import annotations

import pytest

from nvmefence.agents import convention
from nvmefence.agents.fence_nvmefence import AGENT
from nvmefence.settings import Settings
from tests.docs import manual
from tests.docs.scenes import Node
from tests.docs.steps import Step, follow
from tests.docs.test_cluster import cluster, compute_2_is_cut_off, node  # noqa: F401 (fixtures)

PAGE = "docs/direct-agent.md"
SIMULATE = "simulate=/localdisk/fleet.toml"
NODE = '<node id="9" uname="compute-2"/>'
ENTRY = r"s/^nodelist {/&\nnode {\nring0_addr: 10.99.0.9\nname: compute-2\nnodeid: 9\n}/"


def know_compute_2(node: Node) -> None:  # noqa: F811
    """Have the cluster know compute-2, and fence emulated drives, which a device has to ask for."""
    node.room.must("cibadmin", "--create", "--scope", "nodes", "--xml-text", NODE)
    node.room.must("sed", "--in-place", ENTRY, "/etc/corosync/corosync.conf")
    node.room.must("pcs", "stonith", "update", "direct-c2", SIMULATE)


def lose_the_watcher(node: Node) -> None:  # noqa: F811
    node.room.must("pcs", "stonith", "update", "fence-c2", "fence_timeout=2")
    node.stop_watcher()


TOPOLOGY: list[Step[Node]] = [
    Step(
        "pcs stonith create fence-c2 fence_gfs2_recorder pcmk_host_list=compute-2 fence_timeout=25 "
        "pcmk_off_timeout=35 pcmk_reboot_timeout=35 pcmk_off_retries=1 pcmk_reboot_retries=1",
        never=["."],
    ),
    Step(
        "pcs stonith create direct-c2 fence_nvmefence pcmk_host_list=compute-2 deadline=30 pcmk_off_timeout=40",
        never=["."], after=know_compute_2,
    ),
    Step("pcs constraint location direct-c2 avoids compute-2", never=["."]),
    Step("pcs stonith level add 1 compute-2 fence-c2", never=["."]),
    Step("pcs stonith level add 2 compute-2 direct-c2", never=["."]),
    Step("pcs stonith level verify", never=["."]),
    Step("pcs stonith fence compute-2", says=["Node: compute-2 fenced"], after=compute_2_is_cut_off),
    Step("nvmefence history --host compute-2", says=["compute-2 +reboot +rabbit-node-1 +fenced"]),
    Step("pcs stonith fence compute-2", before=lose_the_watcher, says=["Node: compute-2 fenced"]),
    Step("nvmefence history --host compute-2", says=["compute-2 +off +rabbit-node-1 +fenced"]),
    Step("fence_nvmefence --action=monitor; echo $?", says=["that drives are simulated", "^1$"]),
    Step("fence_nvmefence --action=status --plug=compute-2; echo $?", says=["that drives are simulated", "^1$"]),
]  # fmt: skip
STEPS = TOPOLOGY


@pytest.mark.cluster
def test_the_topology_is_as_written(node: Node) -> None:  # noqa: F811
    follow(node, TOPOLOGY)


def test_the_parameters_are_those_of_the_agent() -> None:
    rows = {manual.code(row[0])[0]: row for row in manual.table(PAGE, "Settings")}
    own = {one.name: one for one in AGENT.options if one not in convention.COMMON}
    assert rows.keys() == own.keys()
    defaults = {"hosts_file": "hosts", "settings_file": ""}
    for name, one in own.items():
        _, environment, default, _ = rows[name]
        assert manual.code(environment) == [one.environment] * bool(one.environment)
        given = manual.code(default)
        assert not given or given[0] in one.shortdesc
        key = defaults.get(name, name)
        if key in ("hosts", "deadline", "log_dir", "audit"):
            value = getattr(Settings(), key)
            assert given == [f"{value:g}" if isinstance(value, float) else value]

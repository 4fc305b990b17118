"""A node of the cluster itself is fenced: resources move only once its storage is gone."""

from __future__ import annotations

import time

import pytest

from tests.cluster import machine
from tests.cluster.nodes import Cluster
from tests.cluster.room import wait_for
from tests.cluster.site import Site

pytestmark = pytest.mark.cluster
SURVIVOR, VICTIM = "rabbit-node-1", "compute-node-1"


def prepare(pair: Cluster, site: Site, **changes: object) -> None:
    """Give the cluster its fence device and a resource that runs on the node that will die."""
    options = [f"{name}={value}" for name, value in site.options(**changes).items()]
    room = pair.room()
    room.must("pcs", "stonith", "create", "storage", machine.AGENT, f"pcmk_host_list={VICTIM}", *options)
    room.must("pcs", "resource", "create", "work", "ocf:pacemaker:Dummy", "--disabled")
    room.must("pcs", "constraint", "location", "work", "prefers", VICTIM)
    room.must("pcs", "resource", "enable", "work", "--wait=60", limit_s=70)
    assert runs_on(pair) == VICTIM


def runs_on(pair: Cluster) -> str:
    node = pair.monitor().find("resources/resource[@id='work']/node")
    return "" if node is None else node.attrib["name"]


def fenced(pair: Cluster) -> bool:
    state = pair.states()[VICTIM]
    return state["online"] == "false" and state["unclean"] == "false"


def test_the_survivor_has_a_dead_node_cut_off_and_takes_over(pair: Cluster, site: Site) -> None:
    site.start_watcher()
    prepare(pair, site)
    pair.kill(VICTIM)
    wait_for("the dead node counts as fenced", lambda: fenced(pair), 60)
    assert site.cut_off() == {VICTIM: 12}
    wait_for("the survivor runs the resource", lambda: runs_on(pair) == SURVIVOR, 60)
    assert pair.states()[SURVIVOR]["unclean"] == "false"
    assert f"reboot of {VICTIM} successful" in pair.room().must("stonith_admin", "--history", VICTIM)
    assert site.pending() == []


def test_nothing_moves_before_the_dead_node_is_cut_off(pair: Cluster, site: Site) -> None:
    site.start_watcher()
    prepare(pair, site, fence_timeout=2)
    site.stop_watcher()
    pair.kill(VICTIM)
    wait_for("an agent has given up", lambda: site.events("timeout"), 60)
    time.sleep(1)
    assert pair.states()[VICTIM]["unclean"] == "true"
    assert runs_on(pair) in ("", VICTIM)
    assert site.cut_off() == {}
    site.start_watcher()
    wait_for("the dead node counts as fenced", lambda: fenced(pair), 60)
    assert site.cut_off() == {VICTIM: 12}
    wait_for("the survivor runs the resource", lambda: runs_on(pair) == SURVIVOR, 60)
    assert site.pending() == []


def test_a_member_that_is_fenced_alive_leaves_the_cluster(pair: Cluster, site: Site) -> None:
    site.start_watcher()
    prepare(pair, site)
    done = pair.pcs("stonith", "fence", VICTIM)
    assert done.returncode == 0, done.stderr
    assert site.cut_off() == {VICTIM: 12}
    wait_for("the fenced node counts as fenced", lambda: fenced(pair), 60)
    wait_for("the survivor runs the resource", lambda: runs_on(pair) == SURVIVOR, 60)
    wait_for("the fenced node has stopped its cluster daemons", pair.room(VICTIM).ended, 60)

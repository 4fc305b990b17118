"""Both agents for one node: the watcher's does it, and the direct one where the watcher cannot."""

from __future__ import annotations

import subprocess

import pytest

from tests.cluster import machine
from tests.cluster.fencer import Fencer
from tests.cluster.nodes import Cluster
from tests.cluster.room import wait_for
from tests.cluster.site import Site

pytestmark = pytest.mark.cluster
SURVIVOR, VICTIM = "rabbit-node-1", "compute-node-1"
BY_WATCHER, BY_AGENT = "watcher", "fence_nvmefence"


def prepare(pair: Cluster, site: Site, **changes: object) -> None:
    """Give the node that will be fenced two levels, as the documentation says."""
    levels = {
        "recorder": (machine.AGENT, site.options(fence_timeout=2, **changes)),
        "direct": (machine.DIRECT, site.direct_options(**changes)),
    }
    room = pair.room()
    for number, (device, (agent, options)) in enumerate(levels.items(), 1):
        given = [f"{name}={value}" for name, value in {"pcmk_host_list": VICTIM, **options}.items()]
        room.must("pcs", "stonith", "create", device, agent, *given)
        room.must("pcs", "constraint", "location", device, "avoids", VICTIM)
        room.must("pcs", "stonith", "level", "add", str(number), VICTIM, device)
    room.must("pcs", "stonith", "level", "verify")
    wait_for("both devices are started", lambda: started(pair) == {"recorder", "direct"}, 60)


def started(pair: Cluster) -> set[str]:
    return {one.attrib["id"] for one in pair.monitor().iterfind("resources/resource[@role='Started']")}


def fenced(pair: Cluster) -> bool:
    state = pair.states()[VICTIM]
    return state["online"] == "false" and state["unclean"] == "false"


def test_with_a_watcher_the_first_level_does_it_and_the_second_is_not_called(pair: Cluster, site: Site) -> None:
    site.start_watcher()
    prepare(pair, site)
    done = pair.pcs("stonith", "fence", VICTIM)
    assert done.returncode == 0, done.stderr
    assert site.cut_off() == {VICTIM: 12}
    assert site.fences() == [(BY_WATCHER, VICTIM, "fenced")]
    assert site.events("begun") == []


def test_without_a_watcher_the_second_level_cuts_the_node_off(pair: Cluster, site: Site) -> None:
    site.start_watcher()
    prepare(pair, site)
    site.lose_watcher()
    pair.kill(VICTIM)
    wait_for("the dead node counts as fenced", lambda: fenced(pair), 60)
    assert site.events("timeout"), "the first level was tried"
    assert site.cut_off() == {VICTIM: 12}
    assert site.fences() == [(BY_AGENT, VICTIM, "fenced")]
    assert f"reboot of {VICTIM} successful" in pair.room().must("stonith_admin", "--history", VICTIM)
    assert site.pending() == []


def test_where_no_level_can_confirm_it_the_node_is_not_fenced(pair: Cluster, site: Site) -> None:
    site.start_watcher()
    prepare(pair, site, pcmk_off_retries=1, pcmk_reboot_retries=1)
    site.lose_watcher()
    site.remove_drive()
    done = pair.pcs("stonith", "fence", VICTIM)
    assert done.returncode == 1
    assert (BY_AGENT, VICTIM, "fenced") not in site.fences()
    assert (BY_AGENT, VICTIM, "not-fenced") in site.fences()
    assert not fenced(pair)
    warnings = [line for line in pair.log().splitlines() if "stderr:" in line and BY_AGENT in line]
    assert any("GONE missing" in line for line in warnings)


@pytest.fixture
def direct(site: Site, fencer: Fencer) -> Fencer:
    fencer.register("direct", machine.DIRECT, pcmk_host_list=VICTIM, **site.direct_options())
    return fencer


def ask(fencer: Fencer, how: str) -> subprocess.CompletedProcess[str]:
    return fencer.admin(how, VICTIM)


@pytest.mark.parametrize("how", ["--fence", "--reboot"])
def test_alone_it_fences_for_a_reboot_as_well(direct: Fencer, site: Site, how: str) -> None:
    done = ask(direct, how)
    assert done.returncode == 0, done.stderr
    assert site.cut_off() == {VICTIM: 12}
    assert site.fences() == [(BY_AGENT, VICTIM, "fenced")]


def test_unfencing_leaves_the_node_cut_off_and_the_log_says_so(direct: Fencer, site: Site) -> None:
    assert ask(direct, "--fence").returncode == 0
    assert ask(direct, "--unfence").returncode == 0
    assert site.cut_off() == {VICTIM: 12}
    assert "nothing was changed for compute-node-1" in direct.log()


@pytest.mark.parametrize("check", ["dynamic-list", "status"])
def test_pacemaker_can_ask_it_which_nodes_it_fences(fencer: Fencer, site: Site, check: str) -> None:
    fencer.register("direct", machine.DIRECT, pcmk_host_check=check, **site.direct_options())
    assert ask(fencer, "--fence").returncode == 0
    assert ask(fencer, "--fence").returncode == 0  # it is off now, and that is no reason to find no device for it
    assert site.cut_off() == {VICTIM: 12}
    assert fencer.admin("--fence", "compute-node-9").returncode != 0


def test_a_hung_drive_fails_the_fence_in_time_and_the_log_names_it(fencer: Fencer, site: Site) -> None:
    site.hang_drive()
    options = site.direct_options(deadline=2)
    fencer.register("direct", machine.DIRECT, pcmk_host_list=VICTIM, pcmk_off_retries=1, **options)
    assert ask(fencer, "--fence").returncode == 1
    (warning,) = [line for line in fencer.log().splitlines() if "stderr:" in line]
    assert "HUNG: Identify Controller: no answer" in warning

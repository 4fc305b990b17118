"""The agent under Pacemaker's fencer alone: what is cut, what is not, and what a fence that failed leaves."""

from __future__ import annotations

import subprocess
import threading
import time

import pytest

from tests.cluster.fencer import Fencer
from tests.cluster.room import wait_for
from tests.cluster.site import Site

pytestmark = pytest.mark.cluster
TARGET = "compute-node-2"


@pytest.fixture
def served(site: Site) -> Site:
    site.start_watcher()
    return site


def fence(fencer: Fencer, target: str = TARGET, how: str = "--fence") -> subprocess.CompletedProcess[str]:
    return fencer.admin(how, target)


def nothing_is_cut_by_a_watcher_that_starts_now(site: Site) -> None:
    assert site.pending() == []
    site.have_a_new_watcher_look()
    assert site.cut_off() == {}
    assert site.answers() == []


@pytest.mark.parametrize(("how", "action"), [("--fence", "off"), ("--reboot", "reboot")])
def test_a_fenced_node_loses_every_drive_and_the_others_keep_theirs(
    served: Site, fencer: Fencer, how: str, action: str
) -> None:
    fencer.register("storage", pcmk_host_list=TARGET, **served.options())
    done = fence(fencer, how=how)
    assert done.returncode == 0, done.stderr
    assert served.cut_off() == {TARGET: 12}
    (answer,) = served.answers()
    assert answer["success"] is True
    assert answer["action_performed"] == action
    assert served.pending() == []


def test_without_a_watcher_the_fence_fails_and_nothing_is_cut_later(site: Site, fencer: Fencer) -> None:
    fencer.register("storage", pcmk_host_list=TARGET, pcmk_off_retries=1, **site.options(fence_timeout=2))
    start = time.monotonic()
    done = fence(fencer)
    assert done.returncode == 1
    assert time.monotonic() - start < 25
    assert site.cut_off() == {}
    assert "no response within 2 s; is the watcher running?" in fencer.log()
    nothing_is_cut_by_a_watcher_that_starts_now(site)


def test_a_drive_that_is_gone_fails_the_fence_and_the_log_names_it(site: Site, fencer: Fencer) -> None:
    site.remove_drive()
    site.start_watcher()
    fencer.register("storage", pcmk_host_list=TARGET, **site.options())
    assert fence(fencer).returncode == 1
    warnings = [line for line in fencer.log().splitlines() if "stderr:" in line]
    assert warnings
    assert all("GONE" in line and "is not confirmed" in line for line in warnings)


def test_an_agent_that_pacemaker_kills_leaves_a_request_that_expires(site: Site, fencer: Fencer) -> None:
    fencer.register("storage", pcmk_host_list=TARGET, pcmk_off_timeout=2, **site.options(fence_timeout=3))
    done = fence(fencer)
    ended = time.monotonic()
    assert done.returncode == 124, done.stderr
    (left,) = site.pending()
    assert site.events("requested")[0]["request_id"] in left
    assert site.events("timeout") == []
    time.sleep(max(0.0, ended + 2 - time.monotonic()))
    site.start_watcher()
    wait_for("the request is answered", site.answers, 30)
    time.sleep(0.5)
    (answer,) = site.answers()
    assert answer["success"] is False
    assert "expired" in answer["message"]
    assert site.cut_off() == {}
    assert site.pending() == []


def test_two_attempts_of_one_fence_leave_nothing_that_cuts_later(site: Site, fencer: Fencer) -> None:
    fencer.register("storage", pcmk_host_list=TARGET, **site.options(fence_timeout=1))
    assert fence(fencer).returncode == 1
    asked = {event["request_id"] for event in site.events("requested")}
    assert len(asked) == 2
    assert len(site.events("timeout")) == 2
    nothing_is_cut_by_a_watcher_that_starts_now(site)


def test_a_watcher_that_starts_in_time_makes_the_second_attempt_succeed(site: Site, fencer: Fencer) -> None:
    fencer.register("storage", pcmk_host_list=TARGET, **site.options(fence_timeout=2))
    asking = fencer.room.start("stonith_admin", "--fence", TARGET)
    wait_for("the first attempt has failed", lambda: site.events("timeout"), 30)
    site.start_watcher()
    assert asking.wait(timeout=20) == 0
    assert len(site.events("requested")) == 2
    assert site.cut_off() == {TARGET: 12}
    assert site.pending() == []


def test_an_alias_of_pcmk_host_map_is_what_the_watcher_is_asked_for(served: Site, fencer: Fencer) -> None:
    fencer.register("storage", pcmk_host_map=f"node-b:{TARGET}-ib", **served.options())
    done = fence(fencer, "node-b")
    assert done.returncode == 0, done.stderr
    assert served.events("success")[0]["target_node"] == f"{TARGET}-ib"
    assert served.cut_off() == {TARGET: 12}


def test_a_node_that_the_host_map_lacks_is_not_fenced(served: Site, fencer: Fencer) -> None:
    fencer.register("storage", pcmk_host_list="compute-node-9", pcmk_off_retries=1, **served.options())
    assert fence(fencer, "compute-node-9").returncode == 1
    assert served.cut_off() == {}
    assert "compute-node-9" in served.answers()[0]["message"]


def test_two_nodes_are_fenced_at_once(served: Site, fencer: Fencer) -> None:
    nodes = ("compute-node-2", "compute-node-3")
    fencer.register("storage", pcmk_host_list=",".join(nodes), pcmk_action_limit=-1, **served.options())
    codes: list[int] = []
    threads = [threading.Thread(target=lambda n=n: codes.append(fence(fencer, n).returncode)) for n in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    assert served.cut_off() == dict.fromkeys(nodes, 12)


@pytest.mark.parametrize(
    "ways", [{"pcmk_host_check": "dynamic-list", "hosts": f"x,{TARGET}"}, {"pcmk_host_check": "status"}]
)
def test_pacemaker_can_ask_the_agent_which_nodes_it_fences(
    served: Site, fencer: Fencer, ways: dict[str, str]
) -> None:
    fencer.register("storage", **served.options(**ways))
    assert fence(fencer).returncode == 0
    assert fence(fencer).returncode == 0  # the node is off now, and that is no reason to find no device for it
    assert served.cut_off() == {TARGET: 12}


def test_unfencing_by_pacemaker_leaves_the_node_cut_off(served: Site, fencer: Fencer) -> None:
    fencer.register("storage", pcmk_host_list=TARGET, **served.options())
    assert fence(fencer).returncode == 0
    done = fence(fencer, how="--unfence")
    assert done.returncode == 0, done.stderr
    assert served.cut_off() == {TARGET: 12}


def test_a_hung_drive_fails_the_fence_in_time_and_the_log_names_it(site: Site, fencer: Fencer) -> None:
    site.hang_drive()
    site.start_watcher()
    fencer.register("storage", pcmk_host_list=TARGET, pcmk_off_retries=1, **site.options(fence_timeout=3))
    start = time.monotonic()
    assert fence(fencer).returncode == 1
    assert time.monotonic() - start < 25
    (warning,) = [line for line in fencer.log().splitlines() if "stderr:" in line]
    assert "HUNG" in warning
    assert site.pending() == []

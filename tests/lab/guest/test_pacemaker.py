"""The whole chain: a real cluster, its fence agent, the watcher, and the drives under a real kernel."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster import machine
from tests.cluster.conftest import pacemaker  # noqa: F401 (a fixture)
from tests.cluster.nodes import Cluster
from tests.cluster.room import wait_for
from tests.lab import bringup, faults, observer
from tests.lab.guest.product import attached, hosts_toml, list_ctrl, without
from tests.lab.guest.test_fencing import target
from tests.lab.guest.watching import Place
from tests.lab.shape import Shape

pytestmark = [pytest.mark.cluster, pytest.mark.shape("cluster"), pytest.mark.limit(400)]
RABBIT, MEMBER, STRANGER = "rabbit-node-1", "compute-node-1", "compute-node-2"
"""The Rabbit and one compute are the cluster; the other compute is known to the fence device alone."""
FUNCTIONS = {MEMBER: 2, STRANGER: 3, "compute-node-3": 4}
"""Each compute's virtual function on every drive."""
HOSTS = "".join(f"[hosts.{name}]\nslot = {function - 2}\n" for name, function in FUNCTIONS.items())
DEVICE = "storage"
TIMEOUT_S = 15
TOKEN_MS = 3000
"""An emulated processor that others use too is silent for longer than the harness's usual second."""
SLOW_S = 120
"""pcs alone computes for 9 s here, before it does anything."""
LOOK_S = 2.5
"""Two rescans of the request directory, and a pass over the drives."""


class Rig:
    """A cluster with its fence device, and the watcher, running, that serves it."""

    def __init__(self, place: Place, cluster: Cluster) -> None:
        self.place = place
        self.cluster = cluster
        self._room = cluster.room(RABBIT)
        self._serving = True

    def serve(self) -> None:
        """Start the watcher if it does not run."""
        if not self._serving:
            self.place.start()
            self._serving = True

    def stop_serving(self) -> None:
        """Stop the watcher as a service manager does."""
        self._serving = False
        assert self.place.stop() == 0

    def create_device(self) -> None:
        """Make the fence device known and have the Rabbit alone use it, as only there is what it needs."""
        options = {
            "pcmk_host_list": f"{MEMBER},{STRANGER}",
            "pcmk_reboot_retries": 1,
            "fence_timeout": TIMEOUT_S,
            "request_dir": self.place.requests,
            "response_dir": self.place.responses,
            "log_dir": self.place.logs,
        }
        given = [f"{name}={value}" for name, value in options.items()]
        # Said before the device is there, so that it need not move: by a pattern, which may match nothing yet.
        ban = f'<rsc_location id="ban" rsc-pattern="^{DEVICE}$" node="{MEMBER}" score="-INFINITY"/>'
        self._room.must("cibadmin", "--create", "--scope", "constraints", "--xml-text", ban)
        self._room.must("pcs", "stonith", "create", DEVICE, machine.AGENT, *given, limit_s=SLOW_S)

    def device_runs_on(self) -> str:
        """Return the node on which the fence device is started."""
        found = self.cluster.monitor(RABBIT).find(f"resources/resource[@id='{DEVICE}'][@role='Started']/node")
        return "" if found is None else found.attrib["name"]

    def fence(self, node: str) -> subprocess.CompletedProcess[str]:
        """Have the cluster fence a node, by the command that pcs runs for it."""
        return self._room.run("stonith_admin", "--reboot", node, limit_s=SLOW_S)

    def history(self, node: str) -> str:
        """Return what Pacemaker remembers of a node's fencing."""
        return self._room.must("stonith_admin", "--history", node, "--verbose")

    def warnings(self) -> list[str]:
        """Return what agents wrote to standard error, from the Rabbit's pacemaker.log."""
        return [line for line in self.cluster.log(RABBIT).splitlines() if "stderr:" in line]

    def events(self, status: str) -> list[dict[str, str]]:
        """Return what the agents logged, of one status."""
        log = self.place.logs / "fence-events-detailed.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [event for event in map(json.loads, lines) if event["status"] == status]

    def fenced(self, node: str) -> bool:
        """Whether the cluster counts a member as gone and cut off."""
        state = self.cluster.states(RABBIT)[node]
        return state["online"] == "false" and state["unclean"] == "false"


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, shape: Shape, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The rig of all tests, for it takes long to make."""
    request.getfixturevalue("pacemaker")
    serials = json.dumps([drive.serial for drive in observer.drives()])
    folder = tmp_path_factory.mktemp("rig")
    place = Place(folder, hosts_toml(shape, drives=f"serials = {serials}", hosts=HOSTS))
    try:
        with ThreadPoolExecutor(1) as aside:
            serving = aside.submit(place.start)
            cluster = Cluster([RABBIT, MEMBER], folder / "cluster", token_ms=TOKEN_MS)
            try:
                serving.result()
                rig = Rig(place, cluster)
                rig.create_device()
                yield rig
            finally:
                cluster.stop()
    finally:
        place.close()


@pytest.fixture
def rig(whole: Rig) -> Rig:
    """The rig, with its watcher running and nothing of an earlier test."""
    whole.place.archive()
    whole.serve()
    return whole


def test_a_node_fenced_by_pcs_has_lost_every_drive_and_the_others_keep_theirs(
    rig: Rig, drives: list[observer.Drive]
) -> None:
    before = attached(drives)
    done = rig.cluster.pcs("stonith", "fence", STRANGER, node=RABBIT, limit_s=SLOW_S)
    expected = without(before, target(drives, FUNCTIONS[STRANGER]))
    assert attached(drives) == expected
    assert {drive.serial: list_ctrl(drive) for drive in drives} == expected
    assert done.returncode == 0, done.stderr
    assert f"reboot of {STRANGER} successful" in rig.history(STRANGER)
    wait_for("the Rabbit has the device", lambda: rig.device_runs_on() == RABBIT, 60, 0.2)
    (answer,) = rig.place.audit("answer")
    assert answer["response"]["success"] is True
    print(rig.history(STRANGER), answer["times"])
    assert not rig.place.pending()


def test_a_pulled_drive_fails_the_fence_and_the_logs_name_it(
    rig: Rig, shape: Shape, baseline: bringup.Attachments, drives: list[observer.Drive]
) -> None:
    before = attached(drives)
    gone, rest = drives[1], [drives[0], *drives[2:]]
    faults.pull(gone.primary.address)
    done = rig.fence(STRANGER)
    assert done.returncode != 0
    cut = without(before, target(rest, FUNCTIONS[STRANGER]))
    assert attached(rest) == {serial: by_nsid for serial, by_nsid in cut.items() if serial != gone.serial}
    assert f"reboot of {STRANGER} failed" in rig.history(STRANGER)
    told = [rig.warnings()[-1], rig.events("failed")[-1]["details"]]
    print(told)
    for text in told:
        assert gone.serial in text
        assert STRANGER in text
        assert not any(drive.serial in text for drive in rest)
    bringup.heal(shape, baseline)
    assert attached(observer.drives()) == before
    assert rig.fence(STRANGER).returncode == 0
    assert attached(observer.drives()) == without(before, target(drives, FUNCTIONS[STRANGER]))


def test_a_fence_without_a_watcher_fails_in_time_and_one_that_comes_later_cuts_nothing(
    rig: Rig, drives: list[observer.Drive]
) -> None:
    before = attached(drives)
    rig.stop_serving()
    start = time.monotonic()
    asked = rig.cluster.room(RABBIT).start("stonith_admin", "--reboot", STRANGER)
    (name,) = faults.wait_for("the request", rig.place.pending)
    left = rig.place.folder / name
    os.link(rig.place.requests / name, left)
    asked.communicate(timeout=SLOW_S)
    took = time.monotonic() - start
    assert asked.returncode != 0
    assert TIMEOUT_S <= took < 60, "Pacemaker itself gives up after 60 s"
    assert f"reboot of {STRANGER} failed" in rig.history(STRANGER)
    assert "is the watcher running?" in rig.warnings()[-1]
    assert rig.events("timeout")
    assert not rig.place.pending(), "the agent took its request back"
    left.rename(rig.place.requests / name)  # as an agent leaves it that Pacemaker killed
    rig.serve()
    faults.wait_for("the watcher's answer", (rig.place.responses / name).exists)
    time.sleep(LOOK_S)
    answer = rig.place.response(name)
    assert answer["success"] is False
    assert "expired" in answer["message"]
    print(f"failed after {took:.1f} s; {answer['message']}")
    assert attached(drives) == before


def test_a_member_that_dies_is_cut_off_by_the_survivor(rig: Rig, drives: list[observer.Drive]) -> None:
    before = attached(drives)
    expected = without(before, target(drives, FUNCTIONS[MEMBER]))
    start = time.monotonic()
    died = time.time()
    rig.cluster.kill(MEMBER)
    while not rig.fenced(MEMBER):
        assert time.monotonic() < start + 90
        time.sleep(0.2)
    took = time.monotonic() - start
    assert attached(drives) == expected
    history = rig.history(MEMBER)
    assert f"reboot of {MEMBER} successful" in history
    assert f"delegate={RABBIT}" in history
    (response,) = rig.place.responses.glob("[!.]*.json")
    cut = response.stat().st_mtime - died
    print(f"answered {cut:.1f} s after its death, counted as fenced after {took:.1f} s\n{history}")
    assert rig.cluster.states(RABBIT)[RABBIT]["online"] == "true"

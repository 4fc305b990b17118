"""The agent as the person at pcs meets it: created, described, fencing by hand, and what a failure shows."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from tests.cluster import machine
from tests.cluster.nodes import Cluster
from tests.cluster.room import RoomError, wait_for
from tests.cluster.site import Site

pytestmark = pytest.mark.cluster
TARGET = "compute-node-2"
NUMBERS = itertools.count(1)


class Desk:
    """A person at pcs: one cluster, one site, one device; of a name of its own, as Pacemaker remembers names."""

    def __init__(self, cluster: Cluster, site: Site) -> None:
        self.cluster = cluster
        self.site = site
        self.name = f"storage-{next(NUMBERS)}"
        self._mark = len(cluster.log())

    def create(self, *words: str, **changes: object) -> subprocess.CompletedProcess[str]:
        options = {"pcmk_host_list": TARGET, **self.site.options(**changes)}
        given = [f"{name}={value}" for name, value in options.items()]
        return self.pcs("stonith", "create", self.name, machine.AGENT, *given, *words)

    def pcs(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.cluster.pcs(*words)

    def created(self, *words: str, **changes: object) -> None:
        done = self.create(*words, **changes)
        assert done.returncode == 0, done.stderr

    def device(self) -> ET.Element:
        found = self.cluster.monitor().find(f"resources/resource[@id='{self.name}']")
        assert found is not None
        return found

    def started(self) -> bool:
        return self.device().attrib["role"] == "Started"

    def failures(self) -> list[str]:
        """Return the operations that Pacemaker shows as failed."""
        return [failure.attrib["op_key"] for failure in self.cluster.monitor().iterfind("failures/failure")]

    def log(self) -> str:
        """Return what Pacemaker logged since this test began."""
        return self.cluster.log()[self._mark :]

    def history(self, target: str = TARGET) -> str:
        return self.cluster.room().must("stonith_admin", "--history", target, "--verbose")

    def close(self) -> None:
        self.pcs("stonith", "delete", self.name, "--force")  # without waiting for its stop
        self.pcs("stonith", "history", "cleanup")


@pytest.fixture
def desk(single: Cluster, site: Site) -> Iterator[Desk]:
    desk = Desk(single, site)
    yield desk
    desk.close()


def test_describe_names_every_parameter_without_a_warning(single: Cluster) -> None:
    done = single.pcs("stonith", "describe", machine.AGENT)
    assert (done.returncode, done.stderr) == (0, "")
    metadata = ET.fromstring(single.room().must(f"/usr/sbin/{machine.AGENT}", "-o", "metadata"))
    names = {parameter.attrib["name"] for parameter in metadata.iter("parameter")}
    told = {line.split(":")[0].strip() for line in done.stdout.splitlines() if line.startswith("  ")}
    # pcs gives the action itself, plug has port's place, and help and version mean nothing to a device
    assert names - told == {"action", "port", "help", "version"}
    assert "(default: 60)" in done.stdout
    assert single.pcs("stonith", "list", machine.AGENT).stdout.startswith(machine.AGENT)


def test_a_device_is_created_and_its_values_are_checked_first(desk: Desk) -> None:
    desk.site.start_watcher()
    refused = desk.create("--agent-validation", fence_timeout="soon")
    assert refused.returncode == 1
    assert "fence_timeout='soon' is not a number of seconds" in refused.stderr
    unknown = desk.create(fence_time=5)
    assert "fence_time" in unknown.stderr
    assert unknown.returncode == 1
    done = desk.create("--agent-validation")
    assert (done.returncode, done.stderr) == (0, "")
    wait_for("the device is started", desk.started, 60)


def test_fencing_by_hand_cuts_the_node_and_the_history_says_so(desk: Desk) -> None:
    desk.site.start_watcher()
    desk.created()
    done = desk.pcs("stonith", "fence", TARGET)
    assert done.returncode == 0, done.stderr
    assert desk.site.cut_off() == {TARGET: 12}
    assert f"reboot of {TARGET} successful" in desk.history()


def test_without_a_watcher_fencing_by_hand_fails_and_nothing_is_cut_later(desk: Desk) -> None:
    desk.site.start_watcher()
    desk.created(fence_timeout=3, pcmk_reboot_retries=1)
    wait_for("the device is started", desk.started, 60)
    desk.site.stop_watcher()
    done = desk.pcs("stonith", "fence", TARGET)
    assert done.returncode == 1
    assert f"unable to fence '{TARGET}'" in done.stderr
    assert desk.site.events("timeout")
    assert desk.site.pending() == []
    desk.site.have_a_new_watcher_look()
    assert desk.site.cut_off() == {}


def test_a_lost_watcher_stops_the_device_until_a_person_cleans_up(desk: Desk) -> None:
    desk.site.start_watcher()
    desk.created("op", "monitor", "interval=1s")
    wait_for("the device is started", desk.started, 60)
    desk.site.lose_watcher()
    wait_for("the monitor has failed", lambda: "gave its last sign of life" in desk.log(), 60)
    wait_for("a new start has failed too", lambda: f"{desk.name}_start_0" in desk.failures(), 60)
    assert "Failed Resource Actions" in desk.pcs("status").stdout
    # After that Pacemaker leaves the device alone until a person comes; but it fences with it all the same.
    desk.site.start_watcher()
    assert desk.pcs("stonith", "fence", TARGET).returncode == 0
    assert desk.site.cut_off() == {TARGET: 12}
    assert not desk.started()
    # On a busy machine a clean-up can overtake itself in Pacemaker: the start that its first half causes meets its
    # second half, which removes the resource, and fails. A person does it again.
    for _ in range(5):
        assert desk.pcs("stonith", "cleanup", desk.name).returncode == 0
        with contextlib.suppress(RoomError):
            wait_for("the device is started", desk.started, 10)
            break
    assert desk.started()


def test_the_reason_of_a_failed_fence_is_in_the_logs_of_the_node(desk: Desk) -> None:
    desk.site.remove_drive()
    desk.site.start_watcher()
    desk.created(pcmk_reboot_retries=1)
    done = desk.pcs("stonith", "fence", TARGET)
    assert done.returncode == 1
    assert f"reboot of {TARGET} failed" in desk.history()
    (warning,) = [line for line in desk.log().splitlines() if "stderr:" in line and TARGET in line]
    (event,) = desk.site.events("failed")
    assert "GONE" in event["details"]
    assert "GONE" in warning
    shown = desk.pcs("status", "--full").stdout
    assert "Failed Fencing Actions" in shown
    assert "GONE" not in shown + desk.history() + done.stderr  # so the documentation sends people to the logs

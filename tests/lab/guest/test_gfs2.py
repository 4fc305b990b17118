"""What fencing is for: a cluster file system that stands still until the dead node is truly cut off."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import machine
from tests.cluster.conftest import pacemaker  # noqa: F401 (a fixture)
from tests.cluster.nodes import Cluster
from tests.cluster.room import wait_for
from tests.lab import faults, observer
from tests.lab.guest import lockspace
from tests.lab.guest.lockspace import Lockspace
from tests.lab.guest.product import attached, hosts_toml, without
from tests.lab.guest.test_fencing import target
from tests.lab.guest.watching import Place
from tests.lab.shape import Shape

pytestmark = [pytest.mark.cluster, pytest.mark.shape("gfs2")]
RABBIT, DEAD = "rabbit-node-1", "compute-node-1"
VF = 2
HOSTS = f"[hosts.{DEAD}]\nslot = 0\n"
TIMEOUT_S = 10
SLOW_S = 120
TOKEN_MS = 3000


class Rig:
    """A Rabbit that can mount a GFS2, a compute that dies, and the fence device between them."""

    def __init__(self, place: Place, cluster: Cluster, folder: Path, drive: observer.Drive) -> None:
        self.place = place
        self.cluster = cluster
        self.room = cluster.room(RABBIT)
        self.locks = Lockspace(self.room, folder)
        self.device = observer.blocks(drive.primary)[1]
        self.died = 0.0

    def create(self, name: str, agent: str, **options: object) -> None:
        """Make the one fence device, of an agent."""
        given = [f"{key}={value}" for key, value in options.items()]
        words = ["pcs", "stonith", "create", name, agent, f"pcmk_host_list={DEAD}", "pcmk_reboot_retries=1", *given]
        self.room.must(*words, limit_s=SLOW_S)
        wait_for(f"{name} runs", lambda: self._started(name), SLOW_S, 0.2)

    def _started(self, name: str) -> bool:
        found = self.cluster.monitor(RABBIT).find(f"resources/resource[@id='{name}']")
        return found is not None and found.attrib["role"] == "Started"

    def our_device(self) -> None:
        """Make the fence device that asks the watcher."""
        self.create(
            "storage", machine.AGENT, fence_timeout=TIMEOUT_S, request_dir=self.place.requests,
            response_dir=self.place.responses, log_dir=self.place.logs, heartbeat_check=0,
        )  # fmt: skip

    def kill(self) -> None:
        """End the compute as a power cut does."""
        self.died = time.time()
        self.cluster.kill(DEAD)

    def death_to_mount(self) -> float:
        """Have the compute live again and die; return the seconds from then to a mounted file system."""
        self.cluster.start(DEAD)
        self.kill()
        self.locks.start()
        self.locks.mount(self.device)
        took = self.locks.wait_mounted(150) - self.died
        self.locks.stop()
        return took


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, shape: Shape, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The rig of all tests, for it takes long to make."""
    request.getfixturevalue("pacemaker")
    reason = lockspace.why_not()
    if reason:
        assert os.environ.get("NVMEFENCE_LAB") != "require", reason
        pytest.skip(reason)
    lockspace.prepare()
    (drive,) = observer.drives()
    folder = tmp_path_factory.mktemp("rig")
    place = Place(folder, hosts_toml(shape, drives=f"serials = {json.dumps([drive.serial])}", hosts=HOSTS))
    lockspace.make(observer.blocks(drive.primary)[1], "shared")
    cluster = Cluster([RABBIT, DEAD], folder / "cluster", token_ms=TOKEN_MS, at_home=RABBIT)
    try:
        yield Rig(place, cluster, folder, drive)
    finally:
        cluster.stop()
        place.close()


@pytest.fixture
def rig(whole: Rig) -> Rig:
    """The rig, with nothing of an earlier test."""
    whole.place.archive()
    return whole


def history(rig: Rig) -> str:
    """Return what Pacemaker remembers of the compute's fencing."""
    return rig.room.run("stonith_admin", "--history", DEAD, "--verbose", limit_s=30).stdout


@pytest.mark.limit(600)
def test_a_mount_waits_while_the_fence_fails_and_goes_on_when_the_dead_node_is_truly_cut(
    rig: Rig, drive: observer.Drive
) -> None:
    before = attached([drive])
    rig.our_device()
    rig.kill()
    rig.locks.start()
    rig.locks.mount(rig.device)
    faults.wait_for("a fence that fails", lambda: "failed" in history(rig), 90)
    assert rig.locks.waits_for_fencing(), rig.locks.tool("ls")
    assert not rig.locks.mounted()
    assert attached([drive]) == before
    rig.place.start(quiesce="auto")
    mounted = rig.locks.wait_mounted(120)
    assert attached([drive]) == without(before, target([drive], VF))
    fenced = [line for line in rig.place.audit("answer") if line["result"] == "fenced"]
    assert (rig.place.responses / fenced[0]["file"]).stat().st_mtime < mounted, "mounted before it was cut"
    assert "result 0" in "\n".join(rig.locks.fencing())
    rig.locks.stop()


@pytest.mark.skipif(
    "NVMEFENCE_LAB_ROUNDS" not in os.environ, reason="a figure; set NVMEFENCE_LAB_ROUNDS to have it"
)
@pytest.mark.limit(600)
def test_how_long_a_mount_waits_after_a_death_beside_an_agent_that_does_nothing(
    rig: Rig, drive: observer.Drive
) -> None:
    """A figure; what must hold is that the mount goes on in both cases, in ours after the cut."""
    before = attached([drive])
    ours = rig.death_to_mount()
    assert attached([drive]) == without(before, target([drive], VF))
    answer = rig.place.audit("answer")[-1]
    first = next(line for line in rig.place.audit("answer") if line["request"]["dated"] > rig.died)
    asked = first["request"]["dated"] - rig.died
    visible = (rig.place.responses / first["file"]).stat().st_mtime - rig.died
    assert answer["result"] == "fenced"
    rig.place.archive()
    rig.room.must("pcs", "stonith", "delete", "storage", limit_s=SLOW_S)
    rig.create("floor", "fence_dummy")
    floor = rig.death_to_mount()
    parts = ", ".join(f"{name} {value:.2f}" for name, value in first["times"].items())
    print(
        f"from death to a mounted GFS2: {ours:.1f} s ({asked:.1f} s until our agent asks, {visible - asked:.2f} s "
        f"until its response is visible ({parts}), {ours - visible:.1f} s until the mount is done); "
        f"with fence_dummy in place of ours {floor:.1f} s"
    )


@pytest.mark.limit(300)
def test_the_gfs2_of_a_fenced_host_withdraws_and_writes_nothing_more(
    rig: Rig, drive: observer.Drive, tmp_path: Path
) -> None:
    view = drive.function(VF)
    private, medium = observer.blocks(view)[2], observer.blocks(drive.primary)[2]
    lockspace.make(private, "own", "lock_nolock")
    point = tmp_path / "mnt"
    point.mkdir()
    subprocess.run(["mount", "-t", "gfs2", str(private), str(point)], check=True, timeout=60)
    try:
        with Diary(point / "diary") as diary:
            faults.wait_for("entries", lambda: diary.written > 5)
            assert rig.place.fence(DEAD).code == 0
            first = digest(medium)
            faults.wait_for("an error", lambda: diary.error, 60)
            faults.wait_for("a withdrawal", withdrawn, 60)
            assert digest(medium) == first, "the fenced host's file system reached the medium after the response"
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=False, timeout=60)


class Diary:
    """Writes numbers into a file, each to the medium before the next."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self.written = 0
        self.error = ""

    def __enter__(self) -> Diary:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _write(self) -> None:
        try:
            with self._path.open("ab", buffering=0) as file:
                while not self._stop.wait(0.3):
                    file.write(b"%08d\n" % self.written)
                    os.fsync(file.fileno())
                    self.written += 1
        except OSError as error:
            self.error = error.strerror or "unknown"


def withdrawn() -> bool:
    """Whether the kernel says that the file system of the host itself was given up."""
    said = subprocess.run(["dmesg"], capture_output=True, text=True, timeout=20, check=True).stdout
    return "fsid=test:own" in said and "withdraw" in said


def digest(medium: Path) -> str:
    """Return a digest of what is on the medium, read past the cache by the controller that stays."""
    command = f"dd if={medium} bs=1M iflag=direct status=none | sha256sum"
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True).stdout

"""Requests and responses on a kernel's NFS: agents and watcher on either side, and a server that goes away."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import faults, nfs, observer
from tests.lab.guest.product import hosts_toml
from tests.lab.guest.test_fencing import target
from tests.lab.guest.watching import Observed, Place, reaches
from tests.lab.shape import Shape

pytestmark = pytest.mark.shape("small")
FIRST_VF = 2
TIMEOUT_S = 6.0
SLACK_S = 60.0
"""Seconds beyond its time in which an agent must have ended, on an emulated processor."""
HARD, SOFT = "hard,timeo=20,retrans=2", "softerr,timeo=10,retrans=1"
AGAIN_S = 60.0
"""Seconds in which a mount must serve again: TCP tries at longer and longer intervals."""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system in memory, to be exported."""
    path = tmp_path_factory.mktemp("export")
    nfs.do("mount", "-t", "tmpfs", "none", path)
    yield path
    nfs.do("umount", "--lazy", path)


@pytest.fixture(scope="module")
def server(room: Path) -> Iterator[nfs.Server]:
    """One for all tests: a new one serves nobody for ten seconds."""
    with nfs.Server(room) as made:
        yield made


@pytest.fixture
def place(shape: Shape, drives: list[observer.Drive], room: Path, tmp_path: Path) -> Iterator[Place]:
    """The directories on the server's own file system."""
    serials = json.dumps([drive.serial for drive in drives])
    made = Place(tmp_path, hosts_toml(shape, drives=f"serials = {serials}"))
    made.requests, made.responses = room / "requests", room / "responses"
    for path in (made.requests, made.responses):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    yield made
    made.close()


def through(place: Place, mount: Path) -> Place:
    """Return the same place as it is seen through a mount."""
    made = copy.copy(place)
    made.requests, made.responses = mount / "requests", mount / "responses"
    return made


def serves(mount: Path) -> bool:
    """Whether a mount answers; whoever asks may hang, so another process does."""
    process = subprocess.Popen(["stat", "--file-system", mount / "requests"], stdout=subprocess.DEVNULL)
    try:
        return process.wait(AGAIN_S) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        return False


@pytest.mark.limit(300)
def test_agents_on_nfs_are_answered_and_end_in_time_when_the_server_is_away(
    place: Place, server: nfs.Server, tmp_path: Path, drives: list[observer.Drive], observed: Observed
) -> None:
    hard, soft = server.mount(tmp_path / "hard", HARD), server.mount(tmp_path / "soft", SOFT)
    victims = [target(drives, FIRST_VF + k) for k in range(2)]
    place.start()
    for host, mount in (("compute-0", hard), ("compute-1", soft)):
        ended = through(place, mount).fence(host)
        print(f"{mount.name}: exit {ended.code} after {ended.seconds:.1f} s")
        assert ended.code == 0, ended.err
    assert [reaches(observed(), victim) for victim in victims] == [{}, {}]
    early = through(place, hard).agent("off", "compute-0", TIMEOUT_S)
    time.sleep(0.4)
    with server.unplugged():
        late = {mount: through(place, mount).agent("off", "compute-1", TIMEOUT_S) for mount in (hard, soft)}
        doomed = through(place, hard).agent("off", "compute-1", 600)
        for name, agent in (("early", early), ("hard", late[hard]), ("soft", late[soft])):
            ended = agent.end(TIMEOUT_S + SLACK_S)
            print(f"{name}: exit {ended.code} after {ended.seconds:.1f} s: {ended.err.strip()[-200:]}")
            assert ended.code == 1 or (ended.code == 0 and name == "early")
            assert ended.err.strip() or ended.code == 0, "a failure says why"
        doomed.kill()
        assert doomed.end(10).code == -9, "an agent that waits for the server can be killed"
    faults.wait_for("the mounts to serve", lambda: serves(hard) and serves(soft), AGAIN_S)
    faults.wait_for("no request to be left", lambda: not place.pending(), AGAIN_S)
    for host, mount in (("compute-0", hard), ("compute-1", soft)):
        again = through(place, mount).fence(host)
        assert again.code == 0, again.err
    assert place.stop() == 0


@pytest.mark.limit(300)
@pytest.mark.skipif("NVMEFENCE_LAB_ROUNDS" not in os.environ, reason="long; set NVMEFENCE_LAB_ROUNDS to have it")
def test_a_watcher_on_nfs_answers_and_goes_on_when_its_server_is_back(
    place: Place, server: nfs.Server, tmp_path: Path, drives: list[observer.Drive], observed: Observed
) -> None:
    """Nothing that was asked for while it could not see it is cut later."""
    mount = server.mount(tmp_path / "hard", HARD)
    victims = {f"compute-{k}": target(drives, FIRST_VF + k) for k in range(2)}
    watching = through(place, mount)
    try:
        watching.start()
        ended = place.fence("compute-0")
        print(f"exit {ended.code} after {ended.seconds:.1f} s")
        assert (ended.code, reaches(observed(), victims["compute-0"])) == (0, {}), ended.err
        server.stop()
        unheard = place.agent("off", "compute-1", TIMEOUT_S).end(TIMEOUT_S + SLACK_S)
        assert unheard.code == 1, "nobody was there to fence it"
        server.start()
        faults.wait_for("the mount to serve", lambda: serves(mount), AGAIN_S)
        faults.wait_for("no request to be left", lambda: not place.pending(), AGAIN_S)
        assert reaches(observed(), victims["compute-1"]), "it was cut when nobody waited for it any more"
        again = place.fence("compute-1")
        assert (again.code, reaches(observed(), victims["compute-1"])) == (0, {}), again.err
        assert watching.stop() == 0, watching.told()
    finally:
        watching.close()

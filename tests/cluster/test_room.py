"""The harness itself: whatever happens to a test, its Pacemaker ends and this machine is as it was."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import machine
from tests.cluster.fencer import Fencer
from tests.cluster.room import Room, RoomError, wait_for

pytestmark = pytest.mark.cluster
ABANDON = """
import sys, time
from pathlib import Path
from tests.cluster.fencer import Fencer
fencer = Fencer(Path(sys.argv[1]))
print(fencer.room.init, flush=True)
time.sleep(60)
"""


def ends(pidfd: int, within_s: float) -> bool:
    return bool(select.select([pidfd], [], [], within_s)[0])


def test_a_room_keeps_its_mounts_and_its_agents_to_itself(fencer: Fencer) -> None:
    for name in (machine.AGENT, machine.DIRECT):
        assert os.readlink(fencer.room.inside(f"/usr/sbin/{name}")) == str(machine.agent(name))
    shown = fencer.room.must("cat", "/proc/mounts")
    assert str(fencer.room.folder) in shown
    assert str(fencer.room.folder) not in Path("/proc/mounts").read_text()
    assert fencer.room.must("uname", "-n") == "fencer\n"


def test_a_pacemaker_that_panics_cannot_reset_this_machine(fencer: Fencer) -> None:
    paths = [path for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/sysrq") if Path(path).exists()]
    if not paths:
        pytest.skip("this kernel has no SysRq")
    for path in paths:
        assert fencer.room.must("stat", "--format=%t:%T", path) == "1:3\n"  # /dev/null
        assert Path(path).is_file()


def test_a_test_run_that_is_killed_leaves_nothing_running(pacemaker: None, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ABANDON, str(tmp_path / "fencer")]
    with subprocess.Popen(command, cwd=machine.ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        init = os.pidfd_open(int(run.stdout.readline()))
        assert not ends(init, 0)
        run.kill()
        assert ends(init, 10)
        os.close(init)


def test_a_command_that_hangs_in_a_room_is_ended(fencer: Fencer) -> None:
    done = fencer.room.run("sleep", "60", limit_s=0.3)
    assert done.returncode == 124
    with pytest.raises(RoomError, match="sleep 60: 124"):
        fencer.room.must("sleep", "60", limit_s=0.3)


def live(room: Room) -> None:
    try:
        wait_for("the room ends", room.ended, 10)
        room.check()
    finally:
        room.kill()


def test_a_room_whose_script_fails_says_why(pacemaker: None, tmp_path: Path) -> None:
    with pytest.raises(RoomError, match=r"broken ended: .*hosts"):
        live(Room("broken", tmp_path / "broken", "node.sh", str(machine.agent())))  # without the files of a node

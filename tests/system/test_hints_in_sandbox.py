"""The kernel's events about devices reach the service in its sandbox, which has a network namespace of its own."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nvmefence.inventory.uevents import Uevents
from tests.system.service_room import ServiceRoom
from tests.system.test_unit_file import FILE, UNIT, WHY_NOT
from tests.system.watching import until

pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT) and os.environ.get("NVMEFENCE_LAB") != "require", reason=WHY_NOT),
]
PCI = Path("/sys/bus/pci/devices")
LISTENER = """
import pathlib, select, sys
from nvmefence.inventory.uevents import Uevents
place = pathlib.Path(sys.argv[1])
events = Uevents()
fd = events.open()
(place / "listening").write_text(str(pathlib.Path("/proc/self/ns/net").readlink()))
while True:
    select.select([fd], [], [])
    if events.drain(100):
        (place / "heard").write_text("")
"""


def stir() -> bool:
    """Have the kernel say once more that a PCI device is there, as `udevadm trigger` does."""
    try:
        next(PCI.iterdir()).joinpath("uevent").write_text("change")
    except (OSError, StopIteration):
        return False
    return True


def hears(fd: int, drain: Callable[[int], bool]) -> bool:
    """Whether an event comes to this process."""
    end = time.monotonic() + 2
    while stir() and time.monotonic() < end:
        if select.select([fd], [], [], 0.2)[0] and drain(100):
            return True
    return False


def test_a_device_event_is_heard_in_the_sandbox(tmp_path: Path) -> None:
    here = Uevents()
    if not hears(here.open(), here.drain):
        pytest.skip("the kernel tells this process nothing of devices")
    here.close()
    (tmp_path / "listener.py").write_text(LISTENER)
    command = f"{sys.executable} {tmp_path / 'listener.py'} {tmp_path}"
    drop_in = (
        f"[Service]\nType=exec\nExecStart=\nExecStart={command}\nWatchdogSec=0\n"
        f"ReadWritePaths={tmp_path}\nProtectHome=no\nPrivateTmp=no\n"
        f"Environment=PYTHONPATH={Path(__file__).parents[2]} PYTHONDONTWRITEBYTECODE=1\n"
    )
    units = {UNIT: FILE.read_text(), f"{UNIT}.d/test.conf": drop_in}
    (tmp_path / "room").mkdir()
    with ServiceRoom(tmp_path / "room", units) as room:
        started = room.run("systemctl", "start", UNIT)
        assert started.returncode == 0, room.systemctl("status", UNIT)
        until((tmp_path / "listening").exists, "it listens")
        until(lambda: stir() and (tmp_path / "heard").exists(), "the event is heard")
        mine = Path("/proc/self/ns/net").readlink()
        assert (tmp_path / "listening").read_text() != str(mine), "it is in a network namespace of its own"

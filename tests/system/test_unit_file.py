"""The unit file under a real systemd: readiness, reload, watchdog, restart, and a sandbox in which fences work."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvmefence import clock
from tests.system.place import FLEET, HOSTS, MAIN
from tests.system.service_room import ServiceRoom, missing
from tests.system.watching import Watching, until

UNIT = "nvmefence-watcher.service"
FILE = Path(__file__).parents[2] / "packaging" / "systemd" / UNIT
WHY_NOT = missing()
pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT) and os.environ.get("NVMEFENCE_LAB") != "require", reason=WHY_NOT),
]


class Service(Watching):
    """A place whose watcher is a service."""

    room: ServiceRoom

    def main_process(self) -> int:
        return int(self.room.shows(UNIT, "MainPID"))

    def state(self) -> str:
        return self.room.shows(UNIT, "ActiveState")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    place = Service(tmp_path)
    place.write(FLEET, HOSTS)
    words = [*MAIN, *place.arguments()]
    drop_in = (
        f"[Service]\nExecStart=\nExecStart={' '.join(words)}\nWorkingDirectory={tmp_path}\nWatchdogSec=2\n"
        # Where a test lies is not where the service's files lie.
        f"ReadWritePaths={tmp_path}\nProtectHome=no\nPrivateTmp=no\n"
        f"Environment=PYTHONPATH={Path(__file__).parents[2]} PYTHONDONTWRITEBYTECODE=1\n"
    )
    units = {UNIT: FILE.read_text(), f"{UNIT}.d/test.conf": drop_in}
    (tmp_path / "room").mkdir()
    with ServiceRoom(tmp_path / "room", units) as place.room:
        yield place


def fence(service: Service, name: str, host: str) -> None:
    assert service.answered(service.ask(name, target_node=host))["success"] is True


def test_the_service_fences_in_its_sandbox_and_survives_what_happens_to_it(service: Service) -> None:
    started = service.room.run("systemctl", "start", UNIT)
    assert (started.returncode, service.state()) == (0, "active"), service.room.systemctl("status", UNIT)
    fence(service, "r-1.json", "c1")
    told = json.loads((service.answers / "r-1.json").read_text())["timeline"]
    assert told["clock"] == clock.identity(), "the sandbox hides the boot, and the service manager did not tell it"
    assert "Fenced c1" in service.room.shows(UNIT, "StatusText")
    assert memory_is_locked(service)

    service.write(hosts=HOSTS + "[hosts.c3]\nslot = 2\n")
    assert service.room.run("systemctl", "reload", UNIT).returncode == 0
    fence(service, "r-2.json", "c3")

    before = service.main_process()
    service.room.run("kill", "-KILL", str(before))
    until(lambda: service.state() == "active" and service.main_process() not in (0, before), "it is started again")
    fence(service, "r-3.json", "c2")

    before = service.main_process()
    service.room.run("kill", "-STOP", str(before))
    until(lambda: service.state() == "active" and service.main_process() not in (0, before), "the watchdog acted")
    fence(service, "r-4.json", "c2")

    assert service.room.run("systemctl", "stop", UNIT).returncode == 0
    assert (service.state(), service.room.shows(UNIT, "Result")) == ("inactive", "success")
    assert len(service.lines()) == 4


def test_refused_settings_are_not_tried_again(service: Service) -> None:
    service.write(hosts="version = 1\n[hosts")
    assert service.room.run("systemctl", "start", UNIT).returncode != 0
    assert (service.state(), service.room.shows(UNIT, "ExecMainStatus")) == ("failed", "3")
    assert service.room.shows(UNIT, "NRestarts") == "0"


def memory_is_locked(service: Service) -> bool:
    """Whether the kernel counts locked memory for the service's process."""
    status = service.room.run("cat", f"/proc/{service.main_process()}/status").stdout
    (locked,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmLck:")]
    return int(locked) > 10_000


def test_the_sandbox_leaves_little_exposed() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(FILE)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level" in done.stdout

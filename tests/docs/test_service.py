"""The watcher as a service: the documentation's commands under a real systemd, with its journal."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docs.machine import FLEET, MAP, RESPONSES, Machine, readme_map
from tests.docs.scenes import Service
from tests.docs.steps import ENDED, Step, follow
from tests.system import service_room
from tests.system.service_room import ServiceRoom

UNIT = "nvmefence-watcher.service"
WHY_NOT = service_room.missing()
pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT) and os.environ.get("NVMEFENCE_LAB") != "require", reason=WHY_NOT),
]
JOURNALD = {
    "systemd-journald.socket": """\
[Unit]
DefaultDependencies=no
[Socket]
ListenDatagram=/run/systemd/journal/socket
ListenStream=/run/systemd/journal/stdout
PassCredentials=yes
""",
    "systemd-journald.service": """\
[Unit]
DefaultDependencies=no
Requires=systemd-journald.socket
[Service]
Type=notify
ExecStart=/lib/systemd/systemd-journald
StandardOutput=null
""",
}
"""The journal, without what in the room there is not: kernel messages, audit, /dev/log."""


def name_a_third_host(service: Service) -> None:
    service.machine.inside(MAP).write_text(f"{readme_map()}\n[hosts.compute-3]\nslot = 2\n")


def ask(service: Service) -> None:
    done = service.shell("fence_gfs2_recorder --action=off --plug=compute-2", 30)
    assert done.returncode == 0, done.stderr


def process(service: Service) -> str:
    return service.room.shows(UNIT, "MainPID")


def remember_its_process(service: Service) -> None:
    service.before = process(service)


def another_process_serves(service: Service) -> None:
    assert process(service) not in ("0", service.before)
    assert service.room.shows(UNIT, "ActiveState") == "active"


def has_the_fence(text: str) -> None:
    assert "Fenced compute-2" in text


def is_gone(service: Service) -> None:
    assert service.room.shows(UNIT, "ActiveState") == "inactive"
    assert service.room.systemctl("is-enabled", UNIT).strip() == "disabled"


STEPS: list[Step[Service]] = [
    Step("systemd-tmpfiles --create nvmefence.conf"),
    Step("systemctl daemon-reload"),
    Step("systemctl enable --now nvmefence-watcher", says=["Created symlink"]),
    Step("systemctl status nvmefence-watcher",
         says=[r"Active: active \(running\)", 'Status: "serving; no fence yet"']),
    Step("fence_gfs2_recorder --action=monitor; echo $?", says=["^0$"]),
    Step("systemctl reload nvmefence-watcher", before=name_a_third_host),
    Step("journalctl -u nvmefence-watcher", says=["serving .* for 2 hosts", "host map read anew .*: 3 hosts"]),
    Step("journalctl -u nvmefence-watcher --lines=50", says=[r"request [-0-9a-f]+\.json", "Fenced compute-2"],
         before=ask),
    Step("journalctl -u nvmefence-watcher --since -1d > journal.txt", folder="/localdisk",
         after=lambda service: has_the_fence(service.machine.inside("/localdisk/journal.txt").read_text())),
    Step("systemctl status nvmefence-watcher", says=["Status: .* Fenced compute-2"]),
    Step("systemctl restart nvmefence-watcher", before=remember_its_process, after=another_process_serves),
    Step("ls -ld /localdisk/gfs2-fencing/responses/", says=[f"^drwxr-x--- .* root root .* {RESPONSES}/$"]),
    Step("stat /localdisk/gfs2-fencing/requests/", says=[r"Uid: \( +0/ +root\)"]),
    Step("findmnt --target /localdisk/gfs2-fencing/responses", says=["^/localdisk .*"]),
    Step("mount | grep gfs2-fencing", exit=1, never=["."]),
    Step("tail -f /var/log/gfs2-fencing/fence-events.log", exit=ENDED, limit_s=2,
         says=[r"\[INFO\] Fence off of compute-2: success: .* \(request "]),
    Step("systemctl disable --now nvmefence-watcher", after=is_gone),
]  # fmt: skip


@contextmanager
def running(
    machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch, unit: str, more: Mapping[str, str]
) -> Iterator[ServiceRoom]:
    """Run a systemd on the machine that knows the unit file that was installed, the journal's, and more."""
    machine.reset(readme_map())
    on_the_machine = folder / "room.sh"
    words = machine.words(str(service_room.SCRIPT))
    on_the_machine.write_text(f'#!/bin/bash\nexec {" ".join(words)} "$@"\n')
    on_the_machine.chmod(0o755)
    monkeypatch.setattr(service_room, "SCRIPT", on_the_machine)
    installed = machine.inside(f"/etc/systemd/system/{unit}").read_text()
    with ServiceRoom(folder / "room", {unit: installed, **JOURNALD, **more}) as room:
        room.run("systemctl", "start", "systemd-journald.socket")
        yield room


@pytest.fixture
def service(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Give a systemd on the machine that knows the watcher."""
    installed = machine.inside(f"/etc/systemd/system/{UNIT}").read_text()
    (start,) = re.findall(r"^ExecStart=(.*)$", installed, re.MULTILINE)
    rehearsal = (
        f"[Service]\nExecStart=\nExecStart={start} --simulate {FLEET}\n"  # only so a watcher has such drives
    )
    more = {f"{UNIT}.d/rehearsal.conf": rehearsal}
    with running(machine, tmp_path, monkeypatch, UNIT, more) as room:
        yield Service(machine, room)


def test_the_service_is_started_looked_at_and_ended_as_written(service: Service) -> None:
    follow(service, STEPS)

"""The scenes in which the documentation's commands are run, all on one machine with nvmefence installed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from tests.cluster.nodes import Cluster
from tests.cluster.room import Room, wait_for
from tests.docs.machine import FLEET, SCRIPT, Machine
from tests.system.service_room import ServiceRoom

WATCH: Final = "nvmefence watch"
"""The documentation's command for a watcher without a service manager."""
_DIARY: Final = "/var/log/gfs2-fencing/watch.log"
_WITHIN_S: Final = 20.0
_TICK_S: Final = 0.02


class Desk:
    """A person at a shell of the machine."""

    def __init__(self, machine: Machine, room: Room) -> None:
        self.machine = machine
        self.room = room
        self._watcher = ""

    @classmethod
    def alone(cls, machine: Machine, folder: Path) -> Desk:
        """Return a desk in a room where nothing runs."""
        ready = folder / "ready"
        wait = ["bash", "-c", f"hostname rabbit; touch {ready}; sleep infinity & wait"]
        desk = cls(machine, Room("rabbit", folder, str(SCRIPT), str(machine.folder), *wait))
        wait_for("the machine is there", ready.exists, _WITHIN_S)
        return desk

    def shell(self, text: str, limit_s: float) -> subprocess.CompletedProcess[str]:
        """Run a shell's commands."""
        return self.room.run("bash", "-c", text, limit_s=limit_s)

    def start_watcher(self) -> None:
        """Start the watcher in the background and wait until it serves."""
        self.room.must("systemd-tmpfiles", "--create", "nvmefence.conf")
        watch = f"{WATCH} --simulate {FLEET}"  # by no settings alone does a watcher have simulated drives
        started = self.room.must("bash", "-c", f"setsid {watch} </dev/null >{_DIARY} 2>&1 & echo $!")
        self._watcher = started.strip()
        wait_for("the watcher serves", lambda: "serving" in self._said(), _WITHIN_S, _TICK_S)

    def stop_watcher(self) -> None:
        """End the watcher in good order."""
        self.room.must("kill", self._watcher)
        self._watcher = ""
        wait_for("the watcher has stopped", lambda: "stopped" in self._said(), _WITHIN_S, _TICK_S)

    def kill_watcher(self) -> None:
        """End the watcher, if there is one, as a crash does."""
        if self._watcher:
            self.room.must("kill", "-KILL", self._watcher)
            self._watcher = ""

    def _said(self) -> str:
        diary = self.machine.inside(_DIARY)
        return diary.read_text() if diary.exists() else ""

    def ask(self) -> None:
        """Have compute-2 fenced through the watcher."""
        self.room.must("fence_gfs2_recorder", "--action=off", "--plug=compute-2")


class Node(Desk):
    """A person at a shell of a node of a cluster, which is the machine that the drives are in."""

    def __init__(self, machine: Machine, cluster: Cluster) -> None:
        super().__init__(machine, cluster.room())
        self.cluster = cluster

    def fence(self) -> subprocess.CompletedProcess[str]:
        """Have the cluster fence compute-2."""
        return self.cluster.pcs("stonith", "fence", "compute-2")

    def waits(self, seconds: int) -> None:
        """Fail unless a fence now waits for its response for so long."""
        assert self.fence().returncode == 0
        requested = [line for line in self.machine.events().splitlines() if "STATUS=requested" in line]
        assert f"DETAILS=waiting {seconds} s for the response" in requested[-1]


class Service:
    """A person at a shell of the machine, where a service manager runs."""

    def __init__(self, machine: Machine, room: ServiceRoom) -> None:
        self.machine = machine
        self.room = room
        self.before = ""
        """The process that served when that was looked at last."""

    def shell(self, text: str, limit_s: float) -> subprocess.CompletedProcess[str]:
        """Run a shell's commands."""
        return self.room.run("timeout", "--kill-after=1", f"{limit_s:g}", "bash", "-c", text)

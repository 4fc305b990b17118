"""Pacemaker's fencer alone: runs fence agents as a cluster does, without a cluster, and is up in a second."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.cluster import machine
from tests.cluster.room import Room, wait_for

_START_S = 20.0


class Fencer:
    """pacemaker-fenced in a room, and the commands that ask it."""

    def __init__(self, folder: Path) -> None:
        self.room = Room("fencer", folder, "fencer.sh", machine.agents(), str(machine.daemon("pacemaker-fenced")))
        try:
            wait_for("pacemaker-fenced answers", self._answers, _START_S)
        except BaseException:
            self.room.kill()
            raise

    def _answers(self) -> bool:
        self.room.check()
        return self.room.run("stonith_admin", "--list-registered").returncode == 0

    def admin(self, *words: str, limit_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run stonith_admin to its end."""
        return self.room.run("stonith_admin", *words, limit_s=limit_s)

    def register(self, device: str, agent: str = machine.AGENT, /, **options: object) -> None:
        """Make a device of an agent known, with its parameters and Pacemaker's own."""
        words = [f"--option={name}={value}" for name, value in options.items()]
        self.room.must("stonith_admin", "--register", device, "--agent", agent, *words)

    def log(self) -> str:
        """Return what the fencer logged, agents' standard error included."""
        return (self.room.folder / "pacemaker.log").read_text(errors="replace")

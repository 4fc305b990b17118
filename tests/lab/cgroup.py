"""A control group (cgroup v2) whose memory can be taken away from under its processes; for root, in the guest."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import Final

from tests.lab import faults

_LIMIT_S: Final = 30.0


class MemoryGroup:
    """A group of processes with a `memory.max` of its own. A context manager; `folder` gets the mount."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "cgroup"
        self.path = self._root / "lab-memory"

    def __enter__(self) -> MemoryGroup:
        self._root.mkdir()
        subprocess.run(["mount", "-t", "cgroup2", "none", self._root], check=True, timeout=_LIMIT_S)
        faults.write(self._root / "cgroup.subtree_control", "+memory")
        self.path.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            faults.write(self.path / "cgroup.kill", "1")
            faults.wait_for("an empty group", lambda: not (self.path / "cgroup.procs").read_text(), _LIMIT_S)
            self.path.rmdir()
        subprocess.run(["umount", "--lazy", self._root], check=True, timeout=_LIMIT_S)

    @property
    def entering(self) -> tuple[str, ...]:
        """Words before a command that have it run in the group."""
        return ("sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.path / "cgroup.procs"))

    @property
    def used(self) -> int:
        """Bytes that the group uses."""
        return int((self.path / "memory.current").read_text())

    @property
    def resident(self) -> int:
        """Bytes of it that belong to no file: there is no swap, so that the kernel cannot take them back."""
        lines = (self.path / "memory.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["anon"])

    @property
    def killed(self) -> int:
        """How many processes of the group the kernel has killed because there was no memory."""
        lines = (self.path / "memory.events").read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    def limit(self, most: int) -> None:
        """Let the group use so many bytes. What it uses beyond them the kernel takes back, or kills for."""
        faults.write(self.path / "memory.max", str(most), _LIMIT_S)

    def free(self) -> None:
        """Let it use what there is."""
        faults.write(self.path / "memory.max", "max")

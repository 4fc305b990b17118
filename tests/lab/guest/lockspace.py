"""A GFS2 under the kernel's lock manager on one node of a cluster, and what its daemon says about fencing."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

from tests.cluster.room import Room, wait_for
from tests.lab import faults

CLUSTER = "test"
MODULES = ("dlm", "gfs2", "configfs")
TOOLS = ("dlm_controld", "dlm_tool", "mkfs.gfs2", "modprobe")
_MISC = ("dlm-control", "dlm-monitor", "dlm_plock")
_CONFIG = Path("/sys/kernel/config")


def why_not() -> str:
    """Return why there is no GFS2 here, else an empty string."""
    missing = [name for name in TOOLS if shutil.which(name, path="/usr/sbin:/sbin:/usr/bin") is None]
    return f"missing: {', '.join(missing)} (packaging/ensure-packages gfs2)" if missing else ""


def prepare() -> None:
    """Load what the kernel needs, and put its devices where udev would."""
    subprocess.run(["modprobe", "-a", *MODULES], check=True, timeout=60)
    if not (_CONFIG / "dlm").exists():
        subprocess.run(["mount", "-t", "configfs", "none", str(_CONFIG)], check=True, timeout=20)
    Path("/dev/misc").mkdir(exist_ok=True)
    for name in _MISC:
        link = Path("/dev/misc") / name
        if not link.is_symlink() and not link.exists():
            link.symlink_to(f"/dev/{name}")


class Lockspace:
    """dlm_controld in a node's room, and the file systems mounted there."""

    def __init__(self, room: Room, folder: Path) -> None:
        self._room = room
        self._log = folder / "dlm_controld.log"
        self.point = folder / "mnt"
        self.point.mkdir(exist_ok=True)
        self._daemon: subprocess.Popen[str] | None = None
        self._mount: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the daemon. It has every node of the cluster fenced that it does not find alive."""
        command = f"exec dlm_controld -D --post_join_delay 1 >{self._log} 2>&1"
        self._daemon = self._room.start("sh", "-c", command)
        wait_for("dlm_controld is quorate", lambda: "quorate 1" in self.tool("status"), 60, 0.1)

    def tool(self, *words: str) -> str:
        """Return what dlm_tool says."""
        done = self._room.run("dlm_tool", *words)
        return done.stdout + done.stderr

    def waits_for_fencing(self) -> bool:
        """Whether the mount's lockspace waits for a node to be fenced."""
        return "wait fencing" in self.tool("ls")

    def mount(self, device: Path) -> None:
        """Begin to mount a file system."""
        self._mount = self._room.start("mount", "-t", "gfs2", str(device), str(self.point))

    def mounted(self) -> bool:
        """Whether the mount has ended, and well. Raises AssertionError if it failed."""
        assert self._mount is not None
        code = self._mount.poll()
        assert code in (None, 0), self._mount.communicate()
        return code == 0

    def wait_mounted(self, within_s: float) -> float:
        """Wait for the end of the mount; return the time at which it was seen, of `time.time`."""
        wait_for("the mount ends", self.mounted, within_s, 0.005)
        return time.time()

    def said(self) -> str:
        """Return what the daemon has said."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def fencing(self) -> list[str]:
        """Return what the daemon has said about fencing."""
        return [
            line for line in self.said().splitlines() if re.search(r"fence (request|result|wait)|stonith", line)
        ]

    def stop(self) -> None:
        """Unmount, and end the daemon."""
        if self._mount is not None and self._mount.poll() == 0:
            self._room.must("umount", str(self.point), limit_s=60)
        if self._daemon is not None:
            self._room.run("dlm_tool", "dump")
            self._room.run("pkill", "-TERM", "-x", "dlm_controld")
            faults.wait_for(
                "the end of dlm_controld", lambda: self._daemon is None or self._daemon.poll() is not None
            )
        self._daemon = self._mount = None


def make(device: Path, name: str, protocol: str = "lock_dlm") -> None:
    """Make a GFS2 with two journals."""
    command = [
        "mkfs.gfs2",
        "-q",
        "-O",
        "-p",
        protocol,
        "-t",
        f"{CLUSTER}:{name}",
        "-j",
        "2",
        "-J",
        "8",
        str(device),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)

"""A machine on which the documentation is followed: nvmefence installed, simulated drives, the usual places."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.cluster import room
from tests.cluster.machine import NAMESPACES
from tests.cluster.room import Room
from tests.docs import manual

SCRIPT: Final = Path(__file__).with_name("machine.sh")
TOOLS: Final = ("bash", "make", "mount", "nsenter", "pivot_root", "setpriv", "timeout", "unshare")
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAP: Final = "/etc/nvmefence/hosts.toml"
LOG: Final = "/var/log/gfs2-fencing"
RESPONSES: Final = "/localdisk/gfs2-fencing/responses"
FLEET: Final = "/localdisk/fleet.toml"
SETTINGS: Final = f"""\
simulate = "{FLEET}"
# Simulated drives do not serve the default directory under its own name; this is a link to it.
request_dir = "/shared/gfs2-fencing/requests"
quiesce = "wait:0.2"
"""
CONTROLLERS: Final = {"compute-1": 2, "compute-2": 3}
"""Controllers on every drive, by the slots in the README's host map: slot k is virtual function k + 2."""
ATTACHMENTS: Final = 72
"""Of each host in the README's fleet: 18 drives, 4 namespaces each."""
_TRIAL_S: Final = 30


class Machine:
    """A folder with what was installed and what fences leave; `words` and rooms make a machine of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def words(self, *command: str) -> list[str]:
        """Return the command line that runs a command on the machine; it needs a mount namespace of its own."""
        return ["bash", "-eu", str(SCRIPT), "-", "-", str(self.folder), *command]

    def once(self, text: str, limit_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a shell's commands, in the checkout and with this machine's network; nothing is left running."""
        command = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
        ]
        command += self.words("timeout", "--kill-after=1", f"{limit_s:g}", "bash", "-c", text)
        return subprocess.run(
            command, cwd=manual.ROOT, env={**os.environ, "PATH": PATH}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=limit_s + 10,
        )  # fmt: skip

    def room(
        self, name: str, folder: Path, script: str, *words: str, first: str = "",
        namespaces: Sequence[str] = NAMESPACES,
    ) -> Room:  # fmt: skip
        """Return a room on the machine, for one of the cluster's scripts; `first` is what a shell does before."""
        start = [
            "bash",
            "-c",
            f'{first}\nexec bash -eu "$@"',
            "bash",
            str(room.SCRIPTS / script),
            name,
            str(folder),
        ]
        return Room(name, folder, str(SCRIPT), str(self.folder), *start, *words, namespaces=namespaces)

    def inside(self, path: str) -> Path:
        """Return where a path of the machine is to be found from outside."""
        return self.folder / path.removeprefix("/")

    def copy(self, folder: Path) -> Machine:
        """Return another machine with the same things installed."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Machine(folder)

    def reset(self, hosts: str = "") -> None:
        """Make it as it is after an installation, with the README's drives and, if given, a host map."""
        for place in ("/localdisk", LOG, "/var/lib/nvmefence", "/etc/nvmefence"):
            folder = self.inside(place)
            folder.mkdir(exist_ok=True)
            for entry in folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        (fleet,) = manual.toml("[fleet]")
        self.inside(FLEET).write_text(fleet.text)
        self.inside("/etc/nvmefence/nvmefence.toml").write_text(SETTINGS)
        if hosts:
            self.inside(MAP).write_text(hosts)

    def cut_off(self) -> dict[str, int]:
        """Return the hosts that lost namespaces, and how many of their attachments each."""
        state = self.inside("/localdisk/fleet.toml.state.json")
        drives = json.loads(state.read_text())["drives"] if state.exists() else {}
        masks = [int(mask, 16) for drive in drives.values() for mask in drive.get("attached", {}).values()]
        lost = {host: sum(not mask >> own & 1 for mask in masks) for host, own in CONTROLLERS.items()}
        return {host: number for host, number in lost.items() if number}

    def events(self) -> str:
        """Return the log of fence events that people read."""
        return (self.inside(LOG) / "fence-events-readable.log").read_text()

    def response(self) -> str:
        """Return the id of the newest response."""
        found = sorted(self.inside(RESPONSES).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return found[-1].stem


def readme_map() -> str:
    """Return the README's first host map: that of a Rabbit."""
    return manual.toml("version = 1")[0].text


def why_not() -> str:
    """Return why there can be no such machine here; empty when there can."""
    if os.geteuid() != 0:
        return "a machine to follow the documentation on needs root"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    trial = "mount -t tmpfs none /mnt && mount --bind /etc /mnt"
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private", "sh", "-ec", trial],
        env={"PATH": PATH}, capture_output=True, text=True, timeout=_TRIAL_S, check=False,
    )  # fmt: skip
    return f"namespaces are refused here: {done.stderr.strip()}" if done.returncode else ""

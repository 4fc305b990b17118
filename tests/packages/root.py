"""A clean Debian to install packages in: made once with debootstrap, booted for a test, then thrown away."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.system.service_room import ServiceRoom

ROOT: Final = Path(__file__).resolve().parents[2]
DIST: Final = ROOT / "dist"
SCRIPT: Final = Path(__file__).with_name("root.sh")
SUITE: Final = "bookworm"
SYSTEM: Final = ROOT / ".cache" / "roots" / SUITE
_ENVIRONMENT: Final = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
_MAKING_S: Final = 900
_LIMIT_S: Final = 300
SETTINGS: Final = """\
simulate = "/localdisk/fleet.toml"
request_dir = "/localdisk/rehearsal/requests"
response_dir = "/localdisk/rehearsal/responses"
quiesce = "wait:0.1"
"""
"""Simulated drives do not serve the default directories."""
REHEARSAL: Final = "/etc/systemd/system/nvmefence-watcher.service.d/rehearsal.conf"
"""A watcher has simulated drives only by its own command line."""
FLEET: Final = "[fleet]\ndrives = 2\nsecondary_controllers = 3\nnamespaces = 2\n"
HOSTS: Final = "version = 1\n[drives]\ncount = 2\n[hosts.compute-1]\nslot = 0\n"
ASK: Final = (
    "--request-dir=/localdisk/rehearsal/requests",
    "--response-dir=/localdisk/rehearsal/responses",
    "--plug=compute-1",
)


def clean_system() -> Path:
    """Return the clean root, making it if it is not there. Raises CalledProcessError."""
    if not SYSTEM.exists():
        making = SYSTEM.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        making.parent.mkdir(parents=True, exist_ok=True)
        command = ["debootstrap", "--variant=minbase", "--include=ca-certificates,dbus,systemd", SUITE, str(making)]
        subprocess.run(command, check=True, timeout=_MAKING_S, stdout=subprocess.DEVNULL)
        making.rename(SYSTEM)
    return SYSTEM


class CleanRoot(ServiceRoom):
    """A running machine with a clean Debian and its systemd; /packages has what was built."""

    def __init__(self, place: Path, packages: Path = DIST) -> None:
        self.place = place
        self.first = 0
        self.packages = packages
        self.system = clean_system()
        place.mkdir(parents=True, exist_ok=True)

    def _script(self) -> list[str]:
        return [str(SCRIPT), str(self.place), str(self.system), str(self.packages)]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine."""
        inside = ["nsenter", "-t", str(self.first), "-p", "-m", "-i", "-u", "-C", "--", *words]
        return subprocess.run(
            inside, capture_output=True, text=True, timeout=_LIMIT_S, check=False, stdin=subprocess.DEVNULL,
            env=_ENVIRONMENT, cwd="/",
        )  # fmt: skip

    def must(self, *words: str) -> str:
        """Run a command that has to succeed, and return what it prints."""
        done = self.run(*words)
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def apt_install(self, *packages: str) -> str:
        """Install packages of Debian, or files of packages, and nothing that they only recommend."""
        self.must("apt-get", "update", "-q")
        return self.must("apt-get", "install", "-q", "-y", "--no-install-recommends", *packages)

    def write(self, path: str, text: str) -> None:
        """Write a file of the machine."""
        (Path(f"/proc/{self.first}/root") / path.lstrip("/")).write_text(text)

    def has(self, path: str) -> bool:
        """Whether the machine has this file."""
        return (Path(f"/proc/{self.first}/root") / path.lstrip("/")).exists()

    def mode(self, path: str) -> str:
        """Return permissions and owner of a file of the machine."""
        return self.must("stat", "--format=%a %U:%G", path).strip()

    def rehearse(self) -> None:
        """Give it emulated drives and a host map."""
        self.write("/localdisk/fleet.toml", FLEET)
        self.write("/etc/nvmefence/hosts.toml", HOSTS)
        self.write("/etc/nvmefence/nvmefence.toml", SETTINGS)
        self.must("mkdir", "-p", "-m", "750", "/localdisk/rehearsal/requests", "/localdisk/rehearsal/responses")
        self.must("mkdir", "-p", REHEARSAL.rpartition("/")[0])
        start = "/usr/sbin/nvmefence watch --simulate /localdisk/fleet.toml"
        self.write(REHEARSAL, f"[Service]\nExecStart=\nExecStart={start}\n")
        self.must("systemctl", "daemon-reload")


def built(pattern: str) -> Path:
    """Return the one package in dist/ that a pattern names."""
    found = sorted(DIST.glob(pattern))
    assert len(found) == 1, f"dist/{pattern}: {found or 'not built: make packages'}"
    return found[0]


def why_not() -> str:
    """Return why there can be no clean root here; empty when there can."""
    if os.geteuid() != 0:
        return "a clean root needs root"
    if not SYSTEM.exists() and shutil.which("debootstrap") is None:
        return "debootstrap is not installed"
    return ""

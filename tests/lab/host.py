"""What the laboratory needs of this machine, and why it may not be had."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
PACKAGES = (
    "qemu-system-x86", "busybox-static", "kmod", "nvme-cli", "file", "dmsetup", "e2fsprogs", "xfsprogs", "iproute2",
)  # fmt: skip
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "file": "file",
    "nvme": "nvme-cli",
    "timeout": "coreutils",
    "setpriv": "util-linux",
}
Say = Callable[[str], None]


class LabError(Exception):
    """The laboratory cannot be had, or a guest could not be started; the text is for the operator."""


def cache() -> Path:
    """Return the folder for kernels and runs: NVMEFENCE_LAB_CACHE, else `.cache/lab` in the checkout."""
    return Path(os.environ.get("NVMEFENCE_LAB_CACHE") or ROOT / ".cache" / "lab").absolute()


def vng() -> Path | None:
    """Return virtme-ng's command, beside this Python or in PATH."""
    beside = Path(sys.executable).parent / "vng"
    found = beside if beside.exists() else shutil.which("vng")
    return Path(found) if found else None


def tool(name: str) -> str | None:
    """Return a tool's path, also where PATH lacks the sbin folders."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def why_not(*, kernel_cached: bool) -> list[str]:
    """Return the reasons why no guest can be booted here; none when it can."""
    reasons = []
    if sys.platform != "linux" or platform.machine() != "x86_64":
        reasons.append(f"the lab needs Linux on x86-64, this is {sys.platform} on {platform.machine()}")
    if os.geteuid() != 0:
        reasons.append("the lab needs root")
    missing = [package for name, package in TOOLS.items() if tool(name) is None]
    if missing:
        reasons.append(f"missing: {', '.join(missing)} (python -m tests.lab install)")
    if vng() is None:
        reasons.append("missing: virtme-ng (pip install virtme-ng)")
    if not kernel_cached and (tool("apt-get") is None or tool("dpkg") is None):
        reasons.append("no kernel in the cache, and no apt to download Debian's")
    return reasons


def install(say: Say) -> None:
    """Install the packages with apt. Raises LabError."""
    if os.geteuid() != 0:
        raise LabError("installing packages needs root")
    if tool("apt-get") is None:
        raise LabError("no apt-get here: install " + ", ".join(PACKAGES) + " by other means")
    say(f"apt-get install -y --no-install-recommends {' '.join(PACKAGES)}")
    command = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    if apt(command, 900).returncode == 0:
        return
    say("apt-get update, and once more")
    apt(["apt-get", "update"], 600)
    done = apt(command, 900)
    if done.returncode:
        raise LabError(f"apt-get install failed:\n{done.stdout}{done.stderr}")


def apt(command: list[str], limit: float, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run an apt command without questions and without its download user. Raises LabError."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    full = [command[0], "-o", "APT::Sandbox::User=root", *command[1:]]
    try:
        return subprocess.run(
            full, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=limit, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{' '.join(command)}: {error}") from error

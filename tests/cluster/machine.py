"""What a Pacemaker to test under needs of this machine, and why it may not be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
AGENT = "fence_gfs2_recorder"
DIRECT = "fence_nvmefence"
INSTALL = "packaging/ensure-packages cluster"
TOOLS = {
    "corosync": "corosync",
    "crm_mon": "pacemaker-cli-utils",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "pacemakerd": "pacemaker",
    "pcs": "pcs",
    "setpriv": "util-linux",
    "stonith_admin": "pacemaker-cli-utils",
    "unshare": "util-linux",
}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""For everything that runs here: the daemons find their agents at fixed places, not by the caller's PATH."""
NAMESPACES = ("--net", "--mount", "--ipc", "--uts", "--pid")
_DAEMONS = (Path("/usr/lib/pacemaker"), Path("/usr/libexec/pacemaker"))
_LIMIT_S = 20


def tool(name: str) -> str | None:
    """Return the path of a program."""
    return shutil.which(name, path=PATH)


def daemon(name: str) -> Path | None:
    """Return the path of a daemon of Pacemaker, which is in no PATH."""
    return next((folder / name for folder in _DAEMONS if (folder / name).exists()), None)


def agent(name: str = AGENT) -> Path:
    """Return an agent's script in the virtual environment that runs these tests."""
    return Path(sys.executable).parent / name


def agents() -> str:
    """Return the scripts of all agents, as a room takes them."""
    return ":".join(str(agent(name)) for name in (AGENT, DIRECT))


def why_not() -> list[str]:
    """Return the reasons why no cluster can be had here; none when it can."""
    if sys.platform != "linux":
        return [f"a cluster needs Linux, this is {sys.platform}"]
    reasons = []
    missing = {package for name, package in TOOLS.items() if tool(name) is None}
    if daemon("pacemaker-fenced") is None:
        missing.add("pacemaker")
    if missing:
        reasons.append(f"missing: {', '.join(sorted(missing))} ({INSTALL})")
    reasons += [f"missing: {agent(name)} (make build)" for name in (AGENT, DIRECT) if not agent(name).exists()]
    if os.geteuid() != 0:
        reasons.append("a cluster needs root")
    elif not missing:
        reasons += _refused()
    return reasons


def _refused() -> list[str]:
    """Try what containers like to refuse: namespaces, mounts, links between network namespaces."""
    trial = (
        "mount -t tmpfs none /run && ip link add name v0 type veth peer name v1 && ip link add name s0 type bridge"
    )
    command = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "--propagation", "private", "sh", "-ec", trial]
    try:
        done = subprocess.run(
            command, env={"PATH": PATH}, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return [f"unshare did not end within {_LIMIT_S} s"]
    return [f"namespaces are refused here: {done.stderr.strip()}"] if done.returncode else []

"""A real service manager for one unit, in namespaces of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final, Self

from tests.system.watching import until

SCRIPT: Final = Path(__file__).with_name("service_room.sh")
MANAGER: Final = Path("/lib/systemd/systemd")
TARGET: Final = "[Unit]\nDefaultDependencies=no\n"
TARGETS: Final = ("room", "sysinit", "basic", "shutdown", "local-fs", "remote-fs")
"""Empty ones: of the machine's own units the room knows none."""


def missing() -> str:
    """Return why there can be no room here, else an empty string."""
    if os.geteuid() != 0:
        return "a service manager of our own needs root"
    tools = [tool for tool in ("unshare", "nsenter", "systemctl") if shutil.which(tool) is None]
    if tools or not MANAGER.exists():
        return f"not installed: {', '.join([*tools, *([] if MANAGER.exists() else ['systemd'])])}"
    refused = subprocess.run(["unshare", "-m", "-p", "-C", "-f", "true"], capture_output=True, check=False)
    return "namespaces are refused here" if refused.returncode else ""


class ServiceRoom:
    """A running systemd that knows a target and the units that are given. Use as a context manager."""

    def __init__(self, place: Path, units: dict[str, str]) -> None:
        self.place = place
        self.first = 0
        for name, text in {**{f"{name}.target": TARGET for name in TARGETS}, **units}.items():
            path = place / "units" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            ["unshare", "-m", *self._script()], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self.first = until(self._child, "process 1 of the room")
            until(lambda: self.systemctl("is-system-running").strip() == "running", "systemd runs")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.first or self.process.pid, signal.SIGKILL)
        self.process.wait(20)
        for base in (Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup")):
            group = base / f"nvmefence-test-{self.process.pid}"
            if group.is_dir():
                _remove(group)

    def _script(self) -> list[str]:
        """Return the command that becomes the service manager."""
        return [str(SCRIPT), str(self.place)]

    def _child(self) -> int:
        assert self.process.poll() is None, f"the room ended with {self.process.returncode}"
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return next((int(pid) for pid in listed if _is_first(pid)), 0)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the room."""
        inside = ["nsenter", "-t", str(self.first), "-p", "-m", "-i", "-u", "-n", "--", *words]
        return subprocess.run(
            inside, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )

    def systemctl(self, *words: str) -> str:
        return self.run("systemctl", "--no-pager", *words).stdout

    def shows(self, unit: str, key: str) -> str:
        return self.systemctl("show", unit, f"--property={key}", "--value").strip()


def _is_first(pid: str) -> bool:
    """Whether a process is number 1 of a namespace of its own, and no passing tool of the script."""
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    (inner,) = [line.split()[1:] for line in status if line.startswith("NSpid:")]
    return len(inner) > 1 and inner[-1] == "1"


def _remove(group: Path) -> None:
    """Remove a group of processes that are dead, with what systemd made below it."""
    for _attempt in range(100):
        for path in sorted((p for p in group.rglob("*") if p.is_dir()), reverse=True):
            subprocess.run(["rmdir", str(path)], capture_output=True, check=False)
        if subprocess.run(["rmdir", str(group)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.05)

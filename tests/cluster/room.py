"""A room: namespaces of their own for a Pacemaker, in which this machine's daemons, mounts and network stay out.

Everything in a room ends with its init, and its init ends with the process that made it, even by SIGKILL: mounts,
links and processes are the kernel's to clean up, so nothing is left behind by a test that fails.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tests.cluster import machine

SCRIPTS = Path(__file__).parent
_GRACE_S = 30.0
T = TypeVar("T")


class RoomError(Exception):
    """A room did not come up, or something in it took too long; the text says what."""


def wait_for(what: str, look: Callable[[], T], within_s: float, pause_s: float = 0.05) -> T:
    """Look until something true comes back and return it. Raises RoomError."""
    until = time.monotonic() + within_s
    while True:
        if found := look():
            return found
        if time.monotonic() >= until:
            raise RoomError(f"waited {within_s:g} s in vain: {what}")
        time.sleep(pause_s)


class Room:
    """Namespaces with an init that runs a script; `folder` takes its output and is for its files."""

    def __init__(
        self, name: str, folder: Path, script: str, *words: str, namespaces: Sequence[str] = machine.NAMESPACES
    ) -> None:
        """`namespaces` are those that it has of its own."""
        self.name = name
        self.folder = folder
        self._namespaces = namespaces
        folder.mkdir(parents=True, exist_ok=True)
        self._output = folder / "output"
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "--fork", "--kill-child"]
        command += ["--mount-proc", "--propagation", "private"]
        command += ["bash", "-eu", str(SCRIPTS / script), name, str(folder), *words]
        with self._output.open("wb") as output:
            self._unshare = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": machine.PATH, "LC_ALL": "C.UTF-8", "PCMK_logfacility": "none"},  # no syslog
                cwd="/",
                umask=0o022,
                start_new_session=True,
            )
        self.init = 0
        self._pidfd = -1
        try:
            self.init = wait_for(f"{name} has an init", self._find_init, 30, 0.005)
            self._pidfd = os.pidfd_open(self.init)
        except BaseException:
            self.kill()
            raise

    def _find_init(self) -> int:
        """Return the init's process id once it runs the script: from then on the namespaces are made."""
        self.check()
        parent = self._unshare.pid
        with contextlib.suppress(OSError, IndexError):
            child = int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])
            if Path(f"/proc/{child}/comm").read_text().strip() == "bash":
                return child
        return 0

    def ended(self) -> bool:
        """Return whether its init is gone, which ends when the daemons that it started have ended."""
        return self._unshare.poll() is not None

    def check(self) -> None:
        """Raise RoomError if the room has ended."""
        if self.ended():
            raise RoomError(f"{self.name} ended: {self._output.read_text(errors='replace').strip()}")

    def inside(self, path: str) -> Path:
        """Return where a path of the room is to be found from outside."""
        return Path(f"/proc/{self.init}/root{path}")

    def ip(self, *words: str) -> None:
        """Run ip on the room's network. Raises RoomError.

        It enters the network alone: a process id among its words is one of this machine.
        """
        command = ["nsenter", "--target", str(self.init), "--net", "ip", *words]
        done = subprocess.run(
            command, env={"PATH": machine.PATH}, capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode:
            raise RoomError(f"{self.name}: ip {' '.join(words)}: {done.stderr.strip()}")

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in the room, which its end bounds."""
        return subprocess.Popen(
            ["nsenter", "--target", str(self.init), *self._namespaces, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": machine.PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", "COLUMNS": "200"},
            cwd="/",
        )

    def run(self, *command: str, limit_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command in the room to its end. Raises RoomError if it takes longer than the limit."""
        # timeout runs inside: killing nsenter alone would leave the command and the pipes it holds.
        process = self.start("timeout", "--kill-after=1", f"{limit_s:g}", *command)
        try:
            out, err = process.communicate(timeout=limit_s + _GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise RoomError(f"{self.name}: {' '.join(command)}: no end within {limit_s:g} s") from None
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def must(self, *command: str, limit_s: float = 30) -> str:
        """Run a command that has to succeed and return its output. Raises RoomError."""
        done = self.run(*command, limit_s=limit_s)
        if done.returncode:
            self.check()
            raise RoomError(f"{self.name}: {' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def kill(self) -> None:
        """End the room as a power cut ends a machine, and wait until nothing of it is left."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
        elif self._unshare.poll() is None and not self.init:
            self._unshare.kill()
        self._unshare.wait(timeout=_GRACE_S)  # it ends when its init is reaped, which is after all its processes

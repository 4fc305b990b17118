"""From a request to its response, and the processes around it: here, on a simulated drive, without a guest.

Our agent and watcher beside what nothing in Python can undercut, a bare interpreter's start and exit, and beside a
pair that polls, as such pairs in the field do.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from nvmefence.watcher.kernel import Inotify
from tests.bench import at_rest, figures
from tests.bench.figures import Figures, RoundTrips
from tests.bench.polling import PollingPair
from tests.bench.turns import ENVIRONMENT, WrongResult, take_turns, timed
from tests.system.watching import Running, Watching

BIN: Final = Path(sys.executable).parent
ROOT: Final = Path(__file__).parents[2]
AGENT: Final = "fence_gfs2_recorder"
TARGET: Final = "c1"
TIMEOUT_S: Final = 20
_FLEET: Final = "[fleet]\ndrives = 1\nsecondary_controllers = 5\nnamespaces = 4\n"
_HOSTS: Final = f"version = 1\n[drives]\ncount = 1\n[hosts.{TARGET}]\nslot = 0\n"
_CUT: Final = {"SIM00000": {"attached": {str(nsid): "3a" for nsid in range(1, 5)}}}
"""What a fence changes: of controllers 1 to 5, 2 is the target's."""
_PAUSE_S: Final = 0.005
"""Seconds after each turn, for what a watcher still does when its response is there."""
_SETTLE_S: Final = 3.0
"""Seconds after which a watcher is at rest."""


class Ours:
    """Directories, a drive whose state is kept in memory, the watcher, and the ways of asking it."""

    def __init__(self, folder: Path, memory: Path) -> None:
        self._place = Watching(folder)
        self._state = memory / "state.json"
        self._place.write(f'{_FLEET}state = "{self._state}"\n', _HOSTS)
        self._options = folder / "options"
        self._options.write_text(
            f"action=off\nport={TARGET}\nfence_timeout={TIMEOUT_S}\nlog_dir={self._place.logs}\n"
            f"request_dir={self._place.requests}\nresponse_dir={self._place.answers}\n"
        )
        self.checks = 0

    @contextlib.contextmanager
    def served(self) -> Iterator[int]:
        """Have the watcher running; gives its process id."""
        running = Running([str(BIN / "nvmefence"), *self._place.arguments()], self._place.path)
        try:
            running.hears("serving")
            yield running.process.pid
            running.stop()
        finally:
            running.kill()

    def installed_agent(self) -> Path:
        """Return the agent's script as `make install` writes it."""
        path = self._place.path / AGENT
        with path.open("wb") as script:
            writer = [str(ROOT / "packaging" / "write-agent"), sys.executable, AGENT]
            subprocess.run(writer, stdout=script, check=True, timeout=60)
        path.chmod(0o755)
        return path

    def agent(self, program: Path) -> float:
        """Run the agent; return its seconds from start to exit."""
        with self._options.open("rb") as options:
            return timed([str(program)], options, ENVIRONMENT)

    def watcher(self) -> float:
        """Put a request there; return the seconds from its rename until the response is visible."""
        name = f"{uuid.uuid4()}.json"
        draft = self._place.path / name
        draft.write_text(json.dumps({"request_id": draft.stem, "action": "off", "target_node": TARGET}))
        draft.chmod(0o600)
        with _watched(self._place.answers) as inotify:
            started = time.monotonic()
            draft.rename(self._place.requests / name)
            while not inotify.concerns(name.encode()):
                if not select.select([inotify.fd], [], [], TIMEOUT_S)[0]:
                    raise WrongResult(f"no response within {TIMEOUT_S} s")
            return time.monotonic() - started

    def on_disk(self) -> float:
        """Force to the disk what a watcher must before its response is visible, nothing else; return the seconds.

        An audit line; the record of what was taken, and its entry in the directory; the response.
        """
        folder = self._place.path / "floor"
        folder.mkdir(exist_ok=True)
        line = json.dumps(self._place.lines()[-1]).encode()
        started = time.monotonic()
        with (folder / "audit.jsonl").open("ab") as audit:
            _force(audit.fileno(), line)
        for name in ("record", "response"):
            with (folder / f".{name}.tmp").open("wb") as draft:
                _force(draft.fileno(), line)
            (folder / f".{name}.tmp").rename(folder / name)
            if name == "record":
                directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                os.fsync(directory)
                os.close(directory)
        return time.monotonic() - started

    def fence(self) -> float:
        """Return the median seconds of the fences so far, without the way there and back."""
        return statistics.median(float(line["times"]["fence"]) for line in self._place.lines())

    def check_and_restore(self) -> None:
        """Read the drive's state: the target is gone, everybody else is there. Then attach it again."""
        self.checks += 1
        found = json.loads(self._state.read_text())["drives"] if self._state.exists() else {}
        if found != _CUT:
            raise WrongResult(f"of the drive's first state is changed {found}, expected {_CUT}")
        self._state.unlink()


def _force(fd: int, data: bytes) -> None:
    os.write(fd, data)
    os.fsync(fd)


@contextlib.contextmanager
def _watched(directory: Path) -> Iterator[Inotify]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    inotify = Inotify()
    try:
        inotify.follow(fd)
        yield inotify
    finally:
        inotify.close()
        os.close(fd)


def measure(runs: int, polling_runs: int, rest_s: float) -> RoundTrips:
    """Measure all of it, the ways in turn; then watch the watcher for `rest_s` seconds. Raises WrongResult."""
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nvmefence-bench-")))
        shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
        memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nvmefence-bench-", dir=shared)))
        ours, pair = Ours(folder, memory), PollingPair(folder, TARGET, TIMEOUT_S)
        watcher = stack.enter_context(ours.served())
        with pair.served():
            time.sleep(_SETTLE_S)
            ways = _measured(ours, pair, runs, polling_runs)
        fence = ours.fence()
        time.sleep(_SETTLE_S)
        rest = at_rest.rest(watcher, rest_s)
        where = {**_where(folder), "whole run": f"{time.monotonic() - started:.0f} s"}
    return RoundTrips(where, ways, {figures.FENCE: fence}, ours.checks, rest)


def _measured(ours: Ours, pair: PollingPair, runs: int, polling_runs: int) -> list[Figures]:
    installed, by_pip = ours.installed_agent(), BIN / AGENT
    bare = [sys.executable, "-I", "-S", "-c", "pass"]
    plain = [sys.executable, "-c", "pass"]
    ways: dict[str, tuple[str, Callable[[], float]]] = {
        figures.WATCHER: ("watcher: request renamed to response visible", ours.watcher),
        figures.ON_DISK: ("the floor: what it forces to the disk before that, nothing else", ours.on_disk),
        figures.INTERPRETER: ("bare interpreter: python -I -S -c pass", lambda: timed(bare, env=ENVIRONMENT)),
        figures.PLAIN_INTERPRETER: ("interpreter: python -c pass", lambda: timed(plain, env=ENVIRONMENT)),
        figures.AGENT: (f"{AGENT}, start to exit", lambda: ours.agent(installed)),
        figures.PIP_AGENT: (f"{AGENT}, the script that pip makes", lambda: ours.agent(by_pip)),
        figures.POLLING: ("agent and watcher that poll each 0.5 s", pair.agent),
    }

    def after(name: str, _number: int, _seconds: float) -> None:
        if name in (figures.WATCHER, figures.AGENT, figures.PIP_AGENT):
            ours.check_and_restore()
        time.sleep(_PAUSE_S)

    calls = {name: call for name, (_, call) in ways.items()}
    take_turns(
        calls, {name: name != figures.POLLING for name in ways}, after
    )  # not measured: brings it into memory
    rounds = {name: polling_runs if name == figures.POLLING else runs for name in ways}
    seconds = take_turns(calls, rounds, after)
    return [Figures(name, title, 0, seconds[name]) for name, (title, _) in ways.items() if seconds[name]]


def _where(folder: Path) -> dict[str, str]:
    """Return what it runs on. The file system counts: requests, audit and responses are forced to the disk."""
    command = ["df", "--output=fstype", str(folder)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return {
        "simulated drives": "1, with 4 namespaces",
        "directories on": said.split()[-1],
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "CPUs": str(os.cpu_count()),
    }

"""A place where things go wrong: a simulated fleet, its watcher, agents, and what must be true there."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar
from unittest import mock

from nvmefence.nvme import simulation
from tests.chaos.shim import Call, Control
from tests.system.place import CLEAN, FLEET, SLOT_0, SLOT_1
from tests.system.watching import AGENT, Running, Watching

T = TypeVar("T")
FALLBACK: Final = ".audit.jsonl"
SLOTS: Final = {"c1": SLOT_0, "c2": SLOT_1}
UNHURRIED: Final = FLEET + "".join(f'\n[[drive]]\nnumber = {n}\nanswers = "late:0.003"\n' for n in range(3))
"""Drives that take some time for each command, so that there is an instant to be hit in the middle."""
_PAUSE_S: Final = 0.002


class Broken(AssertionError):
    """Something that must hold at any time did not."""


class Site(Watching):
    """A place that looks, whenever it waits, whether what is visible is true."""

    def __init__(self, path: Path, fleet: str = UNHURRIED) -> None:
        super().__init__(path)
        self.write(fleet)
        self.control: Control | None = None
        self._seen: set[str] = set()
        self._number = 0
        self.failures = 0
        """Answers that were no success."""

    def shimmed(self) -> Control:
        """Have what is started from now on run with the shim, which means this place."""
        self.control = Control(self.path / "control", self.path)
        return self.control

    @property
    def variables(self) -> dict[str, str]:
        return dict(self.control.environment) if self.control else {}

    @contextlib.contextmanager
    def watcher(self, *more: str, ready: bool = True, **options: Any) -> Iterator[Running]:
        environment = {**self.variables, **options.pop("env", {})}
        with super().watcher("--no-lock-memory", *more, ready=ready, env=environment, **options) as running:
            yield running

    def fresh(self) -> str:
        """Return a name for a request that was not used yet."""
        self._number += 1
        return f"r-{self._number}.json"

    def agent_process(self, target: str, timeout_s: float, action: str = "off", **options: Any) -> AgentProcess:
        """Start an agent that fences."""
        return AgentProcess(self, target, timeout_s, action, **options)

    def put(self, name: str, text: str | bytes) -> Path:
        """Put a file into the request directory at once, whatever file system that is."""
        draft = self.requests / f".{name}.tmp"
        draft.write_bytes(text.encode() if isinstance(text, str) else text)
        draft.chmod(0o600)
        draft.rename(self.requests / name)
        return self.answers / name

    def asked(self, agent: AgentProcess) -> None:
        """Wait until an agent has asked, or ended."""
        self.until(lambda: self.pending() or agent.process.poll() is not None, "the request")

    # What is true

    def holders(self, target: str) -> int:
        """How many namespaces a host is attached to."""
        slot = SLOTS[target]
        return sum(slot in ids for drive in self.attached().values() for ids in drive.values())

    def readmit(self, *targets: str) -> bool:
        """Attach everything to hosts again, as other software does; False where a process holds the drives."""
        with mock.patch.object(simulation, "_LOCK_SECONDS", 0.3):
            fleet = simulation.load_fleet(self.path / "fleet.toml")
            try:
                with fleet.store.locked():
                    fleet.store.refresh()
                    for subsystem in fleet.subsystems:
                        for nsid in range(1, 5):
                            mine = {SLOTS[target] for target in targets}
                            subsystem.set_attached(nsid, {*subsystem.attached(nsid), *mine})
                        fleet.store.save(subsystem)
            except simulation.FleetError:
                return False
        for target in targets:
            (self.path / "fleet.toml.fenced" / f"{target}.json").unlink(missing_ok=True)
        return True

    def audited(self) -> list[dict[str, Any]]:
        """The whole lines of the audit and of its stand-in."""
        found = []
        for path in (self.audit, self.answers / FALLBACK):
            with contextlib.suppress(OSError):
                for line in path.read_bytes().splitlines(keepends=True):
                    with contextlib.suppress(ValueError):  # a kill cut it, and the next begins after it
                        found.append(json.loads(line))
        return found

    def look(self) -> None:
        """Judge the answers that became visible since the last look. Raises Broken."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            for name in os.listdir(self.answers):
                if name.endswith(".json") and not name.startswith(".") and name not in self._seen:
                    self._judge(name)

    def _judge(self, name: str) -> None:
        try:
            document = json.loads((self.answers / name).read_bytes())
        except ValueError:
            raise Broken(f"a part of {name} is visible") from None
        except OSError:
            return
        self._seen.add(name)
        if document["success"] and document["action_performed"] != "on" and self.holders(document["target_node"]):
            raise Broken(f"{name} says success, and {document['target_node']} is attached: {self.attached()}")
        if not any(line.get("event") == "answer" and line.get("file") == name for line in self.audited()):
            raise Broken(f"{name} is visible before its audit line")
        self.failures += not document["success"]

    def until(self, look: Callable[[], T], what: str, within: float = 20.0) -> T:
        """Wait until `look` returns something, and judge what comes meanwhile."""
        end = time.monotonic() + within
        while True:
            self.look()
            found = look()
            if found:
                self.look()  # what came between the two is judged before the caller changes anything
                return found
            if time.monotonic() > end:
                raise Broken(f"not within {within:g} s: {what}")
            time.sleep(_PAUSE_S)

    def wait(self, seconds: float) -> None:
        """Let time pass, and judge what comes meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            time.sleep(_PAUSE_S)

    def answer(self, response: Path, within: float = 20.0) -> dict[str, Any]:
        """Wait for an answer and return it."""
        self.until(response.exists, f"an answer {response.name}", within)
        document: dict[str, Any] = json.loads(response.read_bytes())
        return document

    def removed(self, name: str) -> None:
        """Wait until a request is gone."""
        self.until(lambda: name not in self.pending(), "the request is removed")

    def served(self, target: str = "c1", within: float = 20.0) -> None:
        """Show that all is well: a request made now is answered with success."""
        answer = self.answer(self.ask(self.fresh(), target_node=target), within)
        if answer["success"] is not True:
            raise Broken(f"all is well again, and yet: {answer['message']}")


class AgentProcess:
    """An agent at work."""

    def __init__(self, site: Site, target: str, timeout_s: float, action: str, **options: Any) -> None:
        self.site = site
        self.target = target
        self.timeout_s = timeout_s
        self.started = time.monotonic()
        environment = {**CLEAN, **site.variables, **options.pop("env", {})}
        self.process = subprocess.Popen(
            [
                *AGENT, "-o", action, "-n", target, "--fence-timeout", str(timeout_s), "--request-dir",
                str(site.requests), "--response-dir", str(site.answers), "--log-dir", str(site.logs),
            ],
            cwd=site.path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip
        self.said = ""

    def ended(self, late_s: float = 15.0) -> int:
        """Wait for its end, which comes in time, and return the exit code, whose word is true. Raises Broken."""
        left = self.started + self.timeout_s + late_s - time.monotonic()
        try:
            self.said = self.process.communicate(timeout=max(left, 0.1))[1]
        except subprocess.TimeoutExpired:
            self.kill()
            raise Broken(f"an agent with {self.timeout_s:g} s still ran {late_s:g} s after that") from None
        self.site.look()
        if self.process.returncode == 0 and self.site.holders(self.target):
            raise Broken(f"an agent ended with 0, and {self.target} is attached")
        if "defect" in self.said:
            raise Broken(f"an agent said: {self.said}")
        return self.process.returncode

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def in_order(calls: list[Call], site: Site) -> None:
    """Check that whenever an answer became visible, the audit line written before was durable. Raises Broken."""
    audits = {str(site.audit), str(site.answers / FALLBACK)}
    dirty: set[str] = set()
    durable = False
    for call in calls:
        if call.path in audits and call.what == "write":
            dirty.add(call.path)
        elif call.path in audits and call.what == "sync":
            durable |= call.result == 0 and call.path in dirty
            dirty.discard(call.path)
        elif call.what == "rename" and call.result == 0 and Path(call.path).parent == site.answers:
            if not durable:
                raise Broken(f"{call.path} was made visible, and no audit line was durable")
            durable = False


def somewhen(rng: random.Random, longest: float) -> float:
    """Return a pause of any order of magnitude up to `longest` seconds."""
    return longest * rng.random() ** 2

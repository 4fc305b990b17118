"""What a fence acts on: a simulated fleet, its host map, the watcher that serves it, the directories between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.cluster.room import RoomError, wait_for
from tests.system.place import CLEAN, FLEET, HUNG, MAIN, REMOVED, Place

HOSTS = """\
version = 1
[drives]
count = 3
[hosts.compute-node-1]
slot = 0
[hosts.compute-node-2]
slot = 1
aliases = ["compute-node-2-ib"]
[hosts.compute-node-3]
slot = 2
"""
CONTROLLERS = {"compute-node-1": 2, "compute-node-2": 3, "compute-node-3": 4}
_SERVING_S = 20.0
_END_S = 30.0
_OLD_S = 60.0
_LOOK_S = 1.5
"""A rescan, due each second, and a pass over the drives."""


class Site:
    """Everything a test's fence touches, in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.place = Place(folder).write(hosts=HOSTS)
        self.requests = folder / "requests"
        self.responses = folder / "responses"
        self.logs = folder / "logs"
        self.audit = folder / "audit.jsonl"
        self.requests.mkdir()
        self.responses.mkdir()
        self._diary = folder / "watcher.log"
        self._watcher: subprocess.Popen[bytes] | None = None

    def options(self, **changes: object) -> dict[str, object]:
        """Return a device's parameters for this site."""
        return {
            "request_dir": self.requests,
            "response_dir": self.responses,
            "log_dir": self.logs,
            "fence_timeout": 10,
            **changes,
        }

    def direct_options(self, **changes: object) -> dict[str, object]:
        """Return the parameters, for this site, of a device of the direct agent."""
        return {
            "hosts_file": self.place.path / "hosts.toml",
            "simulate": self.place.path / "fleet.toml",
            "quiesce": "none",
            "deadline": 10,
            "log_dir": self.logs,
            "audit": self.audit,
            **changes,
        }

    def remove_drive(self) -> None:
        """Pull out a drive that is expected, with the serial number GONE."""
        serials = 'serials = ["SIM00000", "GONE", "SIM00002"]'
        self.place.write(fleet=FLEET + REMOVED, hosts=HOSTS.replace("count = 3", serials))

    def hang_drive(self) -> None:
        """Have a drive, with the serial number HUNG, never answer again."""
        self.place.write(fleet=FLEET + HUNG, hosts=HOSTS)

    def start_watcher(self) -> None:
        """Start the watcher and wait until it serves. Raises RoomError."""
        command = ["setpriv", "--pdeathsig", "KILL", *MAIN, "watch"]
        command += ["--simulate", "fleet.toml", "--hosts", "hosts.toml", "--quiesce", "none"]
        command += ["--request-dir", str(self.requests), "--response-dir", str(self.responses)]
        command += ["--log-dir", str(self.logs), "--audit", str(self.audit)]
        with self._diary.open("wb") as diary:
            self._watcher = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=diary, stderr=diary, cwd=self.place.path, env=CLEAN
            )
        wait_for("the watcher serves", self._serves, _SERVING_S, 0.02)

    def _serves(self) -> bool:
        assert self._watcher is not None
        said = self._diary.read_text(errors="replace")
        if self._watcher.poll() is not None:
            raise RoomError(f"the watcher ended with {self._watcher.returncode}:\n{said}")
        return "serving" in said

    def stop_watcher(self) -> None:
        """Have the watcher end in good order."""
        self._end_watcher(signal.SIGTERM)

    def have_a_new_watcher_look(self) -> None:
        """Start a watcher for long enough that it finds, and acts on, whatever was left for it."""
        self.start_watcher()
        time.sleep(_LOOK_S)
        self.stop_watcher()

    def lose_watcher(self) -> None:
        """Kill the watcher, longer ago than its heartbeat is believed."""
        self._end_watcher(signal.SIGKILL)
        then = time.time() - _OLD_S
        os.utime(self.requests / ".watcher", (then, then))

    def close(self) -> None:
        """End what is left."""
        self._end_watcher(signal.SIGKILL)

    def _end_watcher(self, by: signal.Signals) -> None:
        if self._watcher is None:
            return
        self._watcher.send_signal(by)
        try:
            self._watcher.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._watcher.kill()
            self._watcher.wait(timeout=_END_S)
            raise RoomError(f"the watcher did not end within {_END_S:g} s of {by.name}") from None
        finally:
            self._watcher = None

    def pending(self) -> list[str]:
        """Return the names of requests that nobody has answered or withdrawn."""
        return sorted(path.name for path in self.requests.glob("[!.]*.json"))

    def answers(self) -> list[dict[str, Any]]:
        """Return all responses."""
        return [json.loads(path.read_text()) for path in sorted(self.responses.glob("[!.]*.json"))]

    def events(self, status: str = "") -> list[dict[str, Any]]:
        """Return what the agents logged, of one status or of all."""
        log = self.logs / "fence-events-detailed.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        events = [json.loads(line) for line in lines]
        return [event for event in events if status in ("", event.get("status"))]

    def fences(self) -> list[tuple[str, str, str]]:
        """Return, of each fence on record, who did it, whose it was, and how it ended."""
        lines = self.audit.read_text().splitlines() if self.audit.exists() else []
        answers = [line for line in map(json.loads, lines) if line["event"] == "answer"]
        return [(line.get("by", "watcher"), line["target_node"], line["result"]) for line in answers]

    def cut_off(self) -> dict[str, int]:
        """Return the hosts that lost namespaces, and how many of the fleet's twelve each lost."""
        lost: dict[str, int] = {}
        for namespaces in self.place.attached().values():
            for controllers in namespaces.values():
                for host, controller in CONTROLLERS.items():
                    if controller not in controllers:
                        lost[host] = lost.get(host, 0) + 1
        return lost

"""A directory with a simulated fleet and its host map, and ways to run the command there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MAIN = [sys.executable, "-m", "nvmefence.cli.main"]
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("NVMEFENCE_") and name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
}
FLEET = "[fleet]\ndrives = 3\nsecondary_controllers = 5\nnamespaces = 4\n"
HOSTS = 'version = 1\n[drives]\ncount = 3\n[hosts.c1]\nslot = 0\naliases = ["c1-ib"]\n[hosts.c2]\nslot = 1\n'
STATE = "fleet.toml.state.json"
SLOT_0, SLOT_1 = 2, 3
"""Controllers: virtual functions count from controller 1."""
HUNG = '\n[[drive]]\nnumber = 1\nserial = "HUNG"\nanswers = "never"\n'
REMOVED = '\n[[drive]]\nnumber = 1\nserial = "GONE"\nanswers = "removed"\n'
UNFENCEABLE = '\n[[drive]]\nnumber = 1\nserial = "OLD"\nanswers = "no-namespace-management"\n'
SLOW = '\n[[drive]]\nnumber = 1\nserial = "SLOW"\nanswers = "late:0.4"\n'


class Place:
    """A directory with a fleet and a host map, and a way to run the command there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write(FLEET, HOSTS)

    def write(self, fleet: str = FLEET, hosts: str = HOSTS) -> Place:
        (self.path / "fleet.toml").write_text(fleet)
        (self.path / "hosts.toml").write_text(hosts)
        return self

    def command(self, *words: str) -> list[str]:
        if words[0] == "version":
            return [*MAIN, *words]
        quick = ["--quiesce", "none"] if "--quiesce" not in words else []
        return [*MAIN, *words, "--simulate", "fleet.toml", "--hosts", "hosts.toml", *quick]

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.spawn(self.command(*words), **variables)

    def spawn(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**CLEAN, "TERM": "xterm", **variables}
        return subprocess.run(
            command, cwd=self.path, env=environment, capture_output=True, text=True, timeout=30, check=False
        )

    def json(self, *words: str, **variables: str) -> tuple[int, Any]:
        done = self.run(*words, "--json", **variables)
        return done.returncode, json.loads(done.stdout)

    def attached(self) -> dict[str, dict[str, list[int]]]:
        """Who is attached to what, by serial and NSID, from the state file and the fleet's initial state."""
        state = self.path / STATE
        changed = json.loads(state.read_text())["drives"] if state.exists() else {}
        result: dict[str, dict[str, list[int]]] = {}
        for serial in ("SIM00000", "SIM00001", "SIM00002"):
            masks = changed.get(serial, {}).get("attached", {})
            result[serial] = {
                nsid: [c for c in range(6) if int(masks.get(nsid, "3e"), 16) >> c & 1] for nsid in "1234"
            }
        return result


def outcomes(document: Any, host: int = 0) -> dict[str, str]:
    result = document["hosts"][host]
    return {d["serial"]: d["hosts"][result["host"]]["outcome"] for d in result["drives"]}

"""nvmefence as the lab's tests call it: maps for each shape, the command line, and the fencer in this process."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvmefence.fencing import quiesce
from nvmefence.fencing.evidence import DriveEvidence, FenceReport
from nvmefence.fencing.fence import Options, fence
from nvmefence.inventory.hostfile import load
from nvmefence.settings import Settings
from nvmefence.site import open_site
from tests.lab import observer
from tests.lab.shape import Kind, Shape

BACKENDS = ("io_uring", "ioctl")
NO_QUIESCE = quiesce.parse("none")


def hosts_toml(shape: Shape, *, drives: str = "", own: str = '"physical"', hosts: str = "") -> str:
    """Return a host map for a shape: compute-K is slot K, or controller K on ports."""
    lines = ["version = 1", "[drives]", drives or f"count = {shape.drives}"]
    if shape.kind is Kind.PORTS:
        lines.append("own = [0]")
        names = [f"[hosts.compute-{k}]\ncontrollers = [{k}]" for k in range(1, shape.controllers)]
    else:
        lines.append(f"own = {own}")
        names = [f"[hosts.compute-{k}]\nslot = {k}" for k in range(min(16, shape.secondaries - 1))]
    return "\n".join([*lines, *([hosts] if hosts else names)]) + "\n"


@dataclass(frozen=True)
class Ran:
    """A finished `nvmefence`."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed."""
        return json.loads(self.out)


def nvmefence(*arguments: str, timeout: float = 100, **variables: str) -> Ran:
    """Run the command line in a process of its own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("NVMEFENCE_")} | variables
    done = subprocess.run(
        [sys.executable, "-m", "nvmefence.cli.main", *arguments],
        capture_output=True, text=True, timeout=timeout, env=env, check=False,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


def fence_here(
    map_file: Path,
    backend: str,
    hosts: Sequence[str],
    heard: Callable[[DriveEvidence, str], None] = lambda _drive, _phase: None,
    deadline: float = 50,
    rule: quiesce.Quiesce = NO_QUIESCE,
) -> FenceReport:
    """Fence in this process, so that `heard` can make a fault at an exact step."""
    hostmap = load(map_file)
    site = open_site(Settings(hosts=str(map_file), backend=backend))
    try:
        targets = [hostmap.find(host) for host in hosts]
        options = Options(deadline, rule)
        return asyncio.run(fence(site.transport, hostmap, site.discover(), targets, options, heard))
    finally:
        site.transport.close()


def attached(drives: Sequence[observer.Drive]) -> dict[str, dict[int, frozenset[int]]]:
    """Return, as the observer sees it, the controllers by serial number and namespace."""
    seen = {}
    for drive in drives:
        with observer.Device(drive.primary.path) as device:
            seen[drive.serial] = device.attachments()
    return seen


def list_ctrl(drive: observer.Drive) -> dict[int, frozenset[int]]:
    """Return the controllers of a drive's namespaces as nvme-cli tells them."""
    with observer.Device(drive.primary.path) as device:
        nsids = device.namespaces()
    found = {}
    for nsid in nsids:
        command = ["nvme", "list-ctrl", str(drive.primary.path), f"--namespace-id={nsid}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        found[nsid] = frozenset(int(number, 16) for number in re.findall(r"\]:(0x[0-9a-f]+|0)", done.stdout))
    return found


def without(
    before: dict[str, dict[int, frozenset[int]]], gone: dict[str, int]
) -> dict[str, dict[int, frozenset[int]]]:
    """Return attachments less one controller on each drive of `gone`."""
    return {
        serial: {nsid: ids - {gone[serial]} if serial in gone else ids for nsid, ids in by_nsid.items()}
        for serial, by_nsid in before.items()
    }

"""The drives as the benchmark sees them, through the laboratory's observer: the target, checks, the way back."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench.turns import WrongResult
from tests.lab import bringup, observer

SLOT = 0
"""The compute that is fenced."""
FUNCTION = SLOT + 2
"""Its virtual function."""
HOST = f"compute-{SLOT}"


@dataclass(frozen=True)
class Target:
    """The controller to be cut off one drive."""

    serial: str
    path: Path
    """Our controller's device."""
    cntlid: int
    namespaces: tuple[int, ...]
    attached: dict[int, frozenset[int]]
    """By namespace id, before anything was cut."""


def _target(drive: observer.Drive) -> Target:
    with observer.Device(drive.primary.path) as device:
        ids = [entry.cntlid for entry in device.secondaries() if entry.function == FUNCTION]
        attached = device.attachments()
    if len(ids) != 1:
        raise WrongResult(f"{drive.serial}: {len(ids)} controllers with virtual function {FUNCTION}")
    if not all(ids[0] in controllers for controllers in attached.values()):
        raise WrongResult(f"{drive.serial}: controller {ids[0]} is not attached everywhere: {attached}")
    return Target(drive.serial, drive.primary.path, ids[0], tuple(attached), attached)


class Rabbit:
    """All drives."""

    def __init__(self, bare_minimum: Path) -> None:
        self._program = bare_minimum
        self.targets = bringup.each(_target, observer.drives())
        self.checks = 0

    def run_bare(self, verb: str) -> tuple[float, int]:
        """Attach or detach with the yardstick; return its seconds and how many commands it sent."""
        drives = [f"{target.path}:{target.cntlid}" for target in self.targets]
        done = subprocess.run([str(self._program), verb, *drives], check=True, stdout=subprocess.PIPE, timeout=120)
        figures = json.loads(done.stdout)
        return float(figures["seconds"]), int(figures["commands"])

    def check_cut(self) -> None:
        """Read every namespace: the target is gone, everybody else is still there. Raises WrongResult."""
        self._check([{nsid: ids - {t.cntlid} for nsid, ids in t.attached.items()} for t in self.targets])

    def restore(self) -> None:
        """Attach the target again everywhere, and check it. Raises WrongResult."""
        self.run_bare("attach")
        self._check([target.attached for target in self.targets])

    def _check(self, expected: list[dict[int, frozenset[int]]]) -> None:
        self.checks += 1
        for target, wanted in zip(self.targets, expected, strict=True):
            with observer.Device(target.path) as device:
                found = device.attachments()
            if found != wanted:
                raise WrongResult(f"{target.serial}: attached are {found}, expected {wanted}")

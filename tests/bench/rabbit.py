"""The drives as the benchmark sees them, through the laboratory's observer: the target, checks, the way back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.turns import WrongResult
from tests.lab import bringup, observer

SLOT = 0
"""The compute that is fenced where it is only one."""
HOST = f"compute-{SLOT}"
FIRST_FUNCTION = 2
"""The virtual function of slot 0."""


@dataclass(frozen=True)
class Target:
    """The controllers to be cut off one drive."""

    serial: str
    path: Path
    """Our controller's device."""
    controllers: tuple[int, ...]
    """Ascending."""
    namespaces: tuple[int, ...]
    attached: dict[int, frozenset[int]]
    """By namespace id, before anything was cut."""


def _target(drive: observer.Drive, slots: Sequence[int]) -> Target:
    functions = {slot + FIRST_FUNCTION for slot in slots}
    with observer.Device(drive.primary.path) as device:
        ids = sorted(entry.cntlid for entry in device.secondaries() if entry.function in functions)
        attached = device.attachments()
    if len(ids) != len(functions):
        raise WrongResult(f"{drive.serial}: {len(ids)} controllers with virtual functions {sorted(functions)}")
    if not all(controllers.issuperset(ids) for controllers in attached.values()):
        raise WrongResult(f"{drive.serial}: controllers {ids} are not attached everywhere: {attached}")
    return Target(drive.serial, drive.primary.path, tuple(ids), tuple(attached), attached)


class Rabbit:
    """All drives, or some of them, and the computes to be fenced."""

    def __init__(
        self, bare_minimum: Path, slots: Sequence[int] = (SLOT,), drives: Sequence[observer.Drive] | None = None
    ) -> None:
        self._program = bare_minimum
        self.slots = tuple(slots)
        chosen = observer.drives() if drives is None else drives
        self.targets = bringup.each(lambda drive: _target(drive, slots), chosen)
        self.checks = 0

    @property
    def hosts(self) -> list[str]:
        """The computes' names."""
        return [f"compute-{slot}" for slot in self.slots]

    @property
    def namespaces(self) -> int:
        """Of all drives together."""
        return sum(len(target.namespaces) for target in self.targets)

    def run_bare(self, verb: str, *, one_by_one: bool = False) -> tuple[float, int]:
        """Attach or detach with the yardstick; return its seconds and how many commands it sent."""
        drives = [f"{target.path}:{','.join(map(str, target.controllers))}" for target in self.targets]
        command = [str(self._program), *(["one-by-one"] if one_by_one else []), verb, *drives]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=120)
        figures = json.loads(done.stdout)
        return float(figures["seconds"]), int(figures["commands"])

    def check_cut(self) -> None:
        """Read every namespace: the targets are gone, everybody else is still there. Raises WrongResult."""
        self._check(
            [{nsid: ids.difference(t.controllers) for nsid, ids in t.attached.items()} for t in self.targets]
        )

    def restore(self) -> None:
        """Attach the targets again everywhere, and check it. Raises WrongResult."""
        self.run_bare("attach")
        self._check([target.attached for target in self.targets])

    def _check(self, expected: list[dict[int, frozenset[int]]]) -> None:
        self.checks += 1
        looked = dict(bringup.each(_look, self.targets))
        for target, wanted in zip(self.targets, expected, strict=True):
            found = looked[target.serial]
            if found != wanted:
                raise WrongResult(f"{target.serial}: attached are {found}, expected {wanted}")


def _look(target: Target) -> tuple[str, dict[int, frozenset[int]]]:
    with observer.Device(target.path) as device:
        return target.serial, device.attachments()

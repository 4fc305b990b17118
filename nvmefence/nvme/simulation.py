"""Simulated fleets: drives described by FLEET.toml whose state is kept in a file, so that processes share it.

For rehearsing a fence, a restore and their failures without hardware. See `nvmefence.nvme.fleet_file` for the
format. The state file holds what differs from the fleet's initial state: delete it to begin anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from nvmefence.nvme.commands import NAMESPACE_ATTACHMENT, VIRTUALIZATION_MANAGEMENT
from nvmefence.nvme.emulated import EmulatedSubsystem, EmulatedTransport, FaultHook, delay, hang
from nvmefence.nvme.fleet_file import DrivePlan, FleetError, FleetPlan, read_plan
from nvmefence.nvme.transport import Command

__all__ = ["Fleet", "FleetController", "FleetError", "SimulatedTransport", "load_fleet"]

_CHANGING: Final = frozenset({NAMESPACE_ATTACHMENT, VIRTUALIZATION_MANAGEMENT})
_LOCK_SECONDS: Final = 10.0
_LOCK_PAUSE: Final = 0.002
_VERSION: Final = 1

Difference = dict[str, Any]
"""What of a drive's snapshot is not as in the beginning."""


class FleetController(NamedTuple):
    """This machine's controller of one simulated drive, in the terms of sysfs."""

    nqn: str
    serial: str
    model: str
    firmware: str
    name: str
    """Such as "nvme3"."""
    path: str
    """Such as "/dev/nvme3"."""
    cntlid: int
    state: str = "live"
    physical: bool = True
    """Not a virtual function."""


class Fleet:
    """Simulated drives and their stored state."""

    def __init__(self, plan: FleetPlan) -> None:
        """Make the drives and take in their state. Raises FleetError."""
        self.plan = plan
        self.subsystems = tuple(_subsystem(drive, plan) for drive in plan.drives)
        self.store = _Store(plan.state, {s.serial: s for s in self.subsystems})
        self.store.refresh()

    def controllers(self) -> list[FleetController]:
        """Return our controller on each drive that is plugged in, in the order of /dev/nvme0, 1, …."""
        return [
            FleetController(
                drive.nqn,
                drive.serial,
                drive.model,
                drive.firmware,
                f"nvme{drive.number}",
                f"/dev/nvme{drive.number}",
                drive.controllers[0],
            )
            for drive in self.plan.drives
            if not drive.removed
        ]


def load_fleet(path: str | Path) -> Fleet:
    """Read a fleet file and the state of its drives. Raises FleetError (a ConfigError)."""
    return Fleet(read_plan(path))


def _subsystem(drive: DrivePlan, plan: FleetPlan) -> EmulatedSubsystem:
    try:
        subsystem = EmulatedSubsystem(
            drive.nqn,
            drive.serial,
            controllers=drive.controllers,
            secondaries=drive.secondaries,
            namespaces=drive.namespaces,
            attached=None if plan.attached else (),
            model=drive.model,
            firmware=drive.firmware,
            namespace_management=drive.namespace_management,
            quirks=plan.quirks,
        )
    except ValueError as error:
        raise FleetError(f"{plan.path}: drive {drive.number}: {error}", "correct the file") from None
    for namespace in drive.namespaces:
        if not namespace.shared and plan.attached:
            subsystem.set_attached(namespace.nsid, drive.controllers[:1])
    return subsystem


def _hook(drive: DrivePlan) -> FaultHook | None:
    fault = hang() if drive.hangs else delay(drive.late) if drive.late else None
    return (lambda _path, _command: fault) if fault else None


class SimulatedTransport(EmulatedTransport):
    """Implements `Transport` over a `Fleet`: commands see, and change, what all processes share.

    Commands that change something hold the fleet's lock while they are processed; the others read. `run` raises
    FleetError when the state cannot be read or kept.
    """

    def __init__(self, fleet: Fleet, *, record: bool = False) -> None:
        """Plug in the fleet's drives; `record` as in `EmulatedTransport`."""
        plugged = {
            f"/dev/nvme{drive.number}": (subsystem, drive.controllers[0])
            for drive, subsystem in zip(fleet.plan.drives, fleet.subsystems, strict=True)
            if not drive.removed
        }
        super().__init__(plugged, latency=fleet.plan.latency, record=record)
        self._store = fleet.store
        for drive in fleet.plan.drives:
            hook = _hook(drive)
            if hook is not None:
                self.faults[f"/dev/nvme{drive.number}"] = hook

    @contextmanager
    def session(self, subsystem: EmulatedSubsystem, commands: Sequence[Command]) -> Iterator[None]:
        """Bring the state up to date; for commands that change it, lock it and store it afterwards."""
        if not any(command.opcode in _CHANGING for command in commands):
            self._store.refresh()
            yield
            return
        with self._store.locked():
            self._store.refresh()
            before = subsystem.generation
            yield
            if subsystem.generation != before:
                self._store.save(subsystem)


class _Store:
    """The state file: replaced whole, never written in place, so that readers need no lock."""

    def __init__(self, path: Path, subsystems: Mapping[str, EmulatedSubsystem]) -> None:
        self.path = path
        self._subsystems = subsystems
        self._initial = {serial: subsystem.snapshot() for serial, subsystem in subsystems.items()}
        self._differences: dict[str, Difference] = {}
        self._file = -1
        """The state file as last read, kept open so that its inode number cannot be used again."""
        self._seen: tuple[int, int, int, int] | None = None

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def fail(self, reason: str, advice: str) -> FleetError:
        return FleetError(f"state of the simulated fleet, {self.path}: {reason}", advice)

    def refresh(self) -> None:
        """Take in what other processes changed; costs one stat when they did not."""
        try:
            seen = _identity(os.stat(self.path))
        except FileNotFoundError:
            seen = None
        except OSError as error:
            raise self.fail(str(error.strerror), "correct its permissions") from None
        if seen == self._seen:
            return
        if seen is None:
            self._keep(-1)
            self._take_in({})
            return
        self._seen = None
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self.fail(str(error.strerror), "correct its permissions, or try again") from None
        self._keep(file)
        identity = self._seen
        self._seen = None
        self._take_in(self._parse(_read(file)))
        self._seen = identity

    def _keep(self, file: int) -> None:
        """Remember the file that the state in memory is of; -1: none."""
        if self._file >= 0:
            os.close(self._file)
        self._file = file
        self._seen = _identity(os.fstat(file)) if file >= 0 else None

    def _parse(self, text: bytes) -> dict[str, Difference]:
        anew = "delete it to begin anew"
        try:
            document = json.loads(text)
        except ValueError as error:
            raise self.fail(f"not JSON: {error}", anew) from None
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            raise self.fail(f"not a state file of version {_VERSION}", anew)
        drives = document.get("drives")
        if not isinstance(drives, dict) or not all(isinstance(found, dict) for found in drives.values()):
            raise self.fail("drives: must be a table of drives", anew)
        for serial in drives:
            if serial not in self._subsystems:
                raise self.fail(f"drives.{serial}: the fleet file has no such drive", anew)
        return drives

    def _take_in(self, differences: dict[str, Difference]) -> None:
        for serial in differences.keys() | self._differences.keys():
            found = differences.get(serial, {})
            if found == self._differences.get(serial):
                continue
            self._differences.pop(serial, None)
            try:
                self._subsystems[serial].restore(self._initial[serial])
                self._subsystems[serial].restore(found)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                reason = f"drives.{serial}: does not fit the fleet file ({error})"
                raise self.fail(reason, "delete it to begin anew") from None
            self._differences[serial] = found

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock that all who change the state take: an flock of the file beside it."""
        lock = f"{self.path}.lock"
        try:
            file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self.fail(f"cannot open {lock}: {error.strerror}", "choose another place with state =") from None
        try:
            self._lock(file)
            yield
        finally:
            os.close(file)

    def _lock(self, file: int) -> None:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise self.fail(
                        f"another process holds its lock for {_LOCK_SECONDS:.0f} s", "end that process"
                    ) from None
                time.sleep(_LOCK_PAUSE)
            else:
                return

    def save(self, subsystem: EmulatedSubsystem) -> None:
        """Store one drive's changes. When that fails, memory goes back to what is stored."""
        differences = dict(self._differences)
        found = _difference(self._initial[subsystem.serial], subsystem.snapshot())
        if found:
            differences[subsystem.serial] = found
        else:
            differences.pop(subsystem.serial, None)
        document = json.dumps({"version": _VERSION, "drives": differences}, indent=1).encode()
        try:
            self._keep(_replace(self.path, document))
        except OSError as error:
            subsystem.restore(self._initial[subsystem.serial])
            subsystem.restore(self._differences.get(subsystem.serial, {}))
            raise self.fail(f"cannot write: {error.strerror}", "choose another place with state =") from None
        self._differences = differences


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _read(file: int) -> bytes:
    parts = []
    while part := os.read(file, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _replace(path: Path, data: bytes) -> int:
    """Replace a file so that a reader, or a power cut, finds the old or the new one; return the new one open."""
    temporary = f"{path}.{os.getpid()}.tmp"
    file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
        os.rename(temporary, path)
    except BaseException:
        os.close(file)
        os.unlink(temporary)
        raise
    return file


def _difference(initial: Mapping[str, Any], now: Mapping[str, Any]) -> Difference:
    found: Difference = {}
    for key in ("attached", "secondaries"):
        changed = {name: value for name, value in now[key].items() if initial[key].get(name) != value}
        if changed:
            found[key] = changed
    if now["primary"] != initial["primary"]:
        found["primary"] = now["primary"]
    return found

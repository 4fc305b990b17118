"""A person's word that more hosts may be fenced, and what the guard must remember: files in the run directory.

The directory lies in memory and does not outlive the machine's uptime. Times are the kernel's monotonic clock,
which nobody sets and which begins anew at each boot; the boot is named beside them where it can be known. (A
sandboxed service cannot see its name, and has a run directory that systemd made in this boot.)
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from nvmefence.spool import files, json_strict
from nvmefence.spool.errors import DirectoryLost, Gone, Refused
from nvmefence.watcher import loose

PERMIT: Final = "mass-fence-allowed"
STATE: Final = "mass-fence-state"
BEGUN: Final = "mass-fence-direct"
LONGEST_S: Final = 3600.0
"""Seconds that a permit may be given for."""
_BOOT: Final = "/proc/sys/kernel/random/boot_id"
_MODE: Final = 0o600


class Permit(NamedTuple):
    """A person's word."""

    until: float
    """Monotonic seconds."""
    by: str
    """Who gave it; not proven."""


def give(run_dir: str, permit: Permit, now: float) -> None:
    """Leave a permit for the watcher. Raises SpoolError and OSError. `now` is monotonic, as everywhere here."""
    document = {"version": 1, "boot": _boot(), "given": now, "until": permit.until, "by": permit.by}
    _write(run_dir, PERMIT, document)


def withdraw(run_dir: str) -> bool:
    """Take it back; returns whether there was one. Raises SpoolError."""
    try:
        with files.open_directory(run_dir) as directory:
            return files.remove(directory, PERMIT)
    except DirectoryLost:
        return False


def read(run_dir: str, now: float) -> Permit | None:
    """Return the permit that holds now, if there is one. Raises SpoolError for one that is not to be believed."""
    document = _read(run_dir, PERMIT)
    if document is None:
        return None
    given, until = loose.seconds(document.get("given")), loose.seconds(document.get("until"))
    if document.get("version") != 1 or given is None or until is None or until - given > LONGEST_S:
        raise Refused(f"{PERMIT} is not what {PERMIT} should be")
    if not given <= now < until:
        return None
    return Permit(until, loose.text(document.get("by"), 100))


def save(run_dir: str, state: Mapping[str, Any]) -> None:
    """Write down what the guard must remember. Raises SpoolError and OSError."""
    _write(run_dir, STATE, {"version": 1, "boot": _boot(), **state})


def load(run_dir: str) -> dict[str, Any]:
    """Return what was written down in this boot; empty where nothing was. Raises SpoolError."""
    return _read(run_dir, STATE) or {}


def put_begun(run_dir: str, state: Mapping[str, Any]) -> None:
    """Write down which fences began without the watcher, one process at a time. Raises OSError.

    It need not outlast a power cut, and fences wait for it: nothing is forced to a disk.
    """
    data = json_strict.encode({"version": 1, "boot": _boot(), **state})
    aside = f"{run_dir}/.{BEGUN}.new"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.rename(aside, f"{run_dir}/{BEGUN}")


def begun(run_dir: str) -> dict[str, Any]:
    """Return which fences began without the watcher in this boot. Raises SpoolError."""
    return _read(run_dir, BEGUN) or {}


def _write(run_dir: str, name: str, document: Mapping[str, Any]) -> None:
    os.makedirs(run_dir, 0o750, exist_ok=True)
    with files.open_directory(run_dir) as directory:
        files.replace(directory, name, json_strict.encode(document), _MODE)


def _read(run_dir: str, name: str) -> dict[str, Any] | None:
    """Return a file's document; None if there is none, or if it is of another boot."""
    try:
        with files.open_directory(run_dir) as directory:
            _judge(directory)
            document = json_strict.parse(files.read(directory, name).data)
    except (DirectoryLost, Gone):
        return None
    boot, mine = document.get("boot"), _boot()
    return document if not boot or not mine or boot == mine else None


def _judge(directory: files.Directory) -> None:
    """Raise Refused if another than root, or the user that this is, can have put a file there."""
    found = os.fstat(directory.fd)
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Refused(f"{directory.path} may be written by others")


def _boot() -> str:
    """Return the name of this boot; empty where /proc does not show it."""
    try:
        with open(_BOOT, encoding="ascii") as file:
            return file.read(64).strip()
    except OSError:
        return ""

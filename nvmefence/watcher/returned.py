"""A fenced host that is back: what of it was seen attached or online again, and where, as data and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from nvmefence.fencing.survey import HostOnDrive, State, Survey
from nvmefence.records.record import Record

_NAMED: Final = 3
"""Drives that are named in one line."""
Key = tuple[str, str]
"""A drive: subsystem NQN and serial number."""


class OnDrive(NamedTuple):
    """What a fenced host has on one drive."""

    serial: str
    nqn: str
    attached: Mapping[int, tuple[int, ...]]
    """Its controllers by NSID."""
    online: tuple[int, ...]
    """Its controllers that its fence left offline, and that are online."""

    def words(self) -> str:
        """Say it in a few words."""
        parts = []
        if self.attached:
            ids = sorted({cntlid for ids in self.attached.values() for cntlid in ids})
            parts.append(f"attached to {_counted('namespace', self.attached)} ({_counted('controller', ids)})")
        if self.online:
            parts.append(f"{_counted('controller', self.online)} online")
        return f"{self.serial}: {', '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "serial": self.serial,
            "nqn": self.nqn,
            "attached": {str(nsid): list(ids) for nsid, ids in self.attached.items()},
            "online": list(self.online),
        }


def seen(survey: Survey, record: Record) -> dict[Key, OnDrive | None]:
    """Return what a look showed of a fenced host, by drive; None: nothing. What it did not show is left out.

    A controller that is online is worth a word only where the fence left it offline, to stay so.
    """
    left = {(*one.drive, one.cntlid) for one in record.offline if one.stays}
    found: dict[Key, OnDrive | None] = {}
    for drive in survey.drives:
        key = drive.nqn, drive.serial
        entry = drive.hosts[record.host]
        online = tuple(n for n in entry.online or () if (*key, n) in left)
        if entry.attached or online:
            found[key] = OnDrive(drive.serial, drive.nqn, dict(entry.attached), online)
        elif _is_clean(entry, any(one[:2] == key for one in left)):
            found[key] = None
    return found


def _is_clean(entry: HostOnDrive, offline: bool) -> bool:
    return entry.state is State.NONE and (entry.online is not None or not offline)


@dataclass(slots=True)
class Returned:
    """A fenced host that was seen back."""

    host: str
    fenced_at: str
    """RFC 3339, UTC."""
    drives: dict[Key, OnDrive] = field(default_factory=dict)

    def take(self, found: Mapping[Key, OnDrive | None]) -> bool:
        """Take in what a look showed; of other drives what was known stays. Returns whether anything changed."""
        before = dict(self.drives)
        for key, there in found.items():
            if there is None:
                self.drives.pop(key, None)
            else:
                self.drives[key] = there
        return self.drives != before

    @property
    def attached(self) -> bool:
        """Whether it has any namespace, and not just a controller online."""
        return any(drive.attached for drive in self.drives.values())

    def ordered(self) -> list[OnDrive]:
        """Return the drives by serial number."""
        return [self.drives[key] for key in sorted(self.drives, key=lambda key: key[::-1])]

    def words(self) -> str:
        """Say in one line what is wrong."""
        shown = [drive.words() for drive in self.ordered()]
        more = f"; and {len(shown) - _NAMED} more drives" if len(shown) > _NAMED else ""
        what = "attached" if self.attached else "online"
        return f"{self.host} is {what} again, fenced as it is since {self.fenced_at}: " + (
            "; ".join(shown[:_NAMED]) + more
        )


def _counted(noun: str, numbers: Mapping[int, Any] | list[int] | tuple[int, ...]) -> str:
    listed = ", ".join(map(str, sorted(numbers)))
    return f"{noun} {listed}" if len(numbers) == 1 else f"{noun}s {listed}"

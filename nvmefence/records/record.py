"""What was taken from one host: what it had, on which drive, by which fence; as data, and as strict JSON."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from nvmefence.fencing.evidence import Identity
from nvmefence.nvme.commands import CONTROLLERS_PER_LIST, MAX_CNTLID, MAX_NSID
from nvmefence.spool import json_strict
from nvmefence.spool.errors import Invalid
from nvmefence.spool.names import quoted

T = TypeVar("T")
VERSION: Final = 1
RECORD_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of a record: what is taken from a host with a thousand namespaces on each of 64 drives."""
_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?Z\Z")
_HEX: Final = re.compile(r"[0-9a-f]*\Z")
_NGUID, _EUI64 = 32, 16
_MOST_NUMBER: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Asked:
    """Who wanted a fence."""

    time: str
    """RFC 3339, UTC: when its fence began."""
    request_id: str
    by: str
    """ "watcher", "command line", or an agent's name."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A namespace that was detached from controllers of the host."""

    serial: str
    nqn: str
    nsid: int
    controllers: tuple[int, ...]
    """Ascending."""
    identity: Identity | None
    """Which namespace it was; None: the drive did not say."""
    when: str
    """RFC 3339, UTC: when the fence that took it began."""
    request_id: str

    @property
    def drive(self) -> tuple[str, str]:
        """The drive: subsystem NQN and serial number, as `Drive.key`."""
        return self.nqn, self.serial

    @property
    def fence(self) -> tuple[str, str]:
        """The fence that took it: its beginning and its request."""
        return self.when, self.request_id


@dataclass(frozen=True, slots=True)
class Offline:
    """A secondary controller of the host that was taken offline, and was not seen online since."""

    serial: str
    nqn: str
    cntlid: int
    queues: int
    """VQ resources that it had; 0: not known."""
    interrupts: int
    """VI resources that it had; 0: not known."""
    when: str
    """RFC 3339, UTC: when the fence that took it offline began."""
    stays: bool
    """Its fence ended and left it so, until it is restored. False: that fence has not ended."""

    @property
    def drive(self) -> tuple[str, str]:
        """The drive: subsystem NQN and serial number, as `Drive.key`."""
        return self.nqn, self.serial


@dataclass(frozen=True, slots=True)
class Record:
    """A host that was fenced, and everything that its fences took and nobody has given back."""

    host: str
    """Its name in the host map."""
    simulated: bool
    since: str
    """RFC 3339, UTC: when the first of these fences began."""
    fenced_at: str | None = None
    """RFC 3339, UTC: when a fence was confirmed last; None: none was, or a restore has begun since."""
    confirmed: bool = False
    """Whether the last fence that changed something, or failed, is confirmed. False also while one is under way."""
    quiesce: str = ""
    """The rule for writes under way that the last fence followed."""
    asked: tuple[Asked, ...] = ()
    """Oldest first; of very many, the first and the last."""
    taken: tuple[Taken, ...] = ()
    offline: tuple[Offline, ...] = ()
    message: str = ""
    """What was said about the last fence; empty while the first one is under way."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to give back."""
        return not self.taken and not self.offline

    @property
    def drives(self) -> tuple[tuple[str, str], ...]:
        """The drives of which something was taken: NQN and serial number, in the order of the latter."""
        every = {*(one.drive for one in self.taken), *(one.drive for one in self.offline)}
        return tuple(sorted(every, key=lambda key: (key[1], key[0])))

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "version": VERSION,
            "host": self.host,
            "simulated": self.simulated,
            "since": self.since,
            "fenced_at": self.fenced_at,
            "confirmed": self.confirmed,
            "quiesce": self.quiesce,
            "message": self.message,
            "asked": [{"time": a.time, "request_id": a.request_id, "by": a.by} for a in self.asked],
            "drives": self._drives(),
        }

    def _drives(self) -> list[dict[str, Any]]:
        taken: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in self.drives}
        offline: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in taken}
        for one in self.taken:
            taken[one.nqn, one.serial].append(
                {
                    "nsid": one.nsid,
                    "controllers": list(one.controllers),
                    "identity": None if one.identity is None else one.identity._asdict(),
                    "when": one.when,
                    "request_id": one.request_id,
                }
            )
        for gone in self.offline:
            offline[gone.nqn, gone.serial].append(
                {
                    "controller": gone.cntlid,
                    "queues": gone.queues,
                    "interrupts": gone.interrupts,
                    "when": gone.when,
                    "stays": gone.stays,
                }
            )
        return [{"serial": key[1], "nqn": key[0], "taken": taken[key], "offline": offline[key]} for key in taken]

    def encode(self) -> bytes:
        """Return the content of the record's file."""
        return json_strict.encode(self.to_json())


def parse(data: bytes) -> Record:
    """Return the record that a file holds. Raises Malformed and Invalid: nothing in doubt is believed."""
    table = _Table("", json_strict.parse(data))
    if table.number("version", 0, _MOST_NUMBER) != VERSION:
        raise Invalid(f"a record of another version than {VERSION}")
    drives = table.each("drives", _drive)
    made = Record(
        host=table.text("host"),
        simulated=table.truth("simulated"),
        since=table.time("since"),
        fenced_at=table.time_or_none("fenced_at"),
        confirmed=table.truth("confirmed"),
        quiesce=table.text("quiesce"),
        asked=table.each("asked", lambda one: Asked(one.time("time"), one.text("request_id"), one.text("by"))),
        taken=tuple(one for taken, _ in drives for one in taken),
        offline=tuple(one for _, offline in drives for one in offline),
        message=table.text("message"),
    )
    table.ends()
    if not made.host:
        raise Invalid("host is empty")
    if made.confirmed and made.fenced_at is None:
        raise Invalid("confirmed, and fenced_at is missing")
    _refuse_twice((*one.drive, one.cntlid) for one in made.offline)
    return made


def _drive(table: _Table) -> tuple[tuple[Taken, ...], tuple[Offline, ...]]:
    serial, nqn = table.text("serial"), table.text("nqn")

    def taken(one: _Table) -> Taken:
        return Taken(
            serial,
            nqn,
            one.number("nsid", 1, MAX_NSID),
            one.controllers("controllers"),
            one.identity("identity"),
            one.time("when"),
            one.text("request_id"),
        )

    def offline(one: _Table) -> Offline:
        return Offline(
            serial,
            nqn,
            one.number("controller", 0, MAX_CNTLID),
            one.number("queues", 0, 0xFFFF),
            one.number("interrupts", 0, 0xFFFF),
            one.time("when"),
            one.truth("stays"),
        )

    return table.each("taken", taken), table.each("offline", offline)


def _refuse_twice(keys: Iterable[tuple[str, str, int]]) -> None:
    seen: set[tuple[str, str, int]] = set()
    for key in keys:
        if key in seen:
            raise Invalid(f"controller {key[2]} of drive {quoted(key[1])} is there twice")
        seen.add(key)


class _Table:
    """A JSON object whose every key is asked for, once or more, and no other is there."""

    def __init__(self, where: str, found: object) -> None:
        if not isinstance(found, dict):
            raise Invalid(f"{where or 'the record'} must be an object, is {quoted(found)}")
        self._where = where
        self._found: dict[str, Any] = found
        self._asked: set[str] = set()

    def _get(self, key: str) -> Any:
        self._asked.add(key)
        if key not in self._found:
            raise Invalid(f"{self._where}{key} is missing")
        return self._found[key]

    def _bad(self, key: str, what: str) -> Invalid:
        return Invalid(f"{self._where}{key} must be {what}, is {quoted(self._found.get(key))}")

    def ends(self) -> None:
        """Raise Invalid for a key that nobody asked for."""
        for key in self._found:
            if key not in self._asked:
                raise Invalid(f"{self._where}{quoted(key)} is not known")

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str):
            raise self._bad(key, "text")
        return value

    def truth(self, key: str) -> bool:
        value = self._get(key)
        if value is not True and value is not False:
            raise self._bad(key, "true or false")
        return bool(value)

    def number(self, key: str, low: int, high: int) -> int:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._bad(key, f"a whole number from {low} to {high}")
        return value

    def time(self, key: str) -> str:
        value = self.text(key)
        if not _TIME.match(value):
            raise self._bad(key, "an RFC 3339 time in UTC")
        return value

    def time_or_none(self, key: str) -> str | None:
        return None if self._get(key) is None else self.time(key)

    def controllers(self, key: str) -> tuple[int, ...]:
        value = self._get(key)
        good = isinstance(value, list) and 0 < len(value) <= CONTROLLERS_PER_LIST
        if not good or not all(type(one) is int and 0 <= one <= MAX_CNTLID for one in value):
            raise self._bad(key, f"one or more controller ids from 0 to {MAX_CNTLID}")
        if any(one >= other for one, other in itertools.pairwise(value)):
            raise self._bad(key, "ascending controller ids")
        return tuple(value)

    def identity(self, key: str) -> Identity | None:
        value = self._get(key)
        if value is None:
            return None
        table = _Table(f"{self._where}{key}.", value)
        found = Identity(
            table.digits("nguid", _NGUID),
            table.digits("eui64", _EUI64),
            table.number("size", 0, _MOST_NUMBER),
            table.number("block_size", 1, _MOST_NUMBER),
        )
        table.ends()
        return found

    def digits(self, key: str, count: int) -> str:
        value = self.text(key)
        if len(value) not in (0, count) or not _HEX.match(value):
            raise self._bad(key, f"{count} hexadecimal digits, or empty")
        return value

    def each(self, key: str, read: Callable[[_Table], T]) -> tuple[T, ...]:
        """Return what `read` makes of each object of a list. Raises Invalid for keys that it leaves over."""
        value = self._get(key)
        if not isinstance(value, list):
            raise self._bad(key, "a list")
        made = []
        for n, one in enumerate(value):
            table = _Table(f"{self._where}{key}[{n}].", one)
            made.append(read(table))
            table.ends()
        return tuple(made)

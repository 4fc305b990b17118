"""FLEET.toml: the description of simulated drives. Read here, key by key; nothing unknown is passed over.

[fleet]
drives = 18                     # /dev/nvme0 to /dev/nvme17
secondary_controllers = 17      # virtual functions; or, for drives with several ports: controllers = 2
namespaces = 8                  # shared, NSIDs from 1
attached = "all"                # "none": attached to no controller
quirks = "specification"        # or "qemu-7.2"
state = "fleet.state.json"      # default: the fleet file's name and .state.json
latency_ms = 0.5

[[drive]]
number = 3
serial = "BROKEN"
answers = "never"               # "late:SECONDS", "removed", "no-namespace-management"
namespaces = [{ nsid = 1 }, { nsid = 7, size = 1073741824, private = true }]
controllers = [0]               # ids; the first is ours
secondary_controllers = [1, 2, 5]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nvmefence.errors import ConfigError, nearest
from nvmefence.nvme.commands import MAX_CNTLID, MAX_NSID
from nvmefence.nvme.emulated_data import QEMU_7_2, SPECIFICATION, Namespace, Quirks
from nvmefence.nvme.structures import SECONDARIES_PER_LIST
from nvmefence.tomlfile import read_toml

_BLOCK: Final = 4096
_QUIRKS: Final[Mapping[str, Quirks]] = {"specification": SPECIFICATION, "qemu-7.2": QEMU_7_2}
_ATTACHED: Final = ("all", "none")
_ANSWERS: Final = ("never", "late:SECONDS", "removed", "no-namespace-management")
_TOP: Final = ("fleet", "drive")
_COMMON: Final = ("controllers", "secondary_controllers", "namespaces")
_FLEET: Final = ("drives", *_COMMON, "attached", "quirks", "state", "latency_ms")
_DRIVE: Final = ("number", "serial", "nqn", "model", "firmware", *_COMMON, "answers")
_NAMESPACE: Final = ("nsid", "size", "private")
_MAX_DRIVES: Final = 4096
_MAX_NAMESPACES: Final = 4096


class FleetError(ConfigError):
    """A fleet file, or the state of a simulated fleet, is refused: file, key and reason."""


@dataclass(frozen=True, slots=True)
class DrivePlan:
    """One simulated drive as the fleet file has it."""

    number: int
    serial: str
    nqn: str
    model: str
    firmware: str
    controllers: tuple[int, ...]
    """Physical controllers; the first is ours, and the primary of the secondaries."""
    secondaries: tuple[int, ...]
    """CNTLIDs in the order of VF 1, 2, …."""
    namespaces: tuple[Namespace, ...]
    namespace_management: bool = True
    removed: bool = False
    hangs: bool = False
    late: float = 0.0
    """Seconds that each answer takes beyond the fleet's latency."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """A fleet file."""

    path: Path
    state: Path
    drives: tuple[DrivePlan, ...]
    attached: bool
    """Shared namespaces start attached to every controller but ours; else to none."""
    quirks: Quirks
    latency: float
    """Seconds."""


def read_plan(path: str | Path) -> FleetPlan:
    """Read and check a fleet file. Raises FleetError."""
    path = Path(path)
    document = read_toml(path, "fleet file", "write one; the README has an example", FleetError)
    return _Reader(path).plan(document)


class _Reader:
    """Turns the document into a plan; `fail` names file and key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fail(self, key: str, reason: str, advice: str = "") -> FleetError:
        return FleetError(f"{self.path}: {key}: {reason}", advice)

    def known(self, table: object, names: Sequence[str], key: str) -> dict[str, Any]:
        if not isinstance(table, dict):
            raise self.fail(key, "must be a table")
        for name in table:
            if name not in names:
                where = f"{key}.{name}" if key else name
                hint = nearest(name, list(names))
                raise self.fail(where, f"unknown key{hint}", f"known here: {', '.join(names)}")
        return table

    def integer(self, value: object, low: int, high: int, key: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(key, f"must be a whole number from {low} to {high}, is {value!r}")
        return value

    def text(self, value: object, limit: int, key: str) -> str:
        if (
            not isinstance(value, str)
            or not 1 <= len(value) <= limit
            or not (value.isascii() and value.isprintable())
        ):
            raise self.fail(key, f"must be 1 to {limit} printable ASCII characters, is {value!r}")
        return value

    def place(self, value: object, key: str) -> Path:
        if not isinstance(value, str) or not value or "\0" in value:
            raise self.fail(key, f"must be the path of a file, is {value!r}")
        return self.path.parent / value

    def choice(self, value: object, known: Sequence[str], key: str) -> str:
        if not isinstance(value, str) or value not in known:
            hint = nearest(value, list(known)) if isinstance(value, str) else ""
            raise self.fail(key, f"{value!r} is not known{hint}", f"one of: {', '.join(known)}")
        return value

    def plan(self, document: dict[str, Any]) -> FleetPlan:
        self.known(document, _TOP, "")
        if "fleet" not in document:
            raise self.fail("fleet", "is missing", "begin with: [fleet] drives = 2")
        fleet = self.known(document["fleet"], _FLEET, "fleet")
        count = self.integer(fleet.get("drives", 0), 1, _MAX_DRIVES, "fleet.drives")
        latency = fleet.get("latency_ms", 0)
        if not isinstance(latency, int | float) or isinstance(latency, bool) or not 0 <= latency < math.inf:
            raise self.fail("fleet.latency_ms", f"must be a number of milliseconds, is {latency!r}")
        state = fleet.get("state", f"{self.path.name}.state.json")
        return FleetPlan(
            path=self.path,
            state=self.place(state, "fleet.state"),
            drives=self.drives(fleet, document.get("drive", []), count),
            attached=self.choice(fleet.get("attached", "all"), _ATTACHED, "fleet.attached") == "all",
            quirks=_QUIRKS[self.choice(fleet.get("quirks", "specification"), tuple(_QUIRKS), "fleet.quirks")],
            latency=latency / 1000,
        )

    def drives(self, fleet: dict[str, Any], tables: object, count: int) -> tuple[DrivePlan, ...]:
        if not isinstance(tables, list):
            raise self.fail("drive", "must be a list of tables", "write [[drive]]")
        overrides: dict[int, tuple[dict[str, Any], str]] = {}
        for position, table in enumerate(tables):
            key = f"drive[{position}]"
            self.known(table, _DRIVE, key)
            number = self.integer(table.get("number", position), 0, count - 1, f"{key}.number")
            if number in overrides:
                raise self.fail(f"{key}.number", f"drive {number} is described twice", "number counts from 0")
            overrides[number] = (table, key)
        shared = self.namespaces(fleet.get("namespaces", 1), "fleet.namespaces")
        plans = [self.drive(n, fleet, shared, *overrides.get(n, ({}, ""))) for n in range(count)]
        for what in ("serial", "nqn"):
            seen: dict[str, int] = {}
            for plan in plans:
                other = seen.setdefault(getattr(plan, what), plan.number)
                if other != plan.number:
                    raise self.fail(what, f"drives {other} and {plan.number} have the same {what}")
        return tuple(plans)

    def drive(
        self, number: int, fleet: dict[str, Any], shared: tuple[Namespace, ...], table: dict[str, Any], key: str
    ) -> DrivePlan:
        serial = self.text(table.get("serial", f"SIM{number:05d}"), 20, f"{key}.serial")
        controllers, secondaries = self.controllers(fleet, table, key)
        answers = self.answers(table.get("answers"), f"{key}.answers")
        own = table.get("namespaces")
        return DrivePlan(
            number=number,
            serial=serial,
            nqn=self.text(table.get("nqn", f"nqn.2014-08.org.nvmexpress:simulated:{serial}"), 223, f"{key}.nqn"),
            model=self.text(table.get("model", "Simulated NVMe"), 40, f"{key}.model"),
            firmware=self.text(table.get("firmware", "1.0"), 8, f"{key}.firmware"),
            controllers=controllers,
            secondaries=secondaries,
            namespaces=shared if own is None else self.namespaces(own, f"{key}.namespaces"),
            namespace_management=answers != "no-namespace-management",
            removed=answers == "removed",
            hangs=answers == "never",
            late=answers if isinstance(answers, float) else 0.0,
        )

    def controllers(
        self, fleet: dict[str, Any], table: dict[str, Any], key: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return physical controllers and secondary controllers; a drive's own keys go before the fleet's."""
        own = table.keys() & {"controllers", "secondary_controllers"}
        source, where = (table, key) if own else (fleet, "fleet")
        wanted = source.get("secondary_controllers", 0)
        if wanted == 0:
            return self.ids(source.get("controllers", 2), 1, f"{where}.controllers"), ()
        if not isinstance(source.get("controllers", []), list):
            reason = "a number of controllers and secondary_controllers exclude each other"
            raise self.fail(f"{where}.controllers", reason, "leave one out, or list the ids: controllers = [0]")
        physical = self.ids(source.get("controllers", [0]), 0, f"{where}.controllers")
        secondaries = self.ids(wanted, max(physical) + 1, f"{where}.secondary_controllers")
        if len(secondaries) > SECONDARIES_PER_LIST or set(physical) & set(secondaries):
            raise self.fail(
                f"{where}.secondary_controllers", f"at most {SECONDARIES_PER_LIST}, and none of {list(physical)}"
            )
        return physical, secondaries

    def ids(self, value: object, first: int, key: str) -> tuple[int, ...]:
        """Return a list of controller ids, or as many as `value` says from `first` up."""
        if isinstance(value, list):
            ids = tuple(self.integer(item, 0, MAX_CNTLID, key) for item in value)
            if not ids or len(set(ids)) != len(ids):
                raise self.fail(key, f"must name different controllers, at least one: {value!r}")
            return ids
        return tuple(range(first, first + self.integer(value, 1, 2047, key)))

    def namespaces(self, value: object, key: str) -> tuple[Namespace, ...]:
        if not isinstance(value, list):
            return tuple(Namespace(n) for n in range(1, 1 + self.integer(value, 0, _MAX_NAMESPACES, key)))
        found: dict[int, Namespace] = {}
        for position, table in enumerate(value):
            where = f"{key}[{position}]"
            self.known(table, _NAMESPACE, where)
            nsid = self.integer(table.get("nsid"), 1, MAX_NSID, f"{where}.nsid")
            size = self.integer(table.get("size", 1 << 33), _BLOCK, 1 << 60, f"{where}.size")
            private = table.get("private", False)
            if size % _BLOCK or not isinstance(private, bool) or nsid in found:
                raise self.fail(
                    where, f"size is in bytes, a multiple of {_BLOCK}; private true or false; nsid not twice"
                )
            found[nsid] = Namespace(nsid, size // _BLOCK, shared=not private, block_size=_BLOCK)
        return tuple(found[nsid] for nsid in sorted(found))

    def answers(self, value: object, key: str) -> str | float:
        """Return the word, or the seconds of "late:SECONDS"."""
        if value is None:
            return ""
        if isinstance(value, str) and value.startswith("late:"):
            try:
                seconds = float(value[5:])
            except ValueError:
                seconds = -1.0
            if not 0 <= seconds < math.inf:
                raise self.fail(key, f"{value!r}: not a number of seconds", 'write answers = "late:2.5"')
            return seconds
        return self.choice(value, _ANSWERS, key)

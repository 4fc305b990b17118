"""From the text of `hosts.toml` to a `HostMap`, key by key; contradictions between hosts are refused here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from nvmefence.errors import ConfigError, nearest
from nvmefence.inventory.hostmap import Expected, Host, HostMap
from nvmefence.inventory.selectors import (
    NNF_FIRST_COMPUTE_VF,
    NNF_RABBIT_VFS,
    NNF_SLOTS,
    ByController,
    ByVirtualFunction,
    Selector,
)
from nvmefence.nvme.commands import MAX_CNTLID
from nvmefence.tomlfile import read_toml

_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?\Z")
_TOP: Final = ["version", "drives", "hosts"]
_DRIVES: Final = ["count", "serials", "nqns", "ignore", "own", "allow_controller_zero"]
_HOST: Final = ["controllers", "vf", "slot", "aliases"]
_SELECTORS: Final = ["controllers", "vf", "slot"]
_MAX_VF: Final = 0xFFFF
_MAX_DRIVES: Final = 65536


def load(path: str | Path) -> HostMap:
    """Read and check a host map. Raises ConfigError with the file, the line or key, and the reason."""
    return parse(
        read_toml(path, "host map", "nvmefence hosts discover prints a start; or name one with --hosts"), str(path)
    )


def parse(document: dict[str, Any], path: str) -> HostMap:
    """Check every key of a host map. Raises ConfigError naming the file, the key and the reason."""
    return _Parser(path).parse(document)


class _Parser:
    def __init__(self, path: str) -> None:
        self.path = path

    def fail(self, key: str, reason: str, advice: str = "") -> ConfigError:
        return ConfigError(f"{self.path}: {key}: {reason}", advice)

    def parse(self, document: dict[str, Any]) -> HostMap:
        self.known(document, _TOP, "")
        if document.get("version") != 1:
            raise self.fail("version", f"must be 1, is {document.get('version')!r}", "add: version = 1")
        drives = self.table(document.get("drives"), "drives", "say which drives are expected: [drives] count = 18")
        self.known(drives, _DRIVES, "drives.")
        hosts_table = self.table(document.get("hosts"), "hosts", "add a table such as [hosts.compute-1]")
        if not hosts_table:
            raise self.fail("hosts", "no host is named")
        zero = drives.get("allow_controller_zero", False)
        if not isinstance(zero, bool):
            raise self.fail("drives.allow_controller_zero", "must be true or false")
        hosts = {name: self.host(name, table) for name, table in hosts_table.items()}
        own = self.own(drives.get("own", "visible"))
        self.refuse_overlap(hosts)
        ours = frozenset() if isinstance(own, str) else frozenset(own)
        slots = _uses_slots(hosts)
        for host in hosts.values():
            self.refuse_own(host, ours, zero, slots)
        exact, short = self.names(hosts)
        return HostMap(self.path, hosts, self.expected(drives), own, zero, exact, short)

    def refuse_overlap(self, hosts: Mapping[str, Host]) -> None:
        """Two hosts must not name one controller; what only a drive can tell, `HostMap.resolve` checks."""
        owner: dict[tuple[str, str, int], str] = {}
        for host in hosts.values():
            for claim in _claims(host.selector):
                other = owner.setdefault(claim, host.name)
                if other != host.name:
                    kind, drive, number = claim
                    where = f" on drive {drive}" if drive else ""
                    raise self.fail(
                        f"hosts.{host.name}", f"{kind} {number}{where} is that of hosts.{other} too", "correct one"
                    )

    def refuse_own(self, host: Host, own: frozenset[int], zero: bool, slots: bool) -> None:
        """Refuse controller zero, our own controllers, and the Rabbit's function where slots are used."""
        key = f"hosts.{host.name}"
        claims = {number for _, _, number in _claims(host.selector)}
        if isinstance(host.selector, ByVirtualFunction):
            if slots and NNF_RABBIT_VFS & claims:
                raise self.fail(f"{key}.vf", "virtual function 1 is the Rabbit's own where slots are used")
            return
        if 0 in claims and not zero:
            raise self.fail(
                f"{key}.controllers",
                "controller id 0 is refused",
                "if the host really owns controller 0, set allow_controller_zero = true under [drives]",
            )
        if claims & own:
            raise self.fail(f"{key}.controllers", f"controller {min(claims & own)} is this machine's own")

    def names(self, hosts: Mapping[str, Host]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
        """Return the hosts by full name and by short name. A full name or alias belongs to one host."""
        exact: dict[str, str] = {}
        short: dict[str, set[str]] = {}
        for host in hosts.values():
            for name in (host.name, *host.aliases):
                other = exact.setdefault(name.lower(), host.name)
                if other != host.name:
                    raise self.fail(f"hosts.{host.name}", f"the name {name!r} is that of hosts.{other} too")
                short.setdefault(name.lower().split(".", 1)[0], set()).add(host.name)
        return exact, {name: tuple(sorted(owners)) for name, owners in short.items()}

    def expected(self, drives: dict[str, Any]) -> Expected:
        given = [key for key in ("count", "serials", "nqns") if key in drives]
        if len(given) != 1:
            raise self.fail(
                "drives",
                "exactly one of count, serials and nqns says which drives are expected"
                + (f", not {' and '.join(given)}" if given else ", none is given"),
            )
        count = drives.get("count")
        if count is not None and (not _is_int(count) or not 1 <= count <= _MAX_DRIVES):
            raise self.fail("drives.count", f"must be a whole number from 1 to {_MAX_DRIVES}, is {count!r}")
        serials, nqns = (self.strings(drives.get(key), f"drives.{key}") for key in ("serials", "nqns"))
        if count is None and not serials and not nqns:
            raise self.fail(f"drives.{given[0]}", "must name at least one drive")
        return Expected(count, serials, nqns, self.strings(drives.get("ignore"), "drives.ignore"))

    def own(self, value: Any) -> str | tuple[int, ...]:
        if value in ("visible", "physical"):
            return str(value)
        if isinstance(value, str):
            raise self.fail("drives.own", f'must be "visible", "physical" or controller ids, is {value!r}')
        return self.numbers(value, "drives.own", 0, MAX_CNTLID)

    def host(self, name: str, value: Any) -> Host:
        key = f"hosts.{name}"
        if not _HOST_NAME.match(name):
            raise self.fail(
                f"hosts.{name!r}", "a host name has letters, digits, '-', '_' and '.'",
                'quote a name with dots: [hosts."c1.example.org"]',
            )  # fmt: skip
        table = self.table(value, key, "")
        self.known(table, _HOST, f"{key}.")
        aliases = self.strings(table.get("aliases"), f"{key}.aliases")
        for alias in aliases:
            if not _HOST_NAME.match(alias):
                raise self.fail(f"{key}.aliases", f"{alias!r} is no host name")
        return Host(name, self.selector(table, key), aliases)

    def selector(self, table: dict[str, Any], key: str) -> Selector:
        given = [name for name in _SELECTORS if name in table]
        if len(given) != 1:
            raise self.fail(
                key,
                "exactly one of controllers, vf and slot says which controllers are the host's"
                + (f", not {' and '.join(given)}" if given else ", none is given"),
            )
        value = table[given[0]]
        if given == ["slot"]:
            if not _is_int(value) or not 0 <= value < NNF_SLOTS:
                raise self.fail(f"{key}.slot", f"must be a slot from 0 to {NNF_SLOTS - 1}, is {value!r}")
            return ByVirtualFunction((value + NNF_FIRST_COMPUTE_VF,), slot=value)
        if given == ["vf"]:
            return ByVirtualFunction(self.numbers(value, f"{key}.vf", 1, _MAX_VF))
        if not isinstance(value, dict):
            return ByController(self.numbers(value, f"{key}.controllers", 0, MAX_CNTLID))
        per_drive = {
            drive: self.numbers(ids, f'{key}.controllers."{drive}"', 0, MAX_CNTLID) for drive, ids in value.items()
        }
        everywhere = per_drive.pop("*", ())
        return ByController(everywhere, per_drive)

    def known(self, table: dict[str, Any], keys: list[str], prefix: str) -> None:
        for key in table:
            if key not in keys:
                raise self.fail(
                    f"{prefix}{key}", f"unknown key{nearest(key, keys)}", f"known are {', '.join(keys)}"
                )

    def table(self, value: Any, key: str, advice: str) -> dict[str, Any]:
        if value is None:
            raise self.fail(key, "is missing", advice)
        if not isinstance(value, dict):
            raise self.fail(key, f"must be a table, is {value!r}", advice)
        return value

    def strings(self, value: Any, key: str) -> tuple[str, ...]:
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
            raise self.fail(key, f"must be a list of strings, is {value!r}")
        stripped = tuple(v.strip() for v in value)
        if len(set(stripped)) != len(stripped):
            raise self.fail(key, "names something twice")
        return stripped

    def numbers(self, value: Any, key: str, low: int, high: int) -> tuple[int, ...]:
        values = value if isinstance(value, list) else [value]
        if not values or not all(_is_int(v) and low <= v <= high for v in values):
            raise self.fail(key, f"must be one or more whole numbers from {low} to {high}, is {value!r}")
        if len(set(values)) != len(values):
            raise self.fail(key, "names a number twice")
        return tuple(values)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _uses_slots(hosts: Mapping[str, Host]) -> bool:
    return any(isinstance(h.selector, ByVirtualFunction) and h.selector.slot is not None for h in hosts.values())


def _claims(selector: Selector) -> Iterator[tuple[str, str, int]]:
    """Yield (kind, drive or "" for every drive, number) for everything that a selector names."""
    if isinstance(selector, ByVirtualFunction):
        yield from (("virtual function", "", vf) for vf in selector.vfs)
        return
    yield from (("controller", "", number) for number in selector.everywhere)
    for drive, ids in selector.per_drive.items():
        yield from (("controller", drive, number) for number in ids)

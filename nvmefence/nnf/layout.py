"""What SystemConfiguration and NnfNode say about one Rabbit: which compute is in which slot, and its drives.

Sources: NearNodeFlash/nnf-sos (the NnfNode types of api/v1alpha1 to v1alpha11; the node controller, which gives
server 0 the Rabbit's name and server N the name of the compute with index N - 1) and DataWorkflowServices/dws (the
CRDs of SystemConfiguration). All of their versions have the fields that are read here, with one meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nvmefence.errors import FileError
from nvmefence.inventory.selectors import NNF_SLOTS
from nvmefence.nnf.documents import Resource
from nvmefence.plain import escaped

SYSTEM: Final = "SystemConfiguration"
NODE: Final = "NnfNode"
NODE_GROUP: Final = "nnf.cray.hpe.com"
NODE_VERSIONS: Final = tuple(f"v1alpha{n}" for n in range(1, 12))
"""Of NnfNode, the oldest first."""
KNOWN: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    SYSTEM: {
        "dataworkflowservices.github.io": tuple(f"v1alpha{n}" for n in range(1, 8)),
        "dws.cray.hpe.com": ("v1alpha1", "v1alpha2"),
    },
    NODE: {NODE_GROUP: NODE_VERSIONS},
}
_RABBIT: Final = "Rabbit"
_OWN_SERVER: Final = "0"
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?\Z")


@dataclass(frozen=True, slots=True)
class Compute:
    """A compute node in a slot."""

    name: str
    slot: int
    where: str
    """The places that say so."""


@dataclass(frozen=True, slots=True)
class Drives:
    """The Rabbit's drives, as its NnfNode names them."""

    serials: tuple[str, ...]
    unnamed: tuple[str, ...]
    """Those without a serial number, in words."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One Rabbit."""

    rabbit: str
    computes: tuple[Compute, ...]
    """By slot."""
    drives: Drives | None
    """None: no NnfNode was given, or it does not say."""
    sources: tuple[str, ...]
    """Which resources were read, in words."""
    unsaid: tuple[str, ...] = ()
    """What one of the sources could have confirmed, and does not."""


def layout(resources: Sequence[Resource], rabbit: str | None) -> Layout:
    """Return the layout of one Rabbit. Raises FileError for what is missing, ambiguous or contradictory."""
    systems = [one for one in resources if one.kind == SYSTEM]
    nodes = [one for one in resources if one.kind == NODE]
    if not systems and not nodes:
        kinds = ", ".join(sorted({one.kind for one in resources})) or "nothing"
        raise FileError(
            escaped(f"neither a {SYSTEM} nor an {NODE} is there, only: {kinds}"),
            "get them: kubectl get systemconfiguration -n default default -o json",
        )
    for one in (*systems, *nodes):
        _check_version(one)
    if len(systems) > 1:
        raise FileError(
            f"two resources say who is where: {systems[0].words()}, and {systems[1].words()}", "give one of them"
        )
    chosen = _choose(systems, nodes, rabbit)
    of_system = _of_system(systems[0], chosen) if systems else {}
    node = _node_of(nodes, chosen)
    of_node = _of_node(node) if node else None
    computes, unsaid = _joined(of_system, of_node, bool(systems), node)
    if not computes:
        raise FileError(
            f"no compute is attached to {chosen}, by {_names(systems, node)}", "is it the right Rabbit?"
        )
    sources = tuple(one.words() for one in (*systems, *([node] if node else [])))
    return Layout(chosen, computes, None if node is None else _drives(node), sources, unsaid)


def _names(systems: Sequence[Resource], node: Resource | None) -> str:
    return " and ".join(one.words() for one in (*systems, *([node] if node else [])))


def _check_version(one: Resource) -> None:
    versions = KNOWN[one.kind].get(one.group)
    if versions is None:
        groups = ", ".join(KNOWN[one.kind])
        raise FileError(f"{one.words()}: the API group {escaped(one.group)!r} is not known", f"known are {groups}")
    if one.version not in versions:
        raise FileError(
            f"{one.words()}: version {escaped(one.version)!r} is not known",
            f"known are {versions[0]} to {versions[-1]}; ask the server for one of them: "
            f"kubectl get {one.kind.lower()}.{versions[-1]}.{one.group}, or use a newer nvmefence",
        )


def _choose(systems: Sequence[Resource], nodes: Sequence[Resource], rabbit: str | None) -> str:
    """Return the Rabbit that is meant: the one asked for, else the only one with an NnfNode, else the only one."""
    configured = [name for one in systems for name in _rabbits(one)]
    named = [one.namespace for one in nodes]
    every = sorted({*configured, *named})
    if rabbit is not None:
        if rabbit not in every:
            listed = ", ".join(every) or "none"
            raise FileError(escaped(f"there is no Rabbit {rabbit}"), escaped(f"there are: {listed}"))
        return rabbit
    only = sorted(set(named)) or every
    if len(only) == 1:
        return only[0]
    if not only:
        raise FileError(f"{systems[0].words()} has no storage node of type {_RABBIT}", "is it the right cluster?")
    shown = ", ".join(only[:8]) + (f" and {len(only) - 8} more" if len(only) > 8 else "")
    raise FileError(escaped(f"{len(only)} Rabbits are there: {shown}"), "choose one with --rabbit NAME")


def _rabbits(system: Resource) -> list[str]:
    names = [
        _text(node, "name", f"{system.words()}: spec.storageNodes[{number}]")
        for number, node in _storage_nodes(system)
        if node.get("type") == _RABBIT
    ]
    for name in names:
        if names.count(name) > 1:
            raise FileError(f"{system.words()}: two storage nodes are called {escaped(name)}", "correct one")
    return names


def _storage_nodes(system: Resource) -> list[tuple[int, dict[str, Any]]]:
    spec = system.body.get("spec")
    nodes = spec.get("storageNodes") if isinstance(spec, dict) else None
    return list(enumerate(_tables(nodes, f"{system.words()}: spec.storageNodes", missing="is it filled in?")))


def _of_system(system: Resource, rabbit: str) -> dict[int, Compute]:
    """Return the computes of a Rabbit by slot; empty where another resource alone knows it."""
    found: dict[int, Compute] = {}
    elsewhere: dict[str, str] = {}
    for number, node in _storage_nodes(system):
        place = f"spec.storageNodes[{number}].computesAccess"
        access = node.get("computesAccess", [])
        for index, one in enumerate(_tables(access, f"{system.words()}: {place}")):
            here = f"{system.words()}: {place}[{index}]"
            name = _text(one, "name", here)
            if node.get("name") != rabbit:
                elsewhere[name.lower()] = here
                continue
            slot = one.get("index")
            if not isinstance(slot, int) or isinstance(slot, bool) or not 0 <= slot < NNF_SLOTS:
                raise FileError(
                    f"{here}: index must be a slot from 0 to {NNF_SLOTS - 1}, is {escaped(repr(slot))[:40]}",
                    "correct the SystemConfiguration",
                )
            if slot in found:
                raise FileError(f"{here}: slot {slot} is that of {found[slot].name} too", "correct one of them")
            found[slot] = Compute(_host(name, here), slot, f"{place}[{index}]")
    _refuse_doubles(found.values(), system)
    for compute in found.values():
        if compute.name.lower() in elsewhere:
            raise FileError(
                f"{compute.name} is attached to {rabbit} and to another: {elsewhere[compute.name.lower()]}",
                "correct one of them",
            )
    return found


def _node_of(nodes: Sequence[Resource], rabbit: str) -> Resource | None:
    """Return the Rabbit's NnfNode, which lives in the namespace of the Rabbit's name."""
    matching = [one for one in nodes if one.namespace == rabbit]
    if len(matching) > 1:
        raise FileError(f"there twice: {matching[0].words()}, and {matching[1].words()}", "give one of them")
    return matching[0] if matching else None


def _of_node(node: Resource) -> dict[int, Compute] | None:
    """Return the computes by slot that an NnfNode names; None if it does not say which servers there are."""
    status = node.body.get("status")
    servers = status.get("servers") if isinstance(status, dict) else None
    if servers is None:
        return None
    found: dict[int, Compute] = {}
    ids = []
    for number, server in enumerate(_tables(servers, f"{node.words()}: status.servers")):
        place = f"status.servers[{number}]"
        here = f"{node.words()}: {place}"
        identity = _text(server, "id", here)
        if identity in ids:
            raise FileError(f"{here}: the id {escaped(identity)!r} is there twice", "get the resource anew")
        ids.append(identity)
        name = server.get("hostname", "")
        if identity == _OWN_SERVER or name == "":
            continue
        slot = int(identity) - 1 if identity.isascii() and identity.isdigit() and len(identity) < 9 else -1
        if not 0 <= slot < NNF_SLOTS:
            raise FileError(f"{here}: id must be a server from 0 to {NNF_SLOTS}, is {escaped(identity)!r}")
        found[slot] = Compute(_host(name, here), slot, f"{place} (id {identity})")
    _refuse_doubles(found.values(), node)
    return found


def _joined(
    of_system: Mapping[int, Compute], of_node: Mapping[int, Compute] | None, system: bool, node: Resource | None
) -> tuple[tuple[Compute, ...], tuple[str, ...]]:
    """Return what both say, and what the NnfNode does not say. Raises FileError where they differ."""
    if not system:
        if of_node is None:
            where = "" if node is None else f"{node.words()}: "
            raise FileError(
                f"{where}status.servers is missing, so nothing says who is where",
                "wait until its node manager has filled it in, or give the SystemConfiguration too",
            )
        return tuple(of_node[slot] for slot in sorted(of_node)), ()
    if of_node is None:
        unsaid = () if node is None else (f"{node.words()} has no status.servers to compare with",)
        return tuple(of_system[slot] for slot in sorted(of_system)), unsaid
    joined = []
    for slot in sorted({*of_system, *of_node}):
        one, other = of_system.get(slot), of_node.get(slot)
        if one is None or other is None or one.name != other.name:
            names = [
                f"{what} says {'nobody' if c is None else c.name}" for what, c in ((SYSTEM, one), (NODE, other))
            ]
            raise FileError(
                f"slot {slot}: {' and '.join(names)}",
                "get both resources at one time; if they still differ, find out who is right before you fence",
            )
        joined.append(Compute(one.name, slot, f"{one.where}, and {other.where} says the same"))
    return tuple(joined), ()


def _drives(node: Resource) -> Drives | None:
    status = node.body.get("status")
    listed = status.get("drives") if isinstance(status, dict) else None
    if listed is None:
        return None
    serials: list[str] = []
    unnamed: list[str] = []
    for number, drive in enumerate(_tables(listed, f"{node.words()}: status.drives")):
        here = f"{node.words()}: status.drives[{number}]"
        value = drive.get("serialNumber", "")
        serial = value.strip(" \0") if isinstance(value, str) else ""
        if not serial:
            told = drive.get("status")
            unnamed.append(escaped(f"slot {drive.get('slot', '?')}" + (f" ({told})" if told else "")))
        elif not serial.isascii() or not serial.isprintable():
            raise FileError(f"{here}: serialNumber {escaped(serial)!r} is none", "get the resource anew")
        elif serial in serials:
            raise FileError(f"{here}: the serial number {serial} is there twice", "get the resource anew")
        else:
            serials.append(serial)
    return Drives(tuple(serials), tuple(unnamed))


def _refuse_doubles(computes: Iterable[Compute], source: Resource) -> None:
    seen: dict[str, Compute] = {}
    for compute in computes:
        other = seen.setdefault(compute.name.lower(), compute)
        if other is not compute:
            raise FileError(
                f"{source.words()}: {compute.name} is there twice, in slots {other.slot} and {compute.slot}",
                "correct one of them",
            )


def _host(name: Any, here: str) -> str:
    if not isinstance(name, str) or not _HOST_NAME.match(name):
        raise FileError(f"{here}: {escaped(repr(name))[:80]} is no host name", "correct the resource")
    return name


def _text(table: Mapping[str, Any], key: str, here: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        shown = "missing" if value is None else escaped(repr(value))[:60]
        raise FileError(f"{here}: {key} must be text, is {shown}", "in YAML, put it into quotation marks")
    return value


def _tables(value: Any, here: str, missing: str = "") -> list[dict[str, Any]]:
    if value is None:
        raise FileError(f"{here} is missing", missing)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise FileError(f"{here} must be a list of objects")
    return value

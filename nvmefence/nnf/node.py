"""What must change in an NnfNode so that it says which of its servers are fenced.

Server status "Fenced" with health "Critical" is what the NNF node manager writes for a compute whose response it
finds (NearNodeFlash/nnf-sos: internal/controller/nnf_node_controller.go, api/v1alpha10/nnf_resource_status_type.go)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

FENCED: Final = "Fenced"
CRITICAL: Final = "Critical"
OFFLINE: Final = "Offline"
"""For a host that is fenced no longer: the node manager, which is woken by the change, puts in what is true."""
_OWN_SERVER: Final = "0"


class Unusable(Exception):
    """The resource is not what it should be, in words."""


@dataclass(frozen=True, slots=True)
class Change:
    """One server's status as it should be."""

    place: int
    identity: str
    host: str
    before: str
    after: str

    def operations(self) -> list[dict[str, Any]]:
        """Return the change as JSON Patch (RFC 6902), which changes nothing if the server is elsewhere by now."""
        path = f"/status/servers/{self.place}"
        operations: list[dict[str, Any]] = [
            {"op": "test", "path": f"{path}/id", "value": self.identity},
            {"op": "test", "path": f"{path}/hostname", "value": self.host},
        ]
        if self.before:
            operations.append({"op": "test", "path": f"{path}/status", "value": self.before})
        operations.append({"op": "add", "path": f"{path}/status", "value": self.after})
        if self.after == FENCED:
            operations.append({"op": "add", "path": f"{path}/health", "value": CRITICAL})
        return operations


def to_fence(node: Mapping[str, Any], fenced: Collection[str]) -> list[Change]:
    """Return a change for each server that is fenced and not said to be. Raises Unusable."""
    return [
        Change(place, identity, host, status, FENCED)
        for place, identity, host, status in _computes(node)
        if host in fenced and status != FENCED
    ]


def to_release(node: Mapping[str, Any], fenced: Collection[str], released: Collection[str]) -> list[Change]:
    """Return a change for each server that is said to be fenced, was, and is no longer. Raises Unusable."""
    return [
        Change(place, identity, host, status, OFFLINE)
        for place, identity, host, status in _computes(node)
        if status == FENCED and host not in fenced and host in released
    ]


def said_fenced(node: Mapping[str, Any]) -> set[str]:
    """Return the hosts that the resource says are fenced. Raises Unusable."""
    return {host for _, _, host, status in _computes(node) if status == FENCED}


def hosts(node: Mapping[str, Any]) -> set[str]:
    """Return the hosts that the resource has. Raises Unusable."""
    return {host for _, _, host, _ in _computes(node)}


def _computes(node: Mapping[str, Any]) -> Iterator[tuple[int, str, str, str]]:
    """Yield place, id, host name and status of every server that is a compute with a name."""
    status = node.get("status")
    servers = status.get("servers") if isinstance(status, dict) else None
    if servers is None:
        raise Unusable("has no status.servers yet: its node manager has not filled it in")
    if not isinstance(servers, list):
        raise Unusable("has a status.servers that is no list")
    for place, server in enumerate(servers):
        if not isinstance(server, dict):
            raise Unusable(f"has a status.servers[{place}] that is no server")
        identity, host, told = (server.get(key, "") for key in ("id", "hostname", "status"))
        if not (isinstance(identity, str) and isinstance(host, str) and isinstance(told, str)):
            raise Unusable(f"has a status.servers[{place}] that is no server")
        if host and identity != _OWN_SERVER:
            yield place, identity, host, told

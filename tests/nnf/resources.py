"""Resources as `kubectl get -o json` gives them, for a Rabbit called rabbit-1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.nnf.schema import check_node, check_system

RABBIT = "rabbit-1"
SERIALS = ("SIM00000", "SIM00001", "SIM00002")
"""Of the simulated drives of tests.system.place."""
COMPUTES = {0: "c1", 1: "c2"}


def node(
    computes: Mapping[int, str] = COMPUTES, serials: Sequence[str] = SERIALS, *, rabbit: str = RABBIT,
    version: str = "v1alpha10", slots: int = 4,
) -> dict[str, Any]:  # fmt: skip
    """Return an NnfNode with a server for each slot, of which some have a compute."""
    servers: list[dict[str, Any]] = [
        {"id": "0", "name": "Rabbit", "hostname": rabbit, "health": "OK", "status": "Ready"}
    ]
    for slot in range(slots):
        server = {"id": str(slot + 1), "name": f"Compute {slot}", "health": "OK", "status": "Ready"}
        servers.append(server | ({"hostname": computes[slot]} if slot in computes else {}))
    drives = [
        {"id": str(n), "name": f"Drive {n}", "slot": str(n + 1), "serialNumber": serial, "status": "Ready"}
        for n, serial in enumerate(serials)
    ]
    made = {
        "apiVersion": f"nnf.cray.hpe.com/{version}",
        "kind": "NnfNode",
        "metadata": {"name": "nnf-nlc", "namespace": rabbit, "resourceVersion": "1"},
        "spec": {"name": rabbit, "state": "Enable"},
        "status": {"status": "Ready", "health": "OK", "servers": servers, "drives": drives},
    }
    check_node(made)
    return made


def system(
    rabbits: Mapping[str, Mapping[int, str]] | None = None, *, version: str = "v1alpha7", **more: Any
) -> dict[str, Any]:
    """Return a SystemConfiguration."""
    storage = [
        {
            "name": name,
            "type": "Rabbit",
            "computesAccess": [{"index": slot, "name": host} for slot, host in computes.items()],
        }
        for name, computes in ({RABBIT: COMPUTES} if rabbits is None else rabbits).items()
    ]
    made = {
        "apiVersion": f"dataworkflowservices.github.io/{version}",
        "kind": "SystemConfiguration",
        "metadata": {"name": "default", "namespace": "default"},
        "spec": {"portsCooldownInSeconds": 60, "storageNodes": storage, **more},
        "status": {"ready": True},
    }
    check_system(made)
    return made


def listed(*resources: Mapping[str, Any]) -> dict[str, Any]:
    """Return them as one list, as `kubectl get` does for several."""
    return {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": list(resources)}

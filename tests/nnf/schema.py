"""What the published resource definitions say of the fields that matter here, as facts in words of our own.

Read from the CustomResourceDefinitions of NearNodeFlash/nnf-sos (config/crd/bases/nnf.cray.hpe.com_nnfnodes.yaml)
and DataWorkflowServices/dws (config/crd/bases/dataworkflowservices.github.io_systemconfigurations.yaml): names,
types, enums and what is required. Nothing else is allowed here, as a server with strict field validation has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema

TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
TRUTH = {"type": "boolean"}


def table(required: Sequence[str] = (), /, **fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def listing(of: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


RESOURCE: dict[str, Any] = {"id": TEXT, "name": TEXT, "health": TEXT, "status": TEXT}
NNF_NODE = table(
    apiVersion=TEXT,
    kind=TEXT,
    metadata={"type": "object"},
    spec=table(["state"], name=TEXT, pod=TEXT, state={"enum": ["Enable", "Disable"]}),
    status=table(
        capacity=NUMBER,
        capacityAllocated=NUMBER,
        fenced=TRUTH,
        health=TEXT,
        lnetNid=TEXT,
        status=TEXT,
        servers=listing(table(hostname=TEXT, **RESOURCE)),
        drives=listing(
            table(
                capacity=NUMBER,
                firmwareVersion=TEXT,
                model=TEXT,
                serialNumber=TEXT,
                slot=TEXT,
                wearLevel=NUMBER,
                **RESOURCE,
            )
        ),
    ),
)
"""As v1alpha7 to v1alpha11 have it."""
SERVER_STATUS = (
    "Enabled", "Disabled", "NotPresent", "Offline", "Starting", "Deleting", "Deleted", "Ready", "Failed", "Invalid",
    "Fenced",
)  # fmt: skip
"""The words of api/v1alpha10/nnf_resource_status_type.go; the definition itself allows any text."""
HEALTH = ("OK", "Warning", "Critical")
COMPUTE = table(["index", "name"], index=NUMBER, name=TEXT)
SYSTEM_CONFIGURATION = table(
    apiVersion=TEXT,
    kind=TEXT,
    metadata={"type": "object"},
    spec=table(
        ["portsCooldownInSeconds"],
        externalComputeNodes=listing(table(["name"], name=TEXT)),
        ports=listing({"type": ["integer", "string"]}),
        portsCooldownInSeconds=NUMBER,
        storageNodes=listing(table(["name", "type"], name=TEXT, type=TEXT, computesAccess=listing(COMPUTE))),
    ),
    status=table(["ready"], ready=TRUTH, error={"type": "object"}),
)
"""As v1alpha3 to v1alpha7 of dataworkflowservices.github.io have it."""


def check_node(node: Mapping[str, Any]) -> None:
    """Fail unless a server would take this NnfNode, and its node manager knows the words in it."""
    jsonschema.validate(node, NNF_NODE)
    for server in node.get("status", {}).get("servers", []):
        jsonschema.validate(server.get("status", "Ready"), {"enum": list(SERVER_STATUS)})
        jsonschema.validate(server.get("health", "OK"), {"enum": list(HEALTH)})


def check_system(system: Mapping[str, Any]) -> None:
    """Fail unless a server would take this SystemConfiguration."""
    jsonschema.validate(system, SYSTEM_CONFIGURATION)

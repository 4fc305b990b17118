"""Responses, as a watcher writes them, without a watcher."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nvmefence.spool.response import Response

DRIVE = {
    "serial": "S1",
    "model": "M",
    "device": "/dev/nvme0",
    "own_controller": 0,
    "namespaces": 1,
    "quiesce": "none",
}


def evidence(
    host: str, *, simulated: bool = False, read_back: dict[str, list[int]] | None = None
) -> dict[str, Any]:
    """Return the evidence of a fence of one host on one drive."""
    shown = {"outcome": "cut", "controllers": [2], "detached": {"1": [2]}, "quiesced": True}
    return {
        "host": host,
        "confirmed": True,
        "message": f"Fenced {host}",
        "simulated": simulated,
        "backend": "io_uring",
        "started_at": "2026-11-25T10:00:00Z",
        "seconds": 0.1,
        "missing": [],
        "drives": [{**DRIVE, "found": {"1": [2]}, "read_back": read_back or {}, "hosts": {host: shown}}],
    }


def write(directory: Path, name: str, host: str, **fields: Any) -> Path:
    """Put a response there whole; returns its path."""
    values: dict[str, Any] = {
        "request_id": name,
        "success": True,
        "action_performed": "off",
        "target_node": host,
        "message": f"Fenced {host}",
        "timestamp": "2026-11-25T10:00:00Z",
        "evidence": evidence(host),
        **fields,
    }
    path = directory / f"{name}.json"
    temporary = directory / f".{name}.json.tmp"
    temporary.write_bytes(Response(**values).encode())
    os.chmod(temporary, 0o640)
    temporary.rename(path)
    return path

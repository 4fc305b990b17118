"""What the NNF node manager makes of a response directory: its rules, written down as an oracle.

Read from NearNodeFlash/nnf-sos, internal/controller: nnf_node_controller.go (checkFencedStatus,
watchFenceResponses), nnf_node_block_storage_controller.go (checkComputeFenced), as of API v1alpha10. Its JSON is
that of Go's encoding/json: keys are matched without regard to case, the last of two wins, a wrong type makes the
file unreadable, null leaves the default.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
from pathlib import Path
from typing import Any, Final

_FIELDS: Final = {"target_node": str, "success": bool, "status": str}
_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_WAKES: Final = _MODIFY | _DELETE
"""fsnotify's Write and Remove; a rename is Create where it leads to, and Rename where it comes from."""


def fenced(directory: Path) -> set[str]:
    """Return the computes that the node manager marks Fenced."""
    return {one["target_node"] for one in _responses(directory) if one["success"] or one["status"] == "success"}


def kept_away(directory: Path) -> set[str]:
    """Return the computes that get no storage group of a GFS2 allocation."""
    return {one["target_node"] for one in _responses(directory) if one["success"]}


def _responses(directory: Path) -> list[dict[str, Any]]:
    if not directory.exists():
        return []
    read = [
        _fields(path.read_bytes())
        for path in sorted(directory.iterdir())
        if not (path.is_dir() and not path.is_symlink()) and path.name.endswith(".json")
    ]
    return [one for one in read if one is not None]


def _fields(data: bytes) -> dict[str, Any] | None:
    try:
        pairs = json.loads(data.decode("utf-8", "replace"), object_pairs_hook=list)
    except ValueError:
        return None
    found: dict[str, Any] = {"target_node": "", "success": False, "status": ""}
    for key, value in pairs:
        of = _FIELDS.get(key.casefold())
        if of is None or value is None:
            continue
        if type(value) is not of:
            return None
        found[key.casefold()] = value
    return found


class Watch:
    """When its watch of the response directory wakes it: inotify(7), seen as fsnotify shows it."""

    def __init__(self, directory: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        mask = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
        assert libc.inotify_add_watch(self.fd, str(directory).encode(), mask) >= 0

    def events(self) -> list[tuple[str, bool]]:
        """Return the names that something happened to since, and whether it was woken by that."""
        found = []
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return []
        while data:
            _, mask, _, length = struct.unpack_from("iIII", data)
            name = data[16 : 16 + length].rstrip(b"\0").decode()
            found.append((name, bool(mask & _WAKES)))
            data = data[16 + length :]
        return found

    def close(self) -> None:
        os.close(self.fd)

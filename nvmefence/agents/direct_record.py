"""The audit line of a direct fence, in the shape of the watcher's answers, so that `nvmefence history` shows it."""

from __future__ import annotations

import datetime
import os
from typing import TYPE_CHECKING, Any

from nvmefence import __version__
from nvmefence.watcher import audit

if TYPE_CHECKING:
    from nvmefence.agents.apart import Tell
    from nvmefence.agents.fence_nvmefence import Fence
    from nvmefence.direct_guard import Said
    from nvmefence.settings import Settings


def write(
    call: Fence,
    tell: Tell,
    path: str,
    result: str,
    message: str,
    evidence: Any = None,
    seconds: dict[str, float] | None = None,
) -> None:
    """Append the line, durably; the directory is made if it is missing, as on a node without a watcher."""
    _append(tell, path, _document(call, result, message, evidence, seconds or {}))


def mass_fence(call: Fence, tell: Tell, settings: Settings, said: Said) -> None:
    """Append the alarm of the mass-fence guard, as a watcher has it."""
    held = [call.target] if said.held else []
    document = {
        "time": _now(),
        "event": "mass-fence",
        "action": settings.mass_fence_action,
        "hosts": list(said.hosts),
        "held": held,
        "limit": settings.mass_fence_hosts,
        "seconds": settings.mass_fence_s,
        "watcher": _self(call),
    }
    _append(tell, settings.audit, document)


def _append(tell: Tell, path: str, document: dict[str, Any]) -> None:
    try:
        os.makedirs(os.path.dirname(path), 0o750, exist_ok=True)
        audit.append(path, [audit.line(document)])
    except OSError as error:
        tell("complain", f"no audit line: {path}: {error.strerror or error}")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _self(call: Fence) -> dict[str, Any]:
    return {"host": call.recorder, "pid": os.getpid(), "version": __version__}


def _document(call: Fence, result: str, message: str, evidence: Any, seconds: dict[str, float]) -> dict[str, Any]:
    return {
        "time": _now(),
        "event": "answer",
        "result": result,
        "by": call.name,
        "file": "",
        "target_node": call.target,
        "message": message,
        "request": {
            "request_id": call.request_id,
            "action": call.action,
            "target_node": call.target,
            "recorder_node": call.recorder,
        },
        "response": None,
        "times": {name: round(value, 6) for name, value in seconds.items()},
        "watcher": _self(call),
        "evidence": evidence,
    }

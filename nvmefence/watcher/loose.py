"""Values out of JSON that may hold anything: what has the right type, or a default that claims nothing."""

from __future__ import annotations

import math
from typing import Any, Final

TEXT_LIMIT: Final = 300
_CONTROLLER_LIMIT: Final = 0xFFFF


def text(value: object, limit: int = TEXT_LIMIT) -> str:
    """Return a text, cut after `limit` characters; empty for everything else."""
    if not isinstance(value, str):
        return ""
    return value if len(value) <= limit else value[:limit] + "..."


def table(value: object) -> dict[str, Any]:
    """Return a JSON object; an empty one for everything else."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """Return a list; an empty one for everything else."""
    return value if isinstance(value, list) else []


def seconds(value: object) -> float | None:
    """Return a number of seconds from 0 on; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def number(value: object) -> int | None:
    """Return an integer; None for everything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def controllers(value: object) -> list[int]:
    """Return the controller ids in a list."""
    return [one for one in items(value) if number(one) is not None and 0 <= one <= _CONTROLLER_LIMIT]


def attachments(value: object) -> dict[int, list[int]]:
    """Return controllers by NSID."""
    return {
        int(nsid): controllers(ids)
        for nsid, ids in table(value).items()
        if nsid.isascii() and nsid.isdigit() and len(nsid) <= 10
    }

"""Arguments that are a number or a point in time. Loaded for every command, so it needs next to nothing."""

from __future__ import annotations

import argparse
import datetime
import re
import time
from typing import Final

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?) ?(s|m|min|h|d|w)", re.ASCII)
_UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST_INTERVAL_S: Final = 3600.0
_LONGEST_PERMIT_S: Final = 3600.0
"""As `nvmefence.watcher.permit.LONGEST_S`."""


def count(text: str) -> int:
    """Return a number from 1 on."""
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text)):
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, is {text!r}")
    return int(text)


def since(text: str) -> float:
    """Return seconds since 1970 for a time, or for how long ago something was."""
    match = _DURATION.fullmatch(text.strip())
    if match:
        return time.time() - float(match[1]) * _UNITS[match[2]]
    try:
        return datetime.datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"must be how long ago (90s, 15m, 2h, 3d, 1w) or a time (2026-11-24, 2026-11-24 04:09, "
            f"2026-11-24T04:09:25Z), is {text!r}"
        ) from None


def interval(text: str) -> float:
    """Return seconds between two looks."""
    return _seconds(text, _LONGEST_INTERVAL_S)


def permitted(text: str) -> float:
    """Return seconds that a permit may be given for."""
    return _seconds(text, _LONGEST_PERMIT_S)


def _seconds(text: str, most: float) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to {most:g}")
    return seconds

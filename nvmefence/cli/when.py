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
_LARGEST_WRITE: Final = 1 << 24
_MOST_WRITES: Final = 256
_LAST_CNTLID: Final = 0xFFEF
"""As `nvmefence.nvme.commands.MAX_CNTLID`."""


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


def pause(text: str) -> float:
    """Return seconds between two writes, 0 for none."""
    return 0.0 if text in ("0", "0.0") else _seconds(text, _LONGEST_INTERVAL_S, least=0.001)


def write_size(text: str) -> int:
    """Return the bytes of a write."""
    size = count(text)
    if size % 4096 or size > _LARGEST_WRITE:
        raise argparse.ArgumentTypeError(f"must be a multiple of 4096 up to {_LARGEST_WRITE}, is {text!r}")
    return size


def depth(text: str) -> int:
    """Return how many writes are under way at once."""
    number = count(text)
    if number > _MOST_WRITES:
        raise argparse.ArgumentTypeError(f"must be at most {_MOST_WRITES}, is {text!r}")
    return number


def cntlid(text: str) -> int:
    """Return an id of a controller."""
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= _LAST_CNTLID):
        raise argparse.ArgumentTypeError(f"must be a controller id, 0 to {_LAST_CNTLID}, is {text!r}")
    return int(text)


def _seconds(text: str, most: float, least: float = 1) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not least <= seconds <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {least:g} to {most:g}")
    return seconds

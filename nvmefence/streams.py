"""The three standard streams, open whatever the caller closed."""

from __future__ import annotations

import os


def ensure_open() -> None:
    """Open what is closed of them on /dev/null, so that no file of ours becomes one of them. Raises OSError."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)

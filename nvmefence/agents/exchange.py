"""A request on its way: written durably, withdrawn. Takes of the spool only what imports next to nothing."""

from __future__ import annotations

import os

from nvmefence.spool import files
from nvmefence.spool.errors import SpoolError


def write_durably(directory: str, name: str, data: bytes) -> float:
    """Write a file that appears whole or not at all and outlives a power cut. Raises SpoolError.

    Returns the monotonic time just before it appeared, in seconds.
    """
    with files.open_directory(directory) as place:
        return files.write(place, name, data)


def withdraw(directory: str, name: str) -> str:
    """Remove a request that nobody waits for any more; return why that was not possible, else an empty string."""
    try:
        os.unlink(os.path.join(directory, name))
    except FileNotFoundError:
        pass
    except OSError as error:
        return error.strerror or str(error)
    return ""


def settle(directory: str) -> None:
    """Make a withdrawal durable, as far as that can be had: no power cut brings the request back."""
    try:
        with files.open_directory(directory) as place:
            files.settle(place)
    except SpoolError:
        pass  # it is withdrawn all the same

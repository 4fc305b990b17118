"""The agent's side of the two directories: a request written durably or withdrawn, a response read with suspicion.

Takes of the spool only what imports next to nothing: files, strict JSON, their errors.
"""

from __future__ import annotations

import os

from nvmefence.spool import files, json_strict
from nvmefence.spool.errors import Gone, Malformed
from nvmefence.spool.response import RESPONSE_LIMIT


class Unfinished(Exception):
    """A file is there and is not yet, or not at all, one JSON object; `state` changes when the file does."""

    def __init__(self, what: str, state: tuple[int, float]) -> None:
        super().__init__(what)
        self.state = state


def write_durably(directory: str, name: str, data: bytes) -> None:
    """Write a file that appears whole or not at all and outlives a power cut. Raises SpoolError."""
    with files.open_directory(directory) as place:
        files.write(place, name, data)


def withdraw(directory: str, name: str) -> str:
    """Remove a request that nobody waits for any more; return why that was not possible, else an empty string."""
    try:
        os.unlink(os.path.join(directory, name))
    except FileNotFoundError:
        pass
    except OSError as error:
        return error.strerror or str(error)
    return ""


def read_object(directory: str, name: str) -> dict[str, object] | None:
    """Return the JSON object in a file, or None if there is no such file.

    The directory is opened anew each time: it may have been replaced or mounted over, and opening it makes an NFS
    client ask the server instead of its own memory of "no such file". Raises Unfinished and SpoolError.
    """
    with files.open_directory(directory) as place:
        return read_object_in(place, name)


def read_object_in(place: files.Directory, name: str) -> dict[str, object] | None:
    """Do as `read_object`, in an open directory."""
    try:
        content = files.read(place, name, limit=RESPONSE_LIMIT)
    except Gone:
        return None
    try:
        return json_strict.parse(content.data)
    except Malformed as error:
        raise Unfinished(f"{name}: {error.reason}", (len(content.data), content.mtime)) from None

"""A response or another JSON object out of a file, read with suspicion."""

from __future__ import annotations

from nvmefence.spool import files, json_strict
from nvmefence.spool.errors import Gone, Malformed
from nvmefence.spool.response import RESPONSE_LIMIT


class Unfinished(Exception):
    """A file is there and is not yet, or not at all, one JSON object; `state` changes when the file does."""

    def __init__(self, what: str, state: tuple[int, float]) -> None:
        super().__init__(what)
        self.state = state


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

"""Files that change under a reader's hands: at exactly the moments between its calls to the system."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock


@contextmanager
def changed_while_read(directory: Path, changes: Mapping[str, str], now: float) -> Iterator[None]:
    """Have files of a directory changed, by name, as `entries.CHANGES` says, when this process first reads them."""
    left = dict(changes)
    opened: dict[int, str] = {}
    real_open, real_read, real_close = os.open, os.read, os.close

    def spied_open(path: Any, flags: int, *more: Any, **named: Any) -> int:
        spied = isinstance(path, str) and path in left and not flags & (os.O_CREAT | os.O_DIRECTORY)
        if spied and left[path].endswith(" before"):
            change(directory / path, left.pop(path).removesuffix(" before"), now)
        fd = real_open(path, flags, *more, **named)
        if spied and path in left:
            opened[fd] = path
        return fd

    def spied_read(fd: int, size: int) -> bytes:
        path = opened.pop(fd, "")
        if path in left:
            change(directory / path, left.pop(path).removesuffix(" after"), now)
        return real_read(fd, size)

    def spied_close(fd: int) -> None:
        opened.pop(fd, None)
        real_close(fd)

    with mock.patch.multiple(os, open=spied_open, read=spied_read, close=spied_close):
        yield


def change(path: Path, how: str, now: float) -> None:
    """Change a file."""
    if how == "empty":
        os.truncate(path, 0)
    elif how in ("large", "larger"):
        os.truncate(path, 2**30)
    elif how == "open":
        path.chmod(0o666)
    elif how == "other":
        other = path.with_name(".other")
        other.write_bytes(b'{"request_id": "other", "action": "off", "target_node": "stranger"}')
        other.chmod(0o600)
        os.utime(other, (now, now))
        other.rename(path)
    else:
        path.unlink()
        if how == "link":
            path.symlink_to("../outside/good")
        elif how == "pipe":
            os.mkfifo(path, 0o600)
        elif how == "folder":
            path.mkdir()

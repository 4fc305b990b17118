"""Successful responses to an `on`, put away soon: to the NNF node manager every successful response is a fence."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from nvmefence.spool import names
from nvmefence.spool.directory import ResponseDirectory
from nvmefence.spool.errors import SpoolError
from nvmefence.spool.request import Action
from nvmefence.spool.response import Response

UNFENCED_FOR_S: Final = 10.0
"""Seconds that such a response stands, for its agent to read."""


class Unfenced:
    """Those that stand in one response directory."""

    def __init__(self, responses: ResponseDirectory, wall: Callable[[], float]) -> None:
        self._responses = responses
        self._wall = wall
        self._names: set[str] | None = None
        """None: it is not known yet what a predecessor left."""

    def note(self, name: str, answer: Response) -> None:
        """Take note of a response that is about to be published."""
        if self._names is not None and _unfences(answer):
            self._names.add(name)

    def archive(self) -> int:
        """Archive those that stood long enough; return how many still stand. Raises OSError.

        The first time it reads all responses, of which there may be thousands; later, only what it took note of.
        """
        if self._names is None:
            listed = os.listdir(self._responses.directory.fd)
            self._names = {name for name in listed if name.endswith(names.SUFFIX) and names.is_safe(name)}
        self._names = {name for name in sorted(self._names) if self._stands(name)}
        return len(self._names)

    def _stands(self, name: str) -> bool:
        """Whether this is one, and is to stand some time more; archive it if its time is over."""
        try:
            found = os.stat(name, dir_fd=self._responses.directory.fd, follow_symlinks=False)
            if not _unfences(self._responses.read(name)):
                return False
            if 0 <= self._wall() - found.st_mtime < UNFENCED_FOR_S:
                return True
            self._responses.archive(name)
        except (OSError, SpoolError):
            return False
        return False


def _unfences(answer: Response) -> bool:
    return answer.success and answer.action_performed == Action.ON.value

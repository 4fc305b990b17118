"""Whose turn it is among thousands of files: a live request waits for no backlog, and none is left for good."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

_FRESH_FOR_ONE: Final = 3
"""Files that nobody has read yet, for each one that was read and found unfinished."""


class Turns:
    """The order in which files are read. Remembers those that were read and are to be read again."""

    def __init__(self) -> None:
        self._unfinished: dict[str, None] = {}
        self._left: dict[str, None] = {}
        self.unread = 0
        """Files of the last `order` that nobody has read yet."""

    def order(self, waiting: Sequence[str], age: Callable[[str], float], most_left: int) -> Iterator[str]:
        """Return the order for what waits. `age` is the seconds since a file was first seen.

        What nobody has read goes first, the newest before all. Then come at most `most_left` of those that were
        left, the longest ago first. What was unfinished is spread among all of these.
        """
        names = frozenset(waiting)
        self._unfinished = {name: None for name in self._unfinished if name in names}
        self._left = {name: None for name in self._left if name in names}
        fresh = [name for name in waiting if name not in self._unfinished and name not in self._left]
        fresh.sort(key=age)
        self.unread = len(fresh)
        return self._mixed(fresh + list(self._left)[:most_left], list(self._unfinished))

    def _mixed(self, many: list[str], unfinished: list[str]) -> Iterator[str]:
        again = iter(unfinished)
        for start in range(0, len(many), _FRESH_FOR_ONE):
            yield from many[start : start + _FRESH_FOR_ONE]
            yield from (name for name in [next(again, "")] if name)
        yield from again

    def read(self, name: str) -> None:
        """Take note that this file was read; without another word, it is done with."""
        known = name in self._unfinished or name in self._left
        self._unfinished.pop(name, None)
        self._left.pop(name, None)
        self.unread -= not known

    def unfinished(self, name: str) -> None:
        """Take note that this file, just read, is to be read again soon."""
        self._unfinished[name] = None

    def left(self, name: str) -> None:
        """Take note that this file, just read, is to be read again when there is room."""
        self._left[name] = None

    @property
    def any_left(self) -> bool:
        """Whether something was left."""
        return bool(self._left)

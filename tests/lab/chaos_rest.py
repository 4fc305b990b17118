"""Hosts of the long run that are not given back yet, because a drive may still carry out what a fence told it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from nvmefence.records.hostlock import UNANSWERED_S
from tests.lab.chaos_faults import Scene
from tests.lab.witness import Claim, Witness

MARGIN_S: Final = 10.0
"""Seconds beyond `UNANSWERED_S` in which a restore must be possible again, on an emulated processor."""

AGAIN_S: Final = 15.0
"""Seconds between two tries."""


def is_refused(text: str) -> bool:
    """Whether a restore was refused because a fence of its host has not come to an end."""
    return "a fence (process " in text and "is under way" in text


@dataclass(frozen=True)
class _Rest:
    scene: Scene
    again: float
    """When to try."""


class Resting:
    """Hosts that stay fenced meanwhile; other hosts are fenced in the rounds between."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._rests: dict[str, _Rest] = {}
        self._until: dict[str, float] = {}

    @property
    def hosts(self) -> set[str]:
        """Who rests."""
        return set(self._rests)

    def put(self, host: str, scene: Scene, claim: Claim | None) -> bool:
        """Let a host rest for a while; its last fence has ended. What was said of it is still held against it.

        False: it has rested for as long as it may.
        """
        now = time.monotonic()
        until = self._until.setdefault(host, now + UNANSWERED_S + MARGIN_S)
        if now >= until:
            return False
        self._rests[host] = _Rest(scene, min(now + AGAIN_S, until))
        if claim is not None:
            self._witness.resume(claim)
        return True

    def over(self, most: int) -> list[tuple[str, Scene]]:
        """Return those whose rest is over, who rest no longer; waits until not more than `most` are left."""
        ready: list[tuple[str, Scene]] = []
        for host, rest in sorted(self._rests.items(), key=lambda item: item[1].again):
            if len(self._rests) > most:
                time.sleep(max(rest.again - time.monotonic(), 0))
            if rest.again <= time.monotonic():
                del self._rests[host]
                ready.append((host, rest.scene))
        return ready

    def forget(self, host: str) -> None:
        """The host has its storage again."""
        self._until.pop(host, None)

    def clear(self) -> None:
        """Forget all of them."""
        self._rests.clear()
        self._until.clear()

"""The mass-fence guard: many hosts at once are more often a mistake, or a broken network, than dead hosts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from nvmefence.watcher import loose

ALLOW: Final = "nvmefence allow-mass-fence"
"""What a person says to let held fences through."""
_NAMED: Final = 20
"""Hosts that are named in one line."""
_LONGEST_WAIT_S: Final = 90_000.0
"""Seconds; more than any request can be waited for."""


class Asked(NamedTuple):
    """What the guard says to hosts that are to be fenced now."""

    admitted: frozenset[str]
    held: frozenset[str]
    alarm: bool
    """More hosts than the limit, and one that was not among them before."""


class MassFence:
    """Counts the hosts whose fences began within some seconds. Moments are those of one monotonic clock.

    A host counts once, however often its fence is tried, and also if it was cut already. Beyond the limit there is
    an alarm; with `hold` the fence is not begun either. Once a host is held, every other host that was not fenced
    within these seconds is held too, until a person allows them, or until nobody has waited for a held fence for as
    many seconds: otherwise the passing of time alone would let through what a person was to decide.
    """

    def __init__(self, limit: int, seconds: float, hold: bool) -> None:
        """`limit` hosts may be fenced within `seconds`; 0: any number."""
        self._limit = limit
        self._seconds = seconds
        self.holds = hold and limit > 0
        """Whether it may hold a fence."""
        self._begun: dict[str, float] = {}
        """When the last fence of a host began."""
        self._held: dict[str, float] = {}
        """Until when somebody waits for a held fence."""
        self._told: dict[str, bool] = {}
        """The hosts of the alarm that is on, in their order; whether they were fenced."""

    @property
    def rule(self) -> str:
        """What is too much, in words."""
        return f"more than {self._limit} host{'' if self._limit == 1 else 's'} in {self._seconds:g} s"

    def allow(self) -> None:
        """Forget who was held: a person has decided."""
        self._held.clear()
        self._told = {host: True for host, done in self._told.items() if done}

    def ask(self, wanted: Mapping[str, float], now: float, allowed: bool = False) -> Asked:
        """Say which fences may begin now. `wanted` has, by host, until when somebody waits for its fence.

        `allowed` is a person's word that any number may.
        """
        if not self._limit:
            return Asked(frozenset(wanted), frozenset(), False)
        self._slide(now)
        if allowed:
            self.allow()
        known = {*self._begun, *self._held}
        held = set()
        for host, until in wanted.items():
            if self._may(host) or allowed:
                self._begun[host] = now
                self._held.pop(host, None)
            else:
                self._held[host] = max(until, self._held.get(host, until))
                held.add(host)
        there = {**dict.fromkeys(self._begun, True), **dict.fromkeys(self._held, False)}
        over = len(there) > self._limit or bool(self._held)
        if over:
            self._told.update(there)
        return Asked(frozenset(wanted) - held, frozenset(held), over and not known.issuperset(there))

    def _may(self, host: str) -> bool:
        """Whether a fence may begin without a person's word."""
        if not self.holds or host in self._begun:
            return True
        return not self._held and len(self._begun) < self._limit

    def _slide(self, now: float) -> None:
        self._begun = {host: at for host, at in self._begun.items() if now - at < self._seconds}
        self._held = {host: until for host, until in self._held.items() if now - until < self._seconds}

    def fenced(self, now: float) -> list[str]:
        """Return the hosts that count now."""
        self._slide(now)
        return list(self._begun)

    def held(self, now: float) -> list[str]:
        """Return the hosts whose fence somebody waits for, and that are held."""
        return [host for host, until in self._held.items() if until > now]

    def trouble(self, now: float) -> str:
        """Say what is going on, in words that change only when there is more to say; empty when all is quiet."""
        self._slide(now)
        if not self._held and len(self._begun) <= self._limit:
            self._told.clear()
        if not self._told:
            return ""
        fenced = [host for host, done in self._told.items() if done]
        held = [host for host, done in self._told.items() if not done]
        if not held:
            return f"{self.rule}: fenced {_listed(fenced)}"
        waiting = f"held, and still able to write: {_listed(held)}; to let them be fenced: {ALLOW}"
        return f"{self.rule}: fenced {_listed(fenced)}; {waiting}"

    def to_json(self) -> dict[str, Any]:
        """Return what a successor in the same boot must know."""
        return {"begun": dict(self._begun), "held": dict(self._held)}

    def restore(self, document: Mapping[str, Any], now: float) -> None:
        """Go on where a predecessor ended. What cannot be true of this boot is left out."""
        self._begun = _moments(document.get("begun"), now)
        self._held = _moments(document.get("held"), now + _LONGEST_WAIT_S)
        self._slide(now)
        if self._held:
            self._told = {**dict.fromkeys(self._begun, True), **dict.fromkeys(self._held, False)}

    def join(self, document: Mapping[str, Any], now: float) -> None:
        """Count also what another counted in the same boot, and hold for whom it holds."""
        for host, at in _moments(document.get("begun"), now).items():
            self._begun[host] = max(at, self._begun.get(host, at))
        for host, until in _moments(document.get("held"), now + _LONGEST_WAIT_S).items():
            if host not in self._begun:
                self._held[host] = max(until, self._held.get(host, until))
        self._slide(now)


def _moments(value: object, latest: float) -> dict[str, float]:
    return {
        host: float(at)
        for host, at in loose.table(value).items()
        if isinstance(at, int | float) and not isinstance(at, bool) and math.isfinite(at) and at <= latest
    }


def _listed(hosts: Iterable[str]) -> str:
    names = list(hosts)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (", ".join(names[:_NAMED]) or "none") + more

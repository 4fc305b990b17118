"""How to fence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nvmefence.fencing.guard import Guard
from nvmefence.fencing.quiesce import DEFAULT, Method, Quiesce


@dataclass(slots=True)
class Before:
    """What is known of hosts from before a fence; it is being read while the fence has begun."""

    quiet: set[str] = field(default_factory=set)
    """Hosts that counted as fenced, by a quiesce rule that suffices: nothing of theirs was under way then."""
    read: bool = False
    """No more will be known."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to fence."""

    deadline: float = 30.0
    """Seconds for everything; what is not confirmed then is not confirmed."""
    quiesce: Quiesce = DEFAULT
    escalate: bool = False
    """Where a detach fails, take the host's secondary controllers offline there. That confirms nothing."""
    guard: Guard | None = None
    """Tells whether a host is being given storage back: that keeps no cut waiting, and nothing is confirmed."""
    resources: Mapping[tuple[str, str, int], tuple[int, int]] = field(default_factory=dict)
    """Queues and interrupts that controllers (NQN, serial number, id) had before an earlier fence."""
    before: Before = field(default_factory=lambda: Before(read=True))
    """What the records say of the hosts, which spares a wait for what they can have under way no more."""
    until: float | None = None
    """Loop time, in place of a deadline: an end that stays, however long this process is stopped meanwhile."""

    @property
    def may_take_offline(self) -> bool:
        """Whether the drives' secondary controllers must be known."""
        return self.escalate or self.quiesce.method is not Method.WAIT

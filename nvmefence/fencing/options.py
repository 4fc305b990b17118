"""How to fence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nvmefence.fencing.guard import Guard
from nvmefence.fencing.quiesce import DEFAULT, Method, Quiesce


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
    until: float | None = None
    """Loop time, in place of a deadline: an end that stays, however long this process is stopped meanwhile."""

    @property
    def may_take_offline(self) -> bool:
        """Whether the drives' secondary controllers must be known."""
        return self.escalate or self.quiesce.method is not Method.WAIT

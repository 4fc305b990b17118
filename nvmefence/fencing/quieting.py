"""Whether a host's writes under way can still land on a drive: since when it is clean, and what went offline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from nvmefence.fencing.evidence import DriveEvidence
from nvmefence.fencing.options import Options
from nvmefence.fencing.quiesce import Choice, Method
from nvmefence.fencing.secondaries import SecondaryControl


class Quieting:
    """Applies the quiesce rule on one drive; `evidence.quiesced` has the hosts for which it is met."""

    def __init__(self, evidence: DriveEvidence, options: Options, secondary: SecondaryControl, model: str) -> None:
        self._evidence = evidence
        self._options = options
        self._secondary = secondary
        self._model = model
        self._loop = asyncio.get_running_loop()
        self.choice = Choice(Method.WAIT, options.quiesce.seconds)
        self.late_s = options.quiesce.late(model)
        """Seconds to wait for hosts that had nothing attached any more when their controllers went offline."""
        self.clean_since: dict[str, float] = {}
        """By host: loop time of the first of the complete reads, in a row, that showed none of its controllers."""
        self._seen: set[str] = set()
        """Hosts that have been attached since the fence began, or may have been."""

    def choose(self, obstacle: str) -> None:
        """Settle what is done about writes under way; `obstacle`: why controllers cannot be taken offline."""
        self.choice = self._options.quiesce.choose(self._model, obstacle)
        self._evidence.quiesce, self._evidence.quiesce_reason = self.choice.name, self.choice.reason

    def saw(self, attached: Iterable[int]) -> None:
        """Take in that these controllers are attached."""
        ids = set(attached)
        self._seen.update(host for host, mine in self._evidence.targets.items() if not ids.isdisjoint(mine))

    def saw_in_part(self) -> None:
        """Take in a read that was not complete: it may have shown, in part, that a host is attached again."""
        self._seen.update(self._evidence.targets)
        self.clean_since.clear()
        self._evidence.quiesced.clear()
        self._secondary.forget(n for ids in self._evidence.targets.values() for n in ids)

    def saw_all(self, left: set[int]) -> None:
        """Take in a complete read, by which these are attached: who is clean, and for whom the rule is met."""
        now = self._loop.time()
        self.saw(left)
        for host, ids in self._evidence.targets.items():
            if not left.isdisjoint(ids) or host in self._evidence.held:
                self.clean_since.pop(host, None)
                self._evidence.quiesced.discard(host)
                if not left.isdisjoint(ids):
                    self._secondary.forget(ids)
                continue
            since = self.clean_since.setdefault(host, now)
            if host not in self._evidence.quiesced and self._is_quiet(host, now - since):
                self._evidence.quiesced.add(host)

    def _is_quiet(self, host: str, clean_for: float) -> bool:
        """Whether nothing of a host's can land any more, nothing of it having been attached for so many seconds."""
        if self.choice.method is Method.WAIT:
            return clean_for >= self.choice.seconds
        if not self.choice.possible or not self._secondary.drained.issuperset(self._evidence.targets[host]):
            return False
        return self._ended_in_time(host) or clean_for >= self.late_s

    def _ended_in_time(self, host: str) -> bool:
        """Whether all that a host had under way has ended, by what is known, when its controllers went offline.

        QEMU's drive (7.2, nvme_ctrl_reset) ends then what is under way for namespaces that are attached, and only
        that. A host that counted as fenced before and was not seen attached since had nothing under way; nor has
        any where there is no namespace.
        """
        before = host in self._options.before.quiet and host not in self._seen
        nothing = not self._evidence.namespaces and host not in self._seen
        return before or nothing or self._secondary.in_time.issuperset(self._evidence.targets[host])

    def restless(self) -> list[str]:
        """Return the hosts that are clean, and for which the quiesce rule is not met."""
        return [host for host in self.clean_since if host not in self._evidence.quiesced]

    def seconds_left(self) -> float:
        """Seconds until a wait has been long enough for all hosts that are clean; 0 when it has."""
        due = [self.clean_since[host] + self.choice.seconds for host in self.restless()]
        return max(0.0, max(due) - self._loop.time()) if due else 0.0

    def late(self, hosts: Iterable[str]) -> list[str]:
        """Return which of these hosts have to be waited for, whatever goes offline now."""
        now = self._loop.time()
        return [h for h in hosts if not self._ended_in_time(h) and now < self.clean_since[h] + self.late_s]

    def late_until(self, hosts: Iterable[str]) -> float:
        """Return the loop time at which these hosts have been waited for long enough."""
        return max(self.clean_since[host] for host in hosts) + self.late_s

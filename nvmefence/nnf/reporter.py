"""The reporter: what the response directory shows, said in the NnfNode, whoever says otherwise there.

It remembers nothing that counts: every exchange begins with what the directory and the server say now. What it
keeps between two of them is only when to ask again.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nvmefence.nnf import node as nnfnode
from nvmefence.nnf.cluster import NAME, Cluster, ClusterError, Trouble
from nvmefence.nnf.confirmed import Fences, Responses
from nvmefence.nnf.node import Change, Unusable
from nvmefence.spool.errors import SpoolError
from nvmefence.watcher.journal import Journal

RESCAN_S: Final = 5.0
RESYNC_S: Final = 30.0
_RETRY_S: Final = (1.0, 60.0)
"""The first pause after a failure, and the longest."""
_VERIFY_S: Final = 2.0
"""Seconds after a change until it is looked at again: the node manager has had its turn then."""
_CALM_S: Final = 60.0
"""Seconds that a change must hold to be no quarrel."""
_LONGEST_QUARREL_S: Final = 300.0
_ATTEMPTS: Final = 3
"""In one exchange, where the resource is changed by others meanwhile."""


@dataclass(slots=True)
class _Quarrel:
    """Somebody says otherwise about one host."""

    told_at: float
    overruled: int = 0
    not_before: float = 0.0


class Reporter:
    """Reports from one directory to one NnfNode. Its times are seconds of a monotonic clock."""

    def __init__(
        self,
        responses: Responses,
        cluster: Cluster,
        rabbit: str,
        journal: Journal,
        *,
        rescan: float = RESCAN_S,
        resync: float = RESYNC_S,
        hand_back: bool = True,
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),
    ) -> None:
        """`rescan`: seconds between two looks at the directory; `resync`: between comparisons with the server."""
        self._responses = responses
        self._cluster = cluster
        self._where = f"NnfNode {rabbit}/{NAME}"
        self._journal = journal
        self._rescan = rescan
        self._resync = resync
        self._hand_back = hand_back
        self._dry_run = dry_run
        self._clock = clock
        self._jitter = jitter
        self._compared: Fences | None = None
        self._next = 0.0
        self._failures = 0
        self._quarrels: dict[str, _Quarrel] = {}
        self._strangers: set[str] = set()
        self._left_out: set[str] = set()
        self._troubles: dict[str, str] = {}

    @property
    def status(self) -> str:
        """How it stands, in one line."""
        if self._journal.trouble:
            return self._journal.trouble
        if self._compared is None:
            return "nothing compared yet"
        overruled = sorted(host for host, quarrel in self._quarrels.items() if quarrel.overruled > 1)
        if overruled:
            return f"{self._where} is set back by others again and again: {', '.join(overruled)}"
        number = len(set(self._compared.hosts.values()))
        return f"{self._where} says what the responses show; fenced by {number}"

    def turn(self) -> float:
        """Look, and if there is reason to, compare and report. Returns the seconds until the next turn, at most.

        Raises ClusterError only where the credentials are not believed: they must be given anew.
        """
        try:
            fences = self._responses.look()
        except SpoolError as error:
            self._say("responses", error.reason)
            return self._rescan
        self._say("responses", "")
        self._tell_left_out(fences)
        now = self._clock()
        fresh = self._compared is None or fences.hosts.keys() != self._compared.hosts.keys()
        if now >= self._next or (fresh and not self._failures):
            self._exchange(fences)
        return max(min(self._rescan, self._next - self._clock()), 0.01)

    def _exchange(self, fences: Fences) -> None:
        try:
            changed = self._reconcile(fences)
        except ClusterError as error:
            if error.kind is Trouble.UNAUTHORIZED:
                raise
            self._failed(error.reason + _advice(error.kind))
        except Unusable as error:
            self._failed(f"{self._where} {error}")
        except SpoolError as error:
            self._failed(error.reason)
        else:
            self._failures = 0
            self._compared = fences
            now = self._clock()
            waiting = [one.not_before for one in self._quarrels.values() if one.not_before > now]
            self._next = min(now + (_VERIFY_S if changed else self._resync), *waiting, math.inf)
            self._say("cluster", "")

    def _failed(self, reason: str) -> None:
        first, longest = _RETRY_S
        pause = min(first * 2.0 ** min(self._failures, 10), longest) * self._jitter()
        self._failures += 1
        self._next = self._clock() + pause
        self._say("cluster", reason)

    def _reconcile(self, fences: Fences) -> bool:
        """Make the server say what the directory shows; return whether anything had to be changed."""
        for attempt in range(_ATTEMPTS):
            node = self._cluster.get()
            changes = self._wanted(node, fences)
            if not changes:
                return False
            if self._dry_run:
                self._tell(changes, fences)
                return False
            operations: list[dict[str, Any]] = [one for change in changes for one in change.operations()]
            try:
                self._cluster.patch(operations)
            except ClusterError as error:
                if error.kind is not Trouble.CONFLICT or attempt == _ATTEMPTS - 1:
                    raise
                continue
            self._tell(changes, fences)
            return True
        return False

    def _wanted(self, node: dict[str, Any], fences: Fences) -> list[Change]:
        """Return the changes that are due now."""
        now = self._clock()
        self._tell_strangers(nnfnode.hosts(node), fences)
        said = nnfnode.said_fenced(node)
        for host, quarrel in list(self._quarrels.items()):
            if host not in fences.hosts or (host in said and now - quarrel.told_at >= _CALM_S):
                del self._quarrels[host]
        changes = [change for change in nnfnode.to_fence(node, fences.hosts) if self._may(change, now)]
        if self._hand_back and said - fences.hosts.keys() - fences.claimed:
            kept = fences.hosts.keys() | fences.claimed
            changes += nnfnode.to_release(node, kept, self._responses.released())
        return changes

    def _may(self, change: Change, now: float) -> bool:
        """Whether to say it now: who is overruled again and again says it ever less often."""
        quarrel = self._quarrels.get(change.host)
        return quarrel is None or now >= quarrel.not_before

    def _note(self, change: Change) -> _Quarrel:
        """Take note that a host was said to be fenced, perhaps not for the first time."""
        now = self._clock()
        quarrel = self._quarrels.get(change.host)
        if quarrel is None:
            quarrel = self._quarrels[change.host] = _Quarrel(now)
            return quarrel
        quarrel.told_at = now
        quarrel.overruled += 1
        quarrel.not_before = now + min(_VERIFY_S * 2.0**quarrel.overruled, _LONGEST_QUARREL_S)
        if quarrel.overruled == 2:
            self._journal.warning(
                f"{self._where}: {change.host} is fenced, and was set back to {change.before!r}, twice: "
                "the node manager does not find its response. Does it read this directory?",
                event="overruled", host=change.host,
            )  # fmt: skip
        return quarrel

    def _tell(self, changes: Sequence[Change], fences: Fences) -> None:
        mark = "dry run: would say: " if self._dry_run else ""
        for change in changes:
            if change.after == nnfnode.FENCED:
                quarrel = self._note(change)
                if quarrel.overruled <= 1:
                    shown = f"{change.host} is {change.after} (response {fences.hosts[change.host]})"
                    self._journal.notice(
                        f"{mark}{self._where}: {shown}", event="fenced", host=change.host, dry_run=self._dry_run
                    )
            else:
                self._journal.notice(
                    f"{mark}{self._where}: {change.host} is fenced no longer, so it is {change.after} until its "
                    "node manager says what it is",
                    event="released", host=change.host, dry_run=self._dry_run,
                )  # fmt: skip

    def _tell_strangers(self, known: set[str], fences: Fences) -> None:
        by_response: dict[str, list[str]] = {}
        for host, name in fences.hosts.items():
            by_response.setdefault(name, []).append(host)
        strangers = {name: hosts for name, hosts in by_response.items() if not known.intersection(hosts)}
        for name in sorted(strangers.keys() - self._strangers):
            self._journal.warning(
                f"{self._where} has no server called {' or '.join(sorted(strangers[name]))}: "
                f"the fence of response {name} is not reported",
                event="stranger", response=name,
            )  # fmt: skip
        self._strangers = set(strangers)

    def _tell_left_out(self, fences: Fences) -> None:
        for name in sorted(fences.left_out.keys() - self._left_out):
            self._journal.warning(
                f"response {name} claims a fence, and is not reported: {fences.left_out[name]}",
                event="left-out", response=name,
            )  # fmt: skip
        self._left_out = set(fences.left_out)

    def _say(self, what: str, trouble: str) -> None:
        """Say a lasting trouble once, and once that it is over."""
        self._troubles.pop(what, None)
        if trouble:
            self._troubles[what] = trouble
        self._journal.conditions(self._troubles)

    @property
    def in_trouble(self) -> bool:
        """Whether the directory cannot be read, or the server was not reached last."""
        return bool(self._troubles)


def _advice(kind: Trouble) -> str:
    if kind is Trouble.FORBIDDEN:
        return ". It needs the right to get nnfnodes and to patch nnfnodes/status in the Rabbit's namespace"
    if kind is Trouble.MISSING:
        return ". Is the Rabbit's name right? See --rabbit"
    if kind is Trouble.NOT_SERVED:
        return ". See --api-version"
    return ""

"""Cuts a fenced host again that is back: only one that counts as fenced at that moment, and not all the time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nvmefence.fencing.quiesce import Method
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.records.fenced import counts
from nvmefence.records.hostlock import FenceLock
from nvmefence.records.places import Places
from nvmefence.records.record import Record
from nvmefence.records.store import RecordError
from nvmefence.restoring import Of, belongs
from nvmefence.settings import Settings
from nvmefence.spool.errors import SpoolError
from nvmefence.watcher.guard import Guard
from nvmefence.watcher.journal import Journal
from nvmefence.watcher.massfence import ALLOW, MassFence
from nvmefence.watcher.metrics import Figures
from nvmefence.watcher.passes import Pass, Passes
from nvmefence.watcher.returned import Returned
from nvmefence.watcher.worker import Stuck, Workers

FIRST_S: Final = 1.0
"""Seconds from the end of one try to the next one's begin; after each try twice as many."""
LONGEST_S: Final = 60.0
FORGET_S: Final = 600.0
"""Seconds without a try after which the next one comes at once again."""
_FILES_S: Final = 10.0
_BY: Final = "enforce"
"""Who wanted the fence, on record."""
REQUESTED: Final = "watcher"
"""As `records.record.Asked.by` of a fence that a request asked for, and that has a response therefore."""


@dataclass(slots=True)
class _Tries:
    """What was tried for one host."""

    task: asyncio.Task[None] | None = None
    pause: float = FIRST_S
    due: float = 0.0
    """Loop time from which on there may be another."""
    waiting: bool = False
    """It was seen back at the last look, and only the time for a try had not come."""
    said: str = ""
    """Why there was none when there might have been."""


class Enforcing:
    """Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        passes: Passes,
        there: Places,
        workers: Workers,
        standing: Callable[[Of], Sequence[str]],
        guard: Guard,
        journal: Journal,
        note: Callable[..., None],
        figures: Figures,
        done: Callable[[], None],
        mark: str,
    ) -> None:
        """`standing` returns the responses that say that a host is fenced; in the spool's thread.

        `note` puts an event and its fields into the audit some time. `mark` goes before what a pass without a
        report says. `done` is called after each try.
        """
        self._done = done
        self._passes = passes
        self._places = there
        self._workers = workers
        self._standing = standing
        self._guard = guard
        self._journal = journal
        self._note = note
        self._figures = figures
        self._mark = mark
        self._leaves_offline = settings.quiesce.method is Method.OFFLINE
        hold = settings.mass_fence_action == "hold"
        self._count = MassFence(settings.mass_fence_hosts, settings.mass_fence_s, hold)
        self._held_s = settings.mass_fence_s + LONGEST_S
        self._loop = asyncio.get_running_loop()
        self._tries: dict[str, _Tries] = {}
        self._stopping = False

    def look_begins(self) -> None:
        """Forget who was back: the look that begins will show it."""
        for tries in self._tries.values():
            tries.waiting = False

    def consider(self, returned: Returned, host: Host, hostmap: HostMap) -> None:
        """Cut a host again that was seen back just now, if it is time for a try."""
        tries = self._tries.setdefault(host.name, _Tries())
        now = self._loop.time()
        if self._stopping or tries.task is not None or self._passes.fencing(host):
            return
        why = self._obstacle(returned, now)
        if why:
            self._say(tries, host.name, why)
        elif now < tries.due:
            tries.waiting = True
        else:
            if now > tries.due + FORGET_S:
                tries.pause = FIRST_S
            tries.task = self._loop.create_task(self._try(tries, host, hostmap))

    def due_in(self) -> float:
        """Return the seconds until a host that is back may be cut again, after one more look; or infinity."""
        due = min((tries.due for tries in self._tries.values() if tries.waiting), default=float("inf"))
        return max(due - self._loop.time(), 0.0)

    def _obstacle(self, returned: Returned, now: float) -> str:
        """Say why there is no try, as far as that is known without reading anything."""
        if not returned.attached and not self._leaves_offline:
            return "it has no namespace, and by the quiesce rule its controllers may be online"
        if self._count.holds:
            asked = self._count.ask({returned.host: now + self._held_s}, now, self._guard.allowed())
            if asked.held:
                return f"held by the mass-fence guard ({self._count.rule}); to let it be cut: {ALLOW}"
        return ""

    def _say(self, tries: _Tries, host: str, why: str) -> None:
        """Say why a host is not cut; once, as long as it is the same."""
        if why != tries.said:
            tries.said = why
            self._journal.error(f"{self._mark}{host} is not cut again: {why}", host=host)

    async def _try(self, tries: _Tries, host: Host, hostmap: HostMap) -> None:
        lock = self._places.locks.fence()
        try:
            made, why = await self._begin(lock, host, hostmap)
            if made is None:
                self._say(tries, host.name, why)
            elif made.task is not None:
                await asyncio.wait([made.task])
                self._ended(tries, host.name, made)
        except Exception as error:  # a defect here must not end the look-out
            self._say(tries, host.name, f"defect in nvmefence: {type(error).__name__}: {error}")
        finally:
            self._workers.vigil.post(lock.end)
            tries.task = None
            tries.due = self._loop.time() + tries.pause
            tries.pause = min(2 * tries.pause, LONGEST_S)
            self._done()

    async def _begin(self, lock: FenceLock, host: Host, hostmap: HostMap) -> tuple[Pass | None, str]:
        """Begin a fence; return why not, where that must not be.

        Until the fence has a lock of its own, ours keeps restores away; from then on what is on record is true.
        """
        try:
            why, record = await self._workers.vigil.do(lambda: self._on_record(lock, host.name), _FILES_S)
            if record is not None:
                why = await self._unanswered(record, host, hostmap)
        except (RecordError, SpoolError) as error:
            why = error.reason
        except (Stuck, OSError) as error:
            why = f"records or responses cannot be read: {error}"
        if why:
            return None, why
        known_as = f"enforce-{os.urandom(8).hex()}", _BY
        made = None if self._stopping else self._passes.enforce(host, known_as, hostmap)
        if made is None:
            return None, "it is being fenced already" if not self._stopping else "the watcher ends"
        self._journal.notice(f"{self._mark}cutting {host.name} again", hosts=[host.name])
        return made, ""

    def _on_record(self, lock: FenceLock, host: str) -> tuple[str, Record | None]:
        """Take the lock and read the record; without one, say why the host must not be cut. For the worker."""
        why = lock.enter_unless_restored(host)
        record = None if why else self._places.store.load(host)
        if record is None or not counts(record):
            return why or "it counts as fenced no longer", None
        return "", record

    async def _unanswered(self, record: Record, host: Host, hostmap: HostMap) -> str:
        """Say why a host counts as fenced no longer by its responses, though it does by its record."""
        if not any(one.by == REQUESTED for one in record.asked):
            return ""
        of = belongs(hostmap, host.name)
        if await self._workers.spool.do(lambda: self._standing(of), _FILES_S):
            return ""
        return (
            "it is fenced on record, and no response says so any more; if it was readmitted by hand: "
            f"nvmefence unfence --host {host.name}"
        )

    def _ended(self, tries: _Tries, host: str, made: Pass) -> None:
        tries.said = ""
        report = made.report
        confirmed = report is not None and report.confirmed(host)
        message = f"{self._mark}NOT fenced {host}: {made.defect}" if report is None else report.message(host)
        result = "enforced" if confirmed else "not-enforced"
        if confirmed:
            self._figures.cut_again += 1
            self._journal.notice(f"cut again: {message}", host=host, result=result)
        else:
            self._figures.not_cut_again += 1
            self._journal.error(f"not cut again: {message}", host=host, result=result)
        fields: dict[str, Any] = {"target_node": host, "host": host, "action": "enforce", "result": result}
        times = {name: round(value, 6) for name, value in made.times.items()}
        evidence = None if report is None else report.to_json(host)
        self._note("enforced", **fields, message=message, times=times, evidence=evidence)

    async def finish(self) -> None:
        """Begin nothing more, and wait for what is under way; each has a deadline."""
        self._stopping = True
        while running := [tries.task for tries in self._tries.values() if tries.task is not None]:
            await asyncio.wait(running)

"""Answers on their way out: on record first, visible then, again and again until it is done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

from nvmefence import eventlog
from nvmefence.errors import BusyError
from nvmefence.watcher import audit
from nvmefence.watcher.answers import Answer, Result
from nvmefence.watcher.desk import TOO_LATE, Desk, Outgoing
from nvmefence.watcher.journal import Journal
from nvmefence.watcher.worker import Stuck, Worker, Workers

SPOOL_S: Final = 10.0
"""Seconds that an operation in the directories may take before they count as hanging."""
_AUDIT_S: Final = 2.0
"""Seconds that the audit file may take before its stand-in is used."""
_PAUSES: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Seconds before what could not be written is tried again; the last one repeats."""
_LAST_TRIES_S: Final = 5.0
"""Seconds, at the end of the service, for what could not be delivered before."""
_CHUNK: Final = 16
"""Files that are dealt with in one go where there are many, so that a look is never far behind."""
_LEVELS: Final = {
    Result.FENCED: "notice",
    Result.UNCHANGED: "notice",
    Result.RESTORED: "notice",
    Result.NOT_FENCED: "error",
}


class Delivery:
    """Takes answers, and does not let go of one before it is delivered, or too old for anyone to want it."""

    def __init__(
        self,
        desk: Desk,
        workers: Workers,
        journal: Journal,
        audit_file: str,
        log_dir: str,
        keep_s: float,
        wall: Callable[[], float],
    ) -> None:
        self._desk = desk
        self._workers = workers
        self._journal = journal
        self._audit_file = audit_file
        self._log_dir = log_dir
        self._keep_s = keep_s
        self._wall = wall
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._bulk = asyncio.Lock()
        self._end = float("inf")
        self._undelivered: dict[str, str] = {}
        self._troubles: dict[str, str] = {}
        self.reported: Callable[[Answer], None] = lambda _answer: None
        """Hears of each answer when all is done about it; must not wait and not fail."""
        self.handled: set[str] = set()
        """Names of the files that are being dealt with; not to be taken in again."""

    @property
    def troubles(self) -> dict[str, str]:
        """What is wrong now, by what it concerns."""
        found = dict(self._troubles)
        if self._undelivered:
            reason = next(iter(self._undelivered.values()))
            found["answers"] = f"{len(self._undelivered)} not delivered and will be tried again: {reason}"
        return found

    def answer(
        self,
        batch: Sequence[Answer],
        *,
        urgent: bool = False,
        visible: Callable[[Answer], None] | None = None,
        settled: Callable[[], None] | None = None,
    ) -> None:
        """Have answers put on record and delivered. `urgent`: a cluster waits for them.

        `visible` is called with each answer as soon as that is done; `settled` once, when all that say of a host
        that it is cut are delivered or given up. They must not wait and not fail.
        """
        if batch:
            self.handled.update(answer.outgoing.name for answer in batch)
            self._run(self._answer(batch, urgent, visible, settled))

    def dispose(self, names: Sequence[str]) -> None:
        """Have requests removed that were answered before."""
        for name in names:
            self._journal.info(f"request {name} was answered before and is not executed again", file=name)
        if names:
            self.handled.update(names)
            self._run(self._dispose(names))

    def note(self, document: dict[str, Any]) -> None:
        """Put a document into the audit some time, without anyone waiting for it."""
        line = audit.line(document)
        self._workers.audit.post(lambda: audit.append(self._audit_file, [line]))

    async def finish(self) -> None:
        """Deliver what there is; after a few seconds, leave what cannot be delivered."""
        self._end = self._loop.time() + _LAST_TRIES_S
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _dispose(self, names: Sequence[str]) -> None:
        try:
            await self._publish([Outgoing(name) for name in names], self._loop.time() + self._keep_s, False)
        finally:
            self.handled.difference_update(names)

    async def _answer(
        self,
        batch: Sequence[Answer],
        urgent: bool,
        visible: Callable[[Answer], None] | None,
        settled: Callable[[], None] | None,
    ) -> None:
        until = self._loop.time() + self._keep_s
        names = [answer.outgoing.name for answer in batch]
        ended: list[Answer] = []
        try:
            left = self._in_time(batch)
            while left:
                if settled is not None and not any(answer.result is Result.FENCED for answer in left):
                    settled()  # nothing of this can be wrong later
                    settled = None
                if not await self._recorded(left, until):
                    for name in (answer.outgoing.name for answer in left):
                        self._journal.error(
                            f"request {name} is given up: its answer cannot be put on record", file=name
                        )
                    ended += left
                    break
                left = [answer.light() for answer in left]
                told = _by_name(left, visible)
                late = await self._publish([answer.outgoing for answer in left], until, urgent, told)
                ended += [answer for answer in left if answer.outgoing.name not in late]
                left = [answer.too_late(self._wall()) for answer in left if answer.outgoing.name in late]
        except Exception as error:  # a defect here must not end the service for everyone else
            self._journal.error(f"defect in nvmefence: {type(error).__name__}: {error}; not answered: {names}")
        finally:
            self.handled.difference_update(names)
            if settled is not None:
                settled()
        for answer in ended:
            self._report(answer)

    def _in_time(self, batch: Sequence[Answer]) -> list[Answer]:
        """Return the answers, with another in the place of each whose time is over already."""
        now = self._loop.time()
        return [answer.too_late(self._wall()) if now > answer.outgoing.until else answer for answer in batch]

    async def _recorded(self, batch: Sequence[Answer], until: float) -> bool:
        if not await self._audit([answer.audit_line(self._wall()) for answer in batch], until):
            return False
        for answer in batch:
            answer.moments["audited"] = self._loop.time()
        return True

    def _report(self, answer: Answer) -> None:
        self.reported(answer)
        request = f" (request {answer.known.request_id})" if answer.known.request_id else ""
        say = getattr(self._journal, _LEVELS.get(answer.result, "warning"))
        say(
            f"{answer.message}{request}",
            result=answer.result.value,
            target_node=answer.target,
            request_id=answer.known.request_id,
            file=answer.outgoing.name,
        )
        event = answer.event()
        if not self._workers.log.post(lambda: self._log(event)):
            self._troubles["log"] = f"{self._log_dir} does not take lines: some are lost"

    def _log(self, event: eventlog.Event) -> None:
        """Write to the three logs; in the log's thread."""
        trouble = ""
        try:
            eventlog.make_directory(self._log_dir)
            for name, line in zip(eventlog.FILES, event.lines(), strict=True):
                eventlog.append(self._log_dir, name, line)
        except OSError as error:
            trouble = f"{self._log_dir} cannot be written: {error.strerror}"
        self._loop.call_soon_threadsafe(self._trouble, "log", trouble)

    def _trouble(self, what: str, text: str) -> None:
        if text:
            self._troubles[what] = text
        else:
            self._troubles.pop(what, None)

    async def _audit(self, lines: Sequence[bytes], until: float) -> bool:
        """Have lines on disk, in the audit file or its stand-in. Returns False if that cannot be had."""
        attempt = 0
        while True:
            trouble = await _tried(self._workers.audit, lambda: audit.append(self._audit_file, lines), _AUDIT_S)
            if not trouble:
                self._trouble("audit", "")
                return True
            trouble = f"{self._audit_file}: {trouble}"
            second = await _tried(self._workers.spool, lambda: self._desk.append_audit(lines), SPOOL_S)
            if not second:
                self._trouble("audit", f"{trouble}; its lines go to {audit.FALLBACK} beside the responses")
                return True
            self._trouble("audit", f"{trouble}; nor beside the responses: {second}; nothing can be answered")
            if not await self._pause(attempt, until):
                return False
            attempt += 1

    async def _publish(
        self, batch: Iterable[Outgoing], until: float, urgent: bool, told: Callable[[str], None] | None = None
    ) -> set[str]:
        """Deliver; return the names of what was not delivered because its own time was over."""
        left = list(batch)
        late: set[str] = set()
        attempt = 0
        while left:
            failed: dict[str, str] = {}
            for start in range(0, len(left), _CHUNK):
                async with contextlib.nullcontext() if urgent else self._bulk:
                    failed |= await self._deliver(left[start : start + _CHUNK])
            for item in left:
                if item.name not in failed:
                    self._undelivered.pop(item.name, None)
                    if told is not None:
                        told(item.name)
            late.update(name for name, why in failed.items() if why == TOO_LATE)
            self._undelivered |= {name: why for name, why in failed.items() if name not in late}
            left = [item for item in left if item.name in failed and item.name not in late]
            if left and not await self._pause(attempt, until):
                for item in left:
                    self._undelivered.pop(item.name, None)
                    self._journal.error(f"request {item.name} is given up: {failed[item.name]}", file=item.name)
                break
            attempt += 1
        for name in late:
            self._undelivered.pop(name, None)
        return late

    async def _deliver(self, items: Sequence[Outgoing]) -> dict[str, str]:
        try:
            return await self._workers.spool.do(lambda: self._desk.deliver(items), SPOOL_S)
        except Stuck as error:
            return {item.name: str(error) for item in items}

    async def _pause(self, attempt: int, until: float) -> bool:
        """Wait before another try; returns whether there is one."""
        pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
        if self._loop.time() + pause >= min(until, self._end):
            return False
        await asyncio.sleep(pause)
        return True


def _by_name(batch: Iterable[Answer], visible: Callable[[Answer], None] | None) -> Callable[[str], None] | None:
    """Return what tells `visible` of an answer by its file's name."""
    if visible is None:
        return None
    known = {answer.outgoing.name: answer for answer in batch}
    return lambda name: visible(known[name])


async def _tried(worker: Worker, work: Callable[[], object], within: float) -> str:
    """Have work done; return what went wrong, else an empty string."""
    try:
        await worker.do(work, within)
    except OSError as error:
        return error.strerror or str(error)
    except (Stuck, BusyError) as error:
        return str(error)
    return ""

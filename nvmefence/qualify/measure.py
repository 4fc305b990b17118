"""The measurements, one after the other, each on the drive as it was before."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from nvmefence.fencing.secondaries import obstacle
from nvmefence.nvme import status
from nvmefence.qualify.bench import Bench
from nvmefence.qualify.control import Control, entry_of, others
from nvmefence.qualify.figures import (
    NOT_ASKED,
    Cut,
    Measured,
    Plan,
    Reset,
    Sample,
    State,
    Step,
    Times,
    Trouble,
    pairs,
)
from nvmefence.qualify.putback import put_back

_TICK_S: Final = 0.01
_FLOW_S: Final = 30.0
"""Seconds within which writes must have begun to flow."""
_HUNG_S: Final = 90.0
"""Seconds beyond the watch for which writes that have no answer are waited for: the kernel's own timeouts."""
_TRIES: Final = 3
"""Cuts for each that shall find writes under way."""


class Measurement:
    """All questions, on one drive. What goes wrong with one is its answer; the others are asked nevertheless."""

    def __init__(
        self,
        controls: Sequence[Control],
        bench: Bench,
        plan: Plan,
        before: State,
        said: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`controls`: the drive through each backend, the first for all that is not about a backend's time."""
        self._controls, self._control = controls, controls[0]
        self._bench, self._plan, self._before, self._said = bench, plan, before, said
        self.measured = Measured()

    async def run(self) -> None:
        """Measure. What was found until then is in `measured` if it is cancelled. Raises Trouble.

        Between two questions the drive is put back; where that fails, nothing more is asked.
        """
        for question, ask in (
            ("writes", self._detach),
            ("drain", self._drain),
            ("times", self._times),
            ("resets", self._resets),
        ):
            if not self._plan.asks(question):
                self.measured.not_measured[question] = NOT_ASKED
                continue
            began = time.monotonic()
            try:
                await ask()
            except Trouble as trouble:
                self.measured.not_measured[question] = str(trouble)
            left = await put_back(self._control, self._bench, self._before)
            if left:
                raise Trouble(f"after the question about {question}: {'; '.join(left)}")
            await self._bench.ready()
            await self._ended()
            self.measured.seconds[question] = time.monotonic() - began

    # Cuts under load

    async def _detach(self) -> None:
        await self._cuts("none")

    async def _drain(self) -> None:
        why = obstacle(self._before.secondaries, self._control.own.cntlid, [self._control.target])
        entry = entry_of(self._before.secondaries, self._control.target)
        if why or entry is None:
            raise Trouble(why)
        if not (entry.online and entry.queues and entry.interrupts):
            raise Trouble(f"controller {entry.cntlid} is not online with resources of its own")
        await self._cuts("drain")

    async def _cuts(self, method: str) -> None:
        tries = 0
        while len(self.measured.of(method)) < self._plan.rounds:
            if tries == self._plan.rounds * _TRIES:
                raise Trouble(
                    f"only {len(self.measured.of(method))} of {tries} cuts found writes under way: more or "
                    "larger writes are needed (--writes, --write-size)"
                )
            tries += 1
            late = sum(len(cut.late) for cut in self.measured.cuts if cut.method == method)
            self._said(f"{method}: cut {tries}, {late} late writes until now")
            await self._cut(Cut(method))

    async def _cut(self, cut: Cut) -> None:
        await self._start()
        self.measured.cuts.append(cut)
        begun = time.monotonic()
        entry = entry_of(self._before.secondaries, self._control.target) if cut.method == "drain" else None
        if entry is not None:
            self._must(cut, await self._control.offline())
        sent = time.monotonic()
        step = await self._control.detach()
        answered = time.monotonic()
        self._must(cut, step)
        await self._read_back(cut)
        done = time.monotonic()
        first = await self._bench.sample()
        if entry is not None:
            for step in await self._control.online(entry):
                self._must(cut, step)
            now = entry_of(await self._control.secondaries(), entry.cntlid)
            cut.online_again = now is not None and now.online
        await self._watch(cut, first, (begun, sent, answered, done))
        self._bench.stop()
        if entry is not None:
            await self._bench.reboot()  # which also ends writes that have no answer
        self._must(cut, await self._control.attach())
        await self._bench.ready()
        await self._ended()

    @staticmethod
    def _must(cut: Cut, step: Step) -> None:
        cut.steps.append(step)
        if step.status:
            raise Trouble(f"{cut.method}: {step.name} failed: {status.describe(step.status)}")

    async def _start(self) -> None:
        """Have writes flow. A host may be late to see that it has its namespace again, and lose it meanwhile."""
        for attempt in range(_TRIES):
            try:
                self._bench.start()
                await self._flow()
            except Trouble:
                self._bench.stop()
                if attempt + 1 == _TRIES:
                    raise
                await self._bench.ready()
                await self._ended()
            else:
                return

    async def _ended(self) -> None:
        await self._until(lambda: not self._bench.writing(), _HUNG_S, "writes have no answer")

    async def _flow(self) -> None:
        """Wait until writes are under way, at a random instant of theirs."""

        def flows() -> bool:
            return any(write.outcome == "ok" and write.ended is not None for write in self._bench.writes())

        def refused() -> bool:
            return not self._bench.writing()

        await self._until(lambda: flows() or refused(), _FLOW_S, "no write succeeded")
        if not flows():
            raise Trouble(f"no write succeeded: {', '.join({write.outcome for write in self._bench.writes()})}")
        took = [w.ended - w.started for w in self._bench.writes() if w.outcome == "ok" and w.ended is not None]
        await asyncio.sleep(random.uniform(0, max(took) + self._plan.pause_s))

        def under_way() -> bool:
            now = time.monotonic()
            return any(write.under_way(now) for write in self._bench.writes())

        await self._until(lambda: under_way() or refused(), _FLOW_S, "no write is under way")
        if not under_way():
            raise Trouble("writes failed before the cut")

    async def _until(self, condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise Trouble(f"{otherwise} within {seconds:g} s")
            await asyncio.sleep(_TICK_S)

    async def _read_back(self, cut: Cut) -> None:
        control = self._control
        if control.target in (await control.attachments()).get(control.nsid, frozenset()):
            cut.still_attached = True
            raise Trouble(f"{cut.method}: the detach succeeded, and the read-back shows the controller attached")
        if cut.method == "drain":
            entry = entry_of(await control.secondaries(), control.target)
            cut.offline_seen = entry is not None and not entry.online

    async def _watch(self, cut: Cut, first: Sample, times: tuple[float, float, float, float]) -> None:
        """Watch the medium: at least for the time asked for, from the last late write on, and until hosts know.

        After a drain nobody answers a host any more, so that its writes are not waited for.
        """
        begun, sent, answered, done = times
        seen: dict[int, float] = {}
        latest = done
        while True:
            sample = await self._bench.sample()
            now = time.monotonic()
            after = {write.number for write in self._bench.writes() if write.started > done}
            for _, number in sample - first:
                if number not in seen:
                    seen[number] = now - done
                    latest = latest if number in after else now
            quiet = now - latest >= self._plan.watch_s
            if quiet and (cut.method == "drain" or not self._bench.writing() or self._endless(now, done)):
                break
            if now - done >= self._plan.watch_s * 10 + _HUNG_S:
                break
            await asyncio.sleep(_TICK_S)
        cut.watched_s = time.monotonic() - done
        judge_writes(
            cut, self._bench, frozenset(number for _, number in first), seen, (begun, sent, answered, done)
        )

    def _endless(self, now: float, done: float) -> bool:
        """Whether writes go on as if there had been no cut, or have been without an answer for too long."""
        after = any(write.started > done and write.outcome == "ok" for write in self._bench.writes())
        return after or now - done > self._plan.watch_s + _HUNG_S

    # Times

    async def _times(self) -> None:
        for control in self._controls:
            took: dict[str, list[float]] = {"detach": [], "attach": []}
            try:
                for number in range(self._plan.timing_rounds):
                    self._said(f"times by {control.backend}: round {number + 1} of {self._plan.timing_rounds}")
                    for step in (await control.detach(), await control.attach()):
                        if step.status:
                            why = status.describe(step.status)
                            raise Trouble(f"{step.name} by {control.backend} failed: {why}")
                        took[step.name].append(step.seconds)
            finally:
                self.measured.times += [
                    Times(action, control.backend, tuple(seconds)) for action, seconds in took.items() if seconds
                ]

    # Resets

    async def _resets(self) -> None:
        control = self._control
        ours = frozenset((control.target, control.own.cntlid))
        strangers = others(self._before.attachments, ours)
        for what in ("host", "own", "subsystem"):
            why = ""
            if what != "host" and strangers:
                nsid, ids = next(iter(sorted(strangers.items())))
                why = f"it may take other controllers down: namespace {nsid} is attached to {sorted(ids)}"
            if what == "subsystem" and not self._plan.subsystem_reset:
                why = NOT_ASKED
            for attached in (True, False):
                self._said(f"reset: {what}, the target {'attached' if attached else 'detached'}")
                self.measured.resets.append(
                    Reset(what, attached, why) if why else await self._reset(what, attached)
                )

    async def _reset(self, what: str, attached: bool) -> Reset:
        control = self._control
        if not attached:
            step = await control.detach()
            if step.status:
                return Reset(what, attached, f"detach failed: {status.describe(step.status)}")
        before = await control.state()
        try:
            await self._bench.reset(what)
            now = await self._readable()
        except Trouble as trouble:
            result = Reset(what, attached, str(trouble))
        else:
            result = compared(what, attached, before, now)
        left = await put_back(control, self._bench, self._before)
        if left:
            raise Trouble(f"after a reset ({what}): {'; '.join(left)}")
        await self._bench.ready()
        return result

    async def _readable(self) -> State:
        """Read the drive as soon as it answers after a reset."""
        until = time.monotonic() + _HUNG_S
        while True:
            try:
                return await self._control.state()
            except Trouble:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(_TICK_S)


def judge_writes(
    cut: Cut, bench: Bench, first: frozenset[int], seen: dict[int, float], times: tuple[float, float, float, float]
) -> None:
    """Sort the writes of a cut: `first` are the numbers on the medium at the read-back, `seen` those later on.

    `times`: begin of the cut, detach sent, detach answered, read-back done.
    """
    begun, sent, answered, done = times
    writes = bench.writes()
    under_way = [write for write in writes if write.under_way(begun)]
    cut.under_way = len(under_way)
    cut.before_answer = sum(
        write.ended is not None and sent <= write.ended <= answered and write.outcome == "ok" for write in under_way
    )
    after = {write.number for write in writes if write.started > done}
    cut.late = [seconds for number, seconds in sorted(seen.items()) if number not in after]
    cut.landed_late = sum(write.number not in first and write.number in seen for write in under_way)
    cut.landed = sum(write.number in first for write in under_way)
    cut.failed = sum(write.number not in first and write.number not in seen for write in under_way)
    cut.accepted_after = sum(
        write.number in seen or write.outcome == "ok" for write in writes if write.number in after
    )
    cut.longest_s = max(
        (write.ended - write.started for write in writes if write.outcome == "ok" and write.ended is not None),
        default=0.0,
    )


def compared(what: str, attached: bool, before: State, now: State) -> Reset:
    """Say what a reset changed."""
    was, there = set(pairs(before.attachments)), set(pairs(now.attachments))
    online = {entry.cntlid for entry in now.secondaries or () if entry.online}
    return Reset(
        what,
        attached,
        lost=tuple(f"namespace {nsid} from controller {cntlid}" for nsid, cntlid in sorted(was - there)),
        gained=tuple(f"namespace {nsid} to controller {cntlid}" for nsid, cntlid in sorted(there - was)),
        offline=tuple(e.cntlid for e in before.secondaries or () if e.online and e.cntlid not in online),
    )

"""The timeline of one fence: what followed what from the agent's start to its verdict, and what was waited for.

Times of one machine are compared by its monotonic clock, which nobody can set. Where agent and watcher had clocks
of their own, each one's times stand for themselves, and only durations are compared.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Final

from nvmefence.spool.response import Response
from nvmefence.timeline import bars
from nvmefence.timeline.bars import LONGEST_S, Bar, DriveBars, Step
from nvmefence.timeline.parts import Part, Parts
from nvmefence.watcher import loose, past, verdict
from nvmefence.watcher.timing import RESCAN

_ROUNDED_S: Final = 0.00001
"""Times are written to the microsecond: what is apart by no more than some of them is not apart."""

_LOOK_S: Final = 0.01
"""An agent's look that finds the response may have begun so long before that was visible."""
_DRIVES: Final = "survey, cut, read-back"
_MAY_OVERLAP: Final = ("wake-up", "begin", "find")
"""Who looks already is not woken, and a fence may be under way already."""

Moment = tuple[str, str, str, float | None]
"""Who and what ended then, in one word and in words; and when, in monotonic seconds."""


@dataclass(slots=True)
class Timeline:
    """All of it. Times are seconds since its begin."""

    begins: str
    """What it begins with, in words."""
    seconds: float = 0.0
    """The whole."""
    started_at: str = ""
    """RFC 3339, by the watcher's wall clock; empty: not known."""
    way: list[Step] = field(default_factory=list)
    """What followed what, without gaps, from the begin to the end."""
    beside: list[Step] = field(default_factory=list)
    """What went on beside it and held nobody up."""
    drives: list[DriveBars] = field(default_factory=list)
    fence: Bar | None = None
    """When the drives were worked on."""
    apart: list[Bar] = field(default_factory=list)
    """Of an agent whose clock cannot be compared with the watcher's: its own steps, since its own begin."""
    notes: list[str] = field(default_factory=list)
    """What is not known, or not believed, and why."""

    @property
    def last(self) -> DriveBars | None:
        """The drive that was done last, which all others were waited for with."""
        return max(self.drives, key=lambda drive: drive.end, default=None) if self._drawn else None

    @property
    def _drawn(self) -> bool:
        return any(drive.phases for drive in self.drives)

    @property
    def slowest(self) -> list[DriveBars]:
        """The drives, the last one done first."""
        return sorted(self.drives, key=lambda drive: -drive.end)

    @property
    def critical(self) -> list[Step]:
        """The way, with what the last drive did in place of the drives: each moment of the whole once."""
        found: list[Step] = []
        for step in self.way:
            found += self._through_drives(step) if step.who == "drives" else [step]
        return [step for step in found if step.seconds > 0]

    def _through_drives(self, step: Step) -> list[Step]:
        last = self.last
        if last is None:
            return [step]
        found, now, who = [], step.start, f"drive {last.serial}"
        for phase in (one.within(step.start, step.end) for one in last.phases):
            if phase.start > now:
                found.append(Step("wait", now, phase.start, who, "until it begins"))
            found.append(Step(phase.name, phase.start, phase.end, who, phase.name))
            now = phase.end
        if step.end > now:
            found.append(Step("rest", now, step.end, "drives", "until all are done, and that is seen"))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain data with a fixed set of keys."""
        last = self.last
        return {
            "begins": self.begins,
            "started_at": self.started_at,
            "seconds": round(self.seconds, 6),
            "steps": [step.to_json() for step in self.way],
            "beside": [step.to_json() for step in self.beside],
            "drives": [drive.to_json() for drive in self.drives],
            "last_drive": None if last is None else last.serial,
            "critical_path": [step.to_json() for step in self.critical],
            "agent_apart": [bar.to_json() for bar in self.apart],
            "notes": self.notes,
        }


def make(response: Response, parts: Parts) -> Timeline:
    """Put a timeline together. Never raises for what was told; what cannot be so is left out, and said."""
    return _Maker(response, parts).make()


class _Maker:
    """Puts one timeline together."""

    def __init__(self, response: Response, parts: Parts) -> None:
        self.parts = parts
        self.watcher = parts.watcher or Part("", "")
        self.seen = verdict.explain(response)
        self.evidence = loose.table(response.evidence)
        self.notes: list[str] = []
        self.origin = 0.0
        """Monotonic time of the begin."""

    def make(self) -> Timeline:
        agent, after = self._agent(), self._after()
        chain = self._chain(agent, after)
        made = Timeline(begins="the fence's begin", notes=self.notes)
        if self.parts.watcher is not None:
            self._walk(made, chain)
        elif self.seen.drives:
            self.notes.append("this response tells no times but those of the drives")
        window = self._window(made)
        self._add_drives(made, window)
        if not made.way and window is not None:
            made.begins = "the fence's begin"
            made.way = [Step("fence", 0.0, window.end, "drives", _DRIVES)]
            made.seconds = window.end
        self._add_beside(made, agent, after)
        if agent is None and self.parts.agent is not None:
            self._set_apart(made, self.parts.agent)
        made.started_at = self._started_at(made)
        return made

    # Who can be compared with whom

    def _agent(self) -> Part | None:
        agent, watcher = self.parts.agent, self.parts.watcher
        if agent is None:
            if watcher is not None:
                self.notes.append(
                    self.parts.trouble
                    or "the agent's part is not known: no line of it in the log here (it keeps no such times, or "
                    "its log is on another machine)"
                )
            return None
        if watcher is None:
            return None
        if not agent.clock or agent.clock != watcher.clock:
            self.notes.append(
                "agent and watcher had clocks of their own (two machines, or a restart between): their times "
                "cannot be put on one line"
            )
            return None
        asked, woken = agent.moments.get("visible"), watcher.moments.get("read")
        if asked is None or (woken is not None and woken < asked - _ROUNDED_S):
            self.notes.append("the agent's times contradict the watcher's: they are left out")
            return None
        return agent

    def _after(self) -> Part | None:
        after, watcher = self.parts.after, self.parts.watcher
        if watcher is None:
            return None
        if after is None:
            if not self.parts.trouble:
                self.notes.append("audit and response are not on the line: the log here has none of the watcher's")
            elif self.parts.trouble not in self.notes:
                self.notes.append(self.parts.trouble)
            return None
        if not after.clock or after.clock != watcher.clock:
            self.notes.append("the watcher's log line is of another clock than its response: it is left out")
            return None
        return after

    # The way

    def _chain(self, agent: Part | None, after: Part | None) -> list[Moment]:
        """Return the moments of the way in the order in which they must have been."""
        mine = agent.moments if agent else {}
        there, later = self.watcher.moments, after.moments if after else {}
        hint = "by its timed look" if self.watcher.hint == RESCAN else "by inotify"
        chain: list[Moment] = [
            ("agent", "began", "", mine.get("began")),
            ("agent", "start", "start: interpreter, options", mine.get("ready")),
            ("agent", "prepare", "before the request, a delay too", mine.get("asked")),
            ("agent", "request", "request on disk, visible", mine.get("visible")),
        ]
        if agent is None:
            chain = [("agent", "file", "", self._file_time())]
        return [
            *chain,
            ("watcher", "wake-up", f"wake-up, {hint}", there.get("woken")),
            ("watcher", "read", "request found and read", there.get("read")),
            ("watcher", "begin", "fence begun", there.get("begun")),
            ("watcher", "find", "drives found", there.get("found")),
            ("drives", "fence", _DRIVES, there.get("ended")),
            ("watcher", "record", "what was taken on record", there.get("recorded")),
            ("watcher", "answer", "answer made", there.get("answered")),
            ("watcher", "audit", "audit line on disk", later.get("audited")),
            ("watcher", "response", "response on disk, visible", later.get("visible")),
            ("agent", "notice", "wake-up", mine.get("seen")),
            ("agent", "judge", "response read and judged", mine.get("judged")),
        ]

    def _file_time(self) -> float | None:
        """Return the request's file time by the monotonic clock, which is as good as two wall clocks agree."""
        watcher = self.watcher
        woken, written = watcher.moments.get("woken"), watcher.request_written
        if woken is None or written is None or watcher.wall is None or watcher.monotonic is None:
            return None
        when = written - watcher.wall + watcher.monotonic
        # What looks already is not woken: the file may have come while it looked.
        if not (when <= max(woken, watcher.moments.get("read", woken)) and woken - when <= LONGEST_S and when > 0):
            side = "after" if when > woken else "before"
            self.notes.append(
                f"the request's file is dated {abs(woken - when):.3f} s {side} the watcher's wake-up: clocks that "
                "differ, so it is not on the line"
            )
            return None
        self.notes.append(
            "the begin is the request's file time: by a wall clock, which may be another machine's, and no finer "
            "than 10 ms"
        )
        return when

    def _walk(self, made: Timeline, chain: list[Moment]) -> None:
        """Make the way of the moments that are known and in order."""
        known = [(who, name, words, when) for who, name, words, when in chain if when is not None]
        if not known:
            return
        self.origin = now = known[0][3]
        made.begins = {"began": "the agent's start", "file": "the request's file time"}.get(
            known[0][1], f"the watcher's {known[0][1]}" if known[0][0] == "watcher" else f"agent: {known[0][2]}"
        )
        left_out = []
        for who, name, words, when in known[1:]:
            if not now - _ROUNDED_S <= when <= self.origin + LONGEST_S:
                left_out.append(name)
                continue
            end = max(when, now)
            made.way.append(Step(name, now - self.origin, end - self.origin, who, words))
            now = end
        made.seconds = now - self.origin
        self._tell_left_out(left_out)

    def _tell_left_out(self, names: list[str]) -> None:
        if {"begin", "find"}.intersection(names):
            self.notes.append("this request joined a fence of the same host that was under way")
        if "judge" in names:
            self.notes.append("the agent had given up before the response was visible")
        wrong = [name for name in names if name not in (*_MAY_OVERLAP, "notice", "judge")]
        if wrong:
            self.notes.append(f"the times contradict each other; left out: {', '.join(wrong)}")

    def _window(self, made: Timeline) -> Bar | None:
        """Return when the drives were worked on, as far as it is on this timeline."""
        took = self.seen.seconds
        if not made.way:
            self.origin = 0.0
            return Bar("fence", 0.0, took) if took is not None and took <= LONGEST_S else None
        began, ended = self.watcher.moments.get("found"), self.watcher.moments.get("ended")
        if began is None or ended is None:
            return None
        start, end = began - self.origin, ended - self.origin
        fits = -LONGEST_S <= start <= end <= made.seconds + _ROUNDED_S and end >= 0
        return Bar("fence", start, min(end, made.seconds)) if fits else None

    # The drives

    def _add_drives(self, made: Timeline, window: Bar | None) -> None:
        views = self.seen.drives
        if not views:
            return
        if window is None:
            self.notes.append("when the drives were worked on is not known, so they are not on the line")
            return
        made.fence = window.within(0.0, window.end)
        ordered, broken = True, False
        for view, raw in zip(views, loose.items(self.evidence.get("drives")), strict=True):
            found = bars.told(loose.table(raw))
            placed = [Bar(one.name, one.start + window.start, one.end + window.start) for one in found.phases]
            over = any(one.end > window.end + _ROUNDED_S for one in placed)
            shown = [one.within(made.fence.start, window.end) for one in placed if one.end > made.fence.start]
            made.drives.append(DriveBars(view.serial, view.outcome, view.confirmed, shown))
            ordered &= found.ordered
            broken |= found.broken or over
        if not ordered:
            self.notes.append("of each phase of a drive only the sum is known: their order is the usual one")
        if broken:
            self.notes.append("some times of drives cannot be so: they are left out, or end with the fence")

    # What is not on the way

    def _add_beside(self, made: Timeline, agent: Part | None, after: Part | None) -> None:
        mine, later = agent.moments if agent else {}, after.moments if after else {}
        for who, name, words, start, end in (
            ("agent", "request durable", "request's directory on disk", mine.get("visible"), mine.get("durable")),
            ("agent", "get ready", "log begun, made ready to wait", mine.get("durable"), mine.get("waiting")),
            ("agent", "wait", "looks for the response", mine.get("waiting"), mine.get("seen")),
            (
                "watcher", "response durable", "response's directory on disk",
                later.get("visible"), later.get("durable"),
            ),
        ):  # fmt: skip
            if start is None or end is None or not self.origin <= start <= end:
                continue
            bar = Step(name, start - self.origin, end - self.origin, who, words)
            made.beside += [bar] if bar.end <= made.seconds + _ROUNDED_S else []

    def _set_apart(self, made: Timeline, agent: Part) -> None:
        """Show an agent's own times, and what of them the watcher's do not account for."""
        order = (("began", ""), ("ready", "start"), ("asked", "prepare"), ("visible", "request"), ("seen", "wait"),
                 ("judged", "judge"))  # fmt: skip
        known = [(name, when) for key, name in order if (when := agent.moments.get(key)) is not None]
        times = [when for _, when in known]
        if len(known) < 2 or times != sorted(times) or times[-1] - times[0] > LONGEST_S:
            self.notes.append("the agent's times contradict each other: they are left out")
            return
        made.apart = [
            Bar(name, before - times[0], when - times[0]) for (_, before), (name, when) in itertools.pairwise(known)
        ]
        waited = next((bar.seconds for bar in made.apart if bar.name == "wait"), None)
        woken = next((step.end for step in made.way if step.name == "wake-up"), 0.0)
        response = next((step.end for step in made.way if step.name == "response"), None)
        if waited is None or response is None:
            return
        left = waited - (response - woken)
        if left >= -_LOOK_S:
            self.notes.append(
                f"from the agent's request to its sight of the response {waited * 1000:.1f} ms went by at the "
                f"agent, of which the watcher accounts for {(response - woken) * 1000:.1f} ms: the way there and "
                f"back took {max(left, 0.0) * 1000:.1f} ms"
            )
        else:
            self.notes.append("the agent waited for less time than the watcher took: these are two fences' times")

    def _started_at(self, made: Timeline) -> str:
        wall, monotonic = self.watcher.wall, self.watcher.monotonic
        if made.way and self.origin and wall is not None and monotonic is not None:
            when = wall - (monotonic - self.origin)
            if 0 < when < 253370764800:  # the year 9999
                return past.rfc3339(when)
        return self.seen.started_at if not self.origin else ""

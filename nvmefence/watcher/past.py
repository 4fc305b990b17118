"""What the audit tells of the past: one small entry for each answer, and for each fence that was left unanswered.

Of a line only a summary is kept: the evidence of one fence on many drives can have 100 kB.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from nvmefence.settings import MAX_DEADLINE
from nvmefence.watcher import auditfiles, loose, pastbeside
from nvmefence.watcher.auditfiles import Line, Unread

INTERRUPTED: Final = "interrupted"
"""A fence was begun, and its watcher has left no answer."""
UNDER_WAY: Final = "under-way"
"""A fence was begun, and its watcher still runs."""
PHASES: Final = ("waited", "discovery", "reading", "cut", "read_back", "quiesce", "fence", "total")
_NAMED: Final = 100
"""Bad lines that are kept by name; the others are only counted."""
_MESSAGE_LIMIT: Final = 2000
_OF_A_FENCE: Final = ("fenced", "not-fenced")
"""Results that end what `begun` began."""
_TOLD: Final = ("answer", "returned", "enforced")
"""Events that make an entry: answers, and what became of a fenced host that was back, which nobody asked for."""
_CONFIRMED: Final = ("cut", "already")
_RESTORED: Final = ("restored", "already")
_READING: Final = ("open", "look", "read")
_QUIESCING: Final = ("quiesce", "offline", "online")
_CLOCK_SLACK_S: Final = 5.0

Watcher = tuple[str, int]
"""Its host and process id."""


class Bad(NamedTuple):
    """A line that could not be used."""

    path: str
    number: int
    reason: str


@dataclass(slots=True)
class Entry:
    """One request's end, or what went on beside the requests, as far as the audit knows it."""

    when: float
    """Seconds since 1970: of the answer, or where there is none, of the fence's begin."""
    result: str
    """The audit's word, INTERRUPTED or UNDER_WAY."""
    file: str
    target_node: str
    """As the request names it; empty where that is not on record."""
    hosts: tuple[str, ...]
    """Names in the host map, where they are on record."""
    action: str
    recorder_node: str
    request_id: str
    message: str
    simulated: bool | None
    """None: not on record."""
    drives: tuple[int, int] | None
    """How many are cut, of how many; None: no drive was looked at, or that is not on record."""
    seconds: dict[str, float]
    """By phase, see PHASES; a phase on the drives is that of the slowest drive, as they work side by side."""
    watcher: Watcher
    version: str
    source: str
    line: int
    answered_later: str = ""
    """Of INTERRUPTED: the result of a later answer to the same file, by whichever watcher."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data with a fixed set of keys."""
        return {
            "time": rfc3339(self.when),
            "result": self.result,
            "action": self.action,
            "target_node": self.target_node,
            "hosts": list(self.hosts),
            "recorder_node": self.recorder_node,
            "request_id": self.request_id,
            "file": self.file,
            "message": self.message,
            "simulated": self.simulated,
            "drives": None if self.drives is None else {"cut": self.drives[0], "total": self.drives[1]},
            "seconds": {phase: _rounded(self.seconds.get(phase)) for phase in PHASES},
            "answered_later": self.answered_later,
            "watcher": {"host": self.watcher[0], "pid": self.watcher[1], "version": self.version},
            "source": {"file": self.source, "line": self.line},
        }


class _Begun(NamedTuple):
    when: float
    hosts: tuple[str, ...]
    files: tuple[str, ...]
    watcher: Watcher
    version: str
    source: str
    line: int


@dataclass(slots=True)
class History:
    """Everything that was read."""

    entries: list[Entry] = field(default_factory=list)
    """The oldest first."""
    files: list[str] = field(default_factory=list)
    """What was read."""
    unread: list[Unread] = field(default_factory=list)
    """What is there, and could not be read, or not to its end."""
    bad: list[Bad] = field(default_factory=list)
    """The first bad lines."""
    bad_lines: int = 0
    """How many there are."""
    unknown_events: int = 0
    """Lines that this version does not understand, and that are no defect."""

    def names_of(self, name: str) -> frozenset[str]:
        """Return all names under which the audit knows the host that somebody calls `name`."""
        known = {_plain_name(name)}
        for entry in self.entries:
            if entry.target_node and any(_same(name, one) for one in (entry.target_node, *entry.hosts)):
                known.update(map(_plain_name, (entry.target_node, *entry.hosts)))
        return frozenset(known)

    def about(self, names: Iterable[str]) -> list[Entry]:
        """Return the entries about hosts that are called so, in a request or in the host map."""
        wanted = frozenset().union(*map(self.names_of, names))
        return [
            entry
            for entry in self.entries
            if any(_same(one, other) for one in (entry.target_node, *entry.hosts) if one for other in wanted)
        ]


def read(
    audit_file: str,
    response_dir: str,
    running: Callable[[Watcher, float], bool] | None = None,
    progress: Callable[[str], None] = lambda _path: None,
    heard: Callable[[Entry, bytes], None] = lambda _entry, _line: None,
) -> History:
    """Read the audit file, what was rotated away from it, and its stand-in. Never raises for what is in them.

    `running` tells whether a watcher that began a fence at a time still runs. `progress` hears each path, `heard`
    each entry with the line that it was made of.
    """
    history = History()
    reader = _Reader(history, heard)
    for item in auditfiles.lines(audit_file, response_dir, history.files, progress):
        if isinstance(item, Unread):
            history.unread.append(item)
        else:
            reader.take(item)
    history.entries += _unanswered(reader.begun, history.entries, running or still_runs)
    history.entries.sort(key=lambda entry: entry.when)
    return history


class _Reader:
    """Takes in lines; a line that was seen before counts once."""

    def __init__(self, history: History, heard: Callable[[Entry, bytes], None]) -> None:
        self._history = history
        self._heard = heard
        self._seen: set[bytes] = set()
        self.begun: list[_Begun] = []

    def take(self, line: Line) -> None:
        if line.data is None:
            self._bad(line, f"longer than {auditfiles.LINE_LIMIT >> 20} MiB")
            return
        text = line.data.strip()
        if not text:
            return
        digest = hashlib.blake2b(text, digest_size=16).digest()
        if digest in self._seen:
            return
        self._seen.add(digest)
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            self._bad(line, "not JSON" if line.data.endswith(b"\n") else "the last line, not finished")
            return
        if not isinstance(document, dict):
            self._bad(line, "not a JSON object")
            return
        when = moment(document.get("time"))
        if when is None:
            self._bad(line, "no time")
        elif document.get("event") in _TOLD:
            self._answer(line, document, when)
        elif document.get("event") == "begun":
            self._begin(line, document, when)
        elif not isinstance(event := document.get("event"), str):
            self._bad(line, "no event")
        elif event in pastbeside.EVENTS:
            self._beside(line, document, when)
        else:
            self._history.unknown_events += 1

    def _bad(self, line: Line, reason: str) -> None:
        self._history.bad_lines += 1
        if len(self._history.bad) < _NAMED:
            self._history.bad.append(Bad(line.path, line.number, reason))

    def _answer(self, line: Line, document: dict[str, Any], when: float) -> None:
        result = loose.text(document.get("result"), 40)
        if not result:
            self._bad(line, "an answer without a result")
            return
        request, response = loose.table(document.get("request")), loose.table(document.get("response"))
        evidence = loose.table(document.get("evidence"))
        host = loose.text(evidence.get("host"))
        message = loose.text(document.get("message"), _MESSAGE_LIMIT)
        self._history.entries.append(
            Entry(
                when=when,
                result=result,
                file=loose.text(document.get("file")),
                target_node=loose.text(document.get("target_node")),
                hosts=(host,) if host else (),
                action=loose.text(request.get("action") or response.get("action") or document.get("action")),
                recorder_node=loose.text(request.get("recorder_node") or response.get("recorder_node")),
                request_id=loose.text(request.get("request_id") or response.get("request_id")),
                message=message,
                simulated=_simulated(evidence, message),
                drives=_drives(evidence, host),
                seconds=_seconds(loose.table(document.get("times")), evidence),
                watcher=_watcher(document),
                version=_version(document),
                source=line.path,
                line=line.number,
            )
        )
        self._heard(self._history.entries[-1], line.data or b"")

    def _beside(self, line: Line, document: dict[str, Any], when: float) -> None:
        told = pastbeside.EVENTS[document["event"]](document)
        self._history.entries.append(
            Entry(
                when=when,
                result=told.result,
                file="",
                target_node=loose.text(document.get("target_node")),
                hosts=told.hosts,
                action=told.action,
                recorder_node="",
                request_id=loose.text(document.get("request_id")),
                message=told.message,
                simulated=None,
                drives=None,
                seconds={} if told.seconds is None else {"total": told.seconds},
                watcher=_watcher(document),
                version=_version(document),
                source=line.path,
                line=line.number,
            )
        )

    def _begin(self, line: Line, document: dict[str, Any], when: float) -> None:
        hosts, files = (
            tuple(loose.text(one) for one in loose.items(document.get(key)) if isinstance(one, str))
            for key in ("hosts", "files")
        )
        if not files:
            self._bad(line, "a begin without files")
            return
        self.begun.append(
            _Begun(when, hosts, files, _watcher(document), _version(document), line.path, line.number)
        )


def _unanswered(
    begun: list[_Begun], entries: list[Entry], running: Callable[[Watcher, float], bool]
) -> list[Entry]:
    """Return an entry for each file whose fence was begun and not answered by the same watcher."""
    answers: dict[tuple[Watcher, str], list[Entry]] = {}
    later: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda one: one.when):
        later.setdefault(entry.file, []).append(entry)
        if entry.result in _OF_A_FENCE:
            answers.setdefault((entry.watcher, entry.file), []).append(entry)
    made = []
    # The newest begin takes the newest answer: a watcher in a container has the process id of its predecessor.
    for start in sorted(begun, key=lambda one: one.when, reverse=True):
        for number, name in enumerate(start.files):
            ends = answers.get((start.watcher, name))
            if ends and (ends[-1].when >= start.when or not _earlier(begun, start, name)):
                ends.pop()
                continue
            host = (start.hosts[number],) if len(start.hosts) == len(start.files) else start.hosts
            after = next((one for one in later.get(name, ()) if one.when >= start.when), None)
            alive = after is None and running(start.watcher, start.when)
            made.append(_open_end(start, name, host, after, alive))
    return made


def _earlier(begun: list[_Begun], start: _Begun, name: str) -> bool:
    """Whether an earlier begin could have had the answer that is dated before this one; else the clock was set."""
    return any(
        one is not start and one.watcher == start.watcher and name in one.files and one.when <= start.when
        for one in begun
    )


def _open_end(start: _Begun, name: str, hosts: tuple[str, ...], after: Entry | None, alive: bool) -> Entry:
    pid = start.watcher[1]
    if alive:
        message = f"the watcher with pid {pid} is at it"
    elif after is not None:
        message = f"the watcher with pid {pid} left no answer; a later one: {after.result}"
    else:
        message = (
            f"the watcher with pid {pid} left no answer, and there is none since: "
            "what was cut is not on record; look with: nvmefence status"
        )
    return Entry(
        when=start.when,
        result=UNDER_WAY if alive else INTERRUPTED,
        file=name,
        target_node=after.target_node if after else "",
        hosts=hosts,
        action=after.action if after else "",
        recorder_node=after.recorder_node if after else "",
        request_id=after.request_id if after else "",
        message=message,
        simulated=None,
        drives=None,
        seconds={},
        watcher=start.watcher,
        version=start.version,
        source=start.source,
        line=start.line,
        answered_later=after.result if after else "",
    )


def still_runs(watcher: Watcher, begun: float) -> bool:
    """Whether this may be a watcher on this machine that was there when the fence began, and still has time."""
    host, pid = watcher
    if host != os.uname().nodename or pid <= 0 or time.time() - begun > MAX_DEADLINE:
        return False
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return fields[0] not in (b"Z", b"X") and time.time() - age <= begun + _CLOCK_SLACK_S
    return False


def moment(value: object) -> float | None:
    """Return the seconds since 1970 of an RFC 3339 time; None for everything else."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        found = datetime.datetime.fromisoformat(value)
    except ValueError:
        return None
    if found.tzinfo is None or not 1970 < found.year < 9999:
        return None
    return found.timestamp()


def rfc3339(when: float) -> str:
    """Return seconds since 1970 as RFC 3339 in UTC, to the millisecond."""
    found = datetime.datetime.fromtimestamp(when, datetime.UTC)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _watcher(document: dict[str, Any]) -> Watcher:
    found = loose.table(document.get("watcher"))
    return loose.text(found.get("host")), loose.number(found.get("pid")) or 0


def _version(document: dict[str, Any]) -> str:
    return loose.text(loose.table(document.get("watcher")).get("version"), 40)


def _simulated(evidence: dict[str, Any], message: str) -> bool | None:
    if evidence.get("simulated") is True or message.startswith("SIMULATED"):
        return True
    return False if evidence.get("simulated") is False else None


def _drives(evidence: dict[str, Any], host: str) -> tuple[int, int] | None:
    drives = evidence.get("drives")
    if not isinstance(drives, list):
        return None
    restore = "complete" in evidence
    good = _RESTORED if restore else _CONFIRMED
    outcomes = [
        loose.table(drive).get("outcome")
        if restore
        else loose.table(loose.table(loose.table(drive).get("hosts")).get(host)).get("outcome")
        for drive in drives
    ]
    return sum(outcome in good for outcome in outcomes if isinstance(outcome, str)), len(drives)


def _seconds(times: dict[str, Any], evidence: dict[str, Any]) -> dict[str, float]:
    found = {phase: loose.seconds(times.get(phase)) for phase in ("waited", "discovery", "fence", "total")}
    drives = [loose.table(loose.table(one).get("seconds")) for one in loose.items(evidence.get("drives"))]
    for phase, parts in (
        ("reading", _READING), ("cut", ("cut",)), ("read_back", ("read-back",)), ("quiesce", _QUIESCING),
    ):  # fmt: skip
        values = [
            sum(loose.seconds(drive[part]) or 0.0 for part in parts if part in drive)
            for drive in drives
            if any(part in drive for part in parts)
        ]
        found[phase] = max(values, default=None)
    return {phase: value for phase, value in found.items() if value is not None}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _plain_name(name: str) -> str:
    return name.strip().lower().rstrip(".")


def _same(one: str, other: str) -> bool:
    """Whether two names may mean the same host: any case, and short or with a domain."""
    a, b = _plain_name(one), _plain_name(other)
    if a == b:
        return True
    return ("." in a) != ("." in b) and a.partition(".")[0] == b.partition(".")[0]

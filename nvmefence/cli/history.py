"""`nvmefence history`: what was fenced when, for whom, with which result, and how long each step took."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Final

from nvmefence.cli.text import Cell, Screen
from nvmefence.errors import AccessError, Exit, FileError, nearest
from nvmefence.settings import Settings
from nvmefence.watcher import past
from nvmefence.watcher.audit import FALLBACK
from nvmefence.watcher.past import Entry, History

_COLOURS: Final = {
    "fenced": "green",
    "unchanged": "blue",
    "restored": "blue",
    "not-fenced": "red",
    "returned": "red",
    "returned-no-longer": "blue",
    "enforced": "green",
    "not-enforced": "red",
    "after-done": "blue",
    "mass-fence": "red",
    "mass-fence-held": "red",
    "mass-fence-allowed": "blue",
    past.INTERRUPTED: "red",
    past.UNDER_WAY: "yellow",
}
_OTHERWISE: Final = "yellow"
_GOOD: Final = ("fenced", "unchanged", "restored", "enforced", "after-done")
_NUMBERS: Final = 8
"""Line numbers that are named of one file."""


def history(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Print what the audit tells."""
    found = past.read(
        settings.audit, settings.response_dir, progress=lambda path: screen.progress(f"reading {path}")
    )
    screen.clear()
    if not found.files:
        raise _nothing(found, settings)
    entries = found.about(arguments.host) if arguments.host else found.entries
    if arguments.since is not None:
        entries = [entry for entry in entries if entry.when >= arguments.since]
    if arguments.last:
        entries = entries[-arguments.last :]
    code = Exit.BAD_FILE if found.unread else Exit.OK
    if arguments.json:
        screen.raw(json.dumps(_document(found, entries, code), indent=2))
        return code
    if entries:
        _print(entries, screen)
    else:
        screen.line(_none(arguments, found))
    _print_troubles(found, screen)
    return code


def _document(found: History, entries: list[Entry], code: Exit) -> dict[str, object]:
    return {
        "exit": int(code),
        "files": found.files,
        "unread": [{"file": one.path, "reason": one.reason} for one in found.unread],
        "bad_lines": found.bad_lines,
        "bad": [{"file": one.path, "line": one.number, "reason": one.reason} for one in found.bad],
        "unknown_events": found.unknown_events,
        "records": [entry.to_json() for entry in entries],
    }


def _nothing(found: History, settings: Settings) -> FileError | AccessError:
    """Return the error for an audit of which nothing could be read."""
    if found.unread:
        what = "; ".join(f"{one.path}: {one.reason}" for one in found.unread)
        if any(one.denied for one in found.unread):
            return AccessError(f"the audit cannot be read: {what}", "run as root, or as a group that may read it")
        return FileError(f"the audit cannot be read: {what}", "name another with --audit")
    return FileError(
        f"there is no audit: neither {settings.audit} nor {os.path.join(settings.response_dir, FALLBACK)}",
        "a watcher makes it with its first fence: either none has answered a request on this machine yet, or it "
        "writes elsewhere: name its file with --audit, or audit in the settings file",
    )


def _none(arguments: argparse.Namespace, found: History) -> str:
    """Say that there is nothing to show, and why that may be."""
    if not arguments.host or found.about(arguments.host):
        return "no fence is on record for that time" if found.entries else "no fence is on record"
    known = sorted({name for entry in found.entries for name in (entry.target_node, *entry.hosts) if name})
    hints = [nearest(name.lower(), known) for name in arguments.host]
    return f"nothing is on record about {', '.join(arguments.host)}{''.join(hints)}"


def _print(entries: list[Entry], screen: Screen) -> None:
    zone = time.strftime("%Z") or "local time"
    screen.table(
        [
            f"when ({zone})", "node", "action", "asked by", "result", "drives", "waited", "discovery", "read",
            "cut", "read-back", "quiesce", "total",
        ],
        [_row(entry) for entry in entries],
    )  # fmt: skip
    for entry in entries:
        if entry.result not in _GOOD and entry.message:
            screen.line(f"{_local(entry.when)} {_node(entry)}: {entry.message}", _colour(entry))
    if any(entry.simulated for entry in entries):
        screen.line("SIMULATED: drives that were emulated; no host lost anything by these fences", "yellow")


def _row(entry: Entry) -> list[Cell | str]:
    result = entry.result + (" SIMULATED" if entry.simulated else "")
    phases = ("waited", "discovery", "reading", "cut", "read_back", "quiesce", "total")
    return [
        _local(entry.when),
        _node(entry),
        entry.action or "-",
        entry.recorder_node or "-",
        Cell(result, _colour(entry)),
        "-" if entry.drives is None else f"{entry.drives[0]} of {entry.drives[1]}",
        *(duration(entry.seconds.get(phase)) for phase in phases),
    ]


def _colour(entry: Entry) -> str:
    return _COLOURS.get(entry.result, _OTHERWISE)


def _node(entry: Entry) -> str:
    hosts = ", ".join(entry.hosts)
    if not entry.target_node:
        return hosts or "-"
    return (
        entry.target_node if hosts.lower() in ("", entry.target_node.lower()) else f"{entry.target_node} ({hosts})"
    )


def _local(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def duration(seconds: float | None) -> str:
    """Return a time for people: milliseconds below one second."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _print_troubles(found: History, screen: Screen) -> None:
    numbers: dict[str, list[int]] = {}
    for one in found.bad:
        numbers.setdefault(one.path, []).append(one.number)
    for path, lines in numbers.items():
        shown = ", ".join(map(str, lines[:_NUMBERS])) + (" ..." if len(lines) > _NUMBERS else "")
        reasons = ", ".join(dict.fromkeys(one.reason for one in found.bad if one.path == path))
        screen.line(f"{path}: not used: line {shown}: {reasons}", "yellow")
    if found.bad_lines > len(found.bad):
        screen.line(f"{found.bad_lines} lines are bad in all", "yellow")
    if found.unknown_events:
        screen.line(f"{found.unknown_events} lines are of a kind that this version does not know", "yellow")
    for trouble in found.unread:
        screen.line(f"{trouble.path} cannot be read, so this may not be all: {trouble.reason}", "red")

"""`nvmefence explain`: a response and its evidence as a page that a person reads."""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from typing import Final

from nvmefence.cli.history import duration
from nvmefence.cli.text import Cell, Screen
from nvmefence.errors import AccessError, Exit, FileError
from nvmefence.settings import Settings
from nvmefence.spool import response
from nvmefence.spool.directory import ARCHIVE
from nvmefence.spool.errors import SpoolError
from nvmefence.spool.names import SUFFIX
from nvmefence.spool.response import RESPONSE_LIMIT
from nvmefence.watcher import verdict
from nvmefence.watcher.verdict import DriveView, Explanation, Verdict

_STANDARD_INPUT: Final = "-"
_NAME_ONE: Final = "name a response; nvmefence history lists what was answered"
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_COLOURS: Final = {
    Verdict.FENCED: "green",
    Verdict.CLAIMED: "yellow",
    Verdict.DOUBTFUL: "red",
    Verdict.NOT_FENCED: "red",
    Verdict.NO_FENCE: "blue",
}
_PHASES: Final = ("open", "look", "read", "offline", "cut", "read-back", "quiesce", "online", "total")


def explain(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Print what a response says, and what of that its evidence shows."""
    name, data = _read(arguments.response, settings.response_dir)
    try:
        answer = response.parse(data)
    except SpoolError as error:
        raise FileError(f"{name} is not a response: {error.reason}", _hint(data)) from None
    made = verdict.explain(answer)
    code = Exit.BAD_FILE if made.verdict is Verdict.DOUBTFUL else Exit.OK
    if arguments.timeline or arguments.all or arguments.svg:
        _in_time(made, name, arguments, settings, screen, code)
    elif arguments.json:
        screen.raw(json.dumps({"exit": int(code), "file": name, **made.to_json()}, indent=2))
    else:
        _print(made, name, screen)
    return code


def _in_time(
    made: Explanation, name: str, arguments: argparse.Namespace, settings: Settings, screen: Screen, code: Exit
) -> None:
    """Show, or draw, where the time went. Raises FileError, AccessError for a picture that cannot be made."""
    from nvmefence.cli import timeline

    line = timeline.of(made.response, settings.log_dir)
    subject = f"{made.response.action} of {made.target}, request {made.response.request_id}"
    if arguments.svg:
        timeline.write(line, made.statement, subject, arguments.svg, screen)
    if arguments.svg == timeline.STANDARD_OUTPUT:
        return
    if arguments.json:
        document = {"exit": int(code), "file": name, **made.to_json(), "timeline": line.to_json()}
        screen.raw(json.dumps(document, indent=2))
        return
    screen.line(made.statement, _COLOURS[made.verdict])
    if arguments.timeline or arguments.all:
        timeline.show(line, subject, screen, every=arguments.all)
    if arguments.svg:
        screen.line(f"drawn into {arguments.svg}")


def _read(given: str, response_dir: str) -> tuple[str, bytes]:
    """Return the file's path and content."""
    if given == _STANDARD_INPUT:
        path = "standard input"
        data = sys.stdin.buffer.read(RESPONSE_LIMIT + 1)
    else:
        path = _find(given, response_dir)
        data = _content(path)
    if len(data) > RESPONSE_LIMIT:
        raise FileError(f"{path} is not a response: it has more than {RESPONSE_LIMIT} bytes", _NAME_ONE)
    return path, data


def _find(given: str, response_dir: str) -> str:
    """Return the path: as given, or for a bare name that is no file, among the responses and their archive."""
    if not given or "\0" in given:
        raise FileError(f"{given!r} is not a file's name", _NAME_ONE)
    if "/" in given or (os.path.lexists(given) and not os.path.isdir(given)):
        return given
    for directory in (response_dir, os.path.join(response_dir, ARCHIVE)):
        for name in (given, given + SUFFIX):
            path = os.path.join(directory, name)
            if os.path.lexists(path):
                return path
        # Some agents put the node before the id.
        found = [one for one in _listing(directory) if one.endswith(f"-{given}{SUFFIX}")]
        if len(found) == 1:
            return os.path.join(directory, found[0])
    raise FileError(
        f"{given!r} is neither a file nor the id of a response in {response_dir} or its {ARCHIVE}",
        "name the file, or where the responses are with --response-dir; nvmefence history lists requests",
    )


def _listing(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
    except PermissionError:
        raise AccessError(f"{directory} cannot be read: permission denied", "run as root") from None
    except OSError as error:
        raise FileError(f"{directory} cannot be read: {error.strerror}") from None


def _content(path: str) -> bytes:
    try:
        fd = os.open(path, _FLAGS)
        try:
            mode = os.fstat(fd).st_mode
            # The pipe is what a shell makes of <(...), not one that lies in a directory where nobody writes to it.
            piped = stat.S_ISFIFO(mode) and path.startswith("/dev/fd/")
            if piped:
                os.set_blocking(fd, True)
            if piped or stat.S_ISREG(mode):
                with open(fd, "rb", closefd=False) as stream:
                    return stream.read(RESPONSE_LIMIT + 1)
        finally:
            os.close(fd)
    except PermissionError as error:
        raise AccessError(f"{path} cannot be read: {error.strerror}", "run as root") from None
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}", _NAME_ONE) from None
    raise FileError(f"{path} is not a regular file", _NAME_ONE)


def _hint(data: bytes) -> str:
    """Say what to do, by what the file may be instead."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        begun = data.lstrip()[:1] in (b"", b"{") and not data.rstrip().endswith(b"}")
        return "an agent or watcher may be writing it just now: try again" if begun else _NAME_ONE
    if not isinstance(document, dict):
        return _NAME_ONE
    if "event" in document:
        return "it looks like a line of the audit: nvmefence history reads that"
    if "action" in document and "success" not in document:
        return "it looks like a request; its response has the same name, in the directory of the responses"
    return _NAME_ONE


def _print(made: Explanation, name: str, screen: Screen) -> None:
    if made.simulated:
        screen.line("SIMULATED: these drives were emulated. No host lost anything by this.", "yellow")
    screen.line(made.statement, _COLOURS[made.verdict])
    for sentence in made.meaning:
        screen.line(f"  {sentence}")
    if made.advice:
        screen.line("What to do:", "bold")
        for text in made.advice:
            screen.line(f"  - {text}")
    if made.drives:
        screen.line()
        _print_drives(made, screen)
    screen.line()
    _print_origin(made, name, screen)


def _print_drives(made: Explanation, screen: Screen) -> None:
    screen.table(
        ["drive", "through", "result", "controllers", "found attached", "detached", "read-back", "quiesce"],
        [_row(drive) for drive in made.drives],
    )
    for drive in made.drives:
        for sent in drive.sent:
            if sent.status != 0:
                screen.line(f"{drive.serial}: detach from namespace {ranges(sent.nsids)}: {sent.words}", "red")
        for cntlid, why in drive.offline.items():
            screen.line(f"{drive.serial}: controller {cntlid} {why or 'is offline, and stays so'}", "yellow")
    for why in dict.fromkeys(drive.quiesce_reason for drive in made.drives if drive.quiesce_reason):
        serials = ", ".join(drive.serial for drive in made.drives if drive.quiesce_reason == why)
        screen.line(f"{serials}: quiesce is what it is because {why}")
    commands = sum(len(sent.nsids) for drive in made.drives for sent in drive.sent)
    good = sum(len(sent.nsids) for drive in made.drives for sent in drive.sent if sent.status == 0)
    screen.line(f"Commands to detach it: {commands}, with success: {good}.")
    screen.line()
    screen.table(
        ["drive", *_PHASES],
        [[drive.serial, *(duration(drive.seconds.get(phase)) for phase in _PHASES)] for drive in made.drives],
    )


def _row(drive: DriveView) -> list[Cell | str]:
    device = drive.device
    if device and drive.own_controller is not None:
        device += f" (controller {drive.own_controller})"
    if drive.read_back is None:
        read_back = Cell("none", "red")
    elif drive.read_back:
        read_back = Cell(f"attached: {_where(drive.read_back, drive)}", "red")
    else:
        read_back = Cell("not attached", "green")
    method = drive.quiesce or "-"
    quiesce = (
        method if drive.quiesced and method == "none" else f"{method}: {'met' if drive.quiesced else 'NOT met'}"
    )
    return [
        drive.serial,
        device or "-",
        Cell(drive.outcome, "green" if drive.confirmed else "red"),
        ",".join(map(str, drive.controllers)) or "-",
        _where(drive.found, drive),
        _where(drive.detached, drive),
        read_back,
        Cell(quiesce, "" if drive.quiesced else "red"),
    ]


def _where(attachments: dict[int, list[int]], drive: DriveView) -> str:
    """Return namespaces, and the controllers beside them where those are not all of the host's."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for nsid, ids in attachments.items():
        groups.setdefault(tuple(sorted(ids)), []).append(nsid)
    every = tuple(sorted(drive.controllers))
    parts = [
        ranges(nsids) + ("" if ids == every else f" (controller {','.join(map(str, ids))})")
        for ids, nsids in groups.items()
    ]
    return f"namespace {'; '.join(parts)}" if parts else "-"


def ranges(numbers: list[int]) -> str:
    """Return numbers as ranges: "1-4, 7"."""
    found: list[list[int]] = []
    for one in sorted(set(numbers)):
        if found and one == found[-1][1] + 1:
            found[-1][1] = one
        else:
            found.append([one, one])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def _print_origin(made: Explanation, name: str, screen: Screen) -> None:
    answer = made.response
    asked = f"{answer.action} of {answer.target_node}"
    lines = {
        "asked": f"{asked}, by {answer.recorder_node or 'somebody who gave no name'}, request {answer.request_id}",
        "begun": made.started_at,
        "took": duration(made.seconds) if made.seconds is not None else "",
        "answered": answer.timestamp,
        "through": made.backend,
        "message": answer.message,
        "file": name,
    }
    for title, text in lines.items():
        if text:
            screen.line(f"{title:9} {text}")

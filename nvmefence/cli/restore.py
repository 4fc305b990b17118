"""`nvmefence restore` and `unfence`: a host gets back what was taken, or only counts as fenced no longer."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from nvmefence.cli.text import Cell, Screen
from nvmefence.direct import Direct
from nvmefence.direct_restore import archive_fences, standing_responses
from nvmefence.direct_restore import restore as give_all_back
from nvmefence.errors import Exit, FileError, UnknownHostError
from nvmefence.fencing.restore import restore as give_back
from nvmefence.fencing.restored import DriveRestored, Gave, Left, Planned, RestoreReport
from nvmefence.fencing.terms import Terms, Wanted
from nvmefence.inventory import hostfile
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.records.places import Places, places
from nvmefence.records.record import Record
from nvmefence.records.store import RealRecordError, RecordError
from nvmefence.restoring import Ended, Of, belongs
from nvmefence.settings import Settings
from nvmefence.site import Site, open_site
from nvmefence.spool.errors import SpoolError
from nvmefence.watcher.worker import Stuck

_TICK = 0.2
_COLOURS = {Gave.RESTORED: "green", Gave.ALREADY: "green", Gave.PARTLY: "yellow", Gave.LEFT_OUT: "red"}


def restore(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Give one host back what is on record, and print what became of it."""
    direct = Direct(settings, [arguments.host])
    (host,) = direct.hosts
    if arguments.dry_run:
        return _dry_run(settings, direct.hostmap, host, places(settings), arguments.json, screen)
    direct.open()
    try:
        ended = asyncio.run(_restore(direct, host, screen))
    except RecordError as error:
        raise FileError(error.reason, "nothing was done; if the record is lost: nvmefence unfence") from None
    except Stuck as error:
        raise FileError(f"records or responses do not answer: {error}", "run the command again") from None
    finally:
        direct.close()
    code = _code(ended)
    if arguments.json:
        screen.raw(json.dumps({"exit": int(code), **_document(ended)}, indent=2))
    else:
        _print(ended, code, screen)
    return code


def _code(ended: Ended) -> Exit:
    if ended.complete:
        return Exit.OK
    report = ended.report
    if report is not None and report.gave_up and not report.touched and not ended.troubles:
        return Exit.UNDER_WAY
    return Exit.NOT_RESTORED


async def _restore(direct: Direct, host: Host, screen: Screen) -> Ended:
    board = _Board(screen, host.name)
    ticker = asyncio.create_task(board.tick()) if screen.live else None
    try:
        until = asyncio.get_running_loop().time() + direct.settings.deadline
        return await give_all_back(direct, host, until, board.heard)
    finally:
        if ticker is not None:
            ticker.cancel()
        screen.clear()


def _fences(settings: Settings, of: Of) -> list[str]:
    with standing_responses(settings) as responses:
        return [] if responses is None else responses.fences(of)


class _Board:
    """Progress, drive by drive, for somebody who looks at a terminal."""

    def __init__(self, screen: Screen, host: str) -> None:
        self.screen = screen
        self.host = host
        self.working: dict[str, str] = {}

    def heard(self, drive: DriveRestored, phase: str) -> None:
        if not self.screen.live:
            return
        if phase != "done":
            self.working[drive.serial] = phase
            return
        self.working.pop(drive.serial, None)
        outcome = drive.outcome
        self.screen.settled(f"  {drive.serial:<20}  {outcome.value}  {drive.problem}".rstrip(), _COLOURS[outcome])

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            shown = ", ".join(f"{serial} ({phase})" for serial, phase in list(self.working.items())[:3])
            more = f" and {len(self.working) - 3} more" if len(self.working) > 3 else ""
            self.screen.progress(f"restoring {self.host}: waiting for {shown}{more}")


def _document(ended: Ended) -> dict[str, Any]:
    return {
        "host": ended.host,
        "simulated": ended.simulated,
        "complete": ended.complete,
        "message": ended.message(),
        "on_record": None if ended.record is None else ended.record.to_json(),
        "result": None if ended.report is None else ended.report.to_json(),
        "responses_archived": ended.archived,
        "cleared": ended.cleared,
        "troubles": ended.troubles,
    }


def _print(ended: Ended, code: Exit, screen: Screen) -> None:
    report = ended.report
    if report is not None:
        screen.table(
            ["drive", "through", "result", "controllers", "given back", "online", "ms", "note"],
            [_row(drive) for drive in report.drives],
        )
    screen.line(ended.message(), "green" if code is Exit.OK else "red")
    if ended.record is None:
        screen.line("Responses that say it is fenced, if there are any, stand: nvmefence unfence puts them away.")
    if ended.cleared:
        which = f"; archived: {', '.join(ended.archived)}" if ended.archived else ""
        screen.line(f"{ended.host} is fenced no longer{which}")
    if code is not Exit.OK:
        _what_next(ended, screen)


def _row(drive: DriveRestored) -> list[Cell | str]:
    through = f"{drive.device} (controller {drive.own_controller})" if drive.device else "-"
    given = sum(len(piece.given) for piece in drive.pieces)
    wanted = sum(len(piece.taken.controllers) for piece in drive.pieces)
    online = f"{sum(one.online for one in drive.controllers)} of {len(drive.controllers)}"
    return [
        drive.serial,
        through,
        Cell(drive.outcome.value, _COLOURS[drive.outcome]),
        ",".join(map(str, drive.mine)) or "-",
        f"{given} of {wanted} attachments",
        online if drive.controllers else "-",
        f"{drive.seconds * 1000:.1f}",
        drive.problem,
    ]


def _what_next(ended: Ended, screen: Screen) -> None:
    for one in ended.left:
        screen.line(f"  {one}", "yellow")
    by_hand = list(dict.fromkeys(one.by_hand for one in ended.left if one.by_hand))
    if by_hand:
        screen.line("It stays on record. By hand, if you know that it is the host's:", "bold")
        for text in by_hand:
            screen.line(f"  {text}")
    report = ended.report
    advice = [] if report is None else [f"{d.serial}: {d.advice}" for d in report.drives if d.advice]
    screen.line("What to do:", "bold")
    for text in dict.fromkeys(advice):
        screen.line(f"  - {text}")
    name = shlex.quote(ended.host)
    screen.line(f"  - try again, also after doing some of it by hand: nvmefence restore --host {name}")
    screen.line(f"  - or let it be, and count the host as fenced no longer: nvmefence unfence --host {name}")


# What would be done


def _dry_run(settings: Settings, hostmap: HostMap, host: Host, there: Places, as_json: bool, screen: Screen) -> int:
    record = _on_record(there, host.name)
    report: RestoreReport | None = None
    if record is not None and not record.empty:
        site = open_site(settings)
        try:
            report = asyncio.run(_plan(site, settings, hostmap, host, record, screen))
        finally:
            site.transport.close()
    planned = [] if report is None else [one for drive in report.drives for one in drive.planned]
    left = [] if report is None else _not_planned(report)
    code = Exit.NOT_RESTORED if left else Exit.OK
    standing = _fences(settings, belongs(hostmap, host.name)) if record is not None and not left else []
    if as_json:
        document = {
            "dry_run": True,
            "exit": int(code),
            "host": host.name,
            "simulated": bool(settings.simulate),
            "on_record": None if record is None else record.to_json(),
            "commands": [one.to_json() for one in planned],
            "left": [one._asdict() for one in left],
            "responses": standing,
        }
        screen.raw(json.dumps(document, indent=2))
        return code
    _print_plan(settings, host, record, planned, standing, screen)
    for one in left:
        screen.line(f"{one}: it would be left out", "red")
    return code


def _not_planned(report: RestoreReport) -> list[Left]:
    """Return what would be left out: what no planned command gives back, and why."""
    return [one for one in report.left if one.reason]


async def _plan(
    site: Site, settings: Settings, hostmap: HostMap, host: Host, record: Record, screen: Screen
) -> RestoreReport:
    screen.progress("reading the drives")
    try:
        terms = Terms(settings.deadline, lambda: "this is a dry run", dry_run=True)
        wanted = Wanted(record.taken, record.offline)
        return await give_back(site.transport, hostmap, site.discover(), host, wanted, terms)
    finally:
        screen.clear()


def _print_plan(
    settings: Settings,
    host: Host,
    record: Record | None,
    planned: Sequence[Planned],
    standing: Sequence[str],
    screen: Screen,
) -> None:
    mark = "SIMULATED: " if settings.simulate else ""
    if record is None:
        screen.line(f"{mark}dry run: nothing is on record as taken from {host.name}", "bold")
        return
    for one in planned:
        screen.line(f"{one.device}  {one.serial}  {one.words}")
    for name in standing:
        screen.line(f"response {name} would be archived")
    screen.line(
        f"{mark}dry run: {len(planned)} commands would be sent to restore {host.name}; none was sent", "bold"
    )


# Unfence


def unfence(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Let a host count as fenced no longer: put record and responses away, touch no drive."""
    hostmap = hostfile.load(settings.hosts)
    there = places(settings)
    name = _name(hostmap, there, arguments.host)
    of = belongs(hostmap, name)
    if arguments.dry_run:
        return _told(name, _on_record(there, name), _fences(settings, of), settings, arguments, screen)
    lock = there.locks.restore(name, "an unfence")
    try:
        record = _readable(there, name, screen)
        archived = _done(lambda: archive_fences(settings, of))
        _done(lambda: there.store.clear(name))
    finally:
        lock.end()
    return _told(name, record, archived, settings, arguments, screen)


def _name(hostmap: HostMap, there: Places, asked: str) -> str:
    """Return the host's name; that of a host which is no longer in the map counts if it is on record."""
    try:
        return hostmap.find(asked).name
    except UnknownHostError:
        record = _on_record(there, asked)
        if record is None:
            raise
        return record.host


def _on_record(there: Places, host: str) -> Record | None:
    try:
        return there.store.load(host)
    except RecordError as error:
        raise FileError(error.reason, "nothing was done; if the record is lost: nvmefence unfence") from None


def _readable(there: Places, host: str, screen: Screen) -> Record | None:
    """Return the record; one that cannot be believed is put away unread. Raises FileError for one not to touch."""
    try:
        return there.store.load(host)
    except RealRecordError as error:
        raise FileError(error.reason, "nothing was done; give other directories, or no simulated drives") from None
    except RecordError as error:
        screen.note(f"{error.reason}; it is put aside unread")
        return None


def _done(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (SpoolError, RecordError) as error:
        raise FileError(error.reason, "run the command again") from None


def _told(
    name: str,
    record: Record | None,
    archived: Sequence[str],
    settings: Settings,
    arguments: argparse.Namespace,
    screen: Screen,
) -> int:
    mark = "SIMULATED: " if settings.simulate else ""
    offline = [] if record is None else [f"{one.serial}: controller {one.cntlid}" for one in record.offline]
    if arguments.json:
        document = {
            "exit": int(Exit.OK),
            "dry_run": arguments.dry_run,
            "host": name,
            "simulated": bool(settings.simulate),
            "on_record": None if record is None else record.to_json(),
            "responses_archived": list(archived),
        }
        screen.raw(json.dumps(document, indent=2))
        return Exit.OK
    for response in archived:
        screen.line(f"response {response} {'would be' if arguments.dry_run else 'is'} archived")
    if record is None and not archived:
        screen.line(f"{mark}{name}: nothing says that it is fenced")
        return Exit.OK
    if arguments.dry_run:
        screen.line(f"{mark}dry run: {name} would be fenced no longer; nothing was changed", "bold")
    else:
        screen.line(f"{mark}{name} is fenced no longer; no drive was touched", "green")
    taken = 0 if record is None else sum(len(one.controllers) for one in record.taken)
    if taken:
        screen.line(f"It does not get back the {taken} attachments that are on record as taken from it.", "yellow")
    for text in offline:
        screen.line(f"{text} stays offline", "yellow")
    return Exit.OK

"""`nvmefence status`: hosts against drives, read from the drives just now, and who counts as fenced."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from nvmefence.cli.text import Cell, Screen
from nvmefence.errors import Exit
from nvmefence.fencing.survey import DriveSurvey, State, Survey, survey
from nvmefence.inventory.hostfile import load
from nvmefence.inventory.hostmap import HostMap
from nvmefence.records.fenced import counts
from nvmefence.records.places import Places, places
from nvmefence.records.record import Record
from nvmefence.settings import Settings
from nvmefence.site import open_site
from nvmefence.watcher.returned import Returned, seen

COLOURS: Final = {State.ATTACHED: "green", State.PARTLY: "yellow", State.NONE: "blue", State.UNKNOWN: "red"}


def status(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Print which host is attached to which drive, and which of them count as fenced."""
    hostmap = load(settings.hosts)
    asked = map(hostmap.find, arguments.host) if arguments.host else hostmap.hosts.values()
    hosts = list({host.name: host for host in asked}.values())
    site = open_site(settings)
    there = places(settings)
    if arguments.watch is not None:
        from nvmefence.cli import live

        return live.watch(live.Board(site, hostmap, hosts, there, every_host=not arguments.host), arguments, screen)
    screen.progress("reading the drives")
    before, _ = there.store.load_all()
    offline = any(one.stays for record in before for one in record.offline)
    try:
        found = site.discover()
        result = asyncio.run(survey(site.transport, hostmap, found, hosts, settings.deadline, secondaries=offline))
    finally:
        site.transport.close()
        screen.clear()
    fenced, unread = on_record(there, before, result, {host.name for host in hosts})
    if not arguments.host:
        fenced += strangers(before, hostmap)
    for text in unread:  # before the rest, which waits for it
        screen.note(f"a record is not believed, so its host may be fenced and not shown so: {text}")
    if arguments.json:
        screen.raw(json.dumps(document(result, fenced, unread, simulated=site.simulated), indent=2))
        return exit_code(result)
    if site.simulated:
        screen.line("SIMULATED", "yellow")
    show(result, [host.name for host in hosts], fenced, screen)
    return exit_code(result)


def exit_code(result: Survey) -> Exit:
    """Return what the command's exit code is for what was read."""
    if not result.drives or (not result.complete and result.missing):
        return Exit.DRIVES_MISSING
    return Exit.OK if result.complete else Exit.UNKNOWN_STATE


def document(
    result: Survey, fenced: Sequence[OnRecord], unread: Sequence[str], *, simulated: bool
) -> dict[str, Any]:
    """Return plain data with a fixed set of keys."""
    return {
        "simulated": simulated,
        "exit": int(exit_code(result)),
        "missing": list(result.missing),
        "drives": [drive.to_json() for drive in result.drives],
        "fenced": [one.to_json() for one in fenced],
        "unread_records": list(unread),
    }


def show(result: Survey, hosts: list[str], fenced: Sequence[OnRecord], screen: Screen) -> None:
    """Print what was read, and who is on record."""
    matrix(result, hosts, {one.record.host for one in fenced if one.returned is not None}, screen)
    for one in fenced:
        screen.line(one.words(), one.colour)


@dataclass(frozen=True, slots=True)
class OnRecord:
    """A host of which something is on record."""

    record: Record
    returned: Returned | None = None
    """It counts as fenced, and was seen back."""
    restoring: str = ""
    """Who gives it something now."""
    stranger: bool = False
    """It is not in the host map."""

    @property
    def colour(self) -> str:
        """How it is shown."""
        if self.returned is not None:
            return "red"
        return "blue" if counts(self.record) and self.record.confirmed and not self.restoring else "yellow"

    def words(self) -> str:
        """Say in one line how it stands."""
        record = self.record
        if self.returned is not None:
            return f"RETURNED: {self.returned.words()}"
        if self.restoring:
            return f"{record.host}: {self.restoring}"
        if not counts(record):
            return f"{record.host}: something is on record as taken from it; it is not known to be fenced"
        doubt = "" if record.confirmed else "; a later fence of it is under way, or is not confirmed"
        unknown = "; it is not in the host map" if self.stranger else ""
        return f"{record.host}: fenced since {record.fenced_at}{doubt}{unknown}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        record = self.record
        return {
            "host": record.host,
            "fenced": counts(record),
            "fenced_at": record.fenced_at,
            "confirmed": record.confirmed,
            "returned": self.returned is not None,
            "returned_on": [] if self.returned is None else [one.to_json() for one in self.returned.ordered()],
            "restoring": self.restoring,
        }


def on_record(
    there: Places, before: Sequence[Record], result: Survey, names: set[str]
) -> tuple[list[OnRecord], list[str]]:
    """Return what is on record of these hosts, and what is wrong with other records, in words.

    A host is back only if its record is the same as before the drives were read, and nobody restores it.
    """
    restoring = {name: there.locks.restoring(name) for name in names}
    records, unread = there.store.load_all()
    found = []
    for record in records:
        if record.host not in names:
            continue
        returned = Returned(record.host, record.fenced_at or "")
        returned.take(seen(result, record))
        sure = counts(record) and record in before and not restoring[record.host] and bool(returned.drives)
        found.append(OnRecord(record, returned if sure else None, restoring[record.host]))
    return found, unread


def strangers(records: Sequence[Record], hostmap: HostMap) -> list[OnRecord]:
    """Return who is on record and not in the host map."""
    return [OnRecord(record, stranger=True) for record in records if record.host not in hostmap.hosts]


def problems(result: Survey, hosts: Sequence[str]) -> list[str]:
    """Return what is wrong with drives, and what to do; each once."""
    found = list(result.missing)
    if not result.drives:
        found.append("no expected drive is there: is this the right machine? see: nvmefence check")
    for drive in result.drives:
        for name in hosts:
            entry = drive.hosts[name]
            if entry.reason:
                found.append(f"{drive.serial}: {entry.reason}" + (f" ({entry.advice})" if entry.advice else ""))
    return list(dict.fromkeys(found))


def matrix(result: Survey, hosts: list[str], back: set[str], screen: Screen) -> None:
    """Print a row per drive and a column per host; the words do not need the colours."""
    rows: list[list[Cell | str]] = []
    for drive in result.drives:
        cells = [cell(drive, host, host in back) for host in hosts]
        rows.append([drive.serial, str(len(drive.namespaces)) if drive.namespaces else "-", *cells])
    screen.table(["drive", "namespaces", *hosts], rows)
    for text in problems(result, hosts):
        screen.line(text, "red")


def cell(drive: DriveSurvey, host: str, back: bool) -> Cell:
    """Say how a host stands on a drive; `back`: it is fenced, and was seen back."""
    entry = drive.hosts[host]
    text = entry.state.value
    if entry.state is State.PARTLY:
        text = f"partly {len(entry.attached)}/{len(drive.namespaces)}"
    if back and entry.attached:
        return Cell(f"RETURNED {len(entry.attached)}/{len(drive.namespaces)}", "red")
    return Cell(text, COLOURS[entry.state])

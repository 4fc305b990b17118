"""`nvmefence report`: the fleet, the history and the timeline of each fence as one page of HTML."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from typing import Final

from nvmefence.cli import pages, status
from nvmefence.cli.text import Screen
from nvmefence.errors import Exit, FileError, NvmefenceError
from nvmefence.fencing.survey import survey
from nvmefence.inventory.hostfile import load
from nvmefence.records.fenced import counts
from nvmefence.records.places import places
from nvmefence.records.record import Record
from nvmefence.report import gather
from nvmefence.report.gather import Fleet
from nvmefence.report.page import Origin, page
from nvmefence.settings import Settings
from nvmefence.site import open_site

STANDARD_OUTPUT: Final = "-"


def report(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Write the page. What cannot be read is said on it."""
    if arguments.output == STANDARD_OUTPUT and screen.out.isatty():
        raise FileError("a page of HTML is nothing for a terminal", "name a file with -o")
    fleet = _fleet(settings, screen, wanted=not arguments.no_survey)
    made = gather.gather(settings, fleet, arguments.since, screen.progress)
    origin = Origin(os.uname().nodename, time.time(), time.strftime("%Z"))
    text = page(made, origin)
    screen.clear()
    code = Exit.BAD_FILE if made.history.unread or made.trouble else Exit.OK
    if arguments.output == STANDARD_OUTPUT:
        screen.raw(text)
        return code
    pages.replace(arguments.output, text.encode("utf-8", "backslashreplace"), "name another file with -o")
    if arguments.json:
        screen.raw(json.dumps({"exit": int(code), "file": arguments.output, **gather.plain_data(made)}, indent=2))
    else:
        screen.line(f"{arguments.output}: {len(made.entries)} entries, {len(made.fences)} fences drive by drive")
        if fleet.survey is None and not arguments.no_survey:
            screen.line(f"the drives were not read: {fleet.why}", "yellow")
        for one in made.history.unread:
            screen.line(f"{one.path} cannot be read, so this may not be all: {one.reason}", "red")
    return code


def _fleet(settings: Settings, screen: Screen, *, wanted: bool) -> Fleet:
    """Read the records, and the drives if that is wanted and possible."""
    there = places(settings)
    before, unread = there.store.load_all()
    if not wanted:
        return _on_record(Fleet(why="that was not wanted (--no-survey)", unread=unread), before)
    try:
        hostmap = load(settings.hosts)
        site = open_site(settings)
    except NvmefenceError as error:
        return _on_record(Fleet(why=error.what, unread=unread), before)
    hosts = list(hostmap.hosts.values())
    offline = any(one.stays for record in before for one in record.offline)
    screen.progress("reading the drives")
    try:
        found = site.discover()
        result = asyncio.run(survey(site.transport, hostmap, found, hosts, settings.deadline, secondaries=offline))
    except OSError as error:
        why = f"they cannot be found: {error.strerror or error}"
        return _on_record(Fleet(why=why, unread=unread, simulated=site.simulated), before)
    finally:
        site.transport.close()
    shown, unread = status.on_record(there, before, result, set(hostmap.hosts))
    shown += status.strangers(before, hostmap)
    return Fleet(
        survey=result,
        hosts=list(hostmap.hosts),
        simulated=site.simulated,
        fenced=[one.record.host for one in shown if counts(one.record)],
        back=[one.record.host for one in shown if one.returned is not None],
        on_record=[(one.words(), one.colour) for one in shown],
        unread=unread,
    )


def _on_record(fleet: Fleet, records: list[Record]) -> Fleet:
    """Add who is on record, as far as that is known without looking at drives."""
    shown = [status.OnRecord(record) for record in records]
    fleet.on_record = [(one.words(), one.colour) for one in shown]
    fleet.fenced = [one.record.host for one in shown if counts(one.record)]
    return fleet

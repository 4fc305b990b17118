"""`nvmefence status`: hosts against drives, read from the drives just now."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Final

from nvmefence.cli.text import Cell, Screen
from nvmefence.errors import Exit
from nvmefence.fencing.survey import DriveSurvey, State, Survey, survey
from nvmefence.inventory.hostfile import load
from nvmefence.settings import Settings
from nvmefence.site import open_site

_COLOURS: Final = {State.ATTACHED: "green", State.PARTLY: "yellow", State.NONE: "blue", State.UNKNOWN: "red"}


def status(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Print which host is attached to which drive."""
    hostmap = load(settings.hosts)
    asked = map(hostmap.find, arguments.host) if arguments.host else hostmap.hosts.values()
    hosts = list({host.name: host for host in asked}.values())
    site = open_site(settings)
    screen.progress("reading the drives")
    try:
        result = asyncio.run(survey(site.transport, hostmap, site.discover(), hosts, settings.deadline))
    finally:
        site.transport.close()
        screen.clear()
    code = Exit.OK if result.complete else Exit.DRIVES_MISSING if result.missing else Exit.UNKNOWN_STATE
    if not result.drives:
        code = Exit.DRIVES_MISSING
    if arguments.json:
        document = {
            "simulated": site.simulated,
            "exit": int(code),
            "missing": list(result.missing),
            "drives": [drive.to_json() for drive in result.drives],
        }
        screen.raw(json.dumps(document, indent=2))
        return code
    if site.simulated:
        screen.line("SIMULATED", "yellow")
    _matrix(result, [host.name for host in hosts], screen)
    return code


def _matrix(result: Survey, hosts: list[str], screen: Screen) -> None:
    """Print a row per drive and a column per host; the words do not need the colours."""
    rows: list[list[Cell | str]] = []
    for drive in result.drives:
        cells = [_cell(drive, host) for host in hosts]
        rows.append([drive.serial, str(len(drive.namespaces)) if drive.namespaces else "-", *cells])
    screen.table(["drive", "namespaces", *hosts], rows)
    for text in result.missing:
        screen.line(text, "red")
    if not result.drives:
        screen.line("no expected drive is there: is this the right machine? see: nvmefence check", "red")
    seen = set()
    for drive in result.drives:
        for name in hosts:
            entry = drive.hosts[name]
            text = f"{drive.serial}: {entry.reason}" + (f" ({entry.advice})" if entry.advice else "")
            if entry.reason and text not in seen:
                seen.add(text)
                screen.line(text, "red")


def _cell(drive: DriveSurvey, host: str) -> Cell:
    entry = drive.hosts[host]
    text = entry.state.value
    if entry.state is State.PARTLY:
        text = f"partly {len(entry.attached)}/{len(drive.namespaces)}"
    return Cell(text, _COLOURS[entry.state])

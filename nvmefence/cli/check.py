"""`nvmefence check`: would a fence work now? Every drive is asked, nothing is changed."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Final

from nvmefence.cli.text import Cell, Screen
from nvmefence.errors import Exit
from nvmefence.fencing import preflight
from nvmefence.fencing.preflight import Finding, Level
from nvmefence.inventory.hostfile import load
from nvmefence.settings import Settings
from nvmefence.site import open_site

COLOURS: Final = {Level.OK: "green", Level.NOTE: "yellow", Level.FAIL: "red"}


def check(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Print what was checked and what was found."""
    hostmap = load(settings.hosts)
    findings = [Finding(Level.OK, "map", f"{hostmap.path}: {len(hostmap.hosts)} hosts")]
    site = open_site(settings)
    try:
        findings += _backend_findings(site.transport.backend)
        found = site.discover()
        more, every = asyncio.run(
            preflight.check(site.transport, hostmap, found, settings.quiesce, settings.deadline, screen.progress)
        )
    finally:
        site.transport.close()
        screen.clear()
    findings += more
    failed = [finding for finding in findings if finding.level is Level.FAIL]
    code = Exit.CHECK_FAILED if failed else Exit.OK
    if arguments.json:
        document = {
            "simulated": site.simulated,
            "exit": int(code),
            "findings": [finding.to_json() for finding in findings],
            "drives": [facts.to_json() for facts in every],
        }
        screen.raw(json.dumps(document, indent=2))
        return code
    if site.simulated:
        screen.line("SIMULATED", "yellow")
    screen.table(
        ["", "what", "finding"],
        [[Cell(f.level.value, COLOURS[f.level]), f.subject, f.text] for f in findings],
    )
    for finding in failed:
        if finding.advice:
            screen.line(f"{finding.subject}: {finding.text}: {finding.advice}")
    if failed:
        screen.line(f"{len(failed)} findings stand in the way of a fence", "red")
    else:
        screen.line(f"every host of the map could be fenced now on {len(every)} drives", "green")
    return code


def _backend_findings(chosen: str) -> list[Finding]:
    if chosen == "simulated":
        return [Finding(Level.NOTE, "backend", "simulated: no real drive is touched")]
    from nvmefence.nvme.queue import probe_backends

    findings = [Finding(Level.OK, "backend", f"{chosen} is used")]
    findings += [
        Finding(Level.NOTE, "backend", f"{name} is not available: {reason}")
        for name, reason in probe_backends().items()
        if reason
    ]
    return findings

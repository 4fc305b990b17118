"""`nvmefence hosts show` and `nvmefence hosts discover`."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence

from nvmefence.cli.text import Screen, plain
from nvmefence.errors import Exit
from nvmefence.fencing.preflight import DriveFacts, inspect
from nvmefence.inventory.hostfile import load
from nvmefence.inventory.hostmap import Expected, HostMap
from nvmefence.settings import Settings
from nvmefence.site import open_site


def show(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Print the host map as it was understood."""
    hostmap = load(settings.hosts)
    expected = hostmap.expected
    if arguments.json:
        document = {
            "path": hostmap.path,
            "expected": {"count": expected.count, "serials": expected.serials, "nqns": expected.nqns},
            "ignore": expected.ignore,
            "own": hostmap.own,
            "hosts": {h.name: {"aliases": h.aliases, "is": h.selector.words()} for h in hostmap.hosts.values()},
        }
        screen.raw(json.dumps(document, indent=2))
        return Exit.OK
    screen.table(
        ["host", "is", "aliases"],
        [[host.name, host.selector.words(), " ".join(host.aliases)] for host in hostmap.hosts.values()],
    )
    names = expected.serials or expected.nqns
    screen.line(f"expected drives: {expected.count if expected.count is not None else ', '.join(names)}")
    return Exit.OK


def discover(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Print the drives and controllers that are there, as a host map to fill in."""
    site = open_site(settings)
    anything = HostMap("", {}, Expected(count=1))
    screen.progress("reading the drives")
    try:
        every = asyncio.run(inspect(site.transport, site.discover(), anything, settings.deadline))
    finally:
        site.transport.close()
        screen.clear()
    unread = [facts.drive.serial for facts in every if facts.problem]
    code = Exit.UNKNOWN_STATE if unread else Exit.OK if every else Exit.DRIVES_MISSING
    if arguments.json:
        drives = [facts.to_json() for facts in every]
        screen.raw(json.dumps({"simulated": site.simulated, "exit": int(code), "drives": drives}, indent=2))
    elif every:
        screen.raw(as_map(every, site.simulated))
    if not every:
        screen.error(
            "no NVMe drive was found on this machine", "is the nvme driver loaded? see: ls /sys/class/nvme"
        )
    if unread:
        screen.error(f"could not read {', '.join(unread)}", "see: nvmefence hosts discover --json")
    return code


def as_map(every: Sequence[DriveFacts], simulated: bool) -> str:
    """Return a host map to fill in: what was found as comments, the rest as TOML that the parser takes."""
    lines = ["# SIMULATED: these drives are emulated"] if simulated else []
    lines += [
        "# Found on this machine; name the hosts, and remove the drives that are not shared.",
        "version = 1",
        "",
    ]
    for facts in every:
        lines += [f"# {line}" for line in _describe(facts)]
    serials = ", ".join(json.dumps(facts.drive.serial) for facts in every)
    lines += ["", "[drives]", f"serials = [{serials}]"]
    local = {c.cntlid for facts in every for c in facts.drive.controllers}
    views = any(len(facts.drive.controllers) > 1 for facts in every)
    if views:
        lines += [
            "# Several controllers of a drive are visible here. All of them count as this machine's own, unless:",
            '# own = "physical"   # or the ids: own = [0]',
        ]
    lines.append("")
    secondaries = next((facts.secondaries for facts in every if facts.secondaries), None)
    if secondaries:
        lines.append("# Virtual function 1 is the Rabbit's own where computes have NNF slots (slot = VF - 2).")
        names = [(f"HOST-VF{entry.vf}", f"vf = {entry.vf}") for entry in secondaries if entry.vf]
    else:
        ids = sorted({c for facts in every for c in facts.controllers or ()} - local)
        names = [(f"HOST-{cntlid}", f"controllers = [{cntlid}]") for cntlid in ids]
    for name, selector in names or [("HOST-1", "controllers = [1]   # no other controller was found")]:
        lines += [f"# [hosts.{name}]", f"# {selector}"]
    return "\n".join(lines)


def _describe(facts: DriveFacts) -> list[str]:
    drive = facts.drive
    if facts.problem:
        return [plain(f"{drive.serial}: {facts.problem}")]
    text = (
        f"{drive.serial} ({drive.model}) at {facts.device}: our controller {facts.own_controller}, "
        f"{len(facts.namespaces)} namespaces, controllers {_ranges(facts.controllers or [])}"
    )
    lines = [plain(text)]
    if facts.secondaries:
        pairs = ", ".join(
            f"VF{entry.vf}={entry.cntlid}{'' if entry.online else ' (offline)'}" for entry in facts.secondaries
        )
        lines.append(f"  secondary controllers: {pairs}")
    return lines


def _ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as "0-3, 7"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts) or "none"

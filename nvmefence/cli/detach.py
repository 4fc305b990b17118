"""`nvmefence detach`: the emergency command. It needs the host map and the drives, and nothing that runs."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
from collections.abc import Mapping, Sequence

from nvmefence import direct_guard
from nvmefence.cli import after
from nvmefence.cli.text import Cell, Screen
from nvmefence.direct import Direct
from nvmefence.errors import Exit
from nvmefence.fencing.evidence import DriveEvidence, FenceReport, Outcome
from nvmefence.fencing.survey import Survey, plan
from nvmefence.settings import Settings, check_deadline

_TICK = 0.2
_COLOURS = {
    Outcome.CUT: "green",
    Outcome.ALREADY: "green",
    Outcome.ATTACHED: "red",
    Outcome.UNKNOWN: "red",
    Outcome.REFUSED: "red",
}


def detach(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Fence the hosts named on the command line and print the evidence."""
    check_deadline(settings)
    helper, no_helper = (None, "") if arguments.dry_run else after.begin(settings)
    with Direct(settings, arguments.host) as direct:
        if arguments.dry_run:
            return _dry_run(asyncio.run(_survey(direct, screen)), direct.names, arguments.json, screen)
        _tell_mass_fence(direct_guard.ask(settings, direct.names, by_hand=True), screen)
        report = asyncio.run(_fence(direct, screen))
    code = exit_code(report)
    if arguments.json:
        missing = direct.unrecorded
        results = [{**report.to_json(host), "not_on_record": missing.get(host, "")} for host in report.hosts]
        screen.raw(json.dumps({"simulated": report.simulated, "exit": int(code), "hosts": results}, indent=2))
    else:
        _print(report, screen)
        _tell_record(report, direct.unrecorded, screen)
    if no_helper:
        screen.note(f"nothing is done after the fence: {no_helper}")
    if helper is not None:
        after.follow(helper, report, direct.hosts, screen)
    return code


def _tell_mass_fence(said: direct_guard.Said, screen: Screen) -> None:
    """Say that there are many. A person asked for them by name, so that they are not held."""
    for text in filter(None, (said.alarm, said.trouble)):
        screen.note(text)


def exit_code(report: FenceReport) -> Exit:
    """Return the exit code for a report: 0 only when every host is confirmed on every expected drive."""
    if all(report.confirmed(host) for host in report.hosts):
        return Exit.OK
    outcomes = {drive.outcome(host) for drive in report.drives for host in report.hosts}
    if Outcome.REFUSED in outcomes:
        return Exit.REFUSED
    if any(not outcome.confirmed for outcome in outcomes):
        return Exit.NOT_CONFIRMED
    return Exit.DRIVES_MISSING


async def _fence(direct: Direct, screen: Screen) -> FenceReport:
    board = _Board(screen, direct.names)
    ticker = asyncio.create_task(board.tick()) if screen.live else None
    try:
        return await direct.fence(board.heard)
    finally:
        if ticker is not None:
            ticker.cancel()
        screen.clear()


class _Board:
    """Progress, drive by drive, for somebody who looks at a terminal."""

    def __init__(self, screen: Screen, hosts: Sequence[str]) -> None:
        self.screen = screen
        self.hosts = hosts
        self.working: dict[str, str] = {}

    def heard(self, drive: DriveEvidence, phase: str) -> None:
        if not self.screen.live:
            return
        if phase != "done":
            self.working[drive.serial] = phase
            return
        self.working.pop(drive.serial, None)
        worst = max((drive.outcome(host) for host in self.hosts), key=lambda outcome: not outcome.confirmed)
        text = f"  {drive.serial:<20}  {worst.value}"
        if not worst.confirmed:
            text += "  " + "; ".join(filter(None, (drive.reason(host) for host in self.hosts)))
        self.screen.settled(text, _COLOURS[worst])

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            shown = ", ".join(f"{serial} ({phase})" for serial, phase in list(self.working.items())[:3])
            more = f" and {len(self.working) - 3} more" if len(self.working) > 3 else ""
            self.screen.progress(f"fencing {', '.join(self.hosts)}: waiting for {shown}{more}")


def _print(report: FenceReport, screen: Screen) -> None:
    for host in report.hosts:
        confirmed = report.confirmed(host)
        screen.table(
            ["drive", "through", "result", "controllers", "detached from", "ms", "quiesce", "note"],
            [_row(drive, host) for drive in report.drives],
        )
        screen.line(report.message(host), "green" if confirmed else "red")
        if confirmed:
            _explain_quiesce(report, host, screen)
        else:
            _what_next(report, host, screen)


def _row(drive: DriveEvidence, host: str) -> list[Cell | str]:
    outcome = drive.outcome(host)
    taken = drive.detached(host)
    through = f"{drive.device} (controller {drive.own_controller})" if drive.device else "-"
    return [
        drive.serial,
        through,
        Cell(outcome.value, _COLOURS[outcome]),
        ",".join(map(str, drive.targets.get(host, ()))) or "-",
        f"{len(taken)} of {drive.namespaces} namespaces" if drive.namespaces else "-",
        f"{(drive.seconds.get('total', 0.0) - drive.seconds.get('quiesce', 0.0)) * 1000:.1f}",
        drive.quiesce if host in drive.quiesced else f"{drive.quiesce}: not met",
        drive.reason(host),
    ]


def _explain_quiesce(report: FenceReport, host: str, screen: Screen) -> None:
    """Say what became of writes under way, method by method, and what is left to be done."""
    methods = {drive.quiesce for drive in report.drives}
    if not methods.isdisjoint(("drain", "offline")):
        screen.line("Its secondary controllers went offline before the cut: nothing under way can land any more.")
    for method in sorted(methods - {"drain", "offline", "none"}):
        screen.line(
            f"Writes under way at the cut were given {method.partition(':')[2]} s to land before this line."
        )
    if "none" in methods:
        screen.line(
            "Quiesce is none: a write that a drive was already working on at the cut may still land.", "yellow"
        )
    for drive in report.drives:
        for cntlid in drive.offline(host):
            why = drive.secondaries[cntlid].problem
            screen.line(
                f"{drive.serial}: controller {cntlid} {why or 'stays offline until the host is restored'}",
                "yellow" if why else "",
            )


def _tell_record(report: FenceReport, unrecorded: Mapping[str, str], screen: Screen) -> None:
    """Say how what was taken can be given back, or that nothing knows what it was but this output."""
    for host in report.hosts:
        if host in unrecorded:
            screen.line(f"{host}: what was taken is NOT on record: {unrecorded[host]}", "yellow")
            screen.line("Keep this output: a restore will not know what to give back.", "yellow")
        elif any(drive.detached(host) for drive in report.drives):
            screen.line(f"What was taken is on record. Give it back: nvmefence restore --host {shlex.quote(host)}")


def _what_next(report: FenceReport, host: str, screen: Screen) -> None:
    screen.line(f"{host} may still be able to write. What to do:", "bold")
    advice = [f"{drive.serial}: {drive.advice}" for drive in report.drives if drive.reason(host) and drive.advice]
    if report.missing:
        advice.append(
            "make the drives agree with [drives] in the host map: put a missing one back, or correct the map"
        )
    for text in dict.fromkeys(advice):
        screen.line(f"  - {text}")
    screen.line(f"  - try again: nvmefence detach --host {shlex.quote(host)}")
    screen.line(f"  - look: nvmefence status --host {shlex.quote(host)}")
    screen.line(
        f"  - or switch {host} off by its power; do not confirm the fence by hand before one of them is done"
    )


async def _survey(direct: Direct, screen: Screen) -> Survey:
    screen.progress("reading the drives")
    try:
        return await direct.survey(direct.settings.deadline)
    finally:
        screen.clear()


def _dry_run(result: Survey, names: Sequence[str], as_json: bool, screen: Screen) -> int:
    planned = plan(result, names)
    refused = any(h.reason and not d.problem for d in result.drives for h in d.hosts.values())
    code = Exit.OK
    if not result.complete:
        code = Exit.REFUSED if refused else Exit.UNKNOWN_STATE if result.drives else Exit.DRIVES_MISSING
        if code is Exit.UNKNOWN_STATE and result.missing:
            code = Exit.DRIVES_MISSING
    simulated = result.backend == "simulated"
    if as_json:
        document = {
            "dry_run": True,
            "simulated": simulated,
            "exit": int(code),
            "commands": [command.to_json() for command in planned],
            "missing": list(result.missing),
            "drives": [drive.to_json() for drive in result.drives],
        }
        screen.raw(json.dumps(document, indent=2))
        return code
    for command in planned:
        screen.line(command.words())
    mark = "SIMULATED: " if simulated else ""
    screen.line(
        f"{mark}dry run: {len(planned)} commands would be sent to cut {', '.join(names)}; none was sent", "bold"
    )
    for text in result.missing:
        screen.line(f"{text}: a fence would not be confirmed", "red")
    for drive in result.drives:
        for text in dict.fromkeys([drive.problem, *(host.reason for host in drive.hosts.values())]):
            if text:
                screen.line(f"{drive.serial}: {text}: a fence would not be confirmed", "red")
    return code

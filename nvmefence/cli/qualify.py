"""`nvmefence qualify`: what a drive does with writes, resets and cuts, measured on one that is set aside."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from nvmefence import __version__
from nvmefence.cli import pages
from nvmefence.cli.text import Cell, Screen
from nvmefence.errors import AccessError, Exit
from nvmefence.inventory import hostfile
from nvmefence.inventory.hostmap import HostMap
from nvmefence.nvme.emulated import EmulatedTransport
from nvmefence.nvme.transport import Transport
from nvmefence.qualify import ground, judge
from nvmefence.qualify.bench import Bench, beside
from nvmefence.qualify.blocks import BlockBench
from nvmefence.qualify.control import Control
from nvmefence.qualify.figures import Plan, QualifyRefusedError, State, Trouble
from nvmefence.qualify.ground import Ground, Named
from nvmefence.qualify.measure import Measurement
from nvmefence.qualify.putback import by_hand, put_back
from nvmefence.qualify.rehearsal import Rehearsal
from nvmefence.qualify.report import Report
from nvmefence.settings import HOSTS_FILE, Settings
from nvmefence.site import Site, open_site

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ASKED_S: Final = 600.0
_GOOD: Final = {True: "green", False: "red", None: "yellow"}
_VERDICTS: Final = {"justified": "green", "ruled_out": "red", "not_known": "yellow"}


def qualify(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Measure, put the drive back as it was, and report."""
    plan = Plan(
        arguments.rounds, arguments.timing_rounds, arguments.watch, arguments.writes, arguments.write_size,
        arguments.pause, frozenset(arguments.only or ()), arguments.subsystem_reset,
    )  # fmt: skip
    named = Named(arguments.drive, arguments.controller, arguments.namespace, arguments.reader)
    hostmap = _hostmap(settings)
    site = open_site(settings)
    transports, why = [site.transport], ""
    try:
        if not site.simulated and settings.backend == "auto":
            more, why = _other_backend(site.transport.backend)
            transports += more
        work = _Work(site, transports, named, plan, hostmap, screen)
        report = asyncio.run(work.run(ask=not arguments.yes_destroy_data))
    finally:
        for transport in transports:
            transport.close()
        screen.clear()
    if why:
        report.notes.append(f"no times by io_uring: {why}")
    if hostmap is None and not report.simulated:
        report.notes.append(f"there is no {settings.hosts}: no host's use of the drive is known from there")
    _publish(report, arguments, screen)
    return report.exit()


def _hostmap(settings: Settings) -> HostMap | None:
    """Read the host map. A machine that is set aside may have none; that of real drives is not of emulated ones."""
    if settings.hosts == HOSTS_FILE and (settings.simulate or not os.path.lexists(HOSTS_FILE)):
        return None
    return hostfile.load(settings.hosts)


def _other_backend(chosen: str) -> tuple[list[Transport], str]:
    """Return the other backend's transport, and why there is none of io_uring."""
    from nvmefence.nvme.queue import open_queue, probe_backends

    if chosen == "io_uring":
        return [open_queue("ioctl")], ""
    return [], probe_backends()["io_uring"]


class _Work:
    """One measurement from the first look to the last read-back."""

    def __init__(
        self,
        site: Site,
        transports: Sequence[Transport],
        named: Named,
        plan: Plan,
        hostmap: HostMap | None,
        screen: Screen,
    ) -> None:
        self._site, self._transports, self._named = site, transports, named
        self._plan, self._hostmap, self._screen = plan, hostmap, screen
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    async def run(self, *, ask: bool) -> Report:
        """Check, ask, measure, put back."""
        place = ground.find(self._named, self._site.discover(), simulated=self._site.simulated)
        controls = [
            Control(transport, place.drive, place.own, self._named.target, self._named.nsid)
            for transport in self._transports
        ]
        bench: Bench | None = None
        try:
            for control in controls:
                await control.open()
            before = await controls[0].state()
            await ground.check(controls[0], before, self._hostmap, simulated=self._site.simulated)
            bench = self._bench(place)
            await bench.ready()
            if ask and not bench.simulated:
                await self._ask(place)
        except Trouble as trouble:
            if bench is not None:
                bench.close()
            for control in controls:
                control.close()
            raise QualifyRefusedError(str(trouble), "nothing was written or changed") from None
        try:
            return await self._measured(controls, bench, before, place)
        finally:
            bench.close()
            for control in controls:
                control.close()

    def _bench(self, place: Ground) -> Bench:
        transport = self._transports[0]
        if isinstance(transport, EmulatedTransport):
            subsystem = transport.subsystem(place.own.path)
            return Rehearsal(transport, subsystem, self._named.target, self._named.nsid, self._plan)
        if place.target is None:
            raise Trouble(f"this machine's kernel does not drive controller {self._named.target}")
        bench = BlockBench(place.target, place.own, self._named.nsid, self._plan)
        try:
            bench.open()
        except PermissionError as error:
            raise AccessError(f"the block device cannot be opened: {error.strerror}", "run as root") from None
        return bench

    async def _ask(self, place: Ground) -> None:
        """Have a person confirm by the drive's serial number. Raises QualifyRefusedError."""
        serial = place.drive.serial
        if not sys.stdin.isatty():
            raise QualifyRefusedError(
                "nobody can be asked whether the namespace may be overwritten",
                "give --yes-destroy-data if it is the right one",
            )
        self._screen.note(
            f"this OVERWRITES namespace {self._named.nsid} of {place.drive.model} {serial}, and cuts and resets "
            f"controllers {self._named.target} and {place.own.cntlid}. Type the serial number to go on:"
        )
        self._screen.drain()
        answer = await beside(sys.stdin.readline, _ASKED_S, "your answer")
        if answer.strip() != serial:
            raise QualifyRefusedError("that is not the serial number", "nothing was written or changed")

    async def _measured(self, controls: Sequence[Control], bench: Bench, before: State, place: Ground) -> Report:
        report = Report(
            place.drive, self._named.target, place.own.cntlid, self._named.nsid, self._plan,
            controls[0].backend, platform.release(), __version__,
            datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"), self._site.simulated,
        )  # fmt: skip
        if not bench.simulated:
            for command in by_hand(controls[0], before.attachments):
                self._screen.note(f"should this process be killed, what it changed is put back by: {command}")
        measurement = Measurement(controls, bench, self._plan, before, self._screen.progress)
        loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(measurement.run())
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop)
        try:
            await asyncio.wait([self._task])
            report.measured = measurement.measured
            report.interrupted = self._stopped
            failure = None if self._task.cancelled() else self._task.exception()
            if isinstance(failure, Trouble):
                report.trouble = str(failure)
            self._screen.progress("putting the drive back as it was")
            report.left = await put_back(controls[0], bench, before)
            try:
                await bench.ready()
            except Trouble as trouble:
                report.notes.append(str(trouble))
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
        if failure is not None and not isinstance(failure, Trouble):
            for text in report.left:
                self._screen.error(f"the drive is not as it was before: {text}")
            raise failure
        return report

    def _stop(self) -> None:
        """Stop measuring, at a signal; the drive is put back whatever else comes."""
        if not self._stopped and self._task is not None:
            self._stopped = True
            self._task.cancel()
        self._screen.note("stopping; the drive is put back first")


# The report


def _publish(report: Report, arguments: argparse.Namespace, screen: Screen) -> None:
    """Print it, and write it to a file if that is wanted."""
    document = json.dumps(report.to_json(), indent=2)
    if arguments.output:
        text = document + "\n" if arguments.json else as_text(report)
        try:
            pages.replace(arguments.output, text.encode("utf-8", "backslashreplace"), "name another file with -o")
        finally:  # what took hours to measure is shown all the same
            _show(report, document, arguments, screen)
    else:
        _show(report, document, arguments, screen)


def _show(report: Report, document: str, arguments: argparse.Namespace, screen: Screen) -> None:
    if arguments.json:
        screen.raw(document)
    else:
        print_report(report, screen)


def as_text(report: Report) -> str:
    """Return the report as plain text."""
    out = io.StringIO()
    screen = Screen(out, io.StringIO())
    screen.colour = False
    print_report(report, screen)
    return out.getvalue()


def print_report(report: Report, screen: Screen) -> None:
    """Print the report for people."""
    if report.simulated:
        screen.line("SIMULATED: no drive was measured", "yellow")
    drive = report.drive
    screen.table(
        ["drive", ""],
        [
            ["model", drive.model],
            ["firmware", drive.firmware],
            ["serial", drive.serial],
            ["NQN", drive.nqn],
            ["controllers", f"{report.target} writes and is cut, {report.own} cuts and reads back"],
            ["namespace", str(report.nsid)],
            ["kernel", report.kernel],
            ["backend", report.backend],
            ["date", report.date],
            ["nvmefence", report.version],
            ["method", report.method()],
        ],
    )
    screen.line()
    found: list[list[Cell | str]] = [
        [one.question, Cell(one.text, _GOOD[one.good])] for one in judge.answers(report.measured)
    ]
    screen.table(["question", "answer"], found)
    screen.line()
    screen.table(
        ["quiesce", "verdict", "why"],
        [
            [rule.quiesce, Cell(rule.verdict.replace("_", " "), _VERDICTS[rule.verdict]), rule.why]
            for rule in judge.rules(report.measured)
        ],
    )
    screen.line()
    _print_settings(report, screen)
    _print_end(report, screen)


def _print_settings(report: Report, screen: Screen) -> None:
    lines = report.settings()
    if not lines:
        screen.line("No settings follow from this: what is needed for them was not measured.", "yellow")
        return
    mark = "SIMULATED, not to be used: " if report.simulated else ""
    screen.line(f"{mark}For /etc/nvmefence/nvmefence.toml, if all drives of the model have this firmware:", "bold")
    screen.line()
    for line in lines:
        screen.line(f"    {line}" if line else "")
    screen.line()


def _print_end(report: Report, screen: Screen) -> None:
    for text in report.notes:
        screen.line(f"Note: {text}", "dim")
    if report.interrupted:
        screen.line("Interrupted: this is what was measured until then.", "red")
    if report.trouble:
        screen.line(f"Broken off: {report.trouble}", "red")
    for text in report.unanswered:
        screen.line(f"Not measured, or not to the end: {text}", "yellow")
    if report.left:
        screen.line("The drive is NOT as it was before:", "red")
        for text in report.left:
            screen.line(f"  {text}", "red")
    else:
        screen.line("All attachments and controllers are as they were before: read back.", "green")
    if report.exit() is Exit.OK:
        screen.line("Everything that was asked was measured.", "green")

"""What a drive that answers late, or never, does to the others: on emulated drives, in this process."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import statistics
import time
from dataclasses import dataclass

from nvmefence.fencing import quiesce
from nvmefence.fencing.evidence import DriveEvidence, FenceReport
from nvmefence.fencing.fence import fence
from nvmefence.fencing.options import Options
from nvmefence.nvme.emulated import Fault, delay, hang
from tests.bench.emulation import Fleet, Site, name, path
from tests.bench.figures import Aim
from tests.bench.sheet import Grid, Row, Sheet, count, duration, ratio
from tests.bench.turns import WrongResult

DRIVES = 18
NAMESPACES = 4
HOSTS = 16
LATENCY_S = 0.002
"""Of every command: what a drive takes about."""
LATE_S = 5.0
BAD = 7
"""The drive that is late."""
DEADLINE_S = 0.8
PATIENT_S = 30.0
BEFORE_S = 0.1
"""How long a fence has been waiting for the drive when another one comes."""
LOOK_S = 0.3
"""After so many seconds the other drives are cut, and a fence with a late one has nothing to do but to wait."""
COLUMNS = (
    "rounds",
    "all others cut after",
    "to none late",
    "median drive cut after",
    "median to none late",
    "answer after",
)


@dataclass(frozen=True)
class Kind:
    """A trouble, and what is to come of the fence."""

    key: str
    title: str
    fault: Fault | None
    deadline: float
    confirmed: bool
    beside: bool = False
    """Another fence has been waiting for the drive already."""


NONE = Kind("none", "no drive is late", None, PATIENT_S, True)
KINDS = (
    NONE,
    Kind("never", "a drive never answers", hang(), DEADLINE_S, False),
    Kind("beside", "never, and another fence waits for it already", hang(), DEADLINE_S, False, beside=True),
    Kind("late", f"a drive answers each command after {LATE_S:g} s", delay(LATE_S), PATIENT_S, True),
)


@dataclass(frozen=True)
class Round:
    """One fence."""

    cut: list[float]
    """Seconds after which each of the other drives had answered its last detach."""
    answer: float


def measure(rounds: int) -> Sheet:
    """Measure, the kinds in turn. Raises WrongResult."""
    started = time.monotonic()
    found = asyncio.run(_all(rounds))
    where = {
        "emulated drives": f"{DRIVES}, with {NAMESPACES} namespaces, {LATENCY_S * 1e3:g} ms a command",
        "Python": platform.python_version(),
        "CPUs": str(os.cpu_count()),
        "whole run": f"{time.monotonic() - started:.0f} s",
    }
    rows = [_row(kind, found[kind.key], found[NONE.key]) for kind in KINDS]
    aims = [
        Aim(f"all others cut, {row.title}, to none late", row.cells[COLUMNS[2]].median, 1.1, True, "x")
        for row in rows[1:]
    ]
    grid = Grid(f"The {DRIVES - 1} other drives", "one of 18 drives", COLUMNS, rows)
    checked = "each time the others were cut and read back, and the answer was right about the late one"
    return Sheet(where, [grid], aims, checked)


def _row(kind: Kind, found: list[Round], base: list[Round]) -> Row:
    def last(rounds: list[Round]) -> list[float]:
        return [max(one.cut) for one in rounds]

    def middle(rounds: list[Round]) -> list[float]:
        return [statistics.median(one.cut) for one in rounds]

    cells = {
        COLUMNS[0]: count(len(found)),
        COLUMNS[1]: duration(last(found)),
        COLUMNS[2]: ratio(last(found), last(base)),
        COLUMNS[3]: duration(middle(found)),
        COLUMNS[4]: ratio(middle(found), middle(base)),
        COLUMNS[5]: duration([one.answer for one in found]),
    }
    if kind is NONE:
        del cells[COLUMNS[2]], cells[COLUMNS[4]]
    return Row(kind.key, kind.title, cells)


async def _all(rounds: int) -> dict[str, list[Round]]:
    """Fence so often with each kind of trouble, one fence at a time until the others are cut.

    Where a drive answers after seconds the rest of that fence goes on in the background: it only waits.
    """
    await _fence(NONE)
    fences: dict[str, list[asyncio.Task[Round]]] = {kind.key: [] for kind in KINDS}
    for number in range(rounds):
        for kind in KINDS if number % 2 else KINDS[::-1]:
            task = asyncio.ensure_future(_fence(kind))
            fences[kind.key].append(task)
            await asyncio.wait([task], timeout=LOOK_S if kind.key == "late" else None)
    return {key: list(await asyncio.gather(*tasks)) for key, tasks in fences.items()}


async def _fence(kind: Kind) -> Round:
    fleet = Fleet(Site([NAMESPACES] * DRIVES, HOSTS), latency=LATENCY_S)
    fault = kind.fault
    if fault is not None:
        fleet.transport.faults[path(BAD)] = lambda _path, _command: fault
    other = None
    if kind.beside:
        other = asyncio.ensure_future(_report(fleet, 1, 2 * kind.deadline + BEFORE_S))
        await asyncio.sleep(BEFORE_S)
    gc.collect()
    report = await _report(fleet, 0, kind.deadline)
    if other is not None:
        _check(fleet, await other, 1, kind)
    _check(fleet, report, 0, kind)
    others = [drive for drive in report.drives if drive.serial != fleet.drives[BAD].serial]
    return Round([_cut_after(drive) for drive in others], report.seconds)


async def _report(fleet: Fleet, host: int, deadline: float) -> FenceReport:
    options = Options(deadline, quiesce.parse("none"))
    return await fence(fleet.transport, fleet.hostmap, fleet.drives, [fleet.hostmap.find(name(host))], options)


def _cut_after(drive: DriveEvidence) -> float:
    return max(sent.started + sent.seconds for sent in drive.sent)


def _check(fleet: Fleet, report: FenceReport, host: int, kind: Kind) -> None:
    """The others are cut, in truth and by their evidence; the answer says what is so."""
    if report.confirmed(name(host)) is not kind.confirmed:
        raise WrongResult(f"{kind.title}: {report.message(name(host))}")
    mine = fleet.site.controllers(host)
    for number, (drive, subsystem) in enumerate(zip(report.drives, fleet.subsystems, strict=True)):
        attached = any(not mine.isdisjoint(subsystem.attached(nsid)) for nsid in subsystem.namespaces)
        expected = kind.confirmed or number != BAD
        if drive.outcome(name(host)).confirmed is not expected or attached is expected:
            raise WrongResult(f"{kind.title}: drive {number} is {'' if attached else 'not '}attached")

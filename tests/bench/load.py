"""Many requests at once, and many rounds of fence and restore: in this process, and asked of a real watcher."""

from __future__ import annotations

import argparse
import array
import asyncio
import contextlib
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nvmefence import direct_restore
from nvmefence.direct import Direct
from nvmefence.fencing import quiesce
from nvmefence.settings import Settings
from tests.bench.asking import Asked, Request, Station
from tests.bench.figures import Aim
from tests.bench.left_behind import Holding, holding
from tests.bench.sheet import Cell, Grid, Row, Sheet, Unit, count, duration, ratio, tail
from tests.bench.turns import WrongResult

BIN = Path(sys.executable).parent
STRANGER = "nobody"
ALONE = 50
"""Requests, one after the other, that the bursts are compared with."""
_SETTLE_S = 1.0
"""Seconds in which a watcher has written its logs."""
WARM = 0.1
"""Part of all rounds after which a process has what it needs: from then on it may not grow."""


@dataclass(frozen=True)
class Size:
    """Simulated drives, and hosts with a virtual function each; one function more is nobody's."""

    drives: int
    namespaces: int
    hosts: int

    def fleet(self) -> str:
        """Return the fleet file, to which the state's place is to be added."""
        functions = self.hosts + 1
        return (
            f"[fleet]\ndrives = {self.drives}\nsecondary_controllers = {functions}\n"
            f"namespaces = {self.namespaces}\n"
        )

    def hostmap(self) -> str:
        """Return the host map."""
        hosts = "".join(f"[hosts.c{host}]\nvf = {host + 1}\n" for host in range(self.hosts))
        return f"version = 1\n[drives]\ncount = {self.drives}\n{hosts}"

    def only_cut(self, station: Station, hosts: Iterable[int]) -> None:
        """These hosts are cut off every namespace, nobody else of any. Raises WrongResult."""
        cut = sum(1 << host + 1 for host in hosts)
        left = (((1 << self.hosts + 1) - 1) << 1) & ~cut
        drive = {"attached": {str(nsid): f"{left:x}" for nsid in range(1, self.namespaces + 1)}}
        expected = {f"SIM{number:05d}": drive for number in range(self.drives)} if cut else {}
        found = station.changed()
        if found != expected:
            raise WrongResult(f"of the drives' first state is changed {found}, expected {expected}")


CROWD = Size(drives=4, namespaces=4, hosts=64)
"""For requests at once."""
FEW = Size(drives=2, namespaces=2, hosts=10)
"""For rounds; so many hosts take part at a time."""
BURST_COLUMNS = (
    "requests",
    "wrong answers",
    "p50",
    "p99",
    "the last",
    "p50 to one alone",
    "p99 to one alone",
    "the last to the floor",
)
ROUND_COLUMNS = (
    "rounds",
    "a round",
    "the last tenth to the fifth",
    "descriptors",
    "threads",
    "files",
    "objects",
    "memory",
)


def measure(options: argparse.Namespace) -> Sheet:
    """Measure all of it. Raises WrongResult."""
    started = time.monotonic()
    rows, aims = _bursts(options.bursts, options.burst)
    grids = [Grid("Requests at once", f"of {CROWD.hosts} hosts, {CROWD.drives} drives", BURST_COLUMNS, rows)]
    rounds = []
    if options.restores:
        rounds.append(_here(options.restores))
    if options.asked_restores:
        rounds.append(_asked(options.asked_restores))
    if rounds:
        grids.append(Grid("Fence and restore; what was left behind", "where", ROUND_COLUMNS, rounds))
    aims += [
        Aim(f"left behind, {row.title}: {column}", row.cells[column].median, 0, True, "")
        for row in rounds
        for column in ("descriptors", "threads", "files")
    ]
    where = {
        "requests": f"{CROWD.drives} simulated drives, {CROWD.namespaces} namespaces each, directories on the disk",
        "rounds": f"{FEW.drives} simulated drives, {FEW.namespaces} namespaces each, directories in memory",
        "Python": platform.python_version(),
        "CPUs": str(os.cpu_count()),
        "whole run": f"{time.monotonic() - started:.0f} s",
    }
    checked = "every response was read, and the drives' state after every burst and after every tenth of the rounds"
    return Sheet(where, grids, aims, checked)


@contextlib.contextmanager
def _station(size: Size, *, in_memory: bool) -> Iterator[Station]:
    """Make a place; its directories are on the disk, which requests and responses are forced to, or in memory."""
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with (
        tempfile.TemporaryDirectory(prefix="nvmefence-bench-", dir=shared if in_memory else None) as folder,
        tempfile.TemporaryDirectory(prefix="nvmefence-bench-", dir=shared) as memory,
    ):
        yield Station(Path(folder), Path(memory), BIN / "nvmefence", size.fleet(), size.hostmap())


# Bursts


def _bursts(bursts: int, size: int) -> tuple[list[Row], list[Aim]]:
    with _station(CROWD, in_memory=False) as station, station.served("--mass-fence-hosts", "0") as pid:
        alone = [station.ask([station.draft(f"c{n % CROWD.hosts}")]).whole for n in range(ALONE)]
        station.state.unlink()
        found: list[Asked] = []
        wrong, floors, held = 0, [], []
        for _ in range(bursts):
            requests = _mixed(station, size)
            found.append(station.ask(requests))
            wrong += _wrong(station, requests)
            CROWD.only_cut(station, range(CROWD.hosts))
            station.state.unlink()
            wrong += _repeated(station, requests[:20])
            floors.append(_floor(station.place.path / "floor", [station.answer(one) for one in requests]))
            time.sleep(_SETTLE_S)
            held.append(holding(pid, ()).memory)
    latencies = [one.latencies for one in found]
    p50, p99 = tail(latencies, 50), tail(latencies, 99)
    last = [one.whole for one in found]
    cells = {
        BURST_COLUMNS[0]: count(size),
        BURST_COLUMNS[1]: count(wrong),
        BURST_COLUMNS[2]: duration(p50),
        BURST_COLUMNS[3]: duration(p99),
        BURST_COLUMNS[4]: duration(last),
        BURST_COLUMNS[5]: ratio(p50, alone),
        BURST_COLUMNS[6]: ratio(p99, alone),
        BURST_COLUMNS[7]: ratio(last, floors),
    }
    one = {
        BURST_COLUMNS[0]: count(1),
        BURST_COLUMNS[2]: duration(alone),
        BURST_COLUMNS[3]: duration(tail([alone], 99)),
    }
    rows = [
        Row("burst", f"{size} at once, {bursts} times", cells),
        Row("alone", f"one alone, {ALONE} times", one),
        Row(
            "floor",
            "the floor: as many answers forced to the disk, nothing else",
            {BURST_COLUMNS[4]: duration(floors)},
        ),
    ]
    grown = held[-1] / held[len(held) // 2]
    return rows, [
        Aim("wrong or missing answers", wrong, 0, True, ""),
        Aim("watcher's memory after the last burst, to that after half of them", grown, 1.05, True, "x"),
    ]


def _mixed(station: Station, size: int) -> list[Request]:
    """Return requests: many for each host, some of them the same request under another name, some for nobody."""
    requests: list[Request] = []
    for number in range(size):
        if number % 100 == 99:
            requests.append(station.draft(STRANGER))
        elif number % 10 == 9:
            again = requests[-1].document
            target, request_id = str(again["target_node"]), str(again["request_id"])
            requests.append(station.draft(target, request_id=request_id, name=f"{target}-{request_id}.json"))
        else:
            requests.append(station.draft(f"c{number % CROWD.hosts}"))
    return requests


def _wrong(station: Station, requests: Sequence[Request]) -> int:
    known = [request.document["target_node"] != STRANGER for request in requests]
    return sum(station.answer(one)["success"] is not good for one, good in zip(requests, known, strict=True))


def _repeated(station: Station, requests: Sequence[Request]) -> int:
    """Ask once more what was answered: the request goes, the response and the drives stay as they are."""
    before = {request.name: (station.place.answers / request.name).stat() for request in requests}
    for request in requests:
        station.place.put(request.name, json.dumps(request.document))
    until = time.monotonic() + 20
    while any((station.place.requests / name).exists() for name in before):
        if time.monotonic() > until:
            raise WrongResult("a request that was answered before stays")
        time.sleep(0.01)
    if station.changed():
        raise WrongResult("a request that was answered before has cut a host")
    return sum(
        (station.place.answers / name).stat().st_mtime_ns != stat.st_mtime_ns for name, stat in before.items()
    )


def _floor(folder: Path, answers: Sequence[object]) -> float:
    """Write as many answers as the watcher, each forced to the disk, and do nothing else; return the seconds."""
    folder.mkdir(exist_ok=True)
    started = time.monotonic()
    directory = os.open(folder, os.O_RDONLY)
    for number, answer in enumerate(answers):
        path = folder / f".{number}.json.tmp"
        with path.open("w") as file:
            json.dump(answer, file)
            file.flush()
            os.fsync(file.fileno())
        path.rename(folder / f"{number}.json")
    os.fsync(directory)
    os.close(directory)
    return time.monotonic() - started


# Rounds


class Growth:
    """What is held after a tenth of the rounds, and at the end."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self.seconds = array.array("d")
        self.first: tuple[Holding, int] | None = None

    @property
    def is_warm(self) -> bool:
        """Whether now is the moment to look for the first time."""
        return self.first is None and len(self.seconds) >= WARM * self._rounds

    def row(self, key: str, title: str, last: tuple[Holding, int], rounds: int) -> Row:
        """Return the row; objects that were not counted are left out."""
        if self.first is None:
            raise WrongResult("too few rounds")
        (before, objects), (after, more) = self.first, last
        part = max(1, len(self.seconds) // 10)
        cells = {
            ROUND_COLUMNS[0]: count(rounds),
            ROUND_COLUMNS[1]: duration([statistics.median(self.seconds)]),
            ROUND_COLUMNS[2]: ratio(self.seconds[-part:], self.seconds[4 * part : 5 * part]),
            ROUND_COLUMNS[3]: count(after.descriptors - before.descriptors),
            ROUND_COLUMNS[4]: count(after.threads - before.threads),
            ROUND_COLUMNS[5]: count(after.files - before.files),
            ROUND_COLUMNS[6]: Cell([(more - objects) / rounds / (1 - WARM)], Unit.SEEN),
            ROUND_COLUMNS[7]: Cell([float(after.memory - before.memory)], Unit.BYTES),
        }
        if not more:
            del cells[ROUND_COLUMNS[6]]
        return Row(key, title, cells)


def _here(rounds: int) -> Row:
    """Fence and restore in this process, as the command does, with the record."""
    with _station(FEW, in_memory=True) as station:
        place = station.place.path
        settings = Settings(
            hosts=str(place / "hosts.toml"),
            simulate=str(place / "fleet.toml"),
            quiesce=quiesce.parse("drain"),
            run_dir=str(place / "run"),
            response_dir=str(station.place.answers),
        )
        growth = Growth(rounds)
        last = asyncio.run(_rounds_here(station, settings, growth, rounds))
        return growth.row("here", "in this process, quiesce drain", last, rounds)


async def _rounds_here(station: Station, settings: Settings, growth: Growth, rounds: int) -> tuple[Holding, int]:
    for number in range(rounds):
        name = f"c{number % FEW.hosts}"
        started = time.monotonic()
        with Direct(settings, [name]) as direct:
            report = await direct.fence()
            if not report.confirmed(name) or direct.unrecorded:
                raise WrongResult(f"{report.message(name)} {direct.unrecorded}")
            if number % max(1, rounds // 10) == 0:
                FEW.only_cut(station, [number % FEW.hosts])
            until = asyncio.get_running_loop().time() + 30
            ended = await direct_restore.restore(direct, direct.hosts[0], until)
            if not ended.complete or (station.state.exists() and station.changed()):
                raise WrongResult(ended.message())
        growth.seconds.append(time.monotonic() - started)
        if growth.is_warm:
            growth.first = await _settled(station)
    return await _settled(station)


async def _settled(station: Station) -> tuple[Holding, int]:
    """Look at this process when what has ended is gone."""
    await asyncio.sleep(0.2)
    gc.collect()
    return holding(os.getpid(), station.directories()), sys.getallocatedblocks()


def _asked(rounds: int) -> Row:
    """Ask a watcher: hosts side by side are fenced, and when all are answered they are given everything back."""
    hosts = range(FEW.hosts)
    often = -(-rounds // FEW.hosts)
    growth = Growth(often)
    with _station(FEW, in_memory=True) as station:
        with station.served("--mass-fence-hosts", "0", "--agents-may-restore") as pid:
            for number in range(often):
                started = time.monotonic()
                for action in ("off", "on"):
                    requests = [station.draft(f"c{host}", action) for host in hosts]
                    station.ask(requests)
                    if number % max(1, often // 10) == 0:
                        _good(station, requests, hosts if action == "off" else ())
                growth.seconds.append(time.monotonic() - started)
                if growth.is_warm:
                    growth.first = _at_rest(pid, station)
            last = _at_rest(pid, station)
        title = f"asked of a watcher, {FEW.hosts} hosts at a time"
        return growth.row("asked", title, last, often * FEW.hosts)


def _good(station: Station, requests: Sequence[Request], cut: Sequence[int]) -> None:
    """All were answered with success, and only these hosts are cut."""
    for request in requests:
        answer = station.answer(request)
        if not answer["success"]:
            raise WrongResult(answer["message"])
    FEW.only_cut(station, cut)


ARCHIVED_AFTER_S = 13.0
"""Seconds after which the watcher has archived the responses to "on"."""


def _at_rest(pid: int, station: Station) -> tuple[Holding, int]:
    time.sleep(ARCHIVED_AFTER_S)
    return holding(pid, station.directories()), 0

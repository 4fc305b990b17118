"""A storm of hostile files over a real watcher process that goes on serving good requests."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from nvmefence import eventlog
from nvmefence.spool.directory import _REJECTED_BEYOND, REJECTED_KEPT
from tests.fuzz.changing import change
from tests.fuzz.entries import End, Entries, Entry, Surroundings, make
from tests.fuzz.reading import one_line
from tests.fuzz.runs import resident_kb
from tests.fuzz.siege import MEMORY
from tests.fuzz.texts import Requests
from tests.system.place import SLOT_0, SLOT_1
from tests.system.watching import Running, Watching, until

PATIENCE_S: Final = 6.0
READ_IN_A_SECOND: Final = 1000
"""A good request is answered within PATIENCE_S and the time in which a watcher, on whatever machine, reads all the
files: it may have to read each once to find those that are good."""
TIMEOUT_S: Final = 60.0
"""What the agents wait for."""
GROWTH_KB: Final = 24 * 1024
"""KiB by which the watcher may grow, and one more for each file, whose name it has to know while it waits."""
PEAK_KB: Final = 96 * 1024
"""The same for its worst moment."""
_EVERY_S: Final = 0.1
_BURST: Final = 100
_SLOWEST: Final = 40
"""Files a second that a watcher works off at least, on whatever machine."""


class Health(NamedTuple):
    """What a process holds."""

    descriptors: int
    threads: int
    resident_kb: int
    peak_kb: int


class Report(NamedTuple):
    """How it went."""

    files: int
    thrown_s: float
    worked_off_s: float
    waits: list[float]
    before: Health
    after: Health

    def __str__(self) -> str:
        return (
            f"storm: {self.files} files thrown in {self.thrown_s:.1f} s, worked off in {self.worked_off_s:.1f} s "
            f"({self.files / self.worked_off_s:.0f} a second); {len(self.waits)} good requests, all answered: "
            f"median {statistics.median(self.waits) * 1e3:.0f} ms, longest {max(self.waits) * 1e3:.0f} ms; "
            f"memory {self.before.resident_kb} to {self.after.resident_kb} KiB, at most {self.after.peak_kb} KiB"
        )


class Storm:
    """So many hostile files, as fast as they can be made."""

    def __init__(self, seed: int, files: int, say: Callable[[str], object] = lambda _text: None) -> None:
        self._seed = seed
        self._rng = random.Random(seed)
        self._files = files
        self._latest_s = min(PATIENCE_S + files / READ_IN_A_SECOND, TIMEOUT_S)
        self._say = say
        self._thrown: dict[bytes, Entry] = {}
        self._asked: dict[Path, float] = {}
        self._over = threading.Event()

    def hold(self) -> Report:
        """Let it come, and check everything. Raises AssertionError."""
        with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
            place = Watching(Path(directory))
            around = Surroundings(place.path, Requests(self._rng, time.time()).good("c2", "g").data, time.time())
            with place.watcher() as running:
                try:
                    report = self._storm(place, running)
                except AssertionError as error:
                    raise AssertionError(f"storm with seed {self._seed}, {self._files} files: {error}") from error
                assert running.stop() == 0, "it did not end well"
            around.hold()
            self._judge(place, running)
        return report

    def _storm(self, place: Watching, running: Running) -> Report:
        for name in ("p-0.json", "p-1.json"):
            place.answered(place.ask(name))
        time.sleep(1.0)
        before = health(running)
        good = threading.Thread(target=self._ask, args=(place,))
        good.start()
        start = time.monotonic()
        try:
            self._throw(place.requests)
            thrown = time.monotonic()
            self._worked_off(place, running)
            end = time.monotonic()
        finally:
            self._over.set()
            good.join()
        waits = self._waits()
        time.sleep(1.5)
        after = health(running)
        _stayed_well(before, after, self._files)
        return Report(len(self._thrown), thrown - start, end - start, waits, before, after)

    def _ask(self, place: Watching) -> None:
        """Ask for a fence of c1 again and again, as agents would."""
        rng = random.Random(self._seed + 1)
        while not self._over.is_set():
            request_id = f"{rng.getrandbits(64):016x}"
            asked = time.time()
            self._asked[place.ask(f"{request_id}.json", timeout_s=TIMEOUT_S)] = asked
            time.sleep(_EVERY_S)

    def _throw(self, requests: Path) -> None:
        last: list[Entry] = []
        for start in range(0, self._files, _BURST):
            now = time.time()
            entries = Entries(self._rng, now, ("p-0.json", "p-1.json"))
            burst = [entries.any() for _ in range(min(_BURST, self._files - start))]
            for entry in burst:
                make(entry, requests, now)
                self._thrown[entry.name] = entry
            for entry in last:
                with contextlib.suppress(FileNotFoundError):  # it was worked off by now
                    change(requests / os.fsdecode(entry.name), entry.detail.split()[0], now)
            last = [entry for entry in burst if entry.kind == "changing"]
            if start % 5000 == 0:
                self._say(f"  storm: {start + len(burst)} of {self._files} thrown")

    def _worked_off(self, place: Watching, running: Running) -> None:
        """Wait until nothing is left but what is to stay."""
        staying = {os.fsdecode(name) for name, entry in self._thrown.items() if entry.end is End.STAYS}

        def empty() -> bool:
            assert running.process.poll() is None, f"the watcher ended: {running.text()[-2000:]}"
            left = [
                entry
                for entry in os.scandir(place.requests)
                if entry.name.endswith(".json") and entry.name not in staying and not entry.name.startswith(".")
            ]
            # A file that was made a directory while it changed is none that could be worked off.
            return sum(not entry.is_dir(follow_symlinks=False) for entry in left) <= 3

        until(empty, "everything is worked off", 30 + self._files / _SLOWEST)

    def _waits(self) -> list[float]:
        """Return how long each good request waited; each was answered with success."""
        waits = []
        for response, asked in self._asked.items():
            until(response.exists, f"response {response.name}", self._latest_s)
            document = json.loads(response.read_bytes())
            assert document["success"] is True, f"not served: {document}"
            waits.append(max(response.stat().st_mtime - asked, 0.0))
        assert max(waits) <= self._latest_s, f"a good request waited {max(waits):.1f} s"
        return waits

    def _judge(self, place: Watching, running: Running) -> None:
        """Check what is there when it is all over."""
        good = {path.name for path in self._asked} | {"p-0.json", "p-1.json"}
        documents = {path.name: json.loads(path.read_bytes()) for path in place.answers.glob("[!.]*.json")}
        for name, document in documents.items():
            assert document["success"] is (name in good), f"{name}: {document}"
        rejected = os.listdir(os.fsencode(place.requests / "rejected"))
        told = re.findall(r"The request (\S+) is rejected:", running.text())
        # Of more than stay, the newest stay, each with its reason; what is gone was told.
        assert len(rejected) <= 2 * (REJECTED_KEPT + _REJECTED_BEYOND + 1), f"{len(rejected)} were kept"
        kept = {*rejected, *(os.fsencode(name) for name in told if len(told) > REJECTED_KEPT)}
        there = set(os.listdir(os.fsencode(place.requests)))
        for raw, entry in self._thrown.items():
            what = f"{raw!r} ({entry.kind}, {entry.detail!a}) must be: {entry.end.value}"
            assert (raw in there) is (entry.end is End.STAYS) or entry.end is End.GONE, what
            assert raw in kept or entry.end is not End.REJECTED, what
            assert os.fsdecode(raw) in documents or entry.end is not End.FAILED, what
        holders = {one for drive in place.attached().values() for ids in drive.values() for one in ids}
        assert SLOT_1 in holders, "a host that nobody asked to fence was cut"
        assert SLOT_0 not in holders, "a host was called fenced and is attached"
        _records(place, running, documents)


def health(running: Running) -> Health:
    """Return what the watcher holds."""
    pid = running.process.pid
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Health(descriptors, int(status["Threads"]), resident_kb(pid), int(status["VmHWM"].split()[0]))


def _stayed_well(before: Health, after: Health, files: int) -> None:
    # One is open for a moment now and then; what leaks does so for each of thousands of files.
    assert after.descriptors <= before.descriptors + 2, f"descriptors: {before.descriptors}, {after.descriptors}"
    assert after.threads == before.threads, f"threads: {before.threads}, then {after.threads}"
    grown, peak = after.resident_kb - before.resident_kb, after.peak_kb - before.resident_kb
    assert grown <= GROWTH_KB + files, f"grown by {grown} KiB"
    assert peak <= PEAK_KB + files, f"grown by {peak} KiB for a time"


def _records(place: Watching, running: Running, documents: dict[str, Any]) -> None:
    answered = set()
    for line in place.audit.read_bytes().splitlines(keepends=True):
        one_line(line)
        answered.add(json.loads(line).get("file"))
    assert set(documents) <= answered, "a response is not on record"
    for name in eventlog.FILES:
        for text in (place.logs / name).read_text().split("\n"):
            assert text.isprintable()
            assert name.endswith(".log") or not text or json.loads(text)
    assert all(line.isprintable() for line in running.text().split("\n"))

"""Runs of the fuzzers in this process: how many, how fast, and what to do with a failure to have it again."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.fuzz import reading, toml_reading
from tests.fuzz.readers import Answers, Audit
from tests.fuzz.siege import Round
from tests.fuzz.texts import Text

_WARM: Final = 0.1
"""Share of the inputs after which memory is looked at for the first time."""
GROWTH_KB: Final = 16 * 1024
"""KiB by which this process may grow after that."""
_SHOWN: Final = 600
"""Bytes of a failing input that are printed; the file has all."""
Progress = Callable[[str, int, int], None]
"""Hears of a run: its name, how many inputs are done, of how many."""


class Found(AssertionError):
    """An input that breaks something; says how to have it again."""


class Done(NamedTuple):
    """A run without a failure."""

    kind: str
    inputs: int
    seconds: float
    """Of this process's time on a processor."""
    ends: collections.Counter[str]
    """How often each kind of input ended how."""

    def __str__(self) -> str:
        rate = self.inputs / self.seconds if self.seconds else 0.0
        return f"{self.kind}: {self.inputs} inputs, {rate:.0f} a second"


def quiet(_kind: str, _done: int, _total: int) -> None:
    """Say nothing of how a run goes on."""


def request_texts(seed: int, numbers: range, progress: Progress = quiet) -> Done:
    """Read hostile requests, each in memory."""
    return _texts("requests", reading.make_request, reading.request_holds, seed, numbers, progress)


def response_texts(seed: int, numbers: range, progress: Progress = quiet) -> Done:
    """Read hostile responses, each in memory."""
    return _texts("responses", reading.make_response, reading.response_holds, seed, numbers, progress)


def host_maps(seed: int, numbers: range, progress: Progress = quiet) -> Done:
    """Read hostile host maps."""
    return _texts("host-maps", toml_reading.make_map, toml_reading.map_holds, seed, numbers, progress)


def settings_files(seed: int, numbers: range, progress: Progress = quiet) -> Done:
    """Read hostile settings files."""
    return _texts("settings", toml_reading.make_settings, toml_reading.settings_hold, seed, numbers, progress)


def fleet_files(seed: int, numbers: range, progress: Progress = quiet) -> Done:
    """Read hostile fleet files."""
    return _texts("fleets", toml_reading.make_fleet, toml_reading.fleet_holds, seed, numbers, progress)


def request_files(seed: int, numbers: range, progress: Progress = quiet) -> Done:
    """Have watchers serve directories of hostile files. A number is one directory of some dozens."""
    return _rounds("request-files", Round, "entries", seed, numbers, progress)


def response_files(seed: int, numbers: range, progress: Progress = quiet) -> Done:
    """Have agents and all others read directories of hostile responses."""
    return _rounds("response-files", Answers, "met", seed, numbers, progress)


def audit_files(seed: int, numbers: range, progress: Progress = quiet) -> Done:
    """Have `history` read hostile audits."""
    return _rounds("audit-files", Audit, "lines", seed, numbers, progress)


KINDS: Final[dict[str, Callable[[int, range, Progress], Done]]] = {
    "requests": request_texts,
    "responses": response_texts,
    "host-maps": host_maps,
    "settings": settings_files,
    "fleets": fleet_files,
    "request-files": request_files,
    "response-files": response_files,
    "audit-files": audit_files,
}


def _texts(
    kind: str,
    make: Callable[[int, int], Text],
    holds: Callable[[Text, int], str],
    seed: int,
    numbers: range,
    progress: Progress,
) -> Done:
    ends: collections.Counter[str] = collections.Counter()
    start = time.process_time()
    with untraced(), bounded(numbers) as step:
        for number in numbers:
            text = make(seed, number)
            try:
                end = holds(text, number)
            except Exception as error:
                raise _found(kind, seed, number, text.data, error) from error
            ends[f"{text.label}: {end}"] += 1
            if number % 1000 == 0:
                step(number)
                progress(kind, number - numbers.start, len(numbers))
    return Done(kind, len(numbers), time.process_time() - start, ends)


def _rounds(
    kind: str,
    play: type[Round] | type[Answers] | type[Audit],
    what: str,
    seed: int,
    numbers: range,
    progress: Progress,
) -> Done:
    ends: collections.Counter[str] = collections.Counter()
    start = time.process_time()
    inputs = 0
    with untraced(), bounded(numbers) as step:
        for number in numbers:
            made = play(seed, number)
            try:
                made.hold()
            except Exception as error:
                content = "\n".join(map(repr, getattr(made, what))).encode()
                raise _found(kind, seed, number, content, error) from error
            inputs += len(getattr(made, what))
            ends["rounds"] += 1
            step(number)
            progress(kind, number - numbers.start, len(numbers))
    return Done(kind, inputs, time.process_time() - start, ends)


def _found(kind: str, seed: int, number: int, content: bytes, error: Exception) -> Found:
    path = Path(os.environ.get("FUZZ_KEEP", tempfile.gettempdir())) / f"fuzz-{kind}-{seed}-{number}.txt"
    path.write_bytes(content)
    return Found(
        f"{kind}: {type(error).__name__}: {error}\n"
        f"the same again: python -m tests.fuzz --seed {seed} --only {kind}:{number}\n"
        f"the input ({len(content)} bytes, whole in {path}): {content[:_SHOWN]!r}"
    )


@contextlib.contextmanager
def bounded(numbers: range) -> Iterator[Callable[[int], None]]:
    """Check that a run leaves no descriptor open and does not grow. Yields what is to be told each number."""
    descriptors = open_descriptors()
    warm = numbers.start + int(len(numbers) * _WARM)
    resident = [0]

    def step(number: int) -> None:
        if not resident[0] and number >= warm:
            resident[0] = _kept_kb()

    yield step
    assert open_descriptors() == descriptors, f"descriptors: {descriptors} before, {open_descriptors()} after"
    grown = _kept_kb() - resident[0] if resident[0] else 0
    assert grown <= GROWTH_KB, f"grown by {grown} KiB in {len(numbers)} inputs"


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Keep a coverage run from looking on: it takes longer than all else, and what runs here runs elsewhere too."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def _kept_kb() -> int:
    """Return how much of this process is in memory, in KiB, once it has given back what it does not need."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)
    return resident_kb()


def resident_kb(pid: int | str = "self") -> int:
    """Return how much of a process is in memory, in KiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") // 1024

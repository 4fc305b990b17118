"""The model of the protocol, and spin, which looks at all its states."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

MODEL: Final = Path(__file__).parents[2] / "nvmefence" / "watcher" / "protocol.pml"
_EVENT: Final = re.compile(r"#define EV_(\w+) (\d+) +/\* ([\w.:]+)")
_MUTANT: Final = re.compile(r"\bMUTANT_([A-Z_]+[A-Z])\b")
_TIME_S: Final = 600.0


class Event(NamedTuple):
    """A transition of the model."""

    name: str
    number: int
    made_by: str
    """The function, as `module:name`; "world": nobody."""


class Verdict(NamedTuple):
    """What spin found."""

    errors: int
    states: int
    depth: int
    words: str
    """What it says, and the way to the error."""


def missing() -> str:
    """Say why spin cannot be used; empty: it can."""
    lacking = [name for name in ("spin", "gcc") if shutil.which(name) is None]
    return f"{' and '.join(lacking)} not installed (packaging/ensure-packages model)" if lacking else ""


def events() -> dict[str, Event]:
    """Return the model's transitions by name."""
    found = [Event(name, int(number), by) for name, number, by in _EVENT.findall(MODEL.read_text())]
    return {event.name: event for event in found}


def mutants() -> list[str]:
    """Return the mutants that the model has."""
    return sorted(set(_MUTANT.findall(MODEL.read_text())))


def build(place: Path, bounds: Mapping[str, int], *flags: str, mutant: str = "", optimize: str = "-O1") -> Path:
    """Make the program that looks at all states within some bounds."""
    defines = [f"-D{name}={value}" for name, value in bounds.items()] + ([f"-DMUTANT_{mutant}"] if mutant else [])
    shutil.copy(MODEL, place / MODEL.name)
    made = subprocess.run(
        ["spin", *defines, "-a", MODEL.name], cwd=place, capture_output=True, text=True, timeout=60, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    kinds = flags or ("-DSAFETY",)
    program = place / "pan"
    subprocess.run(
        ["gcc", optimize, "-w", *kinds, "-DNOFAIR", "-DMEMLIM=6000", "-o", str(program), "pan.c"],
        cwd=place, check=True, timeout=120,
    )  # fmt: skip
    return program


def check(place: Path, bounds: Mapping[str, int], *, mutant: str = "", cycles: bool = False) -> Verdict:
    """Look at all states within some bounds. With `cycles`, look instead whether any run goes on for ever."""
    flags = ("-DNP",) if cycles else ("-DSAFETY",)
    program = build(place, bounds, *flags, mutant=mutant, optimize="-O0" if mutant else "-O1")
    done = run(program, *(["-l"] if cycles else []), "-m100000", "-w22")
    found = re.search(r"depth reached (\d+), errors: (\d+)\s+(\d+) states, stored", done)
    assert found is not None, done
    assert "max search depth too small" not in done, done
    assert "out of memory" not in done, done
    trail = _trail(place, program) if int(found[2]) else ""
    return Verdict(int(found[2]), int(found[3]), int(found[1]), done + trail)


def run(program: Path, *options: str) -> str:
    """Run what `build` made, and return what it says."""
    done = subprocess.run(
        [str(program), *options], cwd=program.parent, capture_output=True, text=True, timeout=_TIME_S, check=False
    )
    return done.stdout


def _trail(place: Path, program: Path) -> str:
    """Return the way to the error, event by event."""
    names = {event.number: event.name for event in events().values()}
    steps = re.findall(r"^\s*(\d+) (\d) (\d)$", run(program, "-r", "-S"), re.MULTILINE)
    return "; ".join(f"{names[int(event)]} {watcher} {request}" for event, watcher, request in steps)


def code(event: Event, watcher: int, request: int) -> int:
    """Return what the model calls an event of a watcher and a request in a trace."""
    return event.number * 16 + watcher * 4 + request


def accepted(place: Path, traces: Sequence[Sequence[int]], bounds: Mapping[str, int]) -> tuple[list[int], int]:
    """Have the model run along traces; return how many steps of each it could go, and how many errors it met."""
    width = max(map(len, traces)) + 1
    rows = ",\n".join("{" + ", ".join(map(str, [*trace, *([0] * (width - len(trace)))])) + "}" for trace in traces)
    (place / "traces.h").write_text(
        f"static const short traces[{len(traces)}][{width}] = {{\n{rows}\n}};\n"
        f"static int best[{len(traces)}];\n"
        "static void got_to(int which, int place)\n{\n"
        '\tif (place > best[which]) { best[which] = place; printf("REACHED %d %d\\n", which, place); }\n}\n'
    )
    program = build(place, {**bounds, "TRACE": len(traces)}, optimize="-O0")
    said = run(program, "-m100000", "-E", "-c0")
    errors = re.search(r"errors: (\d+)", said)
    assert errors is not None, said
    far = [0] * len(traces)
    for which, step in re.findall(r"^REACHED (\d+) (\d+)$", said, re.MULTILINE):
        far[int(which)] = int(step)
    return far, int(errors[1])

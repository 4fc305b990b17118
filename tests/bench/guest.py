"""Runs inside the guest: measures every way in turn, checks each cut and each restore, leaves JSON.

    python -m tests.bench.guest --folder FOLDER ...

It runs from `local.GUEST`. What is left in FOLDER: `bench.json`, and `profile.txt` if asked for.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import platform
import pstats
import statistics
import subprocess
import sys
from pathlib import Path

from tests.bench import figures, local, native, tracing
from tests.bench.figures import Figures, Run
from tests.bench.rabbit import Rabbit
from tests.bench.turns import take_turns, timed
from tests.bench.ways import Product, Way, all_ways, detach_command, write_hostmap

PROFILED = 10
STARTS = 3
OUR_CODE = "nvmefence's own code in a fence of 18 drives, answers canned"


def main() -> int:
    """Measure; print progress."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    for name in ("rounds", "command-rounds", "ioctl-rounds", "loop-rounds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    rabbit = Rabbit(local.GUEST / "bin" / "bare_minimum")
    hostmap = local.GUEST / "hosts.toml"
    write_hostmap(hostmap, rabbit)
    ways = all_ways(rabbit, hostmap)
    product = Product("io_uring", hostmap)
    run = _measure(rabbit, hostmap, ways, _rounds(options), product)
    (options.folder / "bench.json").write_text(json.dumps(run.to_json(), indent=1))
    if options.profile:
        (options.folder / "profile.txt").write_text(_profile(rabbit, product))
    return 0


def _rounds(options: argparse.Namespace) -> dict[str, int]:
    return {
        figures.BARE: options.rounds,
        figures.URING: options.rounds,
        figures.URING_COMMAND: options.command_rounds,
        figures.IOCTL: options.ioctl_rounds,
        figures.IOCTL_COMMAND: min(options.command_rounds, options.ioctl_rounds),
        figures.LOOPS: options.loop_rounds,
        figures.LOOP: options.loop_rounds,
    }


def _measure(rabbit: Rabbit, hostmap: Path, ways: list[Way], rounds: dict[str, int], product: Product) -> Run:
    measured = [way for way in ways if rounds[way.name]]
    commands = {}
    for way in measured:  # not measured: the first time brings everything into memory
        commands[way.name] = way.count()
        rabbit.restore()

    def after(name: str, number: int, took: float) -> None:
        _back(rabbit)
        print(f"{number} {name} {took:.6f}", flush=True)

    seconds = take_turns({way.name: way.cut for way in measured}, rounds, after)
    results = [Figures(way.name, way.title, commands[way.name], seconds[way.name]) for way in measured]
    return Run(_where(rabbit), results, {**_starts(product), **_first_commands(rabbit, hostmap)}, rabbit.checks)


def _back(rabbit: Rabbit) -> None:
    rabbit.check_cut()
    rabbit.restore()


def _where(rabbit: Rabbit) -> dict[str, str]:
    version = subprocess.run(["nvme", "version"], capture_output=True, text=True, timeout=60, check=True).stdout
    return {
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "nvme-cli": version.split()[2],
        "drives": str(len(rabbit.targets)),
        "namespaces": str(rabbit.namespaces),
    }


def _starts(product: Product) -> dict[str, float]:
    """Measure what any process costs here, and what comes before a fence, to read the other figures by."""
    imports = "import asyncio, nvmefence.cli.detach, nvmefence.nvme.queue, pyudev"
    commands = {
        "start of /bin/true": ["/bin/true"],
        "start of python, nothing imported": [sys.executable, "-S", "-c", "pass"],
        "start of python": [sys.executable, "-c", "pass"],
        "start of python, asyncio and pyudev": [sys.executable, "-c", "import asyncio, pyudev"],
        "start of python, all that nvmefence detach imports": [sys.executable, "-c", imports],
    }
    started = {name: statistics.median(timed(cmd) for _ in range(STARTS)) for name, cmd in commands.items()}
    found = statistics.median(product.discover() for _ in range(STARTS))
    return {**started, "finding the drives (pyudev)": found, OUR_CODE: native.code_of_a_fence()}


def _first_commands(rabbit: Rabbit, hostmap: Path) -> dict[str, float]:
    """Measure how long it takes from a command's start to the first thing that it has a drive do."""
    path = str(rabbit.targets[0].path)
    detach = detach_command("io_uring", hostmap)
    to_nvme = [tracing.until_first_command(lambda: timed(["nvme", "id-ctrl", path])) for _ in range(STARTS)]
    to_ours = []
    for _ in range(STARTS):
        to_ours.append(tracing.until_first_command(lambda: timed(detach)))
        _back(rabbit)
    return {
        "nvme id-ctrl, from its start to its command": statistics.median(to_nvme),
        "nvmefence detach, from its start to the first command": statistics.median(to_ours),
    }


def _profile(rabbit: Rabbit, product: Product) -> str:
    """Return where the time of a fence goes: by phase as the evidence has it, and by function."""
    lines = []
    for _ in range(PROFILED):
        report = product.fence()
        _back(rabbit)
        phases: dict[str, list[float]] = {}
        for drive in report.drives:
            for phase, seconds in drive.seconds.items():
                phases.setdefault(phase, []).append(seconds)
        means = " ".join(f"{phase} {1000 * statistics.mean(s):.1f}" for phase, s in phases.items())
        lines.append(f"fence {1000 * report.seconds:.1f} ms; mean of drives: {means}")
    profile = cProfile.Profile()
    for _ in range(PROFILED):
        profile.enable()
        product.fence()
        profile.disable()
        _back(rabbit)
    out = io.StringIO()
    stats = pstats.Stats(profile, stream=out)
    stats.sort_stats("tottime").print_stats(45)
    stats.sort_stats("cumulative").print_stats(45)
    return "\n".join(lines) + f"\n{PROFILED} fences under cProfile:\n" + out.getvalue()


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.bench` (make bench): boot one guest, measure inside, print the table, keep the figures."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench import local, native, table
from tests.bench.figures import Run
from tests.lab import boot, host
from tests.lab.__main__ import Progress
from tests.lab.host import LabError
from tests.lab.shape import SHAPES, Shape, ShapeError

RESULTS = host.ROOT / "results"
LIMIT = 420
"""Seconds for all measurements; with the boot the whole is below eight minutes."""
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Werror")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    if options.native:
        return native.main()
    if options.from_results:
        run = Run.load(RESULTS / "bench.json")
    else:
        try:
            run = _run(options)
        except (LabError, ShapeError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
    if options.update_docs:
        table.update(host.ROOT / "docs" / "performance.md", run)
    print(json.dumps(run.to_json(), indent=1) if options.json else table.text(run))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure fencing one compute of an emulated Rabbit: nvmefence, nvme-cli, the bare minimum.",
    )
    full = SHAPES["rabbit"]
    parser.add_argument("--drives", type=int, default=full.drives, help="default: %(default)s")
    parser.add_argument("--namespaces", type=int, default=full.namespaces, help="of each drive (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="of the ways that take milliseconds (%(default)s)")
    parser.add_argument("--command-rounds", type=int, default=5, help="of whole nvmefence commands (%(default)s)")
    parser.add_argument("--ioctl-rounds", type=int, default=4, help="of the ioctl backend (%(default)s)")
    parser.add_argument("--loop-rounds", type=int, default=2, help="of the nvme loops (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--update-docs", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--from-results", action="store_true", help="no new run: take results/bench.json")
    parser.add_argument("--profile", action="store_true", help="also profile the fence inside the guest")
    parser.add_argument("--native", action="store_true", help="no guest: the cost of the code per command, here")
    return parser


def _run(options: argparse.Namespace) -> Run:
    shape = dataclasses.replace(SHAPES["rabbit"], drives=options.drives, namespaces=options.namespaces)
    folder = boot.new_folder()
    _compile(folder)
    archive = local.pack(folder)
    command = [str(local.PYTHON), "-m", "tests.bench.guest", f"--folder={folder}"]
    command += [
        f"--{name.replace('_', '-')}={getattr(options, name)}"
        for name in ("rounds", "command_rounds", "ioctl_rounds", "loop_rounds")
    ]
    command += ["--profile"] if options.profile else []
    progress = Progress()
    try:
        result = boot.run(
            boot.Plan(shape, local.unpack_and(archive, command), LIMIT, local.ENVIRONMENT), progress, folder
        )
    finally:
        progress.clear()
        archive.unlink()
    if result.exit_code is None:
        raise LabError(result.trouble())
    if result.exit_code:
        raise LabError(f"the benchmark failed inside the guest ({folder})\n{result.stdout}{result.stderr}")
    return _keep(folder, shape, result)


def _compile(folder: Path) -> None:
    """Build the yardstick into the folder."""
    source = Path(__file__).with_name("bare_minimum.c")
    command = ["gcc", "-std=c11", "-D_GNU_SOURCE", "-O2", *WARNINGS, "-o", f"{folder}/bare_minimum", str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise LabError("gcc is missing (apt-get install gcc)") from None
    except subprocess.CalledProcessError as error:
        raise LabError(f"gcc: {error.stderr}") from error


def _keep(folder: Path, shape: Shape, result: boot.Result) -> Run:
    """Add what only this side knows to the guest's figures, and leave them in `results`."""
    measured = Run.load(folder / "bench.json")
    where = {"Rabbit": shape.describe(), **measured.where, "QEMU": _qemu(), "whole run": f"{result.seconds:.0f} s"}
    here = {"the same outside the guest, on the machine that emulates it": native.code_of_a_fence()}
    run = dataclasses.replace(measured, where=where, started={**measured.started, **here})
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench.json").write_text(json.dumps(run.to_json(), indent=1) + "\n")
    if (folder / "profile.txt").exists():
        (RESULTS / "bench-profile.txt").write_text((folder / "profile.txt").read_text())
    return run


def _qemu() -> str:
    program = host.tool("qemu-system-x86_64") or "qemu-system-x86_64"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.search(r"version (\S+)", said)
    return f"{found[1] if found else 'unknown'}, software emulation (TCG), 2 CPUs"


if __name__ == "__main__":
    sys.exit(main())

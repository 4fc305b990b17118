"""The fences of a whole Rabbit: boots one guest, has it measure, adds what only this side knows."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
from pathlib import Path

from tests.bench import local, native
from tests.bench.figures import Run
from tests.lab import boot, host
from tests.lab.__main__ import Progress
from tests.lab.host import LabError
from tests.lab.shape import SHAPES, Shape

LIMIT = 420
"""Seconds for all measurements; with the boot the whole is below eight minutes."""
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Werror")


def measure(options: argparse.Namespace, results: Path) -> Run:
    """Measure; a profile, if asked for, goes to `results`. Raises LabError and ShapeError."""
    shape = dataclasses.replace(SHAPES["rabbit"], drives=options.drives, namespaces=options.namespaces)
    folder = boot.new_folder()
    compile_yardstick(folder)
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
    if options.profile:
        (results / "bench-profile.txt").write_text((folder / "profile.txt").read_text())
    return _completed(folder, shape, result)


def compile_yardstick(folder: Path) -> None:
    """Build the yardstick into the folder."""
    source = Path(__file__).with_name("bare_minimum.c")
    command = ["gcc", "-std=c11", "-D_GNU_SOURCE", "-O2", *WARNINGS, "-o", f"{folder}/bare_minimum", str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise LabError("gcc is missing (apt-get install gcc)") from None
    except subprocess.CalledProcessError as error:
        raise LabError(f"gcc: {error.stderr}") from error


def _completed(folder: Path, shape: Shape, result: boot.Result) -> Run:
    """Add what only this side knows to the guest's figures."""
    measured = Run.from_json(json.loads((folder / "bench.json").read_text()))
    where = {"Rabbit": shape.describe(), **measured.where, "QEMU": _qemu(), "whole run": f"{result.seconds:.0f} s"}
    here = {"the same outside the guest, on the machine that emulates it": native.code_of_a_fence()}
    return dataclasses.replace(measured, where=where, started={**measured.started, **here})


def _qemu() -> str:
    program = host.tool("qemu-system-x86_64") or "qemu-system-x86_64"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.search(r"version (\S+)", said)
    return f"{found[1] if found else 'unknown'}, software emulation (TCG), 2 CPUs"

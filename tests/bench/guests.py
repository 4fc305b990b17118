"""Boots a guest that measures: yardstick, interpreter and nvmefence in its memory, results back as JSON."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.bench import local
from tests.lab import boot, host
from tests.lab.__main__ import Progress
from tests.lab.host import LabError
from tests.lab.shape import Shape

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Werror")


def run(shape: Shape, module: str, arguments: Sequence[str], limit: float) -> boot.Result:
    """Run a module of the benchmark in a guest, with `--folder=` of its results; wait for its success.

    `limit`: seconds for the measurements, the boot not among them. Raises LabError.
    """
    folder = boot.new_folder()
    _compile(folder)
    archive = local.pack(folder)
    command = [str(local.PYTHON), "-m", module, f"--folder={folder}", *arguments]
    progress = Progress()
    try:
        result = boot.run(
            boot.Plan(shape, local.unpack_and(archive, command), limit, local.ENVIRONMENT), progress, folder
        )
    finally:
        progress.clear()
        archive.unlink()
    if result.exit_code is None:
        raise LabError(result.trouble())
    if result.exit_code:
        raise LabError(f"the benchmark failed inside the guest ({folder})\n{result.stdout}{result.stderr}")
    return result


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


def qemu() -> str:
    """Return which QEMU emulates the drives, in words."""
    program = host.tool("qemu-system-x86_64") or "qemu-system-x86_64"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.search(r"version (\S+)", said)
    return f"{found[1] if found else 'unknown'}, software emulation (TCG), 2 CPUs"

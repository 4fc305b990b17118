"""Boots the emulated Rabbit, runs one command inside, brings the results back."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab import host, kernel, programs
from tests.lab.host import LabError, Say
from tests.lab.shape import Shape, images, qemu_arguments

BOOT_ALLOWANCE = 120
"""Seconds for the kernel, the drives and the way down, on top of the command's own limit."""
KEPT_RUNS = 20
GUEST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


_SIGNALLED = 128
"""A shell's exit code for a command that a signal ended, less the signal's number."""
_FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)


@dataclass(frozen=True)
class Plan:
    """What to boot and what to run in it."""

    shape: Shape
    command: Sequence[str]
    limit: float = 300
    """Seconds for the command."""
    env: Mapping[str, str] = field(default_factory=dict)
    """More environment for the command."""
    interactive: bool = False
    """The command talks to this terminal."""


@dataclass(frozen=True)
class Result:
    """What came of it. Its files stay in `folder`: plan, console log, output, what the command left."""

    folder: Path
    exit_code: int | None
    """The command's; 124 when it was stopped at its limit, None when the guest ended without one."""
    seconds: float
    """From start to the end of QEMU."""
    bringup: Mapping[str, float]
    """Guest seconds: kernel, live, secondaries, bound, attached (each its own), ready (since power-on)."""

    @property
    def stdout(self) -> str:
        """What the command wrote."""
        return _text(self.folder / "stdout")

    @property
    def stderr(self) -> str:
        """What the command wrote there, and what went wrong in bringing up."""
        return _text(self.folder / "stderr")

    @property
    def console(self) -> str:
        """The guest kernel's and virtme-ng's messages."""
        return _text(self.folder / "console.log")

    def figures(self) -> str:
        """Return the times in one line."""
        parts = [f"{name} {value:.1f} s" for name, value in self.bringup.items()]
        return ", ".join([*parts, f"whole run {self.seconds:.1f} s"])

    @property
    def crashed(self) -> str:
        """The signal that QEMU itself died of, by a fault of its own; empty when it did not."""
        code = _text(self.folder / "qemu-exit").strip()
        number = int(code) - _SIGNALLED if code.isdigit() else 0
        return signal.Signals(number).name if number in _FAULTS else ""

    def trouble(self) -> str:
        """Return why there is no exit code, with the end of the console."""
        tail = "\n".join(self.console.splitlines()[-15:])
        return f"the guest ended without a result ({self.folder})\n{self.stderr[-2000:]}\n{tail}"


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def check(say: Say) -> kernel.Kernel:
    """Return the kernel to boot, downloaded if need be. Raises LabError with all reasons against."""
    reasons = host.why_not(kernel_cached=kernel.cached() is not None)
    if reasons:
        raise LabError("; ".join(reasons))
    return kernel.ensure(say)


def run(plan: Plan, say: Say, folder: Path | None = None) -> Result:
    """Boot, run, power off; bounded by the plan's limit and `BOOT_ALLOWANCE`. Raises LabError."""
    chosen = check(say)
    folder = folder or new_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for image in images(plan.shape, folder).values():
        with image.open("wb") as file:
            file.truncate(plan.shape.size_mib << 20)
    programs.compile_ours()
    (folder / "plan.json").write_text(json.dumps(_plan(plan), indent=1))
    command = vng_command(plan, chosen, folder)
    (folder / "vng").write_text(shlex.join(command) + "\n")
    started = time.monotonic()
    if plan.interactive:
        subprocess.call(command, cwd=host.ROOT, env=_environment())
    else:
        _watch(command, plan, folder, say)
    code = _text(folder / "exit")
    return Result(
        folder=folder,
        exit_code=int(code) if code else None,
        seconds=time.monotonic() - started,
        bringup=json.loads(_text(folder / "bringup.json") or "{}"),
    )


def new_folder() -> Path:
    """Return a new folder for a run, and drop the oldest of those that are over."""
    runs = host.cache() / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for old in sorted(runs.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT_RUNS]:
        if (old / "exit").exists() or time.time() - old.stat().st_mtime > 3600:
            shutil.rmtree(old, ignore_errors=True)
    for number in itertools.count():
        folder = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def _plan(plan: Plan) -> dict[str, Any]:
    env = {
        "PATH": f"{Path(sys.executable).parent}:{GUEST_PATH}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(host.ROOT),
    }
    return {
        "shape": plan.shape.as_json(),
        "command": list(plan.command),
        "limit": plan.limit,
        "env": {**env, **plan.env, "NVMEFENCE_LAB_SHAPE": json.dumps(plan.shape.as_json())},
        "interactive": plan.interactive,
        "size": list(shutil.get_terminal_size()),
    }


def vng_command(plan: Plan, chosen: kernel.Kernel, folder: Path) -> list[str]:
    """Return the command line; `timeout` ends the whole process group at its limit or when we are gone."""
    limit = str(int(plan.limit + BOOT_ALLOWANCE))
    emulator = folder / "qemu"
    emulator.write_text(
        f'#!/bin/sh\n{host.tool("qemu-system-x86_64")} "$@"\ncode=$?\necho $code >"$0-exit"\nexit $code\n'
    )
    emulator.chmod(0o755)
    bounds = ["setpriv", "--pdeathsig=TERM", "timeout", "--kill-after=5", limit] if not plan.interactive else []
    inside = programs.cached(shlex.join([sys.executable, "-B", "-m", "tests.lab.inside", str(folder)]))
    start = ["--verbose", "--disable-monitor", "--exec", inside]
    if plan.interactive:  # virtme-ng connects the terminal to the user's shell, not to --exec's command
        shell = folder / "shell"
        shell.write_text(f"#!/bin/sh\ncd {shlex.quote(str(host.ROOT))} && {inside}\n")
        shell.chmod(0o755)
        start = ["--quiet", "--shell", str(shell)]
    devices = qemu_arguments(plan.shape, folder)
    return [
        *bounds, str(host.vng()), "--run", str(chosen.image), "--disable-kvm",
        "--force-9p", *start, f"--qemu={emulator}",
        "--memory", f"{plan.shape.memory}M", "--cpus", "2", f"--rwdir={folder}", "--cwd", str(host.ROOT),
        "--append", f"nvme_core.multipath={'Y' if plan.shape.multipath else 'N'}",
        "--append", f"nvme_core.io_timeout={plan.shape.io_timeout}",
        f"--qemu-opts={shlex.join(['-no-reboot', *programs.qemu_arguments(), *devices])}",
    ]  # fmt: skip


def _environment() -> dict[str, str]:
    """Return an environment in which vng finds its own commands and the tools in sbin."""
    path = f"{Path(str(host.vng())).parent}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return {**os.environ, "PATH": path}


def _watch(command: list[str], plan: Plan, folder: Path, say: Say) -> None:
    started = time.monotonic()
    with (folder / "console.log").open("wb") as console:
        process = subprocess.Popen(
            command, cwd=host.ROOT, env=_environment(), stdin=subprocess.DEVNULL, stdout=console,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            for stage in _stages(process, folder, started + plan.limit + BOOT_ALLOWANCE + 10):
                say(f"{plan.shape.describe()}: {stage}, {time.monotonic() - started:.0f} s")
        finally:
            _end(process)


def _stages(process: subprocess.Popen[bytes], folder: Path, until: float) -> Iterator[str]:
    """Wait for the guest's end, at most until `until`; tell each second what it is doing."""
    grace = 0
    while time.monotonic() < until and grace < 30:
        try:
            process.wait(timeout=0.1)
            return
        except subprocess.TimeoutExpired:
            pass
        if (folder / "exit").exists():
            grace += 1  # the command is done; a guest that cannot switch itself off is switched off
        yield "running" if (folder / "bringup.json").exists() else "booting"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the guest's processes: they are one group, named by its first process's id."""
    if process.poll() is None:
        os.kill(process.pid, signal.SIGTERM)  # `timeout` hands it on to its group
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait(timeout=10)

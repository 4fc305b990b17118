"""Runs inside the guest: brings the Rabbit up, runs the plan's command, leaves the results, switches off.

    python -m tests.lab.inside RESULTS

RESULTS holds `plan.json` (see `boot.Plan`); what is left there: `bringup.json`, `stdout`, `stderr` and, last
of all, `exit` with the command's exit code.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import termios
import time
import traceback
from pathlib import Path
from typing import Any

from tests.lab.shape import Shape

LIMIT_EXIT = 124
BRINGUP_EXIT = 125


def main() -> int:
    """Run the plan; the guest ends with it."""
    results = Path(sys.argv[1])
    plan = json.loads((results / "plan.json").read_text())
    try:
        code = _run(plan, results)
    except BaseException:  # whatever happened belongs into the results, and the guest must end
        (results / "stderr").open("a").write(traceback.format_exc())
        code = BRINGUP_EXIT
    _leave(results / "exit", str(code))
    power_off()
    return code


def _run(plan: dict[str, Any], results: Path) -> int:
    from tests.lab import bringup  # only here, so that its failure is reported as well

    os.environ.update(plan["env"])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    steps = bringup.bring_up(Shape.from_json(plan["shape"]))
    ready = float(Path("/proc/uptime").read_text().split()[0])
    _leave(results / "bringup.json", json.dumps({"kernel": uptime, **steps, "ready": ready}))
    if plan["interactive"]:
        columns, lines = plan["size"]
        termios.tcsetwinsize(sys.stdin.fileno(), (lines, columns))
    return _command(plan["command"], plan["limit"], plan["interactive"], results)


def _command(command: list[str], limit: float, interactive: bool, results: Path) -> int:
    if interactive:
        return subprocess.call(command)  # standard input is the console
    with (results / "stdout").open("wb") as out, (results / "stderr").open("wb") as err:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        try:
            return process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            err.write(f"\nlab: stopped at its time limit of {limit:g} s\n".encode())
            os.killpg(process.pid, signal.SIGKILL)
            return LIMIT_EXIT


def _leave(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def power_off() -> None:
    """End the guest at once: an orderly power-off waits for controllers that never answer."""
    Path("/proc/sys/kernel/sysrq").write_text("1")
    Path("/proc/sysrq-trigger").write_text("b")
    time.sleep(30)


if __name__ == "__main__":
    sys.exit(main())

"""The part of `make demo` that runs inside the guest. Exits 0 only when everything happened as it must."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab import faults, observer, writer

HOSTS = """\
version = 1

[drives]
count = 6
own = "physical"        # this demonstration drives the computes' functions too

[hosts.compute-0]
slot = 0
[hosts.compute-1]
slot = 1
[hosts.compute-2]
slot = 2
"""
FENCED = "compute-1"
QUIESCE = "wait:2"


def block_device(view: observer.Controller) -> Path:
    """Return the first namespace's block device of a compute's view."""
    return faults.wait_for("a block device", lambda: observer.blocks(view).get(1))


class Demo:
    """The steps, and how long each took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = folder / "hosts.toml"
        self.hosts.write_text(HOSTS)
        self.times: list[tuple[str, float]] = []
        self.failures: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Announce a step and time it."""
        bold, plain = ("\x1b[1m", "\x1b[0m") if os.environ.get("FORCE_COLOR") else ("", "")
        print(f"\n{bold}== {text}{plain}", flush=True)
        started = time.monotonic()
        yield
        self.times.append((text, time.monotonic() - started))

    def expect(self, truth: bool, text: str) -> None:
        """Say whether something that must hold does."""
        print(("   yes: " if truth else "   NO: ") + text, flush=True)
        if not truth:
            self.failures.append(text)

    def nvmefence(self, *arguments: str) -> int:
        """Run the command a person would type."""
        print(f"$ nvmefence {' '.join(arguments)}", flush=True)
        env = {**os.environ, "NVMEFENCE_HOSTS": str(self.hosts)}
        return subprocess.call([sys.executable, "-m", "nvmefence.cli.main", *arguments], env=env, timeout=90)

    def writers(self) -> dict[str, Path]:
        """Start a writer for each compute, on its own view of the first drive; return their logs."""
        logs = {}
        drive = observer.drives()[0]
        for slot in range(3):
            view = drive.function(slot + 2)
            block = block_device(view)
            log = self.folder / f"compute-{slot}.log"
            command = writer.command(block, log, interval=0.1)
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
            logs[f"compute-{slot}"] = log
            print(f"   compute-{slot} writes to {block} (controller {view.cntlid})", flush=True)
        faults.wait_for("first writes", lambda: all(len(writer.read_log(log)) >= 10 for log in logs.values()))
        return logs

    def stop_writers(self) -> None:
        """End all writers."""
        for process in self.processes:
            process.terminate()

    def judge(self, logs: dict[str, Path], done: float) -> None:
        """Compare what each compute could write before and after the command returned."""
        faults.wait_for(
            "writes after the fence",
            lambda: all(sum(line.started > done for line in writer.read_log(log)) >= 5 for log in logs.values()),
        )
        for name, log in logs.items():
            lines = writer.read_log(log)
            good = [line for line in lines if line.ok]
            after = [line for line in lines if line.started > done]
            failed = [line for line in after if not line.ok]
            text = f"{name}: {len(good)} writes succeeded; of {len(after)} after the fence {len(failed)} failed"
            text += f" ({failed[0].outcome})" if failed else ""
            self.expect(len(failed) == (len(after) if name == FENCED else 0), text)


def main() -> int:
    """Run the demonstration."""
    with tempfile.TemporaryDirectory() as folder:
        demo = Demo(Path(folder))
        with demo.step("Which host reaches which drive"):
            demo.expect(demo.nvmefence("status") == 0, "every drive answered")
        with demo.step("Three computes write, each through its own controller"):
            logs = demo.writers()
        with demo.step(f"Fence {FENCED} while it writes"):
            code = demo.nvmefence("detach", "--host", FENCED, "--quiesce", QUIESCE)
            done = time.monotonic()
            demo.expect(code == 0, "confirmed: exit code 0")
        with demo.step("What the computes could write since"):
            demo.judge(logs, done)
            demo.stop_writers()
        with demo.step("Which host reaches which drive now"):
            demo.expect(demo.nvmefence("status") == 0, "every drive answered")
        print("\nHow long each step took, most of it the start of Python on an emulated processor:")
        for text, seconds in demo.times:
            print(f"  {seconds:6.2f} s  {text}")
        for text in demo.failures:
            print(f"FAILED: {text}")
        return 1 if demo.failures else 0


if __name__ == "__main__":
    sys.exit(main())

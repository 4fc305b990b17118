"""The part of `make demo` that runs inside the guest. Exits 0 only when everything happened as it must."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import machine
from tests.cluster.nodes import Cluster
from tests.cluster.room import wait_for
from tests.lab import faults, observer, writer
from tests.lab.guest.watching import Place

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
RABBIT = "rabbit-node-1"
DEVICE = "storage"
TOKEN_MS = 3000
SLOW_S = 90
"""pcs alone computes for seconds on an emulated processor."""


def block_device(view: observer.Controller) -> Path:
    """Return the first namespace's block device of a compute's view."""
    return faults.wait_for("a block device", lambda: observer.blocks(view).get(1))


class Demo:
    """The steps, and how long each took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = Place(folder, HOSTS)
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
        env = {
            **os.environ,
            "NVMEFENCE_HOSTS": str(self.place.hosts),
            "NVMEFENCE_AUDIT": str(self.place.audit_file),
            "NVMEFENCE_RESPONSE_DIR": str(self.place.responses),
        }
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
        """End all writers. The fenced one may be waiting for its driver: it is not waited for."""
        for process in self.processes:
            process.kill()

    def judge(self, logs: dict[str, Path], done: float) -> None:
        """Compare what each compute could write before and after the fence was confirmed."""
        time.sleep(2)
        for name, log in logs.items():
            lines = writer.read_log(log)
            before = [line for line in lines if line.ok and line.ended <= done]
            after = [line for line in lines if line.ok and line.ended > done]
            text = f"{name}: {len(before)} writes succeeded before the fence was confirmed, {len(after)} since"
            self.expect(not after if name == FENCED else len(after) >= 5, text)


def fence_by_pacemaker(demo: Demo, cluster: Cluster) -> float:
    """Have the cluster fence the compute; return when it said that it is done."""
    options = {
        "pcmk_host_list": FENCED,
        "request_dir": demo.place.requests,
        "response_dir": demo.place.responses,
        "log_dir": demo.place.logs,
    }
    given = [f"{name}={value}" for name, value in options.items()]
    print(f"$ pcs stonith create {DEVICE} {machine.AGENT} {' '.join(given)}", flush=True)
    created = cluster.pcs("stonith", "create", DEVICE, machine.AGENT, *given, node=RABBIT, limit_s=SLOW_S)
    demo.expect(created.returncode == 0, f"created {created.stderr.strip()}")
    wait_for("the fence device runs", lambda: _started(cluster), SLOW_S, 0.2)
    print(f"$ pcs stonith fence {FENCED}", flush=True)
    fenced = cluster.pcs("stonith", "fence", FENCED, node=RABBIT, limit_s=SLOW_S)
    done = time.monotonic()
    print(fenced.stdout.strip() or fenced.stderr.strip(), flush=True)
    demo.expect(fenced.returncode == 0, f"exit code {fenced.returncode}")
    return done


def _started(cluster: Cluster) -> bool:
    device = cluster.monitor(RABBIT).find(f"resources/resource[@id='{DEVICE}']")
    return device is not None and device.attrib["role"] == "Started"


def fence_by_agent(demo: Demo, reasons: list[str]) -> float:
    """Call the agent as Pacemaker would, where there is none; return when it was done."""
    print(f"   no Pacemaker here ({'; '.join(reasons)}): the agent is called as Pacemaker calls it")
    print(f"$ {machine.AGENT} <<< 'action=reboot port={FENCED} ...'", flush=True)
    ended = demo.place.agent("reboot", FENCED).end()
    done = time.monotonic()
    demo.expect(ended.code == 0, f"exit code {ended.code} {ended.err.strip()}")
    return done


def run(demo: Demo) -> None:
    """Go through the steps."""
    cluster: Cluster | None = None
    with demo.step("Which host reaches which drive"):
        demo.expect(demo.nvmefence("status") == 0, "every drive answered")
    reasons = machine.why_not()
    try:
        with demo.step("Start the watcher" + ("" if reasons else ", and a real Pacemaker")):
            with ThreadPoolExecutor(1) as aside:
                serving = aside.submit(demo.place.start, "auto", "auto")
                if not reasons:
                    cluster = Cluster([RABBIT], demo.folder / "cluster", token_ms=TOKEN_MS)
                serving.result()
            print(demo.place.told())
        with demo.step("Three computes write, each through its own controller"):
            logs = demo.writers()
        with demo.step(f"Fence {FENCED} while it writes: agent, request file, watcher, drives, response file"):
            done = fence_by_pacemaker(demo, cluster) if cluster else fence_by_agent(demo, reasons)
        with demo.step("What the computes could write since"):
            demo.judge(logs, done)
            demo.stop_writers()
        with demo.step("What the response proves, and what is on record"):
            name = next(demo.place.responses.glob("[!.]*.json")).stem
            demo.expect(demo.nvmefence("explain", name) == 0, "the response is explained")
            demo.expect(demo.nvmefence("history") == 0, "the fence is on record")
        with demo.step("Which host reaches which drive now"):
            demo.expect(demo.nvmefence("status") == 0, "every drive answered")
    finally:
        if cluster is not None:
            cluster.stop()
        demo.place.close()


def main() -> int:
    """Run the demonstration."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        demo = Demo(Path(folder))
        run(demo)
        print("\nHow long each step took, most of it the start of Python on an emulated processor:")
        for text, seconds in demo.times:
            print(f"  {seconds:6.2f} s  {text}")
        for text in demo.failures:
            print(f"FAILED: {text}")
        sys.stdout.flush()
        return 1 if demo.failures else 0


if __name__ == "__main__":
    sys.exit(main())

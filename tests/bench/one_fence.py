"""Where the time of one fence goes: a whole Rabbit in a guest, agent and watcher in it, and the picture of it.

python -m tests.bench --timeline
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import subprocess
import sys

from nvmefence.timeline import parts
from tests.bench import guests
from tests.lab import host
from tests.lab.host import LabError
from tests.lab.shape import SHAPES, ShapeError

KEPT = host.ROOT / "docs" / "timeline"
"""What the picture is drawn from."""
PICTURE = host.ROOT / "docs" / "timeline.svg"
LIMIT = 300
ROUNDS = 7


def explain(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the documented command on what is kept."""
    command = [sys.executable, "-m", "nvmefence.cli.main", "explain", "docs/timeline/response.json"]
    command += ["--log-dir", str(KEPT), *words]
    return subprocess.run(command, cwd=host.ROOT, capture_output=True, text=True, timeout=60, check=False)


def main(options: argparse.Namespace) -> int:
    """Measure, keep what the median fence told, draw it, and print it; return the exit code."""
    try:
        if not options.from_results:
            _measure(options)
    except (LabError, ShapeError) as error:
        print(f"bench: timeline: {error}", file=sys.stderr)
        return 2
    done = explain("--all", "--svg", str(PICTURE))
    print(done.stdout + done.stderr, end="")
    return done.returncode


def _measure(options: argparse.Namespace) -> None:
    """Boot, fence, and keep what the median one told. Raises LabError and ShapeError."""
    shape = dataclasses.replace(SHAPES["rabbit"], drives=options.drives, namespaces=options.namespaces)
    result = guests.run(shape, "tests.bench.one_fence_inside", [f"--rounds={ROUNDS}"], LIMIT)
    KEPT.mkdir(exist_ok=True)
    for name in ("response.json", parts.LOG):
        shutil.copyfile(result.folder / name, KEPT / name)
    print(result.stdout, end="")

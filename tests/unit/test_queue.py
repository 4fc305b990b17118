"""The submission queue: each scenario of queue_support/scenarios.py in a process of its own, over the shim."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nvmefence.nvme._queue", reason="the extension module is not built")

from nvmefence.nvme.queue import probe_backends
from tests.unit.queue_support import scenarios

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = Path(__file__).resolve().parent / "queue_support"
HELPERS = {"main", "soon", "until_idle", "until_count", "rounds_leak_nothing"}
SCENARIOS = [
    name
    for name, function in vars(scenarios).items()
    if inspect.isfunction(function) and function.__module__ == scenarios.__name__ and name not in HELPERS
]


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler for the shim")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    command = [compiler, "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC", "-I", str(ROOT / "csrc")]
    subprocess.run([*command, "-o", library, SUPPORT / "shim.c", "-ldl", "-pthread"], check=True)
    return library


@pytest.mark.parametrize("name", SCENARIOS)
def test_holds(name: str, shim: Path) -> None:
    ring_missing = probe_backends()["io_uring"]
    if ring_missing and "ioctl" not in name:
        pytest.skip(ring_missing)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-m", "tests.unit.queue_support.scenarios", name],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "held\n"), done.stdout + done.stderr


def test_fence_path_imports_nothing_of_the_build() -> None:
    code = "import sys; import nvmefence.nvme.queue; print([m for m in sys.modules if m.split('.')[0] == 'cffi'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"

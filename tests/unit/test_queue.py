"""The submission queue: each scenario of queue_support in a process of its own, over the shim."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("nvmefence.nvme._queue", reason="the extension module is not built")

from nvmefence.nvme.queue import probe_backends
from tests.unit.queue_support import lives, scenarios

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = Path(__file__).resolve().parent / "queue_support"


def _is_scenario(thing: object, module: ModuleType) -> bool:
    """Whether it is a function of this module that is complete without arguments."""
    if not inspect.isfunction(thing) or thing.__module__ != module.__name__:
        return False
    return not inspect.signature(thing).parameters


SCENARIOS = [
    name for module in (scenarios, lives) for name, thing in vars(module).items() if _is_scenario(thing, module)
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
        [sys.executable, "-X", "dev", "-m", "tests.unit.queue_support", name],
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

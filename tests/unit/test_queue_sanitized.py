"""The C core: no warning from either compiler, and a random life of several queues under sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = Path(__file__).resolve().parent / "queue_support"
SOURCES = sorted((ROOT / "csrc").glob("*.c"), key=str)
CORE = [source for source in SOURCES if source.name != "_queue.c"]
STRICT = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror"]


def compiler(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def build_stress(target: Path, name: str, *sanitizers: str) -> Path:
    program = target / "stress"
    command = [compiler(name), "-std=gnu11", "-D_GNU_SOURCE", "-g", "-O1", "-DNVMEFENCE_LARGE_STACKS"]
    command += [f"-fsanitize={sanitizer}" for sanitizer in sanitizers] + ["-fno-sanitize-recover=all"]
    command += ["-I", str(ROOT / "csrc"), "-o", str(program), *map(str, CORE)]
    command += [str(SUPPORT / "shim.c"), str(SUPPORT / "stress.c"), "-ldl", "-pthread"]
    subprocess.run(command, check=True)
    return program


def run_stress(program: Path, *arguments: str) -> None:
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=program.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["gcc", "clang"])
@pytest.mark.parametrize("source", CORE, ids=lambda source: source.name)
def test_core_compiles_without_a_warning(name: str, source: Path, tmp_path: Path) -> None:
    command = [compiler(name), *STRICT, "-c", str(source), "-o", str(tmp_path / "object.o")]
    subprocess.run(command, check=True)


def test_random_life_is_clean_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    program = build_stress(tmp_path, "gcc", "address", "undefined")
    for seed in range(1, 5):
        run_stress(program, "30000", str(seed))


def test_random_life_is_clean_under_thread_sanitizer(tmp_path: Path) -> None:
    program = build_stress(tmp_path, "gcc", "thread")
    run_stress(program, "5000", "1", "no-fork")

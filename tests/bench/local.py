"""Packs what the guest starts as processes, to be unpacked into its memory.

The guest's root file system is this machine's, asked for file by file over 9p, and starting an interpreter from
there takes seconds that no Rabbit knows. In memory it is as quick as from a page cache: the interpreter, nvmefence
byte-compiled as an installation is, nvme-cli, and their libraries.
"""

from __future__ import annotations

import compileall
import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.lab import host

GUEST = Path("/run/bench")
"""Where the guest unpacks it."""
PYTHON = GUEST / "bin" / "python"
SITE = GUEST / "site"
ENVIRONMENT = {
    "PATH": f"{GUEST}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LD_LIBRARY_PATH": f"{GUEST}/libraries",
    "PYTHONPATH": str(SITE),
    "PYTHONSAFEPATH": "1",
    "PYTHONHOME": str(GUEST),
}
_LEFT_OUT = ("test", "idlelib", "lib2to3", "ensurepip", "tkinter", "turtledemo", "config-*", "dist-packages")
_START = f"#!{PYTHON}\nfrom nvmefence.cli.main import console\nconsole()\n"


def pack(folder: Path) -> Path:
    """Make FOLDER/local.tar and return it; FOLDER/bare_minimum must be there."""
    tree = folder / "local"
    binaries = tree / "bin"
    binaries.mkdir(parents=True)
    python = Path(sys.executable).resolve()
    nvme = Path(host.tool("nvme") or "nvme")
    shutil.copy(python, binaries / "python")
    shutil.copy(nvme, binaries / "nvme")
    shutil.copy(folder / "bare_minimum", binaries)
    (binaries / "nvmefence").write_text(_START)
    (binaries / "nvmefence").chmod(0o755)
    stdlib = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(stdlib, tree / "lib" / stdlib.name, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    _site(tree / "site")
    _libraries(tree / "libraries", [python, nvme, *tree.rglob("*.so")])
    archive = folder / "local.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tree, ".")
    shutil.rmtree(tree)
    return archive


def unpack_and(archive: Path, command: Iterable[str]) -> list[str]:
    """Return a command for the guest that unpacks the archive and then runs `command`."""
    script = 'mkdir -p "$1" && tar -xf "$2" -C "$1" && shift 2 && exec "$@"'
    return ["/bin/sh", "-c", script, "sh", str(GUEST), str(archive), *command]


def _site(site: Path) -> None:
    for package in ("nvmefence", "tests"):
        shutil.copytree(host.ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyudev", "_cffi_backend"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise host.LabError(f"{name} is not installed here")
        origin = Path(spec.origin)
        if origin.name == "__init__.py":
            shutil.copytree(origin.parent, site / name)
        else:
            shutil.copy(origin, site)
    compileall.compile_dir(str(site), quiet=2)


def _libraries(target: Path, programs: list[Path]) -> None:
    """Copy the shared libraries of the programs, found as the dynamic linker finds them."""
    target.mkdir()
    names = [str(program) for program in programs]
    said = subprocess.run(["ldd", *names], capture_output=True, text=True, timeout=60, check=False).stdout
    for found in sorted(set(re.findall(r"=> (/\S+)", said))):
        if not str(found).startswith(str(target.parent)):
            shutil.copy(found, target)
    for udev in Path("/lib").glob("*/libudev.so.1"):
        shutil.copy(udev, target)

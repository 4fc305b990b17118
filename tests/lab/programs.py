"""The guest's programs, kept in its memory once they were read.

virtme-ng mounts the host's files over 9p without a cache, so that each start of a Python asks the host for each of
its files again. They are mounted a second time, with a cache, over those folders that hold programs and are not
written to in the guest.
"""

from __future__ import annotations

import compileall
import shlex
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tests.lab.host import ROOT

_TAG = "programs"
_PLACE = "/run/programs"
_OURS = (ROOT / "nvmefence", ROOT / "tests")


def qemu_arguments() -> list[str]:
    """Return the QEMU arguments that offer the host's files once more, read-only."""
    return [
        "-fsdev", f"local,id={_TAG},path=/,security_model=none,readonly=on,multidevs=remap",
        "-device", f"virtio-9p-pci,fsdev={_TAG},mount_tag={_TAG}",
    ]  # fmt: skip


def cached(command: str) -> str:
    """Return a shell command for the guest that mounts the programs and becomes `command`."""
    options = "ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000"
    mounts = "".join(f" && mount --bind {_PLACE}{path} {path}" for path in map(shlex.quote, folders()))
    return f"mkdir {_PLACE} && mount -t 9p -o {options} {_TAG} {_PLACE}{mounts}; exec {command}"


def compile_ours() -> None:
    """Have this project's code byte-compiled: the guest cannot keep what it compiles, and is slow at it."""
    for folder in _OURS:
        compileall.compile_dir(folder, quiet=2)


def folders() -> list[str]:
    """Return the folders that hold Python, this project's code, the programs and their libraries."""
    return sorted({str(path) for path in _folders() if path.is_dir()})


def _folders() -> Iterator[Path]:
    base = Path(sys.base_prefix)
    if base == Path("/usr"):
        yield Path(sysconfig.get_path("stdlib"))
        yield Path("/usr/lib/python3/dist-packages")
    else:
        yield base
    if sys.prefix != sys.base_prefix:
        yield Path(sys.prefix)
    yield from (*_OURS, Path("/usr/bin"))
    yield from Path("/usr/lib").glob("*-linux-gnu")

"""The guest's kernel: Debian's package, unpacked into a cache folder; nothing is installed here."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import LabError, Say, apt, cache, tool

PACKAGE = "linux-image-amd64"
PREFIX = "linux-image-"
LOCK_LIMIT = 900


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package."""

    folder: Path
    version: str

    @property
    def image(self) -> Path:
        """The kernel to boot; virtme-ng finds the modules in the same folder."""
        return self.folder / "boot" / f"vmlinuz-{self.version}"


def cached() -> Kernel | None:
    """Return the newest kernel in the cache, or None."""
    found = sorted((cache() / "kernel").glob(f"{PREFIX}*"), key=lambda folder: folder.stat().st_mtime)
    return Kernel(found[-1], found[-1].name.removeprefix(PREFIX)) if found else None


def ensure(say: Say, *, refresh: bool = False) -> Kernel:
    """Return the cached kernel, or download and unpack Debian's current one. Raises LabError."""
    if not refresh and (kernel := cached()):
        return kernel
    home = cache() / "kernel"
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home / "lock", say):
        if not refresh and (kernel := cached()):
            return kernel
        for leftover in home.glob("building-*"):  # of a build that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        return _build(home, say)


@contextlib.contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    with path.open("w") as file:
        until = time.monotonic() + LOCK_LIMIT
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise LabError(f"{path} is still locked after {LOCK_LIMIT} s") from None
            if not told:
                say("another process is unpacking the kernel; waiting")
                told = True
            time.sleep(0.5)
        yield


def _build(home: Path, say: Say) -> Kernel:
    package = _resolve(say)
    target = home / package
    kernel = Kernel(target, package.removeprefix(PREFIX))
    if target.exists():
        return kernel
    work = Path(tempfile.mkdtemp(prefix="building-", dir=home))
    try:
        say(f"downloading {package} (about 70 MB)")
        done = apt(["apt-get", "download", package], 600, cwd=work)
        archives = list(work.glob("*.deb"))
        if done.returncode or not archives:
            raise LabError(f"apt-get download {package} failed:\n{done.stdout}{done.stderr}")
        say(f"unpacking {package}")
        tree = work / "tree"
        _run(["dpkg", "-x", str(archives[0]), str(tree)])
        _run([tool("depmod") or "depmod", "-b", str(tree), kernel.version])
        if not (tree / "boot" / f"vmlinuz-{kernel.version}").exists():
            raise LabError(f"{package} has no boot/vmlinuz-{kernel.version}")
        tree.rename(target)  # whole or not at all
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return kernel


def _resolve(say: Say) -> str:
    """Return the package that linux-image-amd64 depends on now."""
    for attempt in range(2):
        done = apt(["apt-cache", "depends", "--important", PACKAGE], 60)
        names = re.findall(rf"Depends: ({PREFIX}[0-9]\S*)", done.stdout)
        if names:
            return str(names[0])
        if attempt == 0:
            say("apt-get update")
            apt(["apt-get", "update"], 600)
    raise LabError(f"apt knows no kernel that {PACKAGE} depends on: is this Debian?\n{done.stderr}")


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except subprocess.CalledProcessError as error:
        raise LabError(f"{' '.join(command)}: exit {error.returncode}\n{error.stderr}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{' '.join(command)}: {error}") from error

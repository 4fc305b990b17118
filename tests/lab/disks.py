"""File systems on a disk that can fail, be full, or be read-only: device mapper over a loop device over memory."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.lab import faults
from tests.lab.host import tool

SIZE_MIB: Final = {"ext4": 64, "xfs": 320}
"""xfsprogs makes none below 300 MiB; what is not written takes no memory."""
FAILURES: Final = {
    "error": "error",
    "writes-fail": "flakey {device} 0 0 3600 1 error_writes",
    "torn-writes": "flakey {device} 0 1 1 1 error_writes",
}
"""Device-mapper targets: nothing can be read or written; nothing written; nothing written every second second."""
_LIMIT_S: Final = 60.0
_FILLER: Final = ".filler"
"""Has all the room when the disk is full."""
_FIRST_STEP: Final = 1 << 25
_BLOCK: Final = 4096


def why_not(kind: str) -> str:
    """Return why there can be no such file system here; empty: there can."""
    missing = [name for name in ("dmsetup", "losetup", f"mkfs.{kind}") if tool(name) is None]
    return f"missing: {', '.join(missing)} (python -m tests.lab install)" if missing else ""


class Disk:
    """One disk with one file system, mounted at `path` and honest at first."""

    def __init__(self, kind: str, folder: Path) -> None:
        """`kind` is ext4 or xfs; `folder` gets what is needed."""
        self.kind = kind
        self.path = folder / "disk"
        self._name = f"lab-{kind}"
        self._memory = folder / "memory"
        self._loop = ""
        self._sectors = SIZE_MIB[kind] << 11

    def __enter__(self) -> Disk:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        for name in ("loop", "dm-mod", "dm-flakey", self.kind):
            _do("modprobe", name)
        self._memory.mkdir()
        self.path.mkdir()
        _do("mount", "-t", "tmpfs", "none", self._memory)
        image = self._memory / "image"
        with image.open("wb") as file:
            file.truncate(self._sectors << 9)
        self._loop = _do("losetup", "--find", "--show", image)
        _do("dmsetup", "create", self._name, "--noudevrules", "--noudevsync", "--table", self._table("linear"))
        quiet = "-q" if self.kind == "ext4" else "-qK"
        _do(f"mkfs.{self.kind}", quiet, self._device)
        self.mount()

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):  # it is not mounted
            _do("umount", "--lazy", self.path)
        with contextlib.suppress(subprocess.CalledProcessError):  # somebody has something open; the guest ends soon
            _do("dmsetup", "remove", "--noudevrules", "--noudevsync", "--force", self._name)
            _do("losetup", "--detach", self._loop)
        with contextlib.suppress(subprocess.CalledProcessError):
            _do("umount", "--lazy", self._memory)

    @property
    def _device(self) -> str:
        """The device, which the kernel makes itself; the link in /dev/mapper is udev's."""
        names = Path("/sys/block").glob("dm-*/dm/name")
        (found,) = [path.parents[1].name for path in names if path.read_text().strip() == self._name]
        return f"/dev/{found}"

    def _table(self, target: str) -> str:
        words = "linear {device} 0" if target == "linear" else FAILURES[target]
        return f"0 {self._sectors} {words.format(device=self._loop)}"

    def mount(self) -> None:
        """Mount it; the file system's journal is replayed."""
        _do("mount", "-t", self.kind, self._device, self.path)

    def unmount(self) -> None:
        """Unmount it. Raises CalledProcessError while somebody has something open there."""
        _do("umount", self.path)

    def fail(self, how: str) -> None:
        """From now on the disk fails in one of the ways of `FAILURES`."""
        self._load(how)

    def mend(self) -> None:
        """From now on the disk does what it is told, as a new one with the old contents."""
        self._load("linear")

    def _load(self, target: str) -> None:
        """Change the target without a flush of the file system, which would hang or save what is to be lost."""
        _do("dmsetup", "reload", self._name, "--table", self._table(target))
        _do("dmsetup", "suspend", "--noflush", "--nolockfs", self._name)
        _do("dmsetup", "resume", "--noudevrules", "--noudevsync", self._name)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Leave no block free from entering to leaving, nor the blocks that are kept for root."""
        with (self.path / _FILLER).open("wb") as file:
            size, step = 0, _FIRST_STEP
            while step >= _BLOCK:
                try:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2
            os.fsync(file.fileno())
        try:
            yield
        finally:
            (self.path / _FILLER).unlink()

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Have it read-only from entering to leaving, also for who has a file open there to write to.

        That is what the kernel does to a file system in which it finds an error; an orderly remount is refused
        then. All other file systems on disks become read-only with it: the guest has none.
        """
        faults.write(Path("/proc/sysrq-trigger"), "u")
        faults.wait_for("a read-only file system", lambda: "ro" in self._options(), _LIMIT_S)
        try:
            yield
        finally:
            _do("mount", "-o", "remount,rw", self.path)
            assert "rw" in self._options()

    def _options(self) -> list[str]:
        """Return the options of the file system itself (proc(5), mountinfo, the last field)."""
        lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return next(line[-1].split(",") for line in lines if line[4] == str(self.path))

    @contextlib.contextmanager
    def failing(self, how: str) -> Iterator[None]:
        """Fail from entering to leaving."""
        self.fail(how)
        try:
            yield
        finally:
            self.mend()


def _do(*words: object) -> str:
    done = faults.within(
        _LIMIT_S + 5,
        " ".join(map(str, words)),
        lambda: subprocess.run(
            [*map(str, words)], check=True, timeout=_LIMIT_S, capture_output=True, text=True
        ),
    )  # fmt: skip
    return done.stdout.strip()

"""Real drives: block devices of two controllers of one drive, both seen by this machine's kernel.

One writes numbered blocks past the page cache, round and round in the first bytes of the namespace; through the
other they are read back. Each 4 KiB of a write hold `MARK` and the write's number, so that a part of it that lands
late is seen as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import itertools
import mmap
import os
import re
import stat
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nvmefence import threads
from nvmefence.inventory.drives import LocalController
from nvmefence.qualify.bench import beside
from nvmefence.qualify.figures import Plan, Sample, Trouble, Write

MARK: Final = int.from_bytes(b"nvmfqual", "little")
BLOCK: Final = 4096
CHECKED: Final = 1 << 20
"""Bytes at either end of the namespace that must hold nothing: partition tables and file systems have their
signatures there."""
_SYSFS: Final = Path("/sys/class/nvme")
_SUBSYS_RESET: Final = 0x4E45
"""NVME_IOCTL_SUBSYS_RESET, _IO('N', 0x45) in linux/nvme_ioctl.h."""
_READ_S: Final = 30.0
_RESET_S: Final = 150.0
_READY_S: Final = 60.0
_TICK_S: Final = 0.02
_RESCAN_EVERY_S: Final = 1.0
_STEADY_S: Final = 0.3
"""Seconds for which both must be shown without a change."""


def block_name(controller: str, nsid: int, sysfs: Path = _SYSFS) -> str:
    """Return the kernel's name of the block device which is this controller's alone; empty: it shows none.

    Raises Trouble where the kernel's multipathing hides it behind one that all controllers share.
    """
    folder = sysfs / controller
    for found in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            if int((found / "nsid").read_text()) != nsid:
                continue
        except (OSError, ValueError):
            continue
        if re.fullmatch(rf"{controller}n\d+", found.name):
            return found.name
        raise Trouble(
            f"namespace {nsid} of {controller} has no block device of its own ({found.name} is one path of many): "
            "start the kernel with nvme_core.multipath=N"
        )
    return ""


def in_use(controller: str, name: str, sysfs: Path = _SYSFS) -> str:
    """Say what of the kernel uses a block device, or that it has partitions; empty: nothing."""
    folder = sysfs / controller / name
    holders = sorted(path.name for path in (folder / "holders").iterdir()) if (folder / "holders").is_dir() else []
    if holders:
        return f"/dev/{name} is held by {', '.join(holders)}"
    parts = sorted(path.parent.name for path in folder.glob("*/partition"))
    return f"/dev/{name} has partitions: {', '.join(parts)}" if parts else ""


def holds_data(data: bytes) -> bool:
    """Whether there is anything but zeroes and what an earlier measurement left."""
    for start in range(0, len(data), BLOCK):
        block = data[start : start + BLOCK]
        if block.count(0) < len(block) and int.from_bytes(block[:8], "little") != MARK:
            return True
    return False


class BlockBench:
    """Implements `Bench`; made by `open_blocks`."""

    simulated = False

    def __init__(self, target: LocalController, own: LocalController, nsid: int, plan: Plan) -> None:
        self._target, self._own, self._nsid, self._plan = target, own, nsid, plan
        self._slots = max(16, 4 * plan.writes)
        self._reader = -1
        self._reads = mmap.mmap(-1, self._slots * plan.size)
        self._numbers = itertools.count(time.time_ns() >> 10)  # higher than those of a measurement before
        self._lock = threading.Lock()
        self._writes: dict[int, Write] = {}
        self._stopping = threading.Event()
        self._writers = 0

    # Before anything is written

    def open(self) -> None:
        """Take the namespace for ourselves as far as a kernel allows that. Raises Trouble if it is in use."""
        for controller in (self._target, self._own):
            name = self._block(controller)
            used = in_use(controller.name, name)
            if used:
                raise Trouble(used)
        fd = self._take(self._target, os.O_RDONLY)
        os.close(fd)
        self._reader = self._take(self._own, os.O_RDONLY | os.O_DIRECT)
        size = os.lseek(self._reader, 0, os.SEEK_END)
        if size < max(2 * CHECKED, len(self._reads)):
            raise Trouble(f"namespace {self._nsid} is too small: {size} bytes")
        for start in (0, (size - CHECKED) // BLOCK * BLOCK):
            with mmap.mmap(-1, CHECKED) as page:
                os.preadv(self._reader, [page], start)
                if holds_data(page[:]):
                    raise Trouble(
                        f"namespace {self._nsid} holds data at byte {start} or after it: wipe it first, if it is "
                        "the right one"
                    )

    def _block(self, controller: LocalController) -> str:
        name = block_name(controller.name, self._nsid)
        if not name:
            raise Trouble(f"{controller.name} (controller {controller.cntlid}) shows no namespace {self._nsid}")
        return name

    def _take(self, controller: LocalController, flags: int) -> int:
        """Open a controller's block device alone (open(2), O_EXCL): what is mounted or held is refused."""
        name = self._block(controller)
        try:
            fd = os.open(f"/dev/{name}", flags | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            why = "it is in use" if error.errno == errno.EBUSY else error.strerror
            raise Trouble(f"/dev/{name} cannot be had: {why}") from None
        found = os.fstat(fd)
        expected = (_SYSFS / controller.name / name / "dev").read_text().strip()
        if not stat.S_ISBLK(found.st_mode) or expected != f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}":
            os.close(fd)
            raise Trouble(f"/dev/{name} is not the block device that {controller.name} has")
        return fd

    # Writes

    def start(self) -> None:
        """See Bench."""
        fd = self._take(self._target, os.O_WRONLY | os.O_DIRECT)
        self._writes = {}
        self._stopping = threading.Event()
        self._writers = self._plan.writes
        left = itertools.count(self._plan.writes - 1, -1)
        for _ in range(self._plan.writes):
            threads.start(lambda: self._write(fd, self._stopping, left))

    def _write(self, fd: int, stopping: threading.Event, left: itertools.count[int]) -> None:
        writes, size = self._writes, self._plan.size
        words = mmap.mmap(-1, size)
        failed = False
        while not failed and not stopping.is_set():
            with self._lock:
                write = Write(next(self._numbers), time.monotonic())
                writes[write.number] = write
            words[:] = (MARK.to_bytes(8, "little") + write.number.to_bytes(8, "little")) * (size // 16)
            try:
                done = os.pwrite(fd, words, write.number % self._slots * size)
                outcome = "ok" if done == size else "SHORT"
            except OSError as error:
                outcome = errno.errorcode.get(error.errno or 0, "UNKNOWN")
            failed = outcome != "ok"
            write.outcome, write.ended = outcome, time.monotonic()
            stopping.wait(self._plan.pause_s)
        with self._lock:
            self._writers -= 1
            if next(left) == 0:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def stop(self) -> None:
        """See Bench."""
        self._stopping.set()

    def writing(self) -> int:
        """See Bench."""
        return self._writers

    def writes(self) -> Sequence[Write]:
        """See Bench."""
        with self._lock:
            return list(self._writes.values())

    # The medium

    async def sample(self) -> Sample:
        """See Bench."""
        try:
            return await beside(self._read, _READ_S, "reading the medium back")
        except OSError as error:
            raise Trouble(f"the medium cannot be read back: {error.strerror}") from None

    def _read(self) -> Sample:
        if os.preadv(self._reader, [self._reads], 0) != len(self._reads):
            raise OSError(errno.EIO, "short read")
        with memoryview(self._reads) as whole, whole.cast("Q") as words:
            step = BLOCK // 8
            marks, numbers = words[0::step].tolist(), words[1::step].tolist()
        return frozenset(
            (place, number) for place, (mark, number) in enumerate(zip(marks, numbers, strict=True)) if mark == MARK
        )

    # Controllers

    async def ready(self) -> None:
        """See Bench."""
        until = time.monotonic() + _READY_S
        rescan = 0.0
        shown, since = ("", ""), time.monotonic()
        while not all(shown) or time.monotonic() - since < _STEADY_S:
            if time.monotonic() > until:
                raise Trouble(
                    f"{self._target.name} ({self._state(self._target) or 'gone'}) and {self._own.name} "
                    f"({self._state(self._own) or 'gone'}) did not both show namespace {self._nsid} within "
                    f"{_READY_S:g} s"
                )
            if time.monotonic() >= rescan:  # not every drive tells its hosts of each change
                rescan = time.monotonic() + _RESCAN_EVERY_S
                for controller in (self._target, self._own):
                    with contextlib.suppress(OSError):
                        (_SYSFS / controller.name / "rescan_controller").write_text("1")
            await asyncio.sleep(_TICK_S)
            now = (self._shown(self._target), self._shown(self._own))
            if now != shown:  # the kernel may not yet have seen the detach, and then takes it away once more
                shown, since = now, time.monotonic()
        self._reopen()

    def _shown(self, controller: LocalController) -> str:
        """Return what tells a live controller's block device from any other, also of the same name; or nothing."""
        name = block_name(controller.name, self._nsid)
        if not name or self._state(controller) != "live":
            return ""
        try:
            return f"{name} {os.stat(f'/dev/{name}').st_rdev} {(_SYSFS / controller.name / name).stat().st_ino}"
        except OSError:
            return ""

    def _state(self, controller: LocalController) -> str:
        try:
            return (_SYSFS / controller.name / "state").read_text().strip()
        except OSError:
            return ""

    def _reopen(self) -> None:
        """Have the reader's block device open which is there now: it may have gone and come back."""
        now = (_SYSFS / self._own.name / self._block(self._own) / "dev").read_text().strip()
        device = os.fstat(self._reader).st_rdev
        try:
            os.preadv(self._reader, [self._reads], 0)
        except OSError:
            now = ""
        if now != f"{os.major(device)}:{os.minor(device)}":
            os.close(self._reader)
            self._reader = -1
            self._reader = self._take(self._own, os.O_RDONLY | os.O_DIRECT)

    async def reset(self, what: str) -> None:
        """See Bench. By the kernel's `reset_controller`, which ends what its host has under way."""
        every = {"host": [self._target], "own": [self._own]}.get(what, [self._own, self._target])
        if what == "subsystem":
            await self._subsystem_reset()
        for controller in every:
            path = _SYSFS / controller.name / "reset_controller"
            try:
                await beside(functools.partial(path.write_text, "1"), _RESET_S, f"the reset of {controller.name}")
            except OSError as error:
                raise Trouble(f"{controller.name} cannot be reset: {error.strerror}") from None

    async def reboot(self) -> None:
        """See Bench. A function-level reset of the PCI function, with its driver's knowledge.

        That is what the start of a host does; a controller that was offline may need more than its own reset.
        """
        path = _SYSFS / self._target.name / "device/reset"
        if not path.exists():
            await self.reset("host")
            return
        try:
            what = f"the function-level reset of {self._target.name}"
            await beside(lambda: path.write_text("1"), _RESET_S, what)
        except OSError as error:
            raise Trouble(f"{self._target.name} cannot be reset: {error.strerror}") from None

    async def _subsystem_reset(self) -> None:
        def send() -> None:
            fd = os.open(self._own.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _SUBSYS_RESET)
            finally:
                os.close(fd)

        try:
            await beside(send, _RESET_S, "the subsystem's reset")
        except OSError as error:
            why = "the controller has none" if error.errno == errno.ENOTTY else error.strerror
            raise Trouble(f"no NVM subsystem reset: {why}") from None

    def close(self) -> None:
        """See Bench."""
        self.stop()
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1

"""A drive that misbehaves at the ioctl: a character device of user space (CUSE) before a real controller.

    python -m tests.lab.cuse NAME REAL CONTROL

makes `/dev/NAME`, which hands every admin command on to the controller `REAL`, but does with some of them what the
file CONTROL says: see `Manner`. Protocol: linux/fuse.h (7.31), fs/fuse/cuse.c; no library is needed for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.lab import faults, observer

DETACH, READ = "detach", "read"
"""Commands that a manner concerns: Namespace Attachment with SEL 1; Identify of what is attached (CNS 12h)."""
_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_IOCTL_IN = struct.Struct("<QIIQII")
_IOCTL_OUT = struct.Struct("<iIII")
_IOVEC = struct.Struct("<QQ")
_INIT_OUT = struct.Struct("<18I")
_COMMAND = struct.Struct("<BBHIIIQQIIIIIIIIII")
_FUSE_OPEN, _FUSE_RELEASE, _FUSE_FLUSH, _FUSE_IOCTL, _FUSE_INTERRUPT, _CUSE_INIT = 14, 18, 25, 39, 36, 4096
_UNRESTRICTED: Final = 1
_RETRY: Final = 4
_LARGEST: Final = 1 << 20
_IDENTIFY, _ATTACHMENT = 0x06, 0x15
_ATTACHED_CONTROLLERS: Final = 0x12
_POLL_S: Final = 0.01


@dataclass(frozen=True)
class Manner:
    """How the drive behaves."""

    what: str = "honest"
    """honest; late (answers after `seconds`); hung (none while this manner lasts); refuse (`status`, nothing is
    done); lie (success, nothing is done); part (a list is applied but for its last controller, and success); blank
    (success, and no data); error (the ioctl fails with `status` as errno)."""
    commands: tuple[str, ...] = (DETACH, READ)
    """Which commands; all others are answered honestly."""
    seconds: float = 0.0
    status: int = 0


class Server:
    """Answers the kernel's requests for one device."""

    def __init__(self, name: str, real: Path, control: Path) -> None:
        self._name = name
        self._real = os.open(real, os.O_RDONLY | os.O_CLOEXEC)
        self._control = control
        self._fd = os.open("/dev/cuse", os.O_RDWR | os.O_CLOEXEC)

    def serve(self) -> None:
        """Serve until the device is taken away."""
        while True:
            try:
                request = os.read(self._fd, _LARGEST)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                raise
            head = _IN.unpack_from(request)
            threading.Thread(target=self._handle, args=(head[1], head[2], request[_IN.size :]), daemon=True).start()

    def _handle(self, opcode: int, unique: int, body: bytes) -> None:
        if opcode == _CUSE_INIT:
            major, _minor = struct.unpack_from("<II", body)
            init = _INIT_OUT.pack(major, 31, 0, _UNRESTRICTED, _LARGEST // 2, _LARGEST // 2, *[0] * 12)
            self._answer(unique, 0, init + f"DEVNAME={self._name}\0".encode())
        elif opcode == _FUSE_OPEN:
            self._answer(unique, 0, struct.pack("<QII", 0, 0, 0))
        elif opcode in (_FUSE_RELEASE, _FUSE_FLUSH):
            self._answer(unique, 0)
        elif opcode == _FUSE_IOCTL:
            self._ioctl(unique, body)
        elif opcode != _FUSE_INTERRUPT:  # whoever is interrupted waits for the answer, as with a real drive
            self._answer(unique, -errno.ENOSYS)

    def _answer(self, unique: int, error: int, data: bytes = b"") -> None:
        with contextlib.suppress(FileNotFoundError):  # the kernel waits no longer
            os.write(self._fd, _OUT.pack(_OUT.size + len(data), error, unique) + data)

    def _ioctl(self, unique: int, body: bytes) -> None:
        """Ask for the command, then for its data, then answer: an unrestricted ioctl says what memory it wants."""
        _fh, _flags, cmd, arg, in_size, _out_size = _IOCTL_IN.unpack_from(body)
        given = body[_IOCTL_IN.size : _IOCTL_IN.size + in_size]
        if cmd != observer.ADMIN_CMD:
            self._answer(unique, -errno.ENOTTY)
            return
        if in_size < _COMMAND.size:
            self._retry(unique, [(arg, _COMMAND.size)], [])
            return
        fields = _COMMAND.unpack_from(given)
        address, size = fields[7], fields[9]
        memory = [(arg, _COMMAND.size), *([(address, size)] if size else [])]
        if in_size < _COMMAND.size + size:
            self._retry(unique, memory, memory)
            return
        result, command, data = self._perform(fields, given[_COMMAND.size :])
        if result < 0:
            self._answer(unique, result)
        else:
            self._answer(unique, 0, _IOCTL_OUT.pack(result, 0, 0, 0) + command + data)

    def _retry(self, unique: int, wanted: list[tuple[int, int]], given_back: list[tuple[int, int]]) -> None:
        vectors = b"".join(_IOVEC.pack(*each) for each in [*wanted, *given_back])
        self._answer(unique, 0, _IOCTL_OUT.pack(0, _RETRY, len(wanted), len(given_back)) + vectors)

    def _perform(self, fields: tuple[int, ...], data: bytes) -> tuple[int, bytes, bytes]:
        """Return the ioctl's result (an errno below 0), the command and the data as they are afterwards."""
        kind = _kind(fields)
        manner = self._manner()
        if kind in manner.commands:
            if manner.what == "late":
                time.sleep(manner.seconds)
            while manner.what == "hung" and self._manner() == manner:
                time.sleep(_POLL_S)
            if manner.what == "refuse":
                return manner.status, _COMMAND.pack(*fields), data
            if manner.what == "error":
                return -manner.status, b"", b""
            if manner.what in ("lie", "blank"):
                return 0, _COMMAND.pack(*fields), data
            if manner.what == "part" and kind == DETACH:
                data = _shortened(data)
        return self._forward(fields, data)

    def _forward(self, fields: tuple[int, ...], data: bytes) -> tuple[int, bytes, bytes]:
        buffer = ctypes.create_string_buffer(data, len(data)) if data else None
        address = ctypes.addressof(buffer) if buffer is not None else 0
        command = bytearray(_COMMAND.pack(*fields[:7], address, *fields[8:]))
        try:
            result = fcntl.ioctl(self._real, observer.ADMIN_CMD, command)
        except OSError as error:
            return -(error.errno or errno.EIO), b"", b""
        changed = _COMMAND.unpack(command)
        return (
            result,
            _COMMAND.pack(*changed[:7], fields[7], *changed[8:]),
            buffer.raw if buffer is not None else b"",
        )

    def _manner(self) -> Manner:
        found = json.loads(self._control.read_text())
        return Manner(**{**found, "commands": tuple(found["commands"])})


def _kind(fields: tuple[int, ...]) -> str:
    opcode, cdw10 = fields[0], fields[10]
    if opcode == _ATTACHMENT and cdw10 & 0xF == 1:
        return DETACH
    return READ if opcode == _IDENTIFY and cdw10 & 0xFF == _ATTACHED_CONTROLLERS else ""


def _shortened(page: bytes) -> bytes:
    count = max(int.from_bytes(page[:2], "little") - 1, 0)
    return count.to_bytes(2, "little") + page[2:]


class Impostor:
    """Stands before a drive's primary controller from entering to leaving."""

    def __init__(self, drive: observer.Drive, folder: Path, manner: Manner | None = None) -> None:
        self._path = drive.primary.path
        self._real = folder / f"real-{drive.primary.name}"
        self._control = folder / f"manner-{drive.primary.name}"
        self._name = f"cuse-{drive.primary.name}"
        self._process: subprocess.Popen[bytes] | None = None
        self.behave(manner or Manner())

    @property
    def real(self) -> Path:
        """A node of the controller itself."""
        return self._real

    def behave(self, manner: Manner) -> None:
        """Behave so from the next command on."""
        draft = self._control.with_suffix(".new")
        draft.write_text(json.dumps(asdict(manner)))
        draft.rename(self._control)

    def __enter__(self) -> Impostor:
        subprocess.run(["modprobe", "cuse"], check=True, timeout=60)
        real_node(self._path, self._real)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.cuse", self._name, self._real, self._control],
            stdin=subprocess.DEVNULL,
        )
        made = Path("/dev") / self._name
        faults.wait_for(f"{made}", made.exists, 60)
        subprocess.run(["mount", "--bind", made, self._path], check=True, timeout=30)
        return self

    def __exit__(self, *_: object) -> None:
        self.behave(Manner())
        time.sleep(5 * _POLL_S)  # whoever hangs is answered
        subprocess.run(["umount", "--lazy", self._path], check=True, timeout=30)
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(60)
        self._real.unlink()


def real_node(path: Path, node: Path) -> None:
    """Make another node of a character device."""
    node.unlink(missing_ok=True)
    os.mknod(node, stat.S_IFCHR | 0o600, path.stat().st_rdev)


if __name__ == "__main__":
    Server(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])).serve()

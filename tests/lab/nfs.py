"""A kernel's NFS server in a network namespace of its own, and mounts of it, in the guest.

The kernel asks its user space three questions, which rpc.mountd answers elsewhere: whose address is this, may it
have that directory, and which directory is that file handle's (net/sunrpc/cache.c, fs/nfsd/export.c). Here all
answers are known beforehand. NFS 4 alone, so nobody asks for a port mapper.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SPACE: Final = "nfs-server"
SERVER, CLIENT = "10.99.0.1", "10.99.0.2"
_LINK: Final = "to-server"
_FOR_EVER: Final = 0x7FFFFFFF
_INSECURE_PORT, _NO_SUBTREE_CHECK, _FSID = 0x0002, 0x0400, 0x2000
"""include/uapi/linux/nfsd/export.h; no root_squash, synchronous, writable."""
_FSID_NUM: Final = 1
_CONTROL: Final = Path("/proc/fs/nfsd")
_LIMIT_S: Final = 60.0
_THREADS: Final = 4


class Server:
    """Exports one directory, from entering to leaving."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mounts: list[Path] = []
        self._holder: subprocess.Popen[str] | None = None

    def __enter__(self) -> Server:
        for name in ("veth", "nfsd", "nfsv4"):
            do("modprobe", name)
        self.__exit__()
        do("ip", "netns", "add", SPACE)
        do("ip", "link", "add", _LINK, "type", "veth", "peer", "name", "to-client", "netns", SPACE)
        do("ip", "address", "add", f"{CLIENT}/24", "dev", _LINK)
        do("ip", "link", "set", _LINK, "up")
        for words in (["address", "add", f"{SERVER}/24", "dev", "to-client"], ["link", "set", "to-client", "up"]):
            do("ip", "-n", SPACE, *words)
        do("ip", "-n", SPACE, "link", "set", "lo", "up")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for path in reversed(self._mounts):
            do("umount", "--force", "--lazy", path)
        self._mounts.clear()
        self.stop()
        with contextlib.suppress(subprocess.CalledProcessError):  # there is none
            do("ip", "netns", "delete", SPACE)
        with contextlib.suppress(subprocess.CalledProcessError):  # it went with its other end
            do("ip", "link", "delete", _LINK)

    def mount(self, path: Path, options: str) -> Path:
        """Mount it on a new directory; `options` say how it bears a server that does not answer."""
        path.mkdir()
        given = f"vers=4.2,addr={SERVER},clientaddr={CLIENT},{options}"
        do("mount", "-i", "-t", "nfs4", "-o", given, f"{SERVER}:/", path)
        self._mounts.append(path)
        return path

    @contextlib.contextmanager
    def unplugged(self) -> Iterator[None]:
        """Cut the wire from entering to leaving: nothing is answered, and nothing says why."""
        do("ip", "link", "set", _LINK, "down")
        try:
            yield
        finally:
            do("ip", "link", "set", _LINK, "up")

    def stop(self) -> None:
        """End the server: connections are refused."""
        holder, self._holder = self._holder, None
        if holder is not None:
            assert holder.stdin is not None
            holder.stdin.close()
            assert holder.wait(_LIMIT_S) == 0

    def start(self) -> None:
        """Start it, as after a reboot; for its first ten seconds it hears only clients that it had before."""
        self._holder = subprocess.Popen(
            ["ip", "netns", "exec", SPACE, sys.executable, "-m", "tests.lab.nfs", self._directory],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "serving\n"


def do(*words: object) -> None:
    """Run a command. Raises CalledProcessError."""
    subprocess.run([*map(str, words)], check=True, timeout=_LIMIT_S, capture_output=True, text=True)


def _export(directory: str) -> None:
    """Start the server of this network namespace, with the answers to all its questions."""
    _tell("versions", "-3 +4 +4.1 +4.2")
    _tell("nfsv4leasetime", "10")  # the kernel takes no less
    _tell("nfsv4gracetime", "10")
    flags = _INSECURE_PORT | _NO_SUBTREE_CHECK | _FSID
    _answer("auth.unix.ip", f"nfsd {CLIENT} {_FOR_EVER} client")
    _answer("nfsd.export", f"client {directory} {_FOR_EVER} {flags} 65534 65534 0")
    _answer("nfsd.fh", f"client {_FSID_NUM} \\x00000000 {_FOR_EVER} {directory}")
    _tell("threads", str(_THREADS))


def _tell(name: str, text: str) -> None:
    with (_CONTROL / name).open("w") as file:
        file.write(f"{text}\n")


def _answer(cache: str, line: str) -> None:
    descriptor = os.open(f"/proc/self/net/rpc/{cache}/channel", os.O_WRONLY)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    # In the mount namespace that `ip netns exec` makes; the server ends with this mount, hence with this process.
    do("mount", "-t", "nfsd", "nfsd", _CONTROL)
    _export(sys.argv[1])
    print("serving", flush=True)
    sys.stdin.read()
    _tell("threads", "0")

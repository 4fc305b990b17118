"""What the unit file's sandbox refuses, tried from inside by a process in the watcher's place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.service_room import ServiceRoom
from tests.system.test_unit_file import FILE, UNIT, WHY_NOT
from tests.system.watching import until

pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT) and os.environ.get("NVMEFENCE_LAB") != "require", reason=WHY_NOT),
]
PROBE = """
import ctypes, errno, fcntl, json, mmap, os, resource, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
mine = sys.argv[1]

def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

def write(path):
    with open(path, "w") as stream:
        stream.write("x")
    os.unlink(path)

def executable_memory():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)

def made_executable():
    size = 4096
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    at = libc.mmap(None, size, 3, 0x22, -1, 0)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    call("mprotect", at, size, 5)

def set_uid_file():
    path = mine + "/suid"
    open(path, "w").close()
    os.chmod(path, 0o4755)

def device():
    os.mknod(mine + "/device", 0o060600, os.makedev(7, 0))

def open_device():
    os.close(os.open("/dev/fuse", os.O_RDWR))

def address_family(family, kind=socket.SOCK_STREAM):
    socket.socket(family, kind).close()

def reach_the_network():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
        route.bind((0, 0))
    names = [name for _, name in socket.if_nameindex()]
    if names != ["lo"]:
        raise SystemError(f"sees {names}")
    raise OSError(errno.ENETUNREACH, "only lo")

TRIES = {
    "write to /etc": lambda: write("/etc/nvmefence-probe"),
    "write to /usr": lambda: write("/usr/nvmefence-probe"),
    "write to /": lambda: write("/nvmefence-probe"),
    "write to /root": lambda: write("/root/nvmefence-probe"),
    "write to /proc/sys": lambda: open("/proc/sys/kernel/hostname", "w").write("x"),
    "write to a control group": lambda: os.mkdir("/sys/fs/cgroup/nvmefence-probe"),
    "ptrace": lambda: call("ptrace", 16, os.getppid(), 0, 0),
    "load a module": lambda: call("syscall", 313, 0, b"", 0),
    "load a kernel": lambda: call("syscall", 246, 0, 0, 0, 0),
    "a raw socket": lambda: address_family(socket.AF_INET, socket.SOCK_RAW),
    "a packet socket": lambda: address_family(socket.AF_PACKET, socket.SOCK_RAW),
    "an internet socket": lambda: address_family(socket.AF_INET),
    "an internet socket, version 6": lambda: address_family(socket.AF_INET6),
    "the network": reach_the_network,
    "memory to write and execute": executable_memory,
    "memory made executable": made_executable,
    "mount": lambda: call("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None),
    "a new namespace": lambda: call("unshare", 0x10000000),
    "another root": lambda: os.chroot(mine),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "set the host's name": lambda: socket.sethostname("x"),
    "another user": lambda: os.setuid(1000),
    "a set-uid file": set_uid_file,
    "a device node": device,
    "open a device": open_device,
    "real-time scheduling": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "reboot": lambda: call("reboot", 0),
    "swap": lambda: call("swapon", b"/dev/null", 0),
    "the kernel's log": lambda: call("klogctl", 3, b" " * 100, 100),
    "bpf": lambda: call("syscall", 321, 0, 0, 0),
    "another architecture": lambda: call("personality", 0x0008),
}
NEEDED = {
    "write to its directories": lambda: write(mine + "/allowed"),
    "lock memory": lambda: call("mlockall", 3),
    "a unix socket": lambda: address_family(socket.AF_UNIX),
    "the kernel's events": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15).close(),
    "threads": lambda: __import__("threading").Thread(target=int).start(),
}

def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    except Exception as error:
        return repr(error)
    return "allowed"

chosen = sys.argv[2:] or list(TRIES)
found = {
    "refused": {name: outcome(TRIES[name]) for name in chosen},
    "needed": {name: outcome(one) for name, one in NEEDED.items()},
}
with open(mine + "/found.new", "w") as stream:
    json.dump(found, stream)
os.rename(mine + "/found.new", mine + "/found.json")
time.sleep(60)
"""


REFUSALS = {"EPERM", "EACCES", "EROFS", "ENOENT", "EAFNOSUPPORT", "ENETUNREACH"}
"""And not EFAULT, EINVAL and the like, by which the kernel says that it would have done it."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What a process saw that was started in the watcher's place."""
    place = tmp_path_factory.mktemp("sandbox")
    (place / "probe.py").write_text(PROBE)
    drop_in = (
        f"[Service]\nType=exec\nExecStart=\nExecStart={sys.executable} {place / 'probe.py'} {place}\n"
        "WatchdogSec=0\n"
        f"ReadWritePaths={place}\nPrivateTmp=no\nEnvironment=PYTHONDONTWRITEBYTECODE=1\n"
        # This interpreter may lie in a home directory, which the unit hides; that it cannot be written to is tried.
        "ProtectHome=read-only\n"
    )
    units = {UNIT: FILE.read_text(), f"{UNIT}.d/test.conf": drop_in}
    (place / "room").mkdir()
    with ServiceRoom(place / "room", units) as room:
        started = room.run("systemctl", "start", UNIT)
        assert started.returncode == 0, room.systemctl("status", UNIT)
        until((place / "found.json").exists, "the probe has tried everything")
        yield json.loads((place / "found.json").read_text())


def test_what_a_watcher_does_not_need_is_refused(found: dict[str, Any]) -> None:
    assert len(found["refused"]) > 25
    assert {name: how for name, how in found["refused"].items() if how not in REFUSALS} == {}


def test_what_a_watcher_needs_is_there(found: dict[str, Any]) -> None:
    assert set(found["needed"].values()) == {"allowed"}, found["needed"]


def test_without_the_sandbox_the_probe_is_allowed_what_it_tries(tmp_path: Path) -> None:
    """A probe that fails everywhere shows nothing. What would change this machine is left out."""
    harmless = (
        "write to /etc",
        "memory made executable",
        "an internet socket",
        "a set-uid file",
        "a packet socket",
    )
    (tmp_path / "probe.py").write_text(PROBE.replace("time.sleep(60)", ""))
    command = [sys.executable, str(tmp_path / "probe.py"), str(tmp_path), *harmless]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    open_here = json.loads((tmp_path / "found.json").read_text())["refused"]
    assert open_here == dict.fromkeys(harmless, "allowed")

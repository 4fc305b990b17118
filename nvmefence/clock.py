"""Whose monotonic clock a time is from, and when a process began: by these, times of several processes go together.

Agents import it, so it takes next to nothing.
"""

from __future__ import annotations

import os
import time

BOOT_VARIABLE = "BOOT_ID"
"""Where a process that does not see the kernel's settings is told the boot it is of, as systemd's %b has it."""
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_TIME_NAMESPACE = "/proc/self/ns/time"
_STAT = "/proc/self/stat"
_STARTED = 19
"""The field `starttime` of proc_pid_stat(5), counted from behind the process's name."""


def identity() -> str:
    """Return a text that two processes have in common if, and only if, they have CLOCK_MONOTONIC in common.

    It is the kernel's boot and the time namespace (time_namespaces(7)); empty where that cannot be told. In the
    watcher's sandbox the service manager tells the boot.
    """
    try:
        with open(_BOOT_ID, "rb") as stream:
            boot = stream.read(64).decode("ascii").strip().replace("-", "")
    except (OSError, ValueError):
        boot = os.environ.get(BOOT_VARIABLE, "")
        if not boot:
            return ""
    try:
        return f"{boot}/{os.stat(_TIME_NAMESPACE).st_ino}"
    except OSError:  # a kernel before 5.6 has one clock for all
        return boot


def began(now: float, processor_s: float) -> float:
    """Return the monotonic time at which this process began, at the latest; at most one tick (10 ms) too late.

    `now` is a monotonic time and `processor_s` what `time.process_time` said then. The kernel tells a process's
    start in ticks of the clock that counts sleep of the machine, too.
    """
    latest = now - processor_s
    try:
        with open(_STAT, "rb") as stream:
            fields = stream.read(4096).rpartition(b")")[2].split()
        tick = 1 / os.sysconf("SC_CLK_TCK")
        slept = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        started = int(fields[_STARTED]) * tick - slept
    except (OSError, ValueError, IndexError):
        return latest
    return min(latest, started + tick) if started <= latest + tick else latest

"""Three logs of fence events, written by a child process so that no log can ever hold up a fence.

The log directory may be on the very file system that stands still until the fence is confirmed. So the agent hands
its lines to a child through a pipe that never blocks; the child appends them, one write per line, and is waited for
only briefly. Several agents may write to the same files: each line is one write to a file opened with O_APPEND.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import stat
import time

from nvmefence.agents.convention import escaped

FILES = ("fence-events.log", "fence-events-readable.log", "fence-events-detailed.jsonl")
CLOSE_WITHIN_S = 0.5
_DIRECTORY_MODE = 0o755
_FILE_MODE = 0o640
_FIELD_LIMIT = 2000


class Event:
    """One thing that happened to a fence. `level` is INFO, WARNING or ERROR; `status` one word."""

    __slots__ = ("action", "details", "filesystems", "level", "recorder", "request_id", "status", "target", "when")

    def __init__(
        self,
        level: str,
        action: str,
        target: str,
        status: str,
        details: str,
        *,
        request_id: str,
        recorder: str,
        filesystems: list[str],
    ) -> None:
        self.level = level
        self.action = action
        self.target = target
        self.status = status
        self.details = details if len(details) <= _FIELD_LIMIT else details[:_FIELD_LIMIT] + "..."
        self.request_id = request_id
        self.recorder = recorder
        self.filesystems = filesystems
        self.when = time.time()

    def lines(self) -> tuple[str, str, str]:
        """Return the line for each of `FILES`, without its end."""
        local = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.when))
        action, target, status, details = (
            escaped(t) for t in (self.action, self.target, self.status, self.details)
        )
        return (
            f"[{local}] [{self.level}] Fence {action} of {target}: {status}: {details} (request {self.request_id})",
            f"[{local}] ACTION={action} TARGET={target} STATUS={status} DETAILS={details}",
            json.dumps(
                {
                    "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.when)),
                    "level": self.level,
                    "action": self.action,
                    "target_node": self.target,
                    "gfs2_filesystems": self.filesystems,
                    "status": self.status,
                    "details": self.details,
                    "request_id": self.request_id,
                    "recorder_node": self.recorder,
                }
            ),
        )


def append(directory: str, name: str, line: str) -> None:
    """Append one line in one write. Raises OSError, also if the file is anything but a regular one."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(os.path.join(directory, name), flags, _FILE_MODE)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(0, "not a regular file")
        os.write(file, (line + "\n").encode("utf-8", "backslashreplace"))
    finally:
        os.close(file)


class Journal:
    """The way to the logs. No method raises for a log that cannot be written, and none blocks."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lines = -1
        self._trouble = -1

    def record(self, event: Event) -> None:
        """Hand an event to the child, which is started at the first."""
        try:
            if self._lines < 0:
                self._start()
            os.write(self._lines, json.dumps(event.lines()).encode() + b"\n")
        except OSError:
            pass  # no process or no room in the pipe: the fence goes on without this line

    def close(self, within_s: float = CLOSE_WITHIN_S) -> str:
        """Let the child finish, waiting `within_s` at most; return what went wrong, else an empty string."""
        if self._lines < 0:
            return ""
        os.close(self._lines)
        told = b""
        until = time.monotonic() + within_s
        while True:
            ready, _, _ = select.select([self._trouble], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                told = f"{self._directory} did not take the log within {within_s:g} s".encode()
                break
            more = os.read(self._trouble, 4096)
            if not more:
                break
            told += more
        os.close(self._trouble)
        self._lines = self._trouble = -1
        return told.decode(errors="replace")

    def _start(self) -> None:
        source, lines = os.pipe()
        trouble, report = os.pipe()
        try:
            child = os.fork()
        except OSError:
            for end in (source, lines, trouble, report):
                os.close(end)
            raise
        if child == 0:
            try:
                os.close(lines)
                os.close(trouble)
                _serve(self._directory, source, report)
            finally:
                os._exit(0)
        os.close(source)
        os.close(report)
        os.set_blocking(lines, False)
        self._lines, self._trouble = lines, trouble


def _serve(directory: str, source: int, report: int) -> None:
    """Be the child: append what comes, tell of the first failure. Keeps nothing of Pacemaker's open."""
    quiet = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    with contextlib.suppress(OSError):
        os.makedirs(directory, _DIRECTORY_MODE, exist_ok=True)
    told = False
    with os.fdopen(source, "rb") as frames:
        for frame in frames:
            for name, line in zip(FILES, json.loads(frame), strict=True):
                try:
                    append(directory, name, line)
                except OSError as error:
                    if not told:
                        os.write(report, f"{directory}/{name}: {error.strerror}".encode())
                    told = True

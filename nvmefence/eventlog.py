"""Three logs of fence events, in the founding project's formats; agents and the watcher write to the same files.

Each line is one write to a file opened for this line with O_APPEND: several writers never mix their lines, and a
file that logrotate moved away is left behind with the next line.
"""

from __future__ import annotations

import os
import stat
import time

from nvmefence.plain import escaped, json_fields

FILES = ("fence-events.log", "fence-events-readable.log", "fence-events-detailed.jsonl")
_DIRECTORY_MODE = 0o755
_FILE_MODE = 0o640
_FIELD_LIMIT = 2000


class Event:
    """One thing that happened to a fence. `level` is INFO, WARNING or ERROR; `status` one word."""

    __slots__ = (
        "action", "details", "filesystems", "level", "recorder", "request_id", "status", "target", "timeline",
        "when",
    )  # fmt: skip

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
        timeline: dict[str, str | float] | None = None,
    ) -> None:
        """`timeline` is what its writer alone can tell of the time, see docs/timeline.md; for the detailed log."""
        self.level = level
        self.action = action
        self.target = target
        self.status = status
        self.details = details if len(details) <= _FIELD_LIMIT else details[:_FIELD_LIMIT] + "..."
        self.request_id = request_id
        self.recorder = recorder
        self.filesystems = filesystems
        self.timeline = timeline
        self.when = time.time()

    def lines(self) -> tuple[str, str, str]:
        """Return the line for each of `FILES`, without its end."""
        local = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.when))
        action, target, status, details, request = (
            escaped(t) for t in (self.action, self.target, self.status, self.details, self.request_id)
        )
        return (
            f"[{local}] [{self.level}] Fence {action} of {target}: {status}: {details} (request {request})",
            f"[{local}] ACTION={action} TARGET={target} STATUS={status} DETAILS={details}",
            "{" + ", ".join(json_fields(self._fields())) + "}",
        )

    def _fields(self) -> dict[str, str | list[str] | dict[str, str | float]]:
        fields: dict[str, str | list[str] | dict[str, str | float]] = {
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
        if self.timeline is not None:
            fields["timeline"] = self.timeline
        return fields


def make_directory(directory: str) -> None:
    """Make the log directory if it is missing. Raises OSError."""
    os.makedirs(directory, _DIRECTORY_MODE, exist_ok=True)


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

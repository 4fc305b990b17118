"""What can go wrong with a request or response file: one family, each member asking for another reaction.

`reason` is printable ASCII whatever the file held, so that it may go to a log or a terminal as it is.
"""

from __future__ import annotations


class SpoolError(Exception):
    """The family. `reason` says in words what was wrong; `errno` is the system's number, or 0."""

    def __init__(self, reason: str, errno: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.errno = errno


class UnsafeName(SpoolError):
    """A name that must not be used as a file's name. Nothing was touched."""


class Gone(SpoolError):
    """There is no such file (any more)."""


class ReadFailed(SpoolError):
    """The system could not read; the file itself may be good. Worth another try."""


class Refused(SpoolError):
    """A file that breaks a limit: not a regular file, too large, wrong owner or mode. It was not believed."""


class Malformed(SpoolError):
    """The content is not one strict JSON object: a bad file, or one that is still being written."""


class Invalid(SpoolError):
    """The content is JSON and breaks the contract: a field is missing, or has a wrong type or value."""


class Unsettled(SpoolError):
    """Unparsable, yet so young that it may be half written: look again."""


class NotThisRequest(SpoolError):
    """A well-formed response that answers another request or names another node."""


class AlreadyThere(SpoolError):
    """A file of that name exists, and is left as it is."""


class WriteFailed(SpoolError):
    """A write is not known to be durable. `visible`: readers may see the file nevertheless."""

    def __init__(self, reason: str, errno: int = 0, *, visible: bool = False) -> None:
        super().__init__(reason, errno)
        self.visible = visible


class DirectoryLost(SpoolError):
    """The directory is missing, or its path now leads to another one: open it anew.

    `visible`: a write had already put its file into the directory that was open.
    """

    def __init__(self, reason: str, errno: int = 0, *, visible: bool = False) -> None:
        super().__init__(reason, errno)
        self.visible = visible

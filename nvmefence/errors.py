"""Errors that a person must act on, and the exit codes that every command of nvmefence shares."""

from __future__ import annotations

import difflib
import enum
from typing import Final

from nvmefence.plain import escaped

_SHOWN: Final = 800
"""Characters of what is wrong with a file that are said at most; a key or a value can be as long as the file."""
_SHOWN_LAST: Final = 200
"""Of these, those from the end, where the reason stands."""


class Exit(enum.IntEnum):
    """Exit codes; each means one thing."""

    OK = 0
    """Done, and where a fence was asked: confirmed by a read-back on every expected drive."""
    NOT_CONFIRMED = 1
    """A fence was tried and is not confirmed: the host may still be able to write."""
    USAGE = 2
    """The command line is wrong. Nothing was done."""
    BAD_CONFIG = 3
    """The settings, the host map or the fleet file is missing or refused. Nothing was done."""
    UNKNOWN_HOST = 4
    """The host is not in the map. Nothing was done."""
    DRIVES_MISSING = 5
    """No drives, or not the expected ones; those that are there were cut, yet nothing is confirmed."""
    REFUSED = 6
    """The host's controllers resolve to something that must not be cut, such as this machine's own. `qualify`:
    the drive is not set aside for it; nothing was written."""
    NO_ACCESS = 7
    """Not permitted, or the forced backend is not available. Nothing was done."""
    UNKNOWN_STATE = 8
    """`status`, `hosts discover`, dry run: some drive could not be read, so its part of the answer is missing.
    `qualify`: not all that was asked could be measured."""
    CHECK_FAILED = 9
    """`check`, `hosts import --check`: a fence would fail, or something needs attention first."""
    BUSY = 10
    """`watch`: another watcher serves the request directory. Nothing was done."""
    BAD_FILE = 11
    """`explain`, `history`, `hosts import`, `report`, `restore`, `unfence`: a file cannot be read, is not what it
    should be, or is there already."""
    NOT_RESTORED = 12
    """`restore`: not everything on record could be given back; what could not is named, and stays on record.
    `qualify`: the drive is not as it was before; what differs is named."""
    UNDER_WAY = 13
    """`restore`, `unfence`: the host is being fenced, or restored. Nothing was done."""
    INTERNAL = 70
    """A defect in nvmefence. A fence that ended so is not confirmed."""
    INTERRUPTED = 130
    """Stopped by a signal before the end. A fence that ended so is not confirmed."""


class NvmefenceError(Exception):
    """Something is wrong and a person can mend it: `what` was wrong, `advice` says what to do."""

    exit_code = Exit.INTERNAL

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what if not advice else f"{what}; {advice}")
        self.what = what
        self.advice = advice


class ConfigError(NvmefenceError):
    """Settings, host map or fleet file refused. Its texts are a printable line each, whatever the file has."""

    exit_code = Exit.BAD_CONFIG

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(_line(what), _line(advice))


class UnknownHostError(NvmefenceError):
    """The host is not in the map."""

    exit_code = Exit.UNKNOWN_HOST


class AccessError(NvmefenceError):
    """Not permitted, or a part of the system that was asked for is not available."""

    exit_code = Exit.NO_ACCESS


class BusyError(NvmefenceError):
    """Somebody else is doing this already."""

    exit_code = Exit.BUSY


class UnderWayError(NvmefenceError):
    """The host is being fenced or restored by somebody else, or nobody can say that it is not."""

    exit_code = Exit.UNDER_WAY


class FileError(NvmefenceError):
    """A file that was to be shown cannot be read, or is not what it should be."""

    exit_code = Exit.BAD_FILE


def _line(text: str) -> str:
    """Return a text as a line that people can read: escaped, and not endless."""
    text = escaped(text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - _SHOWN_LAST]} ... {text[-_SHOWN_LAST:]}"


def nearest(word: str, known: list[str]) -> str:
    """Return " (did you mean 'x'?)" for a close match of `word`, else an empty string."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""

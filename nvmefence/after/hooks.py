"""Which executables in a directory are run after a fence, and which are not, and why."""

from __future__ import annotations

import os
import re
import stat
from typing import Final, NamedTuple

from nvmefence.spool.names import quoted

MOST: Final = 32
"""Hooks that are run; each may take its full time."""
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
_LEFTOVER: Final = re.compile(r".*(\.dpkg-[a-z]+|\.ucf-[a-z]+|\.rpm(save|new|orig)|\.(bak|orig|old|swp|tmp))")
"""What package managers and editors leave beside the file that counts. (A name that ends in ~ is no name.)"""


class Refused(Exception):
    """No hook at all is run; the text says why."""


class Hooks(NamedTuple):
    """The entries of the directory, sorted."""

    names: tuple[str, ...]
    """To be run in this order."""
    refused: tuple[tuple[str, str], ...]
    """Name, harmless to show, and reason."""


def find(directory: str) -> Hooks:
    """Look at what is there now. Raises Refused.

    Nobody but root, or the user that this is, may be able to write the directory or a hook.
    A name that begins with a dot is passed over without a word.
    """
    try:
        found = os.stat(directory, follow_symlinks=False)
        entries = sorted(os.listdir(directory))
    except OSError as error:
        raise Refused(f"{directory}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise Refused(f"{directory}: not a directory")
    if reason := _untrusted(found):
        raise Refused(f"{directory}: {reason}")
    names: list[str] = []
    refused = []
    for name in entries:
        if name.startswith("."):
            continue
        reason = _reason(directory, name)
        if not reason and len(names) == MOST:
            reason = f"{MOST} hooks are enough"
        if reason:
            refused.append((quoted(name)[1:-1], reason))
        else:
            names.append(name)
    return Hooks(tuple(names), tuple(refused))


def _reason(directory: str, name: str) -> str:
    """Return why an entry is not run, else an empty string."""
    if not _NAME.fullmatch(name):
        return "a name has letters, digits, and _ . - only"
    if _LEFTOVER.fullmatch(name):
        return "a name that a package manager or an editor leaves behind"
    try:
        found = os.stat(os.path.join(directory, name), follow_symlinks=False)
    except OSError as error:
        return error.strerror or "it cannot be looked at"
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    if reason := _untrusted(found):
        return reason
    return "" if found.st_mode & stat.S_IXUSR else "not executable"


def _untrusted(found: os.stat_result) -> str:
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to user {found.st_uid}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"may be written by others (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""

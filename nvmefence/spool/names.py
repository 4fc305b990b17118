"""Names and texts from outside: which may become a file's name, and how any of them is shown."""

from __future__ import annotations

from nvmefence.spool.errors import UnsafeName

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

MAX_NAME: Final = 200
"""Bytes. Leaves room in the 255 of a file system for a dot, ".tmp" and what `rejected/` appends."""
SUFFIX: Final = ".json"
_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_SAFE: Final = _LETTERS | frozenset(".-")


def is_safe(name: str) -> bool:
    """Whether a text may be a file's name: ASCII letters, digits, "_", ".", "-"; the first no "." or "-"."""
    return 0 < len(name) <= MAX_NAME and name[0] in _LETTERS and _SAFE.issuperset(name)


def check(name: str) -> str:
    """Return the name. Raises UnsafeName if it may not be a file's name."""
    if not is_safe(name):
        raise UnsafeName(f"not a name for a file: {quoted(name)}")
    return name


def check_json(name: str) -> str:
    """Return the name of a request or response file. Raises UnsafeName, also if it does not end in ".json"."""
    if not name.endswith(SUFFIX):
        raise UnsafeName(f"not a name for a request or response: {quoted(name)}")
    return check(name)


def quoted(value: object, limit: int = 100) -> str:
    """Return any value as printable ASCII, quoted, and cut after about `limit` characters.

    A number or a nested value, which may be long or deep, is shown by its type alone.
    """
    if isinstance(value, str):
        return ascii(value) if len(value) <= limit else f"{value[:limit]!a}..."
    if value is None or isinstance(value, bool):
        return repr(value)
    return f"<{type(value).__name__}>"

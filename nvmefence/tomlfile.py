"""Reading the TOML files that people write. Whatever is in one, or in its place: a document or a ConfigError."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any, Final

from nvmefence.errors import ConfigError

LIMIT: Final = 1024 * 1024
"""Bytes of a file: some ten thousand hosts, or as long as a fence can wait for a parser."""
MAX_DEPTH: Final = 16
"""Tables and lists within each other; no file of ours has more than five."""
_PART: Final = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+"""
_LONG_KEY: Final = rf"(?:^|[\[{{,])[ \t]*+(?:{_PART}\.[ \t]*+){{{MAX_DEPTH}}}"
"""A key of so many parts, a.b.c..., in a line."""
_INTEGERS: Final = range(-(1 << 63), 1 << 63)
"""What TOML lets a whole number be; Python reads any."""
_NULL: Final = os.makedev(1, 3)
"""/dev/null (Documentation/admin-guide/devices.txt), which stands for a file with nothing in it."""
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read_toml(
    path: str | Path, what: str, if_missing: str, error_class: type[ConfigError] = ConfigError
) -> dict[str, Any]:
    """Read a TOML file: a regular one of at most LIMIT bytes, or /dev/null; a FIFO or a device is never waited for.

    Raises `error_class`, and nothing else, with the file, the line where there is one, and what to do.
    """
    try:
        data = _content(path)
    except FileNotFoundError:
        raise error_class(f"there is no {what} {path}", if_missing) from None
    except OSError as error:
        raise error_class(f"cannot read the {what} {path}: {error.strerror}", if_missing) from None
    except ValueError:  # a NUL in it
        raise error_class(f"not a path of a {what}: {str(path)!a}", if_missing) from None
    if data is None:
        raise error_class(f"the {what} {path} is not a regular file", if_missing)
    if len(data) > LIMIT:
        raise error_class(
            f"the {what} {path} has more than {LIMIT} bytes", "no such file is as large: name another"
        )
    return parse_toml(data, path, error_class)


def parse_toml(data: bytes, path: str | Path, error_class: type[ConfigError] = ConfigError) -> dict[str, Any]:
    """Return the document in the bytes of a file. Raises `error_class`, and nothing else."""
    try:
        text = data.decode("utf-8")
        if _has_long_key(text):
            raise RecursionError
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise error_class(f"{path}: not UTF-8 at byte {error.start}", "save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise error_class(f"{path}: {error}", "correct the file") from None
    except RecursionError:
        raise error_class(f"{path}: nested more than {MAX_DEPTH} levels deep", "correct the file") from None
    except ValueError:  # as Python refuses to convert them
        raise error_class(f"{path}: a number has too many digits", "correct the file") from None
    except Exception as error:
        raise error_class(
            f"{path}: the parser of TOML fails: {type(error).__name__}", "write it anew, by the example"
        ) from None
    if wrong := _wrong_inside(document):
        raise error_class(f"{path}: {wrong}", "correct the file")
    return document


def _has_long_key(text: str) -> bool:
    """Whether a key has parts for which the parser's time grows with their square: hours for a whole file."""
    suspects = [line for line in text.split("\n") if line.count(".") >= MAX_DEPTH]
    return any(re.search(_LONG_KEY, line) for line in suspects)


def _content(path: str | Path) -> bytes | None:
    """Return what is in a file, a byte more than LIMIT at most; None if there is something else than a file."""
    # Opening a device can have effects, so it is looked at first; the second look, at what was opened, counts.
    found = os.stat(path)
    if stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL:
        return b""
    if not _readable(found.st_mode):
        return None
    with open(os.open(path, _FLAGS), "rb") as file:
        return file.read(LIMIT + 1) if _readable(os.fstat(file.fileno()).st_mode) else None


def _readable(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)  # to read a directory is an error with words of its own


def _wrong_inside(document: dict[str, Any]) -> str:
    """Say what no reader of the document should have to reckon with, such as a value that cannot be shown."""
    level: list[Any] = [document]
    for _depth in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, int) and value not in _INTEGERS:
                return "a number has too many digits"
        if not below:
            return ""
        level = below
    return f"nested more than {MAX_DEPTH} levels deep"

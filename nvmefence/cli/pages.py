"""Files that commands write for people: a picture, a page. Each appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile

from nvmefence.errors import AccessError, FileError


def replace(path: str, data: bytes, advice: str) -> None:
    """Put a file there, or another in its place, with the mode that a new file gets; a link stays one.

    Raises FileError and AccessError, with `advice`.
    """
    try:
        _replace(os.path.realpath(path), data)
    except PermissionError as error:
        raise AccessError(f"{path} cannot be written: {error.strerror}", advice) from None
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise FileError(f"{path} cannot be written: {words}", advice) from None


def _replace(target: str, data: bytes) -> None:
    if os.path.lexists(target) and not stat.S_ISREG(os.stat(target).st_mode):
        raise OSError(0, "it is there and not a regular file (- is standard output)")
    fd, draft = tempfile.mkstemp(prefix=".nvmefence-", dir=os.path.dirname(target))
    try:
        with open(fd, "wb") as stream:
            stream.write(data)
            os.fchmod(stream.fileno(), 0o666 & ~_umask())
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(draft, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

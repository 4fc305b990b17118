"""Runs a command that the kernel denies io_uring, as seccomp profiles of containers do (EPERM).

python -m tests.lab.no_ring COMMAND...
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import Final

_SECCOMP, _FILTER, _NO_NEW_PRIVS = 22, 2, 38
_IO_URING: Final = (425, 426, 427)
"""io_uring_setup, _enter and _register; the numbers are the same on all architectures (asm-generic/unistd.h)."""
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def deny() -> None:
    """Have io_uring fail with EPERM in this thread and all it becomes, from now on. Raises OSError."""
    last = len(_IO_URING) - 1
    program = [
        (_LOAD, 0, 0, 0),  # the number of the call, first in struct seccomp_data
        *((_JUMP_EQUAL, last - n + 1, 0, number) for n, number in enumerate(_IO_URING)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    code = b"".join(struct.pack("<HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_program = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in ((_NO_NEW_PRIVS, 1, 0, 0, 0), (_SECCOMP, _FILTER, filter_program, 0, 0)):
        if prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    deny()
    os.execvp(sys.argv[1], sys.argv[1:])

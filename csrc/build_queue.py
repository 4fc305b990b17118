"""Builds the extension module `nvmefence.nvme._queue`: cffi in API mode over the C sources beside this file.

`NVMEFENCE_WERROR=1` makes warnings errors; `NVMEFENCE_SANITIZE=1` builds with AddressSanitizer and
UndefinedBehaviorSanitizer (the interpreter then needs their runtime preloaded).
"""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = ("queue.c", "slots.c", "devices.c", "uring.c", "threads.c")
HEADERS = ("nvmefence_queue.h", "internal.h", "kernel_abi.h")


def _compile_arguments() -> list[str]:
    arguments = ["-std=c11", "-D_GNU_SOURCE", "-pthread", "-fvisibility=hidden"]
    arguments += ["-Wall", "-Wextra", "-Wconversion"]
    if os.environ.get("NVMEFENCE_WERROR") == "1":
        arguments.append("-Werror")
    if os.environ.get("NVMEFENCE_SANITIZE") == "1":
        arguments += ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"]
    return arguments


def _link_arguments() -> list[str]:
    sanitize = os.environ.get("NVMEFENCE_SANITIZE") == "1"
    return ["-pthread", *(["-fsanitize=address,undefined"] if sanitize else [])]


def _declarations() -> str:
    """Return the public header without its preprocessor lines: what it declares is what Python sees."""
    lines = (HERE / "nvmefence_queue.h").read_text(encoding="ascii").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def _relative(name: str) -> str:
    """Return a path that setuptools accepts: relative to the directory the build runs in."""
    return os.path.relpath(HERE / name)


ffibuilder = FFI()
ffibuilder.cdef(_declarations())
ffibuilder.set_source(
    "nvmefence.nvme._queue",
    '#include "nvmefence_queue.h"',
    sources=[_relative(name) for name in SOURCES],
    depends=[_relative(name) for name in (*HEADERS, "build_queue.py")],
    include_dirs=[_relative(".")],
    extra_compile_args=_compile_arguments(),
    extra_link_args=_link_arguments(),
)

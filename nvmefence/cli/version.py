"""`nvmefence version`."""

from __future__ import annotations

import argparse
import json
import platform

from nvmefence import __version__
from nvmefence.cli.text import Screen
from nvmefence.errors import Exit
from nvmefence.settings import Settings


def version(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Print versions and the backends that this machine offers."""
    try:
        from nvmefence.nvme.queue import probe_backends

        backends = {name: reason or "available" for name, reason in probe_backends().items()}
    except ImportError as error:
        backends = {"io_uring": f"the submission queue cannot be loaded: {error}", "ioctl": "likewise"}
    facts = {"nvmefence": __version__, "python": platform.python_version(), "kernel": platform.release()}
    if arguments.json:
        screen.raw(json.dumps({**facts, "backends": backends}))
    else:
        for name, value in {**facts, **backends}.items():
            screen.line(f"{name:10} {value}")
    return Exit.OK

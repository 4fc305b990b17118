"""A thread that nobody waits for: not at its start, and not at the end of the process."""

from __future__ import annotations

import _thread
from collections.abc import Callable


def start(run: Callable[[], object]) -> None:
    """Have `run` run in a thread. Raises RuntimeError or MemoryError where there is none to be had.

    Not `threading.Thread`: its `start` waits until the new thread says that it runs, and one that finds no memory
    to begin with ends without a word, so that the wait never ends. Who expects something of the thread sets himself
    a time for it.
    """
    _thread.start_new_thread(run, ())

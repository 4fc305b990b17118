"""The pair that polls: its watcher as a process, its agent as a way."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import polling_agent
from tests.bench.turns import ENVIRONMENT, timed

_AGENT = Path(polling_agent.__file__)
_WATCHER = _AGENT.with_name("polling_watcher.py")


class PollingPair:
    """Two directories of their own, and the options that the agent is given."""

    def __init__(self, folder: Path, target: str, timeout_s: float) -> None:
        self._requests = folder / "polled-requests"
        self._responses = folder / "polled-responses"
        self._requests.mkdir()
        self._responses.mkdir()
        self._options = folder / "polled-options"
        self._options.write_text(
            f"action=off\nport={target}\nfence_timeout={timeout_s}\n"
            f"request_dir={self._requests}\nresponse_dir={self._responses}\n"
        )

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Have the watcher running."""
        command = [sys.executable, str(_WATCHER), str(self._requests), str(self._responses)]
        watcher = subprocess.Popen(command, env=ENVIRONMENT)
        try:
            yield
        finally:
            watcher.kill()
            watcher.wait()

    def agent(self) -> float:
        """Run the agent at a random point of its watcher's pause; return its seconds from start to exit."""
        time.sleep(random.uniform(0, polling_agent.POLL_S))
        with self._options.open("rb") as options:
            return timed([sys.executable, str(_AGENT)], options, ENVIRONMENT)

"""Watches a response directory without a pause, and takes a sample of the drives between any two looks.

A sample that was taken before a look showed no response is of a time before that response; one that was begun after
a look showed it is of a time after it. What changed between the two is therefore seen without a gap, whatever the
scheduler does.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
PAUSE_S = 0.001
"""Seconds between two samples, for whom else the processor is for."""


@dataclass(frozen=True)
class Moment(Generic[T]):
    """A sample, and the look that followed it. Times are CLOCK_MONOTONIC."""

    began: float
    sample: T
    looked: float
    responses: dict[str, bool]
    """What the look showed: by file name, whether it says success."""


class Sentinel(Generic[T]):
    """Runs in its own thread from entering to leaving. Responses that were there before do not count."""

    def __init__(
        self, responses: Path, sample: Callable[[], T], heard: Callable[[str], None] | None = None
    ) -> None:
        """`heard` is called with each response's name at once when it is seen."""
        self._directory = responses
        self._sample = sample
        self._heard = heard
        self._old = self._names()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sentinel", daemon=True)
        self.moments: list[Moment[T]] = []

    def __enter__(self) -> Sentinel[T]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(30)
        if error is None and self._error is not None:
            raise self._error

    def _names(self) -> set[str]:
        return {path.name for path in self._directory.iterdir() if path.suffix == ".json"}

    def _run(self) -> None:
        known: dict[str, bool] = {}
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                sample = self._sample()
                looked = time.monotonic()
                for name in sorted(self._names() - self._old - known.keys()):
                    known = {**known, name: json.loads((self._directory / name).read_bytes())["success"] is True}
                    if self._heard is not None:
                        self._heard(name)
                self.moments.append(Moment(began, sample, looked, known))
                time.sleep(PAUSE_S)
        except BaseException as failure:  # raised where the sentinel is left
            self._error = failure

    def before(self) -> Moment[T]:
        """Return the last moment whose look showed no response: its sample is older than any response."""
        found = None
        for moment in self.moments:
            if moment.responses:
                break
            found = moment
        assert found is not None, "a response was there at the first look"
        return found

    def since(self) -> list[Moment[T]]:
        """Return the moments whose samples were begun after a response was seen, the oldest first."""
        seen = [number for number, moment in enumerate(self.moments) if moment.responses]
        return self.moments[seen[0] + 1 :] if seen else []

    def visible(self) -> float:
        """Return a time at which the first response was there, as early as it is known."""
        return next(moment.looked for moment in self.moments if moment.responses)

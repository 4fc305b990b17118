"""Watchers with a defect, which the laboratory's long run must find.

    python -m tests.lab.broken DEFECT watch ...

`no-read-back` believes what a drive says of a detach; `answers-lost` forgets every third answer.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

from nvmefence.cli.main import main
from nvmefence.fencing.session import Attached, DriveSession
from nvmefence.watcher.delivery import Delivery


def no_read_back() -> None:
    """A drive is read once in each fence; later reads see nothing attached."""
    honest = DriveSession.read_attached

    async def once(self: DriveSession, **how: Any) -> Attached:
        found = await honest(self, **how)
        if getattr(self, "was_read", False):
            found.by_nsid = {nsid: [] for nsid in found.nsids}
            found.faults = {}
        self.was_read = True  # type: ignore[attr-defined]
        return found

    DriveSession.read_attached = once  # type: ignore[method-assign]


def answers_lost() -> None:
    """Of the answers every third is forgotten."""
    honest = Delivery.answer
    number = itertools.count(1)

    def forgetful(self: Delivery, batch: Any, *more: Any, **how: Any) -> Any:
        kept = [one for one in batch if next(number) % 3]
        self.handled.update(one.outgoing.name for one in batch)
        return honest(self, kept, *more, **how)

    Delivery.answer = forgetful  # type: ignore[method-assign]


DEFECTS = {"no-read-back": no_read_back, "answers-lost": answers_lost}

if __name__ == "__main__":
    DEFECTS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))

"""Run one scenario in an interpreter of its own, which has the shim preloaded.

python -m tests.unit.queue_support NAME
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine

from tests.unit.queue_support import lives, scenarios


def main(name: str) -> None:
    """Say that it held; else there is a traceback."""
    outcome = (vars(scenarios) | vars(lives))[name]()
    if isinstance(outcome, Coroutine):
        asyncio.run(outcome)
    print("held")


if __name__ == "__main__":
    main(sys.argv[1])

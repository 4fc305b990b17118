"""All faults, in the order in which they are tried. More of them: a module with `FAULTS`, named here."""

from __future__ import annotations

from typing import Final

from tests.chaos import hostile, limits, nfs, processes, spool
from tests.chaos.frame import Fault

FAULTS: Final[tuple[Fault, ...]] = (*processes.FAULTS, *limits.FAULTS, *spool.FAULTS, *nfs.FAULTS, *hostile.FAULTS)

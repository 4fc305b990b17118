"""Where records and locks are, by the settings: those of emulated drives lie beside the fleet file."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nvmefence.records.hostlock import HostLocks
from nvmefence.records.store import Store
from nvmefence.settings import RECORDS_DIR, RUN_DIR, Settings


@dataclass(frozen=True, slots=True)
class Places:
    """The records, and the locks that keep fences and restores apart."""

    store: Store
    locks: HostLocks


def places(settings: Settings) -> Places:
    """Return both; touches no file."""
    fleet = os.path.abspath(settings.simulate) if settings.simulate else ""
    records = f"{fleet}.fenced" if fleet and settings.records == RECORDS_DIR else settings.records
    return Places(Store(records, simulated=bool(fleet)), HostLocks(f"{run_directory(settings)}/hosts"))


def run_directory(settings: Settings) -> str:
    """Return where locks lie, and what the mass-fence guard must remember."""
    if settings.simulate and settings.run_dir == RUN_DIR:
        return f"{os.path.abspath(settings.simulate)}.run"
    return settings.run_dir

"""The figures as data: what a file of them says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_SUFFIX = re.compile(r"_(bucket|sum|count)$")


class Told(NamedTuple):
    """What a file of figures says."""

    kinds: dict[str, str]
    """By metric."""
    labels: dict[str, set[str]]
    """Names of labels, by metric."""
    values: dict[str, float]
    """By name and labels, as written."""

    @property
    def names(self) -> set[str]:
        """All names by which a query may ask."""
        parts = ("_bucket", "_sum", "_count")
        return {
            name + part for name, kind in self.kinds.items() for part in (parts if kind == "histogram" else ("",))
        }


def read(path: Path) -> Told:
    """Read a file."""
    told = Told({}, {}, {})
    for line in path.read_text().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            told.kinds[name] = kind
            told.labels[name] = set()
        elif not line.startswith("#"):
            key, value = line.rsplit(" ", 1)
            told.values[key] = float(value)
            name = key.partition("{")[0]
            base = name if name in told.kinds else _SUFFIX.sub("", name)
            told.labels[base].update(re.findall(r'[{,](\w+)="', key))
    return told

"""Figures for monitoring, in a file as node_exporter's textfile collector reads it (text format of Prometheus)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

_MODE: Final = 0o644
"""For a collector that runs as another user."""


class Value(NamedTuple):
    """One value of a metric."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""
    """Of a histogram's value, which has a name of its own: "_bucket", "_sum" or "_count"."""


class Sample(NamedTuple):
    """One metric with its values."""

    name: str
    kind: str
    """ "gauge", "counter" or "histogram"."""
    help: str
    values: tuple[Value, ...]


def gauge(name: str, text: str, value: float) -> Sample:
    """Return a gauge without labels; `name` is what follows the project's."""
    return Sample(f"nvmefence_{name}", "gauge", text, (Value({}, value),))


def counter(name: str, text: str, value: float) -> Sample:
    """Return a counter without labels; as `gauge`."""
    return Sample(f"nvmefence_{name}", "counter", text, (Value({}, value),))


@dataclass(slots=True)
class Figures:
    """What the look-out for fenced hosts has counted since the start of the watcher, and what it sees now."""

    returned: dict[str, bool] = field(default_factory=dict)
    """By fenced host: whether it is attached, or online, again."""
    looks: int = 0
    last_look: float = 0.0
    """Seconds since 1970; 0: none."""
    unread: int = 0
    """Drives that the last look should have read, and did not."""
    returns: int = 0
    """How often a fenced host was found back."""
    cut_again: int = 0
    not_cut_again: int = 0

    def samples(self) -> list[Sample]:
        """Return all of them."""

        hosts = tuple(Value({"host": host}, float(back)) for host, back in sorted(self.returned.items()))
        tries = (
            Value({"result": "confirmed"}, self.cut_again),
            Value({"result": "not_confirmed"}, self.not_cut_again),
        )
        return [
            gauge("fenced_hosts", "Hosts that count as fenced.", len(self.returned)),
            Sample("nvmefence_host_returned", "gauge", "1 where a fenced host is attached or online again.", hosts),
            counter("returns_total", "Times that a fenced host was found back.", self.returns),
            Sample("nvmefence_enforced_total", "counter", "Times that a fenced host was cut again.", tries),
            counter("vigil_looks_total", "Looks at the drives for fenced hosts.", self.looks),
            gauge("vigil_unread_drives", "Drives that the last look could not read.", self.unread),
            gauge("vigil_last_look_timestamp_seconds", "When the last look ended.", self.last_look),
        ]


def render(samples: Iterable[Sample]) -> str:
    """Return the text of a file."""
    lines = []
    for sample in samples:
        lines += [f"# HELP {sample.name} {sample.help}", f"# TYPE {sample.name} {sample.kind}"]
        for labels, value, suffix in sample.values:
            named = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            lines.append(f"{sample.name}{suffix}{f'{{{named}}}' if named else ''} {value:.17g}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def write(path: str, text: str) -> None:
    """Replace the file at once, so that a reader finds the old text or the new one. Raises OSError.

    It is not synced: after a power cut the next text is as good.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    try:
        os.fchmod(fd, _MODE)
        view = memoryview(text.encode())
        while view:
            view = view[os.write(fd, view) :]
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)

"""What the watcher says while it works: lines for the journal, or for a terminal, or as JSON."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from nvmefence.plain import escaped

_PRIORITY: Final = {"error": 3, "warning": 4, "notice": 5, "info": 6}
_COLOURS: Final = {"error": "31", "warning": "33", "notice": "32"}


class Journal:
    """Writes lines through `put`, which must never wait."""

    def __init__(self, put: Callable[[str], None], style: str) -> None:
        """`style` is "journal" (priorities of sd-daemon(3)), "terminal", "plain" or "json"."""
        self._put = put
        self._style = style
        self._conditions: dict[str, str] = {}

    def error(self, text: str, **fields: Any) -> None:
        """Say what needs a person now."""
        self._say("error", text, fields)

    def warning(self, text: str, **fields: Any) -> None:
        """Say what needs a person some time."""
        self._say("warning", text, fields)

    def notice(self, text: str, **fields: Any) -> None:
        """Say what a person will look for later, such as a fence."""
        self._say("notice", text, fields)

    def info(self, text: str, **fields: Any) -> None:
        """Say what is normal."""
        self._say("info", text, fields)

    def conditions(self, found: Mapping[str, str]) -> bool:
        """Say which lasting troubles are new, and which are over; each once. Returns whether any changed."""
        if found == self._conditions:
            return False
        for what, text in found.items():
            if self._conditions.get(what) != text:
                self.error(f"{what}: {text}", condition=what)
        for what in self._conditions:
            if what not in found:
                self.notice(f"{what}: well again", condition=what)
        self._conditions = dict(found)
        return True

    @property
    def trouble(self) -> str:
        """The lasting troubles in one line; empty when there are none."""
        return "; ".join(f"{what}: {text}" for what, text in self._conditions.items())

    @property
    def troubles(self) -> int:
        """How many lasting troubles there are."""
        return len(self._conditions)

    def _say(self, level: str, text: str, fields: Mapping[str, Any]) -> None:
        if self._style == "json":
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            self._put(json.dumps({"time": now, "level": level, "message": text, **fields}) + "\n")
            return
        shown = escaped(text)
        if self._style == "journal":
            self._put(f"<{_PRIORITY[level]}>{shown}\n")
            return
        clock = datetime.datetime.now().strftime("%H:%M:%S")
        colour = _COLOURS.get(level, "") if self._style == "terminal" else ""
        line = f"{clock} {level}: {shown}"
        self._put(f"\x1b[{colour}m{line}\x1b[0m\n" if colour else f"{line}\n")


def style(as_json: bool, terminal: bool, environment: Mapping[str, str] = os.environ) -> str:
    """Return the style that fits where standard error goes."""
    if as_json:
        return "json"
    if terminal:
        return "plain" if environment.get("NO_COLOR") or environment.get("TERM") == "dumb" else "terminal"
    return "journal" if environment.get("JOURNAL_STREAM") else "plain"

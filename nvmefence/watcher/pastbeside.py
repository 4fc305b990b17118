"""Audit lines that answer nobody: what followed a fence, and what the mass-fence guard did, in a few words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from nvmefence.watcher import loose

AFTER: Final = {True: "after-done", False: "after-failed"}
GUARD: Final = {"alarm": "mass-fence", "hold": "mass-fence-held", "allowed": "mass-fence-allowed"}
_NAMED: Final = 20
"""Hosts that are named."""


class Told(NamedTuple):
    """What such a line tells."""

    result: str
    action: str
    hosts: tuple[str, ...]
    message: str
    seconds: float | None = None


def _after(document: dict[str, Any]) -> Told:
    host = loose.text(document.get("host"))
    return Told(
        result=AFTER[document.get("good") is True],
        action=loose.text(document.get("what"), 40),
        hosts=(host,) if host else (),
        message=loose.text(document.get("text"), 1000),
        seconds=loose.seconds(document.get("seconds")),
    )


def _mass_fence(document: dict[str, Any]) -> Told:
    action = loose.text(document.get("action"), 40)
    seconds = loose.seconds(document.get("seconds"))
    within = "some time" if seconds is None else f"{seconds:g} s"
    if action == "allowed":
        who = loose.text(document.get("by"), 40) or "somebody"
        return Told(GUARD[action], "guard", (), f"{who} allows any number of hosts for {within}")
    hosts, held = _names(document.get("hosts")), _names(document.get("held"))
    limit = loose.number(document.get("limit"))
    more = "" if limit is None else f", more than {limit}"
    parts = [f"{len(hosts)} hosts within {within}{more}"] + [f"held: {', '.join(held)}"] * bool(held)
    return Told(GUARD.get(action, GUARD["alarm"]), "guard", (*hosts, *held)[:_NAMED], "; ".join(parts))


def _names(value: object) -> list[str]:
    return [loose.text(one) for one in loose.items(value) if isinstance(one, str)]


EVENTS: Final[dict[str, Callable[[dict[str, Any]], Told]]] = {"after": _after, "mass-fence": _mass_fence}
"""By event: what makes something of its line."""

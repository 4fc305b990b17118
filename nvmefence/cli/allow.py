"""`nvmefence allow-mass-fence`: a person's word to the watcher's mass-fence guard."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from nvmefence.cli.text import Screen
from nvmefence.errors import AccessError, Exit
from nvmefence.settings import Settings
from nvmefence.spool.errors import SpoolError
from nvmefence.watcher import loose, permit
from nvmefence.watcher.permit import Permit


def allow(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Leave the word, or take it back, and say whom it concerns now."""
    now = time.monotonic()
    try:
        if arguments.withdraw:
            there = permit.withdraw(settings.run_dir)
            text = "Taken back" if there else "There was nothing to take back"
            _say(text, {"withdrawn": there}, arguments.json, screen)
            return Exit.OK
        permit.give(settings.run_dir, Permit(now + arguments.for_s, _who(os.environ)), now)
    except (SpoolError, OSError) as error:
        raise AccessError(f"{settings.run_dir}: {error}", "run as root, where the watcher runs") from None
    held = _held(settings.run_dir, now)
    if held is None:
        waits = "the watcher has left no word about held fences: is mass_fence_action hold, and run_dir the same?"
    else:
        waits = f"held now: {', '.join(held)}" if held else "none is held now"
    text = f"Any number of hosts may be fenced for {arguments.for_s:g} s; {waits}"
    _say(text, {"allowed_s": arguments.for_s, "held": held}, arguments.json, screen)
    return Exit.OK


def _say(text: str, document: dict[str, Any], as_json: bool, screen: Screen) -> None:
    if as_json:
        screen.raw(json.dumps(document))
    else:
        screen.line(text)


def _held(run_dir: str, now: float) -> list[str] | None:
    """Return the hosts that somebody waits for; None: it is not known."""
    try:
        state = permit.load(run_dir)
    except (SpoolError, OSError):
        return None
    if not state:
        return None
    return [host for host, until in loose.table(state.get("held")).items() if (loose.seconds(until) or 0) > now]


def _who(environment: Mapping[str, str]) -> str:
    """Return who says it, as far as the environment tells."""
    user = environment.get("SUDO_USER") or environment.get("USER") or f"user {os.getuid()}"
    return user[:64]

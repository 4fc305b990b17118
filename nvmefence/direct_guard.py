"""The mass-fence guard of fences that no watcher does: they count each other's, and those that a watcher holds.

What began is in a file of the run directory that all of them change, so that many agents at once count as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from nvmefence.records.places import run_directory
from nvmefence.settings import Settings
from nvmefence.spool.errors import SpoolError
from nvmefence.watcher import permit
from nvmefence.watcher.massfence import ALLOW, MassFence

_LOCK: Final = "mass-fence-direct.lock"
_LOCK_S: Final = 1.0
"""Seconds that a fence waits for others to count themselves; then it counts without that."""
_TICK_S: Final = 0.005
_NOT_COUNTED: Final = "fences elsewhere are not counted, or do not count this one: {}: {}"


class Said(NamedTuple):
    """What the guard says to a fence that is to begin."""

    alarm: str = ""
    """More hosts than the limit: which, in words."""
    held: str = ""
    """Why the fence must not begin; empty: it may."""
    hosts: tuple[str, ...] = ()
    """The hosts that count, where there is an alarm."""
    trouble: str = ""
    """Why others may not count this one, or not all were counted."""


def ask(settings: Settings, hosts: Sequence[str], *, by_hand: bool = False) -> Said:
    """Count fences that are to begin now, and say whether they may. What goes wrong holds up nothing but a hold.

    `by_hand`: a person named these hosts, so they are counted and never held.
    """
    limit = settings.mass_fence_hosts
    if not limit:
        return Said()
    hold = settings.mass_fence_action == "hold" and not by_hand
    count = MassFence(limit, settings.mass_fence_s, hold)
    now = time.monotonic()
    run_dir, trouble, allowed = run_directory(settings), "", False
    try:
        with _alone(run_dir):
            now = time.monotonic()  # what others counted meanwhile is not later than that
            for read in (permit.load, permit.begun):
                try:
                    count.join(read(run_dir), now)
                except SpoolError as error:  # the second is written anew below
                    trouble = _NOT_COUNTED.format(run_dir, error)
            allowed = hold and permit.read(run_dir, now) is not None
            said = count.ask(dict.fromkeys(hosts, now), now, allowed)
            permit.put_begun(run_dir, count.to_json())
    except (SpoolError, OSError) as error:
        trouble = _NOT_COUNTED.format(run_dir, error)
        said = count.ask(dict.fromkeys(hosts, now), now, allowed)
    alarm = f"mass fence: {count.trouble(now)}" if said.alarm or said.held else ""
    held = ""
    if said.held:
        names = ", ".join(sorted(said.held))
        held = f"{names} held by the mass-fence guard ({count.rule}); to allow it: {ALLOW}, and fence again"
    return Said(alarm, held, tuple(count.fenced(now)), trouble)


@contextlib.contextmanager
def _alone(run_dir: str) -> Iterator[None]:
    """Have the others wait, if they are soon done themselves. Raises OSError."""
    os.makedirs(run_dir, 0o750, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(f"{run_dir}/{_LOCK}", flags, 0o600)
    try:
        until = time.monotonic() + _LOCK_S
        while time.monotonic() < until:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(_TICK_S)
        yield
    finally:
        os.close(fd)

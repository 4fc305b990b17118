"""The mass-fence guard at work: which fences begin now, which wait for a person, and what is said about it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from nvmefence.settings import Settings
from nvmefence.spool.errors import SpoolError
from nvmefence.watcher import permit
from nvmefence.watcher.journal import Journal
from nvmefence.watcher.massfence import ALLOW, MassFence
from nvmefence.watcher.passes import ANSWERING_S, Ticket

_LOOK_S: Final = 1.5
"""Seconds that may pass between a person's word, or a request's end, and the look that finds it."""


class Sorted(NamedTuple):
    """Requests for fences, by what is to be done about them."""

    begin: list[Ticket]
    held: list[Ticket]
    """To be left where they are; `due` says when they are to be looked at again."""
    too_late: list[Ticket]
    """Held until there was no time left for a fence: to be answered."""


class Guard:
    """Belongs to the loop's thread, but for `look`, `load` and `save`, which touch the run directory."""

    def __init__(
        self, settings: Settings, journal: Journal, note: Callable[..., None], now: Callable[[], float]
    ) -> None:
        """`note` puts an event and its fields into the audit some time; `now` is a monotonic clock."""
        hold = settings.mass_fence_action == "hold"
        self._count = MassFence(settings.mass_fence_hosts, settings.mass_fence_s, hold)
        self._settings = settings
        self._run_dir = settings.run_dir
        self._elsewhere: dict[str, Any] = {}
        """Fences that began without this watcher."""
        self._journal = journal
        self._note = note
        self._now = now
        self._spare_s = settings.quiesce.least + ANSWERING_S + _LOOK_S
        self._due: dict[str, float] = {}
        """When to look again at a held request, by its file's name."""
        self._held_hosts: dict[str, str] = {}
        """The host of a held request, by its file's name."""
        self._permit: permit.Permit | None = None
        self._told_permit: permit.Permit | None = None
        self._disbelieved = self._unsaved = ""
        self.changed = False
        """There is something to `save`."""

    @property
    def holds(self) -> bool:
        """Whether it may hold a fence; if not, `look`, `load` and `save` have nothing to do."""
        return self._count.holds

    def load(self) -> None:
        """Go on where a predecessor ended. Waits for the run directory."""
        try:
            state = permit.load(self._run_dir)
        except (SpoolError, OSError) as error:
            self._unsaved = f"what was held before is not known: {error}"
        else:
            self._count.restore(state, self._now())
        self.changed = True  # what is written down says also that there is a guard that may hold

    def look(self) -> None:
        """See whether a person allows it. Waits for the run directory."""
        if not self.holds:
            return
        try:
            self._permit, self._disbelieved = permit.read(self._run_dir, self._now()), ""
        except (SpoolError, OSError) as error:
            self._permit, self._disbelieved = None, f"{self._run_dir}: {error}"
        with contextlib.suppress(SpoolError, OSError):  # whoever fences elsewhere says so, and writes it anew
            self._elsewhere = {"begun": permit.begun(self._run_dir).get("begun")}

    def state(self) -> dict[str, Any]:
        """Return what a successor must know."""
        return self._count.to_json()

    def save(self, state: dict[str, Any]) -> None:
        """Write it down. Waits for the run directory."""
        try:
            permit.save(self._run_dir, state)
        except (SpoolError, OSError) as error:
            self._unsaved = f"a watcher that is started anew will not know what is held: {error}"
        else:
            self._unsaved = ""

    def holding(self, host: str) -> bool:
        """Whether a fence of this host is held."""
        return host in self._held_hosts.values()

    def due(self) -> list[str]:
        """Return the names of held requests that are to be looked at again, and forget them."""
        now = self._now()
        allowed = self.allowed()
        names = [name for name, due in self._due.items() if allowed or now >= due]
        for name in names:
            del self._due[name], self._held_hosts[name]
        if allowed and self._permit != self._told_permit:
            self._told_permit = self._permit
            self._count.allow()
            self.changed = True
            self._say_allowed(now)
        return names

    def allowed(self) -> bool:
        """Whether a person lets any number of hosts be fenced now."""
        return self._permit is not None and self._now() < self._permit.until

    def _say_allowed(self, now: float) -> None:
        if self._permit is None:
            return
        left = self._permit.until - now
        self._journal.notice(f"mass fence: {self._permit.by} allows any number of hosts for {left:.0f} s")
        self._note("mass-fence", action="allowed", by=self._permit.by, seconds=round(left))

    def sort(self, tickets: Sequence[Ticket], fencing: Callable[[str], bool]) -> Sorted:
        """Say which of these may begin. `fencing` tells whether a host is being fenced: that may be joined."""
        now = self._now()
        asked: dict[str, float] = {}
        for ticket in sorted(tickets, key=lambda one: one.request.dated):
            if not fencing(ticket.host.name):
                asked[ticket.host.name] = max(ticket.until, asked.get(ticket.host.name, 0.0))
        if not asked:
            return Sorted(list(tickets), [], [])
        if self.holds:
            self._count.join(self._elsewhere, now)
        said = self._count.ask(asked, now, self.allowed())
        self.changed = self.changed or self.holds
        found = Sorted([], [], [])
        for ticket in tickets:
            if ticket.host.name not in said.held:
                found.begin.append(ticket)
            elif ticket.until - self._spare_s > now:
                found.held.append(ticket)
                self._hold(ticket, now)
            else:
                found.too_late.append(ticket)
        if said.alarm:
            self._alarm(now)
        return found

    def _hold(self, ticket: Ticket, now: float) -> None:
        name, host = ticket.request.name, ticket.host.name
        due = ticket.until - self._spare_s
        self._due[name], self._held_hosts[name] = due, host
        self._journal.error(
            f"held: {host}, which may still write, for up to {due - now:.0f} s; to let it through: {ALLOW}",
            host=host,
            request_id=ticket.request.request_id,
        )

    def _alarm(self, now: float) -> None:
        self._note(
            "mass-fence",
            action=self._settings.mass_fence_action,
            hosts=self._count.fenced(now),
            held=self._count.held(now),
            limit=self._settings.mass_fence_hosts,
            seconds=self._settings.mass_fence_s,
        )

    def why(self, ticket: Ticket) -> str:
        """Return why a fence that was held until it was too late is none."""
        held = f"held by the mass-fence guard ({self._count.rule}), and nobody allowed it in time"
        return f"NOT fenced {ticket.host.name}: {held}; to allow it: {ALLOW}, and fence again"

    def troubles(self) -> dict[str, str]:
        """What is wrong now, by what it concerns."""
        found: dict[str, Any] = {
            "mass fence": self._count.trouble(self._now()),
            "mass fence permit": self._disbelieved,
            "mass fence guard": self._unsaved,
        }
        return {what: text for what, text in found.items() if text}

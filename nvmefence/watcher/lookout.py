"""The look-out for fenced hosts as the settings want it: none, one that raises alarms, or one that cuts again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nvmefence.inventory.hostmap import HostMap
from nvmefence.records.places import Places
from nvmefence.restoring import Of
from nvmefence.settings import Settings, option
from nvmefence.site import Site
from nvmefence.watcher.enforcing import Enforcing
from nvmefence.watcher.guard import Guard
from nvmefence.watcher.journal import Journal
from nvmefence.watcher.metrics import Figures
from nvmefence.watcher.passes import Passes
from nvmefence.watcher.vigil import Vigil
from nvmefence.watcher.worker import Workers


class Lookout:
    """Belongs to one event loop. Where the settings want none, nothing is done."""

    def __init__(
        self,
        settings: Settings,
        site: Site,
        hostmap: Callable[[], HostMap],
        there: Places,
        workers: Workers,
        passes: Passes,
        standing: Callable[[Of], Sequence[str]],
        guard: Guard,
        journal: Journal,
        note: Callable[..., None],
        told: Callable[[], None],
        wall: Callable[[], float],
    ) -> None:
        """Each of these is as `Vigil` and `Enforcing` have it."""
        self._vigil: Vigil | None = None
        self._idle = settings.enforce and not settings.vigil_s
        self._journal = journal
        if not settings.vigil_s:
            return
        self._vigil = vigil = Vigil(
            site, hostmap, there, workers.vigil, passes, journal, note, told,
            seconds=settings.vigil_s, wall=wall,
        )  # fmt: skip
        if settings.enforce:
            mark = "SIMULATED: " if site.simulated else ""
            vigil.enforcing = Enforcing(
                settings, passes, there, workers, standing, guard, journal, note, vigil.figures, vigil.hint, mark
            )

    @property
    def troubles(self) -> dict[str, str]:
        """What is wrong with the look-out itself, by what it concerns."""
        return {} if self._vigil is None else self._vigil.troubles

    @property
    def status(self) -> str:
        """Which fenced hosts are back, in a few words; empty: none."""
        return "" if self._vigil is None else self._vigil.status

    @property
    def figures(self) -> Figures | None:
        """What it has counted, and sees now; None: nobody looks."""
        return None if self._vigil is None else self._vigil.figures

    def begin(self) -> None:
        """Look from now on, until `finish`."""
        if self._idle:
            self._journal.warning(f"nobody is cut again: {option('vigil_s')} is 0")
        if self._vigil is not None:
            self._vigil.begin()

    def hint(self) -> None:
        """Look soon: the host map may be another."""
        if self._vigil is not None:
            self._vigil.hint()

    def pass_ended(self) -> None:
        """Take note that a fence has ended just now."""
        if self._vigil is not None:
            self._vigil.pass_ended()

    async def finish(self) -> None:
        """Look no more; what is being cut again is cut to the end."""
        if self._vigil is not None:
            await self._vigil.finish()

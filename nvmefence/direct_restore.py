"""A restore in this process, from the settings: what `nvmefence restore` and the direct agent's `on` do alike."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence

from nvmefence.direct import Direct
from nvmefence.fencing.restore import Progress
from nvmefence.inventory.drives import Drive
from nvmefence.inventory.hostmap import Host
from nvmefence.records.places import places
from nvmefence.restoring import PATIENCE_S, Ended, Of, Restoring
from nvmefence.settings import Settings
from nvmefence.spool.directory import ResponseDirectory
from nvmefence.spool.errors import DirectoryLost
from nvmefence.watcher.worker import Thread


async def restore(direct: Direct, host: Host, until: float, progress: Progress | None = None) -> Ended:
    """Give a host back what is on record, see `Restoring.restore`. `direct` is open; `until`: loop time."""
    site, settings = direct.site, direct.settings

    async def find(_within: float) -> Sequence[Drive]:
        return site.discover()

    restoring = Restoring(
        site.transport,
        find,
        places(settings),
        Thread("nvmefence-record"),
        Thread("nvmefence-spool"),
        lambda of: archive_fences(settings, of),
        simulated=site.simulated,
    )
    return await restoring.restore(direct.hostmap, host, until, progress, patience=PATIENCE_S)


def archive_fences(settings: Settings, of: Of) -> list[str]:
    """Archive the responses that say a host is fenced; where there is no directory, nothing says so."""
    with standing_responses(settings) as responses:
        return [] if responses is None else responses.archive_fences(of)


@contextlib.contextmanager
def standing_responses(settings: Settings) -> Iterator[ResponseDirectory | None]:
    """Open the response directory; None: there is none. With simulated drives, only their responses count there."""
    try:
        responses = ResponseDirectory(settings.response_dir, simulated=bool(settings.simulate))
    except DirectoryLost as error:
        if error.errno != errno.ENOENT:
            raise
        yield None
        return
    try:
        yield responses
    finally:
        responses.close()

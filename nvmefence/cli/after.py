"""What is done after a fence, as the commands see it: begun before anything else, told when all else is said."""

from __future__ import annotations

import contextlib
import datetime
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from nvmefence.cli.text import Screen
from nvmefence.fencing.evidence import FenceReport
from nvmefence.inventory.hostmap import Host
from nvmefence.settings import Settings

if TYPE_CHECKING:
    from nvmefence.after.actions import Fence
    from nvmefence.after.helper import Helper

_STEP_MS: Final = 200
"""Between two looks whether a person has had enough."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def begin(settings: Settings) -> tuple[Helper | None, str]:
    """Start the process that does it, if the settings say so; return why that was not possible, if it was not.

    To be called before there are threads and open drives.
    """
    if not settings.after:
        return None, ""
    from nvmefence.after.actions import Options
    from nvmefence.after.helper import Helper

    options = Options(settings.after, settings.hooks_dir, settings.corosync_conf, settings.after_timeout_s)
    try:
        return Helper(options), ""
    except OSError as error:
        return None, f"no process to be had: {error.strerror}"


def follow(helper: Helper, report: FenceReport, hosts: Sequence[Host], screen: Screen) -> None:
    """Have done what is to be done for each host whose fence is confirmed, and tell what comes of it.

    The result stands, and is printed. A signal ends the waiting, and nothing else.
    """
    from nvmefence.after.helper import Gone

    with contextlib.suppress(OSError):
        screen.out.flush()
    jobs: dict[int, str] = {}
    for host in hosts:
        if report.confirmed(host.name):
            job = helper.post(_fence(report, host))
            if job:
                jobs[job] = host.name
            else:
                screen.note(f"after the fence of {host.name}: nothing is done: it cannot be handed on")
    with _signals() as enough:
        try:
            while jobs and not enough():
                _hear(helper, jobs, screen)
        except Gone:
            screen.note("what is done after a fence is not known: the process that does it has ended")
    if jobs and enough():
        screen.note(
            f"after the fence of {', '.join(jobs.values())}: not waited for any longer; it goes on by itself"
        )
    screen.drain()


def _hear(helper: Helper, jobs: dict[int, str], screen: Screen) -> None:
    ready = select.poll()
    ready.register(helper, select.POLLIN)
    ready.poll(_STEP_MS)
    while (heard := helper.receive()) is not None:
        if heard.done is None:
            jobs.pop(heard.job, None)
        elif heard.job in jobs:
            screen.note(f"after the fence of {jobs[heard.job]}: {heard.done.what}: {heard.done.text}")


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Take note of signals instead of ending by them; gives what tells whether one came."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda received, _frame: came.append(received)) for number in _SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fence(report: FenceReport, host: Host) -> Fence:
    from nvmefence.after.actions import Fence

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Fence(
        host=host.name,
        names=(host.name, *host.aliases),
        target_node=host.name,
        action="off",
        message=report.message(host.name),
        time=now,
        simulated=report.simulated,
    )

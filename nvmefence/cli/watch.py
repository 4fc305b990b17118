"""`nvmefence watch`: the daemon in the foreground, as a service manager wants it."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal

from nvmefence.cli import after
from nvmefence.cli.text import Screen
from nvmefence.errors import ConfigError, Exit
from nvmefence.inventory.hostfile import load
from nvmefence.lines import LineWriter
from nvmefence.settings import Settings, check_deadline, option
from nvmefence.site import open_site
from nvmefence.watcher import journal, kernel, service, systemd
from nvmefence.watcher.worker import Workers


def watch(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Serve until SIGTERM or SIGINT; what is in hand then is finished first."""
    check_deadline(settings)
    _check_directories(settings, asked=bool(arguments.simulate))
    hostmap = load(settings.hosts)
    helper, no_helper = after.begin(settings)
    site = open_site(settings)
    # Before there is a thread, of whose stack all 8 MB would be brought in.
    unlocked = _lock_memory() if arguments.lock_memory else ""
    stream = screen.out if arguments.json else screen.err
    stream.flush()
    writer = LineWriter(stream.fileno(), tell_lost=not arguments.json)
    said = journal.Journal(writer.put, journal.style(arguments.json, stream.isatty()))
    if site.simulated:
        said.warning(
            f"SIMULATED drives of {settings.simulate}: no host loses anything by what this watcher answers"
        )
    if no_helper:
        said.error(f"nothing will be done after a fence: {no_helper}")
    if unlocked:
        said.warning(f"memory is not locked ({unlocked}): a fence may wait for a disk")

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        watcher = service.Watcher(
            settings, site, hostmap, Workers.threads(), said, systemd.Notifier(), helper=helper
        )
        reloads: set[asyncio.Task[None]] = set()

        def reload() -> None:
            task = loop.create_task(watcher.reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, watcher.stop)
        loop.add_signal_handler(signal.SIGHUP, reload)
        await watcher.run()

    try:
        asyncio.run(serve())
    finally:
        site.transport.close()
        writer.close()
    return Exit.OK


def _lock_memory() -> str:
    """Return why that was not possible, else an empty string."""
    try:
        kernel.lock_memory()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _check_directories(settings: Settings, *, asked: bool) -> None:
    """Raise ConfigError for directories that cannot be meant. `asked`: the command line wants simulated drives."""
    requests, responses = map(os.path.realpath, (settings.request_dir, settings.response_dir))
    if requests == responses:
        raise ConfigError(
            f"{option('request_dir')} and {option('response_dir')} are both {requests}", "give them different ones"
        )
    if settings.simulate and not asked:
        raise ConfigError(
            f"the settings say that drives are simulated ({settings.simulate}), and the command line does not: "
            "a cluster would take the answers for true",
            "remove simulate from the settings and NVMEFENCE_SIMULATE from the environment; "
            f"for a rehearsal give {option('simulate')}",
        )
    if settings.simulate and settings.request_dir == Settings().request_dir:
        raise ConfigError(
            f"simulated drives do not serve {settings.request_dir}: a cluster would take the answers for true",
            f"give another directory with {option('request_dir')}",
        )

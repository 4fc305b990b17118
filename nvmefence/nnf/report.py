"""`nvmefence-nnf-report`: a process of its own that says in Kubernetes which hosts are fenced.

It reads the response directory and the settings, writes no file, and takes no lock: whatever becomes of it, no
fence is slower for it, or another.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import select
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final, NoReturn

from nvmefence import __version__, streams
from nvmefence.errors import ConfigError, Exit, NvmefenceError
from nvmefence.lines import LineWriter
from nvmefence.nnf.cluster import ClusterError, connect
from nvmefence.nnf.confirmed import Responses
from nvmefence.nnf.reporter import RESCAN_S, RESYNC_S, Reporter
from nvmefence.settings import Settings, load, option
from nvmefence.spool import names
from nvmefence.watcher import journal
from nvmefence.watcher.kernel import Inotify
from nvmefence.watcher.systemd import Notifier

_LIMIT_S: Final = 10.0
"""Seconds for each step of a request."""
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VERSION: Final = re.compile(r"v[0-9]+((alpha|beta)[0-9]+)?")
_SETTLE_S: Final = 0.1
"""Seconds after a hint, in which more of them come."""
_EPILOG: Final = """exit codes:
  0   ended by a signal; --once: the NnfNode says what the responses show
  2   wrong command line
  3   the settings or the kubeconfig are missing or refused
  7   the cluster does not believe the credentials
  8   --once, --dry-run: the responses could not be read, or the cluster could not be told"""


class _Ended(BaseException):
    """A signal came; nobody on the way takes it for a failure of his own."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; the manual page and completion are made from it."""
    parser = argparse.ArgumentParser(
        prog="nvmefence-nnf-report", description="Say in Kubernetes which hosts of a Rabbit are fenced.",
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"nvmefence {__version__}")
    parser.add_argument("--rabbit", metavar="NAME", type=_namespace, help="default: this machine's name")
    parser.add_argument(
        "--kubeconfig",
        metavar="FILE",
        help="default: the pod's service account, else KUBECONFIG, else ~/.kube/config",
    )
    parser.add_argument(
        "--api-version", metavar="NAME", type=_version, help="of NnfNode; default: the newest known that is served"
    )
    parser.add_argument(
        option("response_dir"), metavar="PATH", help=f"responses of the watcher (default {Settings().response_dir})"
    )
    parser.add_argument("--config", metavar="FILE", help="settings file (default /etc/nvmefence/nvmefence.toml)")
    for name, default, meaning in (
        ("--rescan", RESCAN_S, "between two looks at the responses, changes aside"),
        ("--resync", RESYNC_S, "between two comparisons with the server, changes aside"),
    ):
        parser.add_argument(
            name, metavar="SECONDS", type=_seconds, default=default, help=f"{meaning} (default {default:g})"
        )
    parser.add_argument(
        "--keep-fenced", action="store_true", help="leave a host's status as it is when it is fenced no longer"
    )
    parser.add_argument("--simulated", action="store_true", help="report fences of simulated drives too")
    parser.add_argument("--once", action="store_true", help="compare and report once, then end")
    parser.add_argument("--dry-run", action="store_true", help="say once what would be reported; report nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object a line on standard output")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Report until a signal comes, or once; return an exit code."""
    arguments = make_parser().parse_args(argv)
    stream = sys.stdout if arguments.json else sys.stderr
    writer = LineWriter(stream.fileno(), encoding=stream.encoding)
    style = journal.style(arguments.json, stream.isatty())
    told = journal.Journal(writer.put, style)
    try:
        signal.signal(signal.SIGTERM, _end)
        signal.signal(signal.SIGINT, _end)
        return _report(arguments, told)
    except NvmefenceError as error:
        told.error(str(error), event="refused", exit=int(error.exit_code))
        return error.exit_code
    except ClusterError as error:
        told.error(error.reason, event="refused", exit=int(Exit.NO_ACCESS))
        return Exit.NO_ACCESS
    except _Ended:
        told.info("stopped", event="stopped")
        return Exit.OK
    finally:
        writer.close()


def _report(arguments: argparse.Namespace, told: journal.Journal) -> int:
    settings = load(
        {"response_dir": arguments.response_dir, "config": arguments.config}, warn=told.warning, spool=True
    )
    rabbit = arguments.rabbit or _namespace_of_this_machine()
    hints = _hints(told)
    responses = Responses(
        settings.response_dir, simulated=arguments.simulated, follow=None if hints is None else hints.follow
    )
    cluster = connect(rabbit, arguments.kubeconfig, arguments.api_version, _LIMIT_S)
    reporter = Reporter(
        responses, cluster, rabbit, told, rescan=arguments.rescan, resync=arguments.resync,
        hand_back=not arguments.keep_fenced, dry_run=arguments.dry_run,
    )  # fmt: skip
    if arguments.once or arguments.dry_run:
        reporter.turn()
        return Exit.UNKNOWN_STATE if reporter.in_trouble else Exit.OK
    notifier = Notifier()
    told.info(f"reporting {settings.response_dir} to NnfNode of {rabbit}", event="started", rabbit=rabbit)
    notifier.tell(READY=1)
    while True:
        pause = reporter.turn()
        notifier.tell(WATCHDOG=1, STATUS=reporter.status)
        _wait(hints, pause)


def _hints(told: journal.Journal) -> Inotify | None:
    try:
        return Inotify()
    except OSError as error:
        told.warning(f"no hints from the kernel: {error.strerror}", event="no-hints")
        return None


def _wait(hints: Inotify | None, seconds: float) -> None:
    """Wait so long, or until something happens to a response."""
    poll = select.poll()
    if hints is not None:
        poll.register(hints.fd, select.POLLIN)
    if not poll.poll(math.ceil(seconds * 1000)) or hints is None:
        return
    if not hints.concerns(names.SUFFIX.encode()):
        # A temporary file, most likely; what comes of it is soon to be seen.
        poll.poll(math.ceil(_SETTLE_S * 1000))
        hints.concerns(names.SUFFIX.encode())


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise _Ended


def _namespace_of_this_machine() -> str:
    name = os.uname().nodename.lower()
    if not _NAMESPACE.fullmatch(name):
        raise ConfigError(f"this machine's name {name!r} is none that a Rabbit can have", "name it with --rabbit")
    return name


def _namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be the name of a Kubernetes namespace, is {text!r}")
    return text


def _version(text: str) -> str:
    if not _VERSION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be a version such as v1alpha10, is {text!r}")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"must be seconds from 0.1 to 3600, is {text!r}")
    return value


def console() -> None:
    """Entry point of the `nvmefence-nnf-report` script."""
    streams.ensure_open()
    sys.exit(main())


if __name__ == "__main__":
    console()

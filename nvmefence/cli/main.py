"""`nvmefence`: arguments in, one command run, an exit code out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from nvmefence import __version__, streams
from nvmefence.cli import front, when
from nvmefence.cli.text import Screen
from nvmefence.errors import Exit, NvmefenceError
from nvmefence.settings import AFTER, BACKENDS, Settings, load, option

_EXIT_CODES = """exit codes:
  0    done; a fence: confirmed by a read-back on every expected drive
  1    the fence is NOT confirmed: the host may still be able to write
  2    wrong command line; nothing was done
  3    settings, host map or fleet file missing or refused; nothing was done
  4    the host is not in the map; nothing was done
  5    drives are missing: those that are there were cut, nothing is confirmed
  6    the host's controllers cannot be cut on some drive (this machine's own, or
       two hosts' at once, or not to be found); nothing was sent there. qualify:
       the drive is not set aside; nothing was written
  7    not permitted, or the forced backend is not available; nothing was done
  8    status, hosts discover, dry run: some drive could not be read. qualify:
       not all that was asked could be measured
  9    check, hosts import --check: a fence would fail
  10   watch: another watcher serves the request directory; nothing was done
  11   explain, history, hosts import, report, restore, unfence: a file cannot be
       read, is not what it should be, or is there already
  12   restore: not everything on record could be given back; what is left is
       named. qualify: the drive is not as it was; what differs is named
  13   restore, unfence: the host is being fenced or restored; nothing was done
  70   a defect in nvmefence; a fence that ended so is not confirmed
  130  stopped by a signal; a fence that ended so is not confirmed"""

_SPOOL_COMMANDS = ("watch", "history", "explain", "report", "allow-mass-fence", "restore", "unfence")
"""Those for which the variables of the directories count."""
_FRONTLESS = ("version", "watch", "history", "explain", "allow-mass-fence", "unfence")
"""Those that no drive can hold up; and a front process would only hide the daemon from its service manager."""
Command = Callable[[argparse.Namespace, Settings, Screen], int]


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; manual pages and completion are made from it too."""
    parser = argparse.ArgumentParser(
        prog="nvmefence",
        description="Cut a host off shared NVMe drives, and prove it.",
        epilog=_EXIT_CODES + "\n\nSettings: environment (NVMEFENCE_DEADLINE ...) before command line before "
        "/etc/nvmefence/nvmefence.toml.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nvmefence {__version__}")
    common = _common()
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common], epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip

    detach = add("detach", "cut a host off every expected drive, and read back that it is cut")
    detach.add_argument("--host", metavar="NAME", action="append", required=True, help="may be given several times")
    detach.add_argument("--dry-run", action="store_true", help="print the commands that would be sent; send none")
    _add_after(detach)
    _add_places(detach, "records", "run_dir")
    restore = add("restore", "give a host back what fences took from it, as far as it still is what it was")
    unfence = add("unfence", "let a host count as fenced no longer; no drive is touched")
    for parser_of in (restore, unfence):
        parser_of.add_argument("--host", metavar="NAME", required=True)
        parser_of.add_argument("--dry-run", action="store_true", help="print what would be done; do nothing")
        _add_places(parser_of, "records", "run_dir", "response_dir")
    _add_status(add("status", "show which host is attached to which drive"))
    _add_report(add("report", "write the fleet, the history and the timeline of each fence as a page of HTML"))
    add("check", "check that every host of the map could be fenced now; changes nothing")
    _add_qualify(add("qualify", "measure what writes, resets and cuts do on a drive set aside: DESTROYS ITS DATA"))
    _add_hosts(commands, common)
    _add_watch(add("watch", "serve request files with fences and response files, until SIGTERM"))
    _add_readers(commands)
    _add_allow(commands)
    version = commands.add_parser("version", help="show versions and what this machine offers")
    version.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser


def _common() -> argparse.ArgumentParser:
    """Return what the commands that need drives have in common."""
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("settings")
    group.add_argument("--hosts", metavar="FILE", help="host map (default /etc/nvmefence/hosts.toml)")
    group.add_argument("--config", metavar="FILE", help="settings file (default /etc/nvmefence/nvmefence.toml)")
    group.add_argument("--deadline", metavar="SECONDS", help="time for everything (default 30)")
    group.add_argument("--backend", metavar="NAME", help=f"{', '.join(BACKENDS)} (default auto)")
    group.add_argument(
        "--quiesce",
        metavar="METHOD",
        help="auto (drain where possible, else wait:10), "
        "auto:SECONDS, drain, offline, wait:SECONDS or none (default auto)",
    )
    group.add_argument(
        "--escalate", action="store_true", default=None,
        help="where a detach fails, take the host's secondary controllers offline",
    )  # fmt: skip
    group.add_argument("--simulate", metavar="FLEET", help="run on the emulated drives of this fleet file")
    common.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return common


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", metavar="NAME", action="append", help="this host only; may be given several times"
    )
    parser.add_argument(
        "--watch", metavar="SECONDS", nargs="?", type=when.interval, const=2.0,
        help="show it anew every so many seconds (default 2) until Ctrl-C; with --json, one object a line",
    )  # fmt: skip


def _add_hosts(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    hosts = commands.add_parser("hosts", help="show the host map, or find out what to write into it")
    of_hosts = hosts.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    of_hosts.add_parser("show", help="show the host map", parents=[common])
    of_hosts.add_parser("discover", help="print drives and controllers as a host map to fill in", parents=[common])
    _add_import(of_hosts, common)


def _add_watch(parser: argparse.ArgumentParser) -> None:
    _add_spool(parser)
    _add_places(parser, "records")
    parser.add_argument(
        option("agents_may_restore"), action="store_true", default=None,
        help="an agent's on gives a host back what fences took from it",
    )  # fmt: skip
    _add_after(parser)
    _add_guard(parser)
    _add_vigil(parser)
    parser.add_argument(
        "--no-lock-memory", dest="lock_memory", action="store_false", help="do not keep the process in memory"
    )


def _add_import(
    of_hosts: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add the command that makes a host map from resources of Kubernetes."""
    text = "print the host map of a Rabbit, made from its Near Node Flash resources"
    imported = of_hosts.add_parser("import", help=text, parents=[common])
    imported.add_argument(
        "--nnf", metavar="FILE", nargs="+", required=True,
        help="SystemConfiguration and NnfNode, JSON or YAML, - for standard input",
    )  # fmt: skip
    imported.add_argument("--rabbit", metavar="NAME", help="which one, where there are several")
    imported.add_argument(
        "--drives", metavar="N", type=when.count, help="how many drives must be there, instead of their serials"
    )
    imported.add_argument("--check", action="store_true", help="compare it with the drives first; changes nothing")
    imported.add_argument("--output", metavar="FILE", help="write it there, unless there is such a file")
    imported.add_argument("--force", action="store_true", help="with --output: replace what is there")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-", help="where the page goes (default: standard output)"
    )
    parser.add_argument("--no-survey", action="store_true", help="do not read the drives")
    parser.add_argument(
        "--since", metavar="WHEN", type=when.since, help="leave out what was before, as in nvmefence history"
    )
    parser.add_argument(option("audit"), metavar="PATH", help=f"the watcher's (default {Settings().audit})")
    _add_places(parser, "records", "run_dir", "response_dir")


def _add_qualify(parser: argparse.ArgumentParser) -> None:
    """Add what names the drive that is set aside, and how it is measured."""
    parser.add_argument("--drive", metavar="SERIAL", required=True, help="its serial number, or NQN")
    parser.add_argument(
        "--controller", metavar="CNTLID", type=when.cntlid, required=True,
        help="the controller to write through and to cut, seen by this machine's kernel",
    )  # fmt: skip
    parser.add_argument(
        "--namespace", metavar="NSID", type=when.count, required=True, help="the namespace to overwrite"
    )
    parser.add_argument(
        "--reader", metavar="CNTLID", type=when.cntlid,
        help="the controller to read back and to send commands through (default: the best of the others)",
    )  # fmt: skip
    parser.add_argument(
        "--yes-destroy-data", action="store_true", help="do not ask whether the namespace may be overwritten"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write the report there as well; with --json, that object"
    )
    group = parser.add_argument_group("method")
    for name, metavar, kind, default, meaning in (
        ("--rounds", "N", when.count, 20, "cuts that find writes under way, for each method"),
        ("--timing-rounds", "N", when.count, 100, "detachments without writes, for each backend"),
        ("--watch", "SECONDS", when.interval, 15.0, "for which the medium is watched after each cut"),
        ("--writes", "N", when.depth, 8, "under way at once"),
        ("--write-size", "BYTES", when.write_size, 131072, "of a write"),
        ("--pause", "SECONDS", when.pause, 0.0, "between two writes of one writer"),
    ):
        group.add_argument(
            name, metavar=metavar, type=kind, default=default, help=f"{meaning} (default {default:g})"
        )
    group.add_argument(
        "--only", metavar="QUESTION", action="append", choices=("writes", "drain", "times", "resets"),
        help="writes, drain, times or resets; may be given several times (default: all)",
    )  # fmt: skip
    group.add_argument("--subsystem-reset", action="store_true", help="try an NVM subsystem reset as well")


def _add_spool(parser: argparse.ArgumentParser) -> None:
    """Add the settings that only the watcher, and who reads its traces, needs."""
    group = parser.add_argument_group("files")
    for key, meaning in (
        ("request_dir", "requests of fence agents"),
        ("response_dir", "responses to them"),
        ("log_dir", "logs of fence events"),
        ("audit", "file for a durable line on every answer"),
    ):
        group.add_argument(option(key), metavar="PATH", help=f"{meaning} (default {getattr(Settings(), key)})")
    group.add_argument(
        option("max_request_age_s"), metavar="SECONDS", help="older requests are not executed (default 300)"
    )


def _add_places(parser: argparse.ArgumentParser, *keys: str) -> None:
    """Add settings of directories that have to do with what was taken from a host."""
    group = parser.add_argument_group("what was taken")
    meanings = {
        "records": "what was taken from whom",
        "run_dir": "where fences and restores keep apart",
        "response_dir": "responses of the watcher",
    }
    for key in keys:
        shown = f"{meanings[key]} (default {getattr(Settings(), key)})"
        group.add_argument(option(key), metavar="PATH", help=shown)


def _add_after(parser: argparse.ArgumentParser) -> None:
    """Add the settings that concern what follows a fence."""
    group = parser.add_argument_group("after a fence")
    defaults = Settings()
    group.add_argument(option("after"), metavar="LIST", help=f"some of {','.join(AFTER)}, or none (default none)")
    for key, metavar, meaning in (
        ("after_timeout_s", "SECONDS", "for each program"),
        ("hooks_dir", "PATH", "executables for hooks"),
        ("corosync_conf", "PATH", "the cluster's nodes, for dlm and stonith"),
        ("mass_fence_hosts", "N", "hosts that may be fenced without an alarm, 0: any number"),
    ):
        shown = getattr(defaults, key)
        shown = f"{shown:g}" if isinstance(shown, float) else shown
        group.add_argument(option(key), metavar=metavar, help=f"{meaning} (default {shown})")


def _add_guard(parser: argparse.ArgumentParser) -> None:
    """Add the settings of the mass-fence guard that only the watcher needs."""
    group = parser.add_argument_group("mass-fence guard")
    group.add_argument(option("mass_fence_s"), metavar="SECONDS", help="within which they count (default 60)")
    group.add_argument(
        option("mass_fence_action"), metavar="NAME", help="alarm, or hold: a person must allow more (default alarm)"
    )
    group.add_argument(option("run_dir"), metavar="PATH", help=f"where that is left (default {Settings().run_dir})")


def _add_vigil(parser: argparse.ArgumentParser) -> None:
    """Add the settings of the look-out for fenced hosts that are back."""
    group = parser.add_argument_group("staying fenced")
    meaning = "between two looks whether fenced hosts are back, 0: none (default 5)"
    group.add_argument(option("vigil_s"), metavar="SECONDS", help=meaning)
    group.add_argument(
        option("enforce"), action="store_true", default=None, help="cut a fenced host again that is back"
    )
    group.add_argument(option("metrics"), metavar="FILE", help="figures for node_exporter (default none)")


def _add_allow(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command by which a person lets held fences through."""
    text = "let any number of hosts be fenced for a while, those first whose fence the watcher holds"
    allow = commands.add_parser(
        "allow-mass-fence", help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    allow.add_argument(
        "--for",
        dest="for_s",
        metavar="SECONDS",
        type=when.permitted,
        default=600.0,
        help="default 600, at most 3600",
    )
    allow.add_argument("--withdraw", action="store_true", help="take it back")
    group = allow.add_argument_group("settings")
    group.add_argument(option("run_dir"), metavar="PATH", help=f"the watcher's (default {Settings().run_dir})")
    group.add_argument("--config", metavar="FILE", help="settings file (default /etc/nvmefence/nvmefence.toml)")
    allow.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def _add_readers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands that read what the watcher left, and no drive."""

    def add(name: str, text: str, *keys: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        group = parser.add_argument_group("settings")
        for key in keys:
            group.add_argument(option(key), metavar="PATH", help=f"default {getattr(Settings(), key)}")
        group.add_argument("--config", metavar="FILE", help="settings file (default /etc/nvmefence/nvmefence.toml)")
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
        return parser

    history = add(
        "history", "show what was fenced when, for whom, with which result, and how long each step took",
        "audit", "response_dir",
    )  # fmt: skip
    history.add_argument(
        "--host", metavar="NAME", action="append", help="about this host only; may be given several times"
    )
    history.add_argument("--last", metavar="N", type=when.count, help="the last N only")
    history.add_argument(
        "--since", metavar="WHEN", type=when.since, help='90s, 15m, 2h, 3d or 1w ago, or a time: "2026-11-24 04:09"'
    )
    explain = add(
        "explain", "show what a response proves, drive by drive, and what to do", "response_dir", "log_dir"
    )
    explain.add_argument(
        "response",
        metavar="RESPONSE",
        help="a response's file, - for standard input, or a request id, which is looked for among the responses",
    )
    explain.add_argument(
        "--timeline", action="store_true", help="show where the time went, from the agent's start to its verdict"
    )
    explain.add_argument("--all", action="store_true", help="the timeline with all drives, not only the last ones")
    explain.add_argument("--svg", metavar="FILE", help="draw the timeline into this file, - for standard output")


def _command(arguments: argparse.Namespace) -> Command:
    """Import the one module that the command needs."""
    name = arguments.command
    if name == "hosts":
        return _hosts_command(arguments.subcommand)
    if name == "detach":
        from nvmefence.cli.detach import detach as run
    elif name == "restore":
        from nvmefence.cli.restore import restore as run
    elif name == "unfence":
        from nvmefence.cli.restore import unfence as run
    elif name == "status":
        from nvmefence.cli.status import status as run
    elif name == "check":
        from nvmefence.cli.check import check as run
    elif name == "watch":
        from nvmefence.cli.watch import watch as run
    elif name == "allow-mass-fence":
        from nvmefence.cli.allow import allow as run
    elif name == "history":
        from nvmefence.cli.history import history as run
    elif name == "explain":
        from nvmefence.cli.explain import explain as run
    elif name in ("report", "qualify"):
        return _reporting_command(name)
    else:
        from nvmefence.cli.version import version as run
    return run


def _reporting_command(name: str) -> Command:
    if name == "qualify":
        from nvmefence.cli.qualify import qualify

        return qualify
    from nvmefence.cli.report import report

    return report


def _hosts_command(name: str) -> Command:
    if name == "import":
        from nvmefence.cli.hosts_import import import_nnf

        return import_nnf
    from nvmefence.cli.hosts import discover, show

    return discover if name == "discover" else show


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; argparse ends the process itself for --help and bad usage."""
    arguments = make_parser().parse_args(argv)
    screen = Screen()
    settings = Settings()
    notes: list[str] = []
    try:
        if arguments.command != "version":
            settings = load(vars(arguments), warn=notes.append, spool=arguments.command in _SPOOL_COMMANDS)
    except NvmefenceError as error:
        refused = error

        def refuse() -> int:
            _print_notes(notes, screen)
            return _report(refused, arguments, screen)

        return front.finish(refuse)

    def work() -> int:
        _print_notes(notes, screen)  # not before the fork: a thread that waits for the terminal does not survive it
        return _guarded(_command(arguments), arguments, settings, screen)

    if settings.simulate or arguments.command in _FRONTLESS:
        return front.finish(work)
    return front.run(work)


def _print_notes(notes: Sequence[str], screen: Screen) -> None:
    for text in notes:
        screen.note(text)


def _guarded(command: Command, arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    try:
        return command(arguments, settings, screen)
    except NvmefenceError as error:
        return _report(error, arguments, screen)
    except KeyboardInterrupt:
        screen.error("interrupted: nothing is confirmed", "run the command again")
        return Exit.INTERRUPTED


def _report(error: NvmefenceError, arguments: argparse.Namespace, screen: Screen) -> int:
    if arguments.json:
        problem = {"error": error.what, "advice": error.advice, "exit": int(error.exit_code)}
        screen.clear()
        screen.raw(json.dumps(problem))
    else:
        screen.error(error.what, error.advice)
    return error.exit_code


def console() -> None:
    """Entry point of the `nvmefence` script."""
    streams.ensure_open()
    # asyncio and argparse have them imported where they are there: time at the start of an emergency, and 5 MB that
    # the watcher would lock into memory, for connections and archives that nobody makes.
    for unused in ("ssl", "bz2", "lzma"):
        sys.modules.setdefault(unused, None)  # type: ignore[arg-type]
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:  # it was closed when the interpreter started
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.exit(main())


if __name__ == "__main__":
    console()

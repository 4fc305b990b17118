"""The laboratory's command line: `python -m tests.lab run|shell|pytest|install|why`."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.lab import boot, host, kernel
from tests.lab.host import LabError
from tests.lab.shape import SHAPES, Medium, Shape, ShapeError


class Progress:
    """One line on a terminal that says what is going on; nothing elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = 0.0

    def __call__(self, text: str) -> None:
        """Show `text`, at most four times a second."""
        now = time.monotonic()
        if self._terminal and now - self._last > 0.25:
            self._last = now
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{text.splitlines()[0][:width]}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _numbers(text: str) -> tuple[int, ...]:
    """Return "1,3-5" as (1, 3, 4, 5)."""
    numbers: list[int] = []
    try:
        for part in text.split(",") if text else ():
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers like 1,3-5") from None
    return tuple(numbers)


def _shape_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("shape", "a shape by name, and what is to differ from it")
    group.add_argument("--shape", default="sriov", choices=sorted(SHAPES), help="default: %(default)s")
    for name, help_text in _COUNTS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=help_text)
    for name, help_text in _LISTS.items():
        group.add_argument(f"--{name}", type=_numbers, metavar="N,N-N", help=help_text)
    for name, help_text in _FLAGS.items():
        group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=None, help=help_text)
    group.add_argument("--medium", choices=[m.value for m in Medium], help="what holds the data")
    parser.add_argument(
        "--timeout", type=float, default=300, metavar="S", help="seconds for the command (%(default)s)"
    )
    parser.add_argument("--results", type=Path, metavar="DIR", help="where results go; default: a new folder")


_COUNTS = {
    "io_timeout": "boot with nvme_core.io_timeout=N, in seconds",
    "drives": "drives, 1 to 18",
    "secondaries": "secondary controllers of each drive, 0 to 17",
    "controllers": "controllers of each drive where they are ports",
    "namespaces": "shared namespaces of each drive",
    "first_nsid": "lowest namespace id",
    "throttle_bps": "bytes per second of a throttled drive",
    "size_mib": "size of a namespace",
    "memory_mib": "the guest's memory",
}
_LISTS = {
    "bound": "virtual functions bound to the nvme driver, on every drive",
    "attached": "controllers that have the shared namespaces; default: all",
    "throttled": "drives with a slow medium",
}
_FLAGS = {
    "private": "one more namespace that is not shared",
    "detached": "namespaces start attached to none",
    "multipath": "boot with nvme_core.multipath=Y",
}


def _shape(options: argparse.Namespace) -> Shape:
    given = {name: getattr(options, name) for name in (*_COUNTS, *_LISTS, *_FLAGS)}
    if options.medium:
        given["medium"] = Medium(options.medium)
    return dataclasses.replace(SHAPES[options.shape], **{k: v for k, v in given.items() if v is not None})


def _run(options: argparse.Namespace, command: list[str]) -> int:
    if not command:
        raise LabError("no command given: python -m tests.lab run [options] -- COMMAND...")
    return _report(options, command)


def _pytest(options: argparse.Namespace, selection: list[str]) -> int:
    return _report(options, [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *selection])


def _report(options: argparse.Namespace, command: list[str]) -> int:
    progress = Progress()
    plan = boot.Plan(_shape(options), command, options.timeout, {"NVMEFENCE_LAB_GUEST": options.shape})
    try:
        result = boot.run(plan, progress, options.results)
    finally:
        progress.clear()
    sys.stdout.write(result.stdout)
    sys.stderr.write(result.stderr)
    if result.exit_code is None:
        raise LabError(result.trouble())
    print(f"lab: {plan.shape.describe()}: {result.figures()}; results in {result.folder}", file=sys.stderr)
    return result.exit_code


def _shell(options: argparse.Namespace, command: list[str]) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise LabError("the shell needs a terminal; for a script use: python -m tests.lab run -- COMMAND...")
    plan = boot.Plan(_shape(options), command or ["bash", "--norc"], env={"PS1": r"lab:\w\$ "}, interactive=True)
    print("lab: booting; `exit` ends the guest", file=sys.stderr)
    result = boot.run(plan, Progress(), options.results)
    print(f"lab: results in {result.folder}", file=sys.stderr)
    return result.exit_code or 0


def _install(options: argparse.Namespace, _rest: list[str]) -> int:
    def say(text: str) -> None:
        print(f"lab: {text}", file=sys.stderr, flush=True)

    say("installs " + ", ".join(host.PACKAGES) + " with apt, and unpacks Debian's kernel into the cache")
    host.install(say)
    chosen = kernel.ensure(say, refresh=options.refresh)
    say(f"ready: kernel {chosen.version} in {chosen.folder}")
    return 0


def _why(_options: argparse.Namespace, _rest: list[str]) -> int:
    reasons = host.why_not(kernel_cached=kernel.cached() is not None)
    for reason in reasons:
        print(reason)
    if not reasons:
        chosen = kernel.cached()
        print(
            f"the lab is available, kernel {chosen.version}"
            if chosen
            else "available; the kernel comes at first use"
        )
    return 1 if reasons else 0


_COMMANDS: dict[str, tuple[Callable[[argparse.Namespace, list[str]], int], str]] = {
    "run": (_run, "boot, run a command inside, bring its output and exit code back"),
    "pytest": (_pytest, "boot and run pytest inside; what follows -- is its selection"),
    "shell": (_shell, "boot and give a shell inside"),
    "install": (_install, "install QEMU and the other tools with apt, and fetch the kernel"),
    "why": (_why, "say why the lab is not available; exit 0 if it is"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="The emulated Rabbit.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, help_text) in _COMMANDS.items():
        sub = commands.add_parser(name, help=help_text, description=help_text)
        if name in ("run", "pytest", "shell"):
            _shape_options(sub)
        if name == "install":
            sub.add_argument("--refresh", action="store_true", help="fetch a newer kernel if there is one")
    options = parser.parse_args(given[:cut])
    try:
        return _COMMANDS[options.command][0](options, given[cut + 1 :])
    except (LabError, ShapeError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

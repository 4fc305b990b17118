"""Completion for bash: shtab writes it from the parsers, and a few lines of ours know hosts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import shtab
from commands import Command, commands
from others import AGENTS

from nvmefence.agents.convention import Agent
from nvmefence.cli.main import make_parser
from nvmefence.nnf import report
from nvmefence.settings import AFTER, BACKENDS, MASS_FENCE_ACTIONS

_HOSTS = {"bash": "_nvmefence_host_names"}
_FILES = ("FILE", "PATH", "FLEET", "RESPONSE")
"""What stands for a file's or a directory's name."""
_WORDS = {
    "backend": BACKENDS,
    "quiesce": ("auto", "auto:", "drain", "offline", "wait:", "none"),
    "after": (*AFTER, "none"),
    "mass_fence_action": MASS_FENCE_ACTIONS,
}
"""What a setting may be, where the parser leaves that to those who read it."""


def scripts() -> dict[str, str]:
    """Return a script for each program that packages have, by the program's name."""
    return _scripts(make_parser(), *map(_parser_of, AGENTS))


def reporter_scripts() -> dict[str, str]:
    """Return the script for the reporter to Kubernetes, which is installed by itself."""
    return _scripts(report.make_parser())


def _scripts(*parsers: argparse.ArgumentParser) -> dict[str, str]:
    shell = Path(__file__).with_name("host-names.bash").read_text("utf-8")
    return {parser.prog: _script(parser, shell) for parser in parsers}


def _script(parser: argparse.ArgumentParser, shell: str) -> str:
    _teach(Command((parser.prog,), "", parser))
    body = shtab.complete(parser, "bash", preamble=shell)
    function = f"_shtab_{shtab.wordify(parser.prog)}"
    *lines, last = body.rstrip().split("\n")
    assert last == f"complete -o bashdefault -F {function} {parser.prog}", last
    lines += [
        f"_nvmefence_of_{function}() {{",
        f"  _nvmefence_without_equals {function}",
        "}",
        f"complete -o bashdefault -F _nvmefence_of_{function} {parser.prog}",
    ]
    return "\n".join(lines) + "\n"


def _teach(command: Command) -> None:
    """Say of each option what may stand behind it."""
    for action in command.parser._actions:
        told: Any = action
        if action.dest in _WORDS:
            action.choices = _WORDS[action.dest]
        elif "--host" in action.option_strings or action.metavar in ("HOST", "nodename"):
            told.complete = _HOSTS
        elif action.metavar in _FILES or action.metavar == "path":
            told.complete = shtab.FILE
    for inner in commands(command.parser, *command.words):
        _teach(inner)


def _parser_of(agent: Agent) -> argparse.ArgumentParser:
    """Return a parser with the words of a fence agent, which reads them without one."""
    parser = argparse.ArgumentParser(prog=agent.name, add_help=False)
    for option in agent.options:
        if option.hidden:
            continue
        words = ["--" + option.name.replace("_", "-"), *([f"-{option.short}"] if option.short else [])]
        if option.flag:
            parser.add_argument(*words, action="store_true", help=option.text)
        else:
            names = tuple(name for name, _ in agent.actions) if option.name == "action" else None
            parser.add_argument(*words, metavar=option.value, choices=names, dest=option.name, help=option.text)
    return parser

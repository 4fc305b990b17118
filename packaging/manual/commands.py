"""Manual pages of programs and of each of their commands, from the parsers of the command lines themselves."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass

from roff import Page, bold, italic, plain

from nvmefence.cli.main import make_parser
from nvmefence.nnf import report
from nvmefence.settings import KEYS, variable

_CODES = re.compile(r"^  (\d+) +((?:.|\n {7})+)", re.MULTILINE)
_WORDS = re.compile(r"(?<![\w-])(--[a-z][a-z-]*)")
"""Options within a sentence."""
_USUAL = ("options", "optional arguments", "positional arguments")
"""Titles that argparse gives to its groups where nobody gives one."""


@dataclass(frozen=True)
class Command:
    """A command with its words, `nvmefence hosts discover`, and what it is for."""

    words: tuple[str, ...]
    summary: str
    parser: argparse.ArgumentParser

    @property
    def page(self) -> str:
        """The name of its manual page."""
        return "-".join(self.words)


def commands(parser: argparse.ArgumentParser, *words: str) -> list[Command]:
    """Return the commands that a parser has, in its order; those that are not shown in its help are not."""
    found = []
    for action in _actions(parser):
        if isinstance(action, argparse._SubParsersAction):
            for shown in action._choices_actions:
                found.append(Command((*words, shown.dest), shown.help or "", action.choices[shown.dest]))
    return found


def pages(date: str, version: str) -> Iterator[Page]:
    """Yield nvmefence(8), and a page for each command."""
    parser = make_parser()
    top = commands(parser, parser.prog)
    page = Page(parser.prog, 8, parser.description or "", date, version)
    page.heading("Synopsis")
    page.paragraph(f"{bold(parser.prog)} {italic('COMMAND')} [{italic('OPTION')} ...]")
    page.paragraph(f"{bold(parser.prog)} {italic('COMMAND')} {bold('--help')}")
    page.heading("Description")
    page.paragraph(plain(parser.description or ""))
    page.heading("Commands")
    for command in top:
        page.item(f"{bold(command.words[-1])}, see {_see(command.page, 8)}", _sentence(command.summary))
    _options(page, parser)
    _exit_status(page, parser)
    yield page
    for command in top:
        yield _page(command, date, version)


def reporter_page(date: str, version: str) -> Page:
    """Return the page of the reporter to Kubernetes, which is installed by itself."""
    parser = report.make_parser()
    return _page(Command((parser.prog,), parser.description or "", parser), date, version)


def _page(command: Command, date: str, version: str) -> Page:
    page = Page(command.page, 8, command.summary, date, version)
    inner = commands(command.parser, *command.words)
    page.heading("Synopsis")
    for one in inner or [command]:
        page.paragraph(_synopsis(one))
    page.heading("Description")
    text = command.parser.description or command.summary
    page.paragraph(_sentence(text[:1].upper() + text[1:]))
    if inner:
        page.heading("Commands")
        for one in inner:
            page.item(bold(one.words[-1]), _sentence(one.summary))
            for title, action in _shown(one.parser):
                if title in _USUAL or not _common(action, [other.parser for other in inner]):
                    _option(page, action, inside=True)
        parsers = [one.parser for one in inner]
        _groups(page, [one for one in _shown(parsers[0]) if one[0] not in _USUAL and _common(one[1], parsers)])
    else:
        _options(page, command.parser)
    _environment(page, [one.parser for one in inner or [command]])
    _exit_status(page, command.parser if command.parser.epilog else make_parser())
    return page


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return list(parser._actions)


def _shown(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Yield each option and argument with the title of its group."""
    for group in parser._action_groups:
        for action in group._group_actions:
            if not isinstance(action, argparse._SubParsersAction) and action.help != argparse.SUPPRESS:
                yield group.title or _USUAL[0], action


def _common(action: argparse.Action, parsers: list[argparse.ArgumentParser]) -> bool:
    """Whether all of the parsers have this option."""
    return all(any(one.option_strings == action.option_strings for one in _actions(parser)) for parser in parsers)


def _synopsis(command: Command) -> str:
    needed, more = [], False
    for _, action in _shown(command.parser):
        if not action.option_strings:
            word = italic(_metavar(action))
            needed.append(word if action.nargs not in ("?", "*") else f"[{word}]")
        elif action.required:
            again = " ..." if isinstance(action, argparse._AppendAction) else ""
            needed.append(f"{bold(action.option_strings[-1])} {italic(_metavar(action))}{again}")
        else:
            more = True
    return " ".join([bold(" ".join(command.words)), *needed, f"[{italic('OPTION')} ...]" if more else ""])


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return action.dest.upper()


def _options(page: Page, parser: argparse.ArgumentParser) -> None:
    _groups(page, list(_shown(parser)))


def _groups(page: Page, shown: list[tuple[str, argparse.Action]]) -> None:
    """Print options: first those of no group of their own, each other group under its title."""
    usual = [action for title, action in shown if title in _USUAL]
    if shown:
        page.heading("Options")
    for action in usual:
        _option(page, action)
    for title in dict.fromkeys(title for title, _ in shown if title not in _USUAL):
        page.subheading(title[0].upper() + title[1:])
        for one, action in shown:
            if one == title:
                _option(page, action)


def _option(page: Page, action: argparse.Action, *, inside: bool = False) -> None:
    value = "" if action.nargs == 0 else f" {italic(_metavar(action))}"
    term = ", ".join(bold(one) + value for one in action.option_strings) or italic(_metavar(action))
    formatter = argparse.HelpFormatter("")
    text = formatter._expand_help(action) if action.help else ""
    if inside:
        page.lines.append(".RS")
    page.item(term, _sentence(text))
    if inside:
        page.lines.append(".RE")


def _environment(page: Page, parsers: list[argparse.ArgumentParser]) -> None:
    """Print the variables of the settings that can be given as options."""
    keys = dict.fromkeys(action.dest for parser in parsers for _, action in _shown(parser) if action.dest in KEYS)
    if not keys and not any(action.dest == "config" for parser in parsers for _, action in _shown(parser)):
        return
    page.heading("Environment")
    names = ", ".join(bold(variable(key)) for key in (*keys, "config"))
    page.paragraph(
        f"Each takes precedence over the option of its name: {names}. Meaning: {_see('nvmefence.toml', 5)}."
    )


def _exit_status(page: Page, parser: argparse.ArgumentParser) -> None:
    _, _, rest = (parser.epilog or "").partition("exit codes:\n")
    codes, _, after = rest.partition("\n\n")
    page.heading("Exit status")
    for code, text in _CODES.findall(codes):
        page.item(bold(code), _sentence(" ".join(text.split())))
    if after:
        page.paragraph(plain(" ".join(after.split())))


def _see(name: str, section: int) -> str:
    return f"{bold(name)}({section})"


def _sentence(text: str) -> str:
    """Return a help text as a sentence."""
    text = " ".join(text.split())
    if not text:
        return ""
    text += "" if text.endswith((".", "?", "!")) else "."
    parts = _WORDS.split(text)
    return "".join(bold(part) if part.startswith("--") else plain(part) for part in parts)

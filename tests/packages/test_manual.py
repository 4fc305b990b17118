"""The manual pages are those of the program: every command, option and exit code, without a complaint of man."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import commands
import pytest
from commands import Command
from others import AGENTS
from roff import Page

from nvmefence.agents.convention import Agent
from nvmefence.cli.main import make_parser
from nvmefence.errors import Exit
from nvmefence.nnf import report
from nvmefence.settings import KEYS

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / "packaging/manual/parts"


def every_command(parser: argparse.ArgumentParser, *words: str) -> Iterator[Command]:
    for command in commands.commands(parser, *words):
        yield command
        yield from every_command(command.parser, *command.words)


COMMANDS = list(every_command(make_parser(), "nvmefence"))


def text(made: Path, page: str) -> str:
    """Return a page as one reads it, without what roff needs."""
    source = (made / f"man/man{page[-1]}" / page).read_text("ascii")
    return re.sub(r"\\f.|\\[%&,/]", "", source).replace("\\-", "-").replace("\\(aq", "'").replace("\\(ti", "~")


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {
        word
        for action in parser._actions
        if action.help != argparse.SUPPRESS
        for word in action.option_strings
        or ([] if action.nargs == "A..." else [str(action.metavar or action.dest)])
    }


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
def test_a_command_has_a_page_with_its_options(command: Command, made: Path) -> None:
    page = text(made, f"{'-'.join(command.words[:2])}.8")
    lines = re.split(r"[\s,]+", page)
    assert options(command.parser) - set(lines) == set()
    assert " ".join(command.words) in page


def test_what_the_parser_gets_later_is_in_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_more() -> argparse.ArgumentParser:
        parser = make_parser()
        (inner,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        more = inner.add_parser("frobnicate", help="do what was not thought of")
        more.add_argument("--speed", metavar="KNOTS", help="how fast")
        inner.choices["detach"].add_argument("--gently", action="store_true", help="with care")
        return parser

    monkeypatch.setattr(commands, "make_parser", with_more)
    pages = {page.file: str(page) for page in commands.pages("2026-01-01", "0")}
    assert "how fast." in pages["nvmefence-frobnicate.8"]
    assert "\\fB\\%\\-\\-gently\\fR" in pages["nvmefence-detach.8"]
    assert "nvmefence\\-frobnicate" in pages["nvmefence.8"]


def test_every_page_has_all_exit_codes(made: Path) -> None:
    codes = {str(int(code)) for code in Exit}
    for command in COMMANDS:
        if len(command.words) == 2:
            _, _, section = text(made, f"{'-'.join(command.words)}.8").partition(".SH EXIT STATUS\n")
            assert set(re.findall(r"^\.TP\n(\d+)$", section.split("\n.SH ")[0], re.MULTILINE)) == codes


def test_the_reporter_has_a_page_of_its_own_which_no_package_takes(made: Path) -> None:
    parser = report.make_parser()
    name = f"{parser.prog}.8"
    page = text(made / "nnf-report", name)
    assert options(parser) - set(re.split(r"[\s,]+", page)) == set()
    _, _, section = page.partition(".SH EXIT STATUS\n")
    codes = re.findall(r"^\.TP\n(\d+)$", section.split("\n.SH ")[0], re.MULTILINE)
    assert codes == re.findall(r"^  (\d)", str(parser.epilog), re.MULTILINE)
    assert "runuser" in page, "its examples"
    assert not list((made / "man").rglob(f"{parser.prog}*"))
    assert not (made / "completions" / parser.prog).exists()


def test_every_setting_has_its_entry(made: Path) -> None:
    terms = set(re.findall(r"^\.TP\n(\w+)$", text(made, "nvmefence.toml.5"), re.MULTILINE))
    assert set(KEYS) <= terms


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_an_agents_page_has_its_parameters_and_actions(agent: Agent, made: Path) -> None:
    page = text(made, f"{agent.name}.8")
    for option in agent.options:
        assert (f"--{option.name.replace('_', '-')}" in page) is not option.hidden
        assert not option.environment or option.hidden or f"\n{option.environment}\n" in page
    for action, _ in agent.actions:
        assert re.search(rf"\b{action}\b", page)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_mandoc_has_no_complaint(made: Path) -> None:
    pages = sorted(made.rglob("*.[58]"))
    assert len(pages) > len(COMMANDS)
    done = subprocess.run(["mandoc", "-Tlint", *pages], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_man_prints_every_page_without_a_warning(made: Path) -> None:
    pages = sorted(made.rglob("*.[58]"))
    done = subprocess.run(
        ["man", "--warnings", "--encoding=UTF-8", "--local-file", *pages], capture_output=True, text=True,
        timeout=60, check=False, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "80"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "Fence two hosts in one pass over the drives:" in done.stdout


def test_a_complaint_would_be_noticed(tmp_path: Path) -> None:
    page = Page("bad", 8, "a page", "2026-01-01", "0")
    page.lines += [".SH EMPTY", ".PP", ".NoSuchMacro"]
    (tmp_path / "bad.8").write_text(str(page))
    if shutil.which("mandoc"):
        done = subprocess.run(["mandoc", "-Tlint", tmp_path / "bad.8"], capture_output=True, text=True, check=False)
        assert "NoSuchMacro" in done.stdout + done.stderr


def examples() -> list[tuple[str, str]]:
    """Return the commands of ours in the parts written by hand, with the part they are in."""
    return [
        (path.name, line.strip().partition(" > ")[0])
        for path in sorted(PARTS.iterdir())
        for line in path.read_text("utf-8").splitlines()
        if line.startswith(("    nvmefence ", "    nvmefence-nnf-report "))
    ]


@pytest.mark.parametrize(("part", "line"), examples())
def test_an_example_is_a_command_that_the_program_takes(part: str, line: str) -> None:
    program, *words = shlex.split(line)
    if program == "nvmefence-nnf-report":
        assert report.make_parser().parse_args(words).kubeconfig
        assert part == f"{program}.8.md"
        return
    arguments = make_parser().parse_args(words)
    assert part in (f"nvmefence-{arguments.command}.8.md", "nvmefence.8.md", "nvmefence-watcher.service.8.md")

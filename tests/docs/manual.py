"""The operators' documentation as data: commands, blocks, tables, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "tests/lab/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)  # fmt: skip
PROGRAMS = (
    "apt", "dnf", "fence_gfs2_recorder", "install", "journalctl", "kubectl", "make", "mount", "nvme", "nvmefence",
    "nvmefence-nnf-report", "pcs", "pip", "pytest", "python", "runuser", "systemctl", "systemd-sysusers",
    "systemd-tmpfiles",
)  # fmt: skip
"""What begins with one of these and is set as code within a sentence is a command as well."""
SHELLS = ("indented", "bash", "sh", "shell", "console")
"""Kinds of blocks that hold commands."""
_FENCE = re.compile(r"^(```|~~~)(\w*)\s*$")
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_COMMENT = re.compile(r"\s+# .*$")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?)\s*$")


@dataclass(frozen=True)
class Block:
    """Lines that are set apart: fenced, with the word behind the fence, or indented by four blanks."""

    page: Path
    line: int
    kind: str
    """The word behind the fence, or "indented"."""
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The block as one text."""
        return "\n".join(self.lines) + "\n"


@dataclass(frozen=True)
class Command:
    """A command as it is written."""

    where: str
    written: str
    """Line breaks and comment included."""

    @property
    def text(self) -> str:
        """The command in one line, without its comment: what it goes by."""
        joined = " ".join(_COMMENT.sub("", line).removesuffix("\\") for line in self.written.split("\n"))
        return " ".join(joined.split())


def blocks() -> list[Block]:
    """Return the blocks of all pages."""
    return [block for page in PAGES for block in blocks_of(page)]


def commands() -> list[Command]:
    """Return the commands in blocks of all pages."""
    return [command for page in PAGES for command in commands_of(page)]


def inline() -> list[Command]:
    """Return the commands within sentences of all pages."""
    return [command for page in PAGES for command in inline_of(page)]


@cache
def blocks_of(page: Path) -> tuple[Block, ...]:
    """Return the blocks of a page."""
    return tuple(_blocks(page, page.read_text("utf-8").splitlines()))


def _blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    number = 0
    while number < len(lines):
        start = number
        if fence := _FENCE.match(lines[number]):
            number += 1
            while lines[number].strip() != fence[1]:
                number += 1
            yield Block(page, start + 1, fence[2], tuple(lines[start + 1 : number]))
        elif lines[number].startswith("    ") and (not number or not lines[number - 1].strip()):
            while number < len(lines) and lines[number].startswith("    "):
                number += 1
            yield Block(page, start + 1, "indented", tuple(line[4:] for line in lines[start:number]))
            continue
        number += 1


@cache
def commands_of(page: Path) -> tuple[Command, ...]:
    """Return the commands in a page's blocks."""
    return tuple(command for block in blocks_of(page) if block.kind in SHELLS for command in _commands(block))


def _commands(block: Block) -> Iterator[Command]:
    lines = list(enumerate(block.lines, block.line + (block.kind != "indented")))
    while lines:
        number, text = lines.pop(0)
        while text.endswith("\\"):
            text += "\n" + lines.pop(0)[1]
        if text.strip() and not text.lstrip().startswith("#"):
            yield Command(f"{block.page.name}:{number}", text)


@cache
def inline_of(page: Path) -> tuple[Command, ...]:
    """Return the commands within a page's sentences: code of several words that begins with a program."""
    found = []
    for number, text in _paragraphs(page):
        for span in _SPAN.findall(text):
            words = span.split()
            if len(words) > 1 and words[0].rpartition("/")[2] in PROGRAMS:
                found.append(Command(f"{page.name}:{number}", " ".join(words)))
    return tuple(found)


def spans() -> list[str]:
    """Return all that is set as code within sentences."""
    return [
        " ".join(span.split()) for page in PAGES for _, text in _paragraphs(page) for span in _SPAN.findall(text)
    ]


def _paragraphs(page: Path) -> Iterator[tuple[int, str]]:
    """Yield paragraphs, a table being one for each row, with the numbers of their first lines."""
    first, lines = 0, list[str]()
    for number, line in [*_prose(page), (0, "")]:
        if lines and (not line.strip() or line.startswith("|")):
            yield first, "\n".join(lines)
            lines = []
        if line.strip():
            first = first if lines else number
            lines.append(line)


def _prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines outside of blocks, with their numbers."""
    within = {
        number
        for block in blocks_of(page)
        for number in range(block.line, block.line + len(block.lines) + (0 if block.kind == "indented" else 2))
    }
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if number not in within:
            yield number, line


def toml(key: str) -> list[Block]:
    """Return the TOML blocks in which a line begins with `key`."""
    return [
        block for block in blocks() if block.kind == "toml" and re.search(f"^{re.escape(key)}", block.text, re.M)
    ]


def table(page: str, heading: str) -> list[list[str]]:
    """Return the rows, as cells, of the tables under a heading of a page, without their head."""
    rows, current = [], ""
    for _, line in _prose(ROOT / page):
        if found := _HEADING.match(line):
            current = found[1]
        elif current == heading and line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))])
    return [row for place, row in enumerate(rows) if not _rules_head(rows, place)]


def _rules_head(rows: list[list[str]], place: int) -> bool:
    """Whether a row is a table's head or the rule below it."""
    return any(set("".join(row)) <= set("-: ") for row in rows[place : place + 2])


def code(cell: str) -> list[str]:
    """Return what is set as code in a cell."""
    return _SPAN.findall(cell)


def links(page: Path) -> list[str]:
    """Return the targets of a page's links."""
    return [target for _, line in _prose(page) for target in _LINK.findall(line)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = (_HEADING.match(line) for _, line in _prose(page))
    return {re.sub(r"[^\w\- ]", "", found[1].lower()).replace(" ", "-") for found in headings if found}

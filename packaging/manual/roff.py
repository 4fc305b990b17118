"""Manual pages as roff, in the man(7) macros that groff and mandoc both know, and the part of Markdown we write."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

_WIDTH = 76
"""Bytes of an input line; mandoc(1) advises below 80."""
_SPECIAL = {"\\": "\\e", "-": "\\-", "~": "\\(ti", "^": "\\(ha", "`": "\\(ga", "'": "\\(aq"}
_INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\*([^*]+)\*|\[([^\]]*)\]\([^)]*\)|\\(.)|<([A-Z]+)>")
_HEADING = re.compile(r"(#+) +(.+)")
_FENCE = "```"


def plain(text: str) -> str:
    """Return text that roff prints as it is, ASCII only."""
    return "".join(_SPECIAL.get(one, one if one.isascii() else f"\\[u{ord(one):04X}]") for one in text)


def bold(text: str) -> str:
    """Return what a person types as it is printed here."""
    return f"\\fB{_unbroken(text)}\\fR"


def italic(text: str) -> str:
    """Return what stands for something else."""
    return f"\\fI{_unbroken(text)}\\fR"


def _unbroken(text: str) -> str:
    """Return words that are not hyphenated: they are names, and typed as they stand."""
    return " ".join(f"\\%{plain(word)}" for word in text.split(" "))


def inline(text: str) -> str:
    """Return a Markdown sentence as roff: code and what is strong in bold, links without their targets."""
    found, end = [], 0
    for match in _INLINE.finditer(text):
        code, strong, soft, link, escaped, word = match.groups()
        found.append(plain(text[end : match.start()]))
        if code or strong:
            found.append(bold(code or strong))
        elif soft or word:
            found.append(italic(soft or word))
        else:
            found.append(inline(link) if link else plain(escaped or ""))
        end = match.end()
    return "".join(found) + plain(text[end:])


@dataclass
class Page:
    """A manual page in the making."""

    name: str
    section: int
    summary: str
    date: str
    """As 2026-11-25."""
    version: str
    lines: list[str] = field(default_factory=list)

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name}.{self.section}"

    def __str__(self) -> str:
        summary = self.summary[:1].lower() + self.summary[1:]
        head = [
            f'.TH {plain(self.name.upper())} {self.section} {self.date} "nvmefence {self.version}" "nvmefence"',
            ".ad l",
            ".SH NAME",
            *_wrapped(f"{plain(self.name)} \\- {inline(summary.rstrip('.'))}"),
        ]
        return "\n".join([*head, *self.lines]) + "\n"

    def heading(self, text: str) -> None:
        """Begin a section."""
        self.lines.append(f".SH {plain(text.upper())}")

    def subheading(self, text: str) -> None:
        """Begin a part of a section."""
        self.lines.append(f".SS {inline(text)}")

    def paragraph(self, roff: str) -> None:
        """Add a paragraph; none is told apart from its heading."""
        self._part()
        self.lines += _wrapped(roff)

    def _part(self) -> None:
        if not self.lines or self.lines[-1][:4] not in (".SH ", ".SS "):
            self.lines.append(".PP")

    def item(self, term: str, *paragraphs: str) -> None:
        """Add a term and what there is to say of it, both roff."""
        self.lines += [".TP", term]
        self.lines += _wrapped(paragraphs[0] if paragraphs and paragraphs[0] else "\\&")
        for more in paragraphs[1:]:
            self.lines += [".br", *_wrapped(more)]

    def example(self, lines: Sequence[str]) -> None:
        """Add lines that stay as they are."""
        self._part()
        self.lines += [".RS 4", ".EX"]
        self.lines += [_guarded(plain(line)) if line else "" for line in lines]
        self.lines += [".EE", ".RE"]

    def markdown(self, text: str, levels: int = 2) -> None:
        """Add Markdown; headings with `levels` signs are sections, those with more are parts of sections."""
        for kind, lines in _blocks(text.splitlines()):
            if kind == "heading":
                signs, words = _parts(lines[0])
                if len(signs) <= levels:
                    self.heading(words)
                else:
                    self.subheading(words)
            elif kind == "code":
                self.example(lines)
            elif kind == "table":
                self._table(lines)
            elif kind == "list":
                for one in _items(lines):
                    self.lines += [".IP \\(bu 2", *_wrapped(inline(one))]
            else:
                self.paragraph(inline(" ".join(line.strip() for line in lines)))

    def _table(self, lines: Sequence[str]) -> None:
        """Print each row as an item: its first cell is the term, the last the meaning, others go by heading."""
        header, _, *rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
        names = [name.capitalize() for name in header[1:-1]]
        for first, *between, last in rows:
            more = [f"{plain(name)}: {inline(cell)}." for name, cell in zip(names, between, strict=True) if cell]
            self.item(inline(first), inline(last.rstrip(".") + "."), *([" ".join(more)] if more else []))


def _parts(line: str) -> tuple[str, str]:
    match = _HEADING.fullmatch(line.strip())
    assert match is not None
    return match[1], match[2]


def _blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the kind and the lines of each block."""
    rest = list(lines)
    while rest:
        line = rest[0]
        if not line.strip():
            rest.pop(0)
        elif line.startswith(_FENCE):
            inside = list(takewhile(lambda one: one.strip() != _FENCE, rest[1:]))
            del rest[: len(inside) + 2]
            yield "code", inside
        elif _HEADING.fullmatch(line):
            yield "heading", [rest.pop(0)]
        elif line.startswith("    "):
            inside = list(takewhile(lambda one: one.startswith("    ") or not one.strip(), rest))
            del rest[: len(inside)]
            yield "code", "\n".join(one[4:] for one in inside).rstrip().split("\n")
        else:
            inside = list(takewhile(lambda one: bool(one.strip()) and not _HEADING.fullmatch(one), rest))
            del rest[: len(inside)]
            kind = "table" if line.startswith("|") else "list" if line.startswith("- ") else "text"
            yield kind, inside


def _items(lines: Sequence[str]) -> list[str]:
    found: list[str] = []
    for line in lines:
        if line.startswith("- "):
            found.append(line[2:])
        else:
            found[-1] += " " + line.strip()
    return found


def _wrapped(text: str) -> list[str]:
    """Return roff broken between words; a line of text must not begin like a request."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > _WIDTH:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [_guarded(one) for one in [*lines, line] if one]


def _guarded(line: str) -> str:
    return f"\\&{line}" if line.startswith((".", "'")) else line

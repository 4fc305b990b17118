"""HTML out of text that is not trusted: everything is escaped but what was made here."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable

from nvmefence.plain import escaped


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Return text as HTML that shows it: control characters, and what turns writing round, as visible escapes."""
    return value if isinstance(value, Markup) else Markup(html.escape(escaped(str(value)), quote=True))


def element(name: str, *content: object, **attributes: object) -> Markup:
    """Return an element. Attributes that are empty or None are left out; `class_` and `for_` lose their end."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None and value != ""
    )
    inside = "".join(text(one) for one in content)
    return Markup(f"<{name}{shown}>{inside}</{name}>")


def joined(pieces: Iterable[object], between: str = "") -> Markup:
    """Return pieces one after another; `between` is our own."""
    return Markup(between.join(text(one) for one in pieces))


def table(header: Iterable[object], rows: Iterable[Iterable[object]], class_: str = "") -> Markup:
    """Return a table in a box that scrolls where the page is narrow. Cells are text or whole elements."""

    def cell(value: object, kind: str = "td", **attributes: str) -> Markup:
        whole = isinstance(value, Markup) and value.startswith(("<td", "<th"))
        return text(value) if whole else element(kind, value, **attributes)

    head = element("thead", element("tr", *(cell(one, "th", scope="col") for one in header)))
    body = element("tbody", *(element("tr", *map(cell, row)) for row in rows))
    return element("div", element("table", head, body, class_=class_), class_="scroll", tabindex="0")


def source(style: str) -> str:
    """Return by which a content security policy knows a style sheet (CSP level 2, hash-source)."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"'sha256-{digest}'"

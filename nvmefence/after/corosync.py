"""Which cluster node a host is, from corosync's configuration (corosync.conf(5)).

A node goes by its `name`, else, where it has none, by its `ring0_addr`; it is the host's if that is one of the
host's names, apart from case and a dot at the end. Exactly one node must be. Nothing shortens a name or looks up an
address, and what is not understood is refused as a whole: a wrong node, acknowledged as fenced, could still write.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from nvmefence.spool import files
from nvmefence.spool.errors import SpoolError
from nvmefence.spool.names import quoted

SIZE_LIMIT: Final = 256 * 1024
"""Bytes. A node takes about a hundred of them."""
_DEPTH: Final = 8
_SECTION: Final = re.compile(r"([A-Za-z0-9_.-]+)\s*\{")
_SETTING: Final = re.compile(r"([A-Za-z0-9_.-]+)\s*:\s*([^{}]*)")
_NODEID: Final = re.compile(r"[1-9][0-9]{0,9}")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,252}")
_NODEID_LIMIT: Final = 1 << 32


class NotFound(Exception):
    """No node can be told for certain; the text says why."""


class Node(NamedTuple):
    """A node of the cluster."""

    name: str
    """By which it goes."""
    nodeid: int | None
    """None: the configuration does not say."""

    @property
    def is_address(self) -> bool:
        """Whether it goes by an IP address; Pacemaker then has another name for it."""
        return ":" in self.name or self.name.replace(".", "").isdigit()


def find(path: str, names: Collection[str]) -> Node:
    """Return the one node that goes by one of a host's names. Raises NotFound."""
    wanted = {_plain(name) for name in names}
    found = [node for node in nodes(_read(path), path) if _plain(node.name) in wanted]
    if len(found) == 1:
        return found[0]
    called = ", ".join(sorted(wanted))
    if not found:
        raise NotFound(f"{path}: no node is called {called}; aliases in the host map count as names")
    several = ", ".join(node.name for node in found)
    raise NotFound(f"{path}: {several} could all be the host called {called}")


def nodes(text: str, path: str = "corosync.conf") -> list[Node]:
    """Return the nodes of all nodelist sections. Raises NotFound, with the line, for what is not understood."""
    found: list[Node] = []
    for number, settings in _node_sections(text, path):
        name = settings.get("name") or settings.get("ring0_addr", "")
        if not _NAME.fullmatch(name):
            raise NotFound(f"{path}: line {number}: a node without a name and a ring0_addr that can be used")
        nodeid = settings.get("nodeid")
        if nodeid is not None and not (_NODEID.fullmatch(nodeid) and int(nodeid) < _NODEID_LIMIT):
            raise NotFound(f"{path}: line {number}: not a nodeid: {quoted(nodeid)}")
        found.append(Node(name, None if nodeid is None else int(nodeid)))
    for what, values in (
        ("name", [_plain(node.name) for node in found]),
        ("nodeid", [node.nodeid for node in found if node.nodeid is not None]),
    ):
        if len(set(values)) != len(values):
            raise NotFound(f"{path}: two nodes have one {what}")
    return found


def _node_sections(text: str, path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each node section: the number of its first line, and its settings."""
    within: list[str] = []
    first, settings = 0, dict[str, str]()
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip(" \t\r")
        is_node = within == ["nodelist", "node"]
        if not line or line.startswith("#"):
            continue
        if opened := _SECTION.fullmatch(line):
            within.append(opened[1])
            if len(within) > _DEPTH:
                raise NotFound(f"{path}: line {number}: sections within sections within sections")
            if within == ["nodelist", "node"]:
                first, settings = number, {}
        elif line == "}" and within:
            within.pop()
            if is_node:
                yield first, settings
        elif setting := _SETTING.fullmatch(line):
            if is_node and setting[1] in settings:
                raise NotFound(f"{path}: line {number}: {setting[1]} is there twice")
            if is_node:
                settings[setting[1]] = setting[2].strip()
        else:
            raise NotFound(f"{path}: line {number}: not understood: {quoted(line, 60)}")
    if within:
        raise NotFound(f"{path}: the section {within[-1]} has no end")


def _read(path: str) -> str:
    """Return the text of a file that only root, or the user that this is, can have written."""
    directory, name = os.path.split(path)
    try:
        with files.open_directory(directory) as opened:
            data = files.read(opened, name, limit=SIZE_LIMIT).data
        return data.decode("utf-8")
    except SpoolError as error:
        raise NotFound(f"{path}: {error.reason}") from None
    except UnicodeDecodeError as error:
        raise NotFound(f"{path}: not UTF-8 at byte {error.start}") from None


def _plain(name: str) -> str:
    return name.strip().lower().rstrip(".")

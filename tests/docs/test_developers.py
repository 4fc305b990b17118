"""What developers are told of the code is so: names, arrows between rooms, the laws' numbers."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from nvmefence.settings import BACKENDS
from tests.docs import manual
from tests.docs.manual import ROOT

PAGE = ROOT / "docs/developers.md"
PRODUCT = ROOT / "nvmefence"
_NAMED = re.compile(r"([\w/-]+\.(?:py|c|h|md))(?::([\w.]+))?$")
_C_FUNCTION = r"^[\w *]*\b{}\("


def named() -> list[tuple[Path, str]]:
    """Return the files and names that the page has, as they are written."""
    text = PAGE.read_text("utf-8")
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    found = [match for span in spans if (match := _NAMED.match(span)) and span != "mine.py"]
    return [(place(match[1]), match[2] or "") for match in found]


def place(name: str) -> Path:
    first = name.split("/", maxsplit=1)[0]
    return (ROOT if first in ("csrc", "tests", "packaging", "docs") else PRODUCT) / name


def has(path: Path, name: str) -> bool:
    """Whether a file defines a name: CLASS.METHOD, a function, a constant."""
    if path.suffix != ".py":
        return bool(re.search(_C_FUNCTION.format(name), path.read_text("utf-8"), re.MULTILINE))
    body: list[ast.stmt] = ast.parse(path.read_text("utf-8")).body
    for part in name.split("."):
        found = [node for node in body if part in defined(node)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def defined(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


def room(module: str) -> str:
    """Return the room of a module that is named with its package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@cache
def arrows() -> dict[str, set[str]]:
    """Return which rooms each room imports, wherever the import stands."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in PRODUCT.rglob("*.py"):
        here = path.relative_to(PRODUCT)
        mine = here.parts[0].removesuffix(".py")
        found[mine] |= {room(name) for name in imported(path)} - {mine, ""}
    del found["__init__"]
    return dict(found)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("nvmefence"))
        elif isinstance(node, ast.ImportFrom) and node.module == "nvmefence":
            yield from (f"nvmefence.{name.name}" for name in node.names if name.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nvmefence."):
            yield str(node.module)


def test_files_and_names_are_there() -> None:
    assert len(named()) > 90
    missing = [f"{path}:{name}" for path, name in named() if not path.exists() or (name and not has(path, name))]
    assert not missing


def test_a_name_that_is_gone_is_noticed() -> None:
    assert has(PRODUCT / "fencing/evidence.py", "DriveEvidence.outcome")
    assert not has(PRODUCT / "fencing/evidence.py", "DriveEvidence.judge")
    assert not has(PRODUCT / "fencing/evidence.py", "outcome")
    assert has(ROOT / "csrc/queue.c", "nvmefence_reap")
    assert not has(ROOT / "csrc/queue.c", "nvmefence_sow")


def test_the_arrows_between_rooms_are_as_drawn() -> None:
    rows = manual.table("docs/developers.md", "Rooms and arrows")
    assert sorted(name for row in rows for name in manual.code(row[0])) == sorted(arrows())
    for row in rows:
        rooms = manual.code(row[0])
        drawn = set(arrows()) - {"cli"} if row[2] == "all" else set(manual.code(row[2]))
        really = set().union(*(arrows()[one] for one in rooms))
        assert really <= drawn if row[2] == "all" else really == drawn, rooms


def test_the_laws_are_numbered_as_where_their_tests_are() -> None:
    laws = manual.table("docs/developers.md", "The laws, and where they hold")
    tested = manual.table("docs/reliability.md", "What must never happen")
    assert [row[0] for row in laws] == [row[0] for row in tested]


@pytest.mark.parametrize("page", ["docs/hosts-toml.md", "docs/direct-agent.md"])
def test_every_backend_is_in_the_settings(page: str) -> None:
    (row,) = [row for row in manual.table(page, "Settings") if manual.code(row[0]) == ["backend"]]
    assert set(BACKENDS) <= set(manual.code(row[-1]))

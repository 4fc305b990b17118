"""What the documentation states is so: exit codes, settings, parameters, messages, examples, links."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from nvmefence.agents import convention
from nvmefence.agents.fence_gfs2_recorder import AGENT
from nvmefence.errors import ConfigError, Exit
from nvmefence.inventory import hostfile
from nvmefence.nvme import fleet_file
from nvmefence.settings import FILE_KEYS, KEYS, SPOOL_KEYS, Settings, load, option, variable
from tests.docs import manual
from tests.docs.manual import ROOT, Block

TOML = [block for block in manual.blocks() if block.kind == "toml"]
FOREIGN = {"--wait"}
"""Options of other programs."""
_FRAGMENT = 8
"""Characters that a piece of a message has at least to be looked for."""


@cache
def told(*words: str) -> str:
    """Return what a command of ours prints."""
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@cache
def source_texts() -> frozenset[str]:
    """Return all pieces of text in the sources of the product, its descriptions of itself aside."""
    texts = set()
    for path in sorted((ROOT / "nvmefence").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        described = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in described:
                texts.add(node.value)
    return frozenset(texts)


def plain(text: str) -> str:
    return " ".join(text.replace("*", "").replace("`", "").split())


def test_the_exit_codes_are_those_of_the_program_and_of_its_help() -> None:
    rows = {int(code): plain(meaning) for code, meaning in manual.table("README.md", "In an emergency")}
    assert rows.keys() == {int(code) for code in Exit}
    _, codes = told("nvmefence.cli.main", "--help").split("exit codes:\n")
    codes, _ = codes.split("\n\n")
    helped = {int(code): plain(text) for code, text in re.findall(r"^  (\d+) +((?:.|\n {7})+)", codes, re.M)}
    assert helped == rows


def test_the_settings_are_those_of_the_program() -> None:
    rows = manual.table("docs/hosts-toml.md", "Settings")
    assert [manual.code(row[0]) for row in rows] == [[key] for key in KEYS]
    for key, variables, word, default, _ in rows:
        (name,) = manual.code(key)
        anywhere = name not in FILE_KEYS
        assert manual.code(word) == [option(name)] * anywhere
        assert manual.code(variables)[:1] == [variable(name)] * anywhere
        given = manual.code(default)
        assert given or getattr(Settings(), name) in ("", ())
        for one in manual.code(variables) if given else ():
            settings = load({}, {"NVMEFENCE_CONFIG": "/dev/null", one: given[0]}, spool=True)
            assert getattr(settings, name) == getattr(Settings(), name)


@pytest.mark.parametrize(
    ("heading", "document"),
    [
        ("Top level", {"x": 0}),
        ("[drives]: which drives must be cut", {"version": 1, "drives": {"x": 0}}),
        (
            "[hosts.NAME]: whose controllers are whose",
            {"version": 1, "drives": {"count": 1}, "hosts": {"a": {"x": 0}}},
        ),
    ],
)
def test_the_keys_of_the_host_map_are_those_of_the_program(heading: str, document: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refused:
        hostfile.parse(document, "hosts.toml")
    known = set(refused.value.advice.removeprefix("known are ").split(", ")) - {"drives", "hosts"}
    assert {manual.code(row[0])[0] for row in manual.table("docs/hosts-toml.md", heading)} == known


def test_the_parameters_of_a_device_are_those_of_the_agent() -> None:
    rows = {manual.code(row[1])[0]: row for row in manual.table("docs/pacemaker.md", "Configuration")}
    own = {one.name: one for one in AGENT.options if one not in convention.COMMON}
    assert rows.keys() == own.keys()
    for name, one in own.items():
        _, _, environment, watchers, default, _ = rows[name]
        assert manual.code(environment) == [one.environment] * bool(one.environment)
        assert manual.code(default) == [one.default] * bool(one.default)
        assert manual.code(watchers) == [name] * (name in SPOOL_KEYS)


@pytest.mark.parametrize(
    ("page", "heading"),
    [
        ("docs/troubleshooting.md", "Troubleshooting"),
        ("docs/nnf.md", "When something is wrong"),
    ],
)
def test_messages_are_in_the_program_as_they_are_quoted(page: str, heading: str) -> None:
    quoted = [text for row in manual.table(page, heading) for text in manual.code(row[0])]
    assert quoted
    for text in quoted:
        if " " not in text:
            assert text in source_texts()
            continue
        assert _pieces(text), text
        for piece in _pieces(text):
            assert any(piece in one for one in source_texts()), f"{piece!r} of {text!r}"


def _pieces(message: str) -> list[str]:
    """Return a message's pieces between what stands for something else: capitals, numbers, names of files."""
    parts = re.split(r"\.\.\.|[A-Z]{4,}|\([^)]*\)|\bn\b|\.[\w.]+|:", message)
    return [part.strip(" ;") for part in parts if len(part.strip(" ;")) >= _FRAGMENT]


@pytest.mark.parametrize("block", TOML, ids=lambda block: f"{block.page.stem}-{block.line}")
def test_an_example_is_taken_by_the_program(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "example.toml"
    path.write_text(block.text)
    if "[fleet]" in block.text:
        assert fleet_file.read_plan(path).drives
    elif "version" in block.text:
        assert hostfile.load(path).hosts
    else:
        settings = load({}, {"NVMEFENCE_CONFIG": str(path)})
        assert settings != Settings()


@pytest.mark.parametrize("page", manual.PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in manual.links(page):
        assert not re.match(r"\w+:", link), f"{link}: nobody looks whether it is there"
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        assert path.exists(), link
        assert not anchor or anchor in manual.anchors(path), link


def test_files_of_the_project_that_are_named_exist() -> None:
    named = [span for span in manual.spans() if re.match(r"(csrc|docs|nvmefence|packaging|tests)/[\w./-]+$", span)]
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_options_that_are_named_exist() -> None:
    named = {word for span in manual.spans() for word in re.findall(r"^--[a-z-]+", span)} - FOREIGN
    helped = told("nvmefence.agents.fence_gfs2_recorder", "--help") + told("tests.chaos", "--help")
    for command in ("detach", "watch", "history", "explain", "status", "report", "qualify"):
        helped += told("nvmefence.cli.main", command, "--help")
    helped += told("tests.lab", "run", "--help")
    helped += told("nvmefence.cli.main", "hosts", "import", "--help") + told("nvmefence.nnf.report", "--help")
    assert named
    assert named - set(re.findall(r"--[a-z-]+", helped)) == set()


def test_the_options_and_exit_codes_of_the_reporter_and_the_import_are_those_of_the_programs() -> None:
    helped = told("nvmefence.nnf.report", "--help")
    options, codes = helped.split("exit codes:")
    rows = manual.table("docs/nnf.md", "Options")
    named = {manual.code(row[0])[0] for row in rows if len(row) == 3}
    assert named == set(re.findall(r"^  (--[a-z-]+)", options, re.M)) - {"--version"}
    assert [row[0] for row in rows if len(row) == 2] == re.findall(r"^  (\d)", codes, re.M)
    helped = told("nvmefence.cli.main", "hosts", "import", "--help").split("settings:")[0].split("options:")[1]
    imports = manual.table("docs/nnf.md", "Import the host map")
    named = {manual.code(row[0])[0].split()[0] for row in imports if row[0].startswith("`--")}
    assert named == set(re.findall(r"^  (--[a-z-]+)", helped, re.M)) - {"--json"}


def test_variables_that_are_named_exist() -> None:
    named = {name for page in manual.PAGES for name in re.findall(r"\b(?:NVMEFENCE|NNF)_[A-Z_]+", page.read_text())}
    known = {variable(key) for key in (*KEYS, "config")} | {one.environment for one in AGENT.options}
    lab = [path.read_text("utf-8") for path in (ROOT / "tests/lab").glob("*.py")]
    known |= set(re.findall(r"\bNVMEFENCE_LAB\w*", "".join(lab)))
    assert named
    assert named - known == set()

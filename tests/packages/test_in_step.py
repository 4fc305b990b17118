"""What packaging repeats of the program is the same: versions, programs, examples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from nvmefence import __version__
from nvmefence.inventory import hostfile
from nvmefence.settings import Settings, load

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
EXAMPLES = sorted((PACKAGING / "examples").glob("hosts-*.toml"))


def first(pattern: str, path: Path) -> str:
    """Return what a pattern finds first in a file."""
    found = re.search(pattern, path.read_text("utf-8"), re.MULTILINE)
    assert found, path
    return found[1]


def test_versions_are_the_same_everywhere() -> None:
    assert first(r"^nvmefence \((.+)\) ", PACKAGING / "debian/changelog") == __version__
    assert first(r"^Version: +(.+)$", PACKAGING / "rpm/nvmefence.spec") == __version__
    assert first(r"^\* .* - (.+)-1$", PACKAGING / "rpm/nvmefence.spec") == __version__
    assert first(r"^## (.+) \(\d{4}-\d\d-\d\d\)$", ROOT / "CHANGELOG.md") == __version__
    named = re.findall(r"nvmefence[_-](\d+\.\d+\.\d+)", (ROOT / "docs/install.md").read_text("utf-8"))
    assert set(named) == {__version__}


def test_every_program_is_in_every_package() -> None:
    programs = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    del programs["nvmefence-nnf-report"]  # no distribution has its lightkube: make install-nnf-report
    assert first(r"^PROGRAMS := (.+)$", PACKAGING / "debian/rules").split() == list(programs)
    assert first(r"^%global programs (.+)$", PACKAGING / "rpm/nvmefence.spec").split() == list(programs)
    for program, entry in programs.items():
        command = [PACKAGING / "write-agent", "/usr/bin/python3", program, "/place"]
        script = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert f"\nfrom {entry.partition(':')[0]} import console\n" in script


def test_every_example_is_installed_by_every_package_and_by_make() -> None:
    folders = {"packaging/examples/*", "packaging/kubernetes/*", "packaging/monitoring/*"}
    lists = {
        "debian": (PACKAGING / "debian/nvmefence.examples").read_text(),
        "rpm": (PACKAGING / "rpm/nvmefence.spec").read_text(),
        "make": (ROOT / "Makefile").read_text(),
    }
    for name, text in lists.items():
        assert set(re.findall(r"packaging/\w+/\*", text)) == folders, name


def test_every_page_is_installed_by_every_package_and_by_make() -> None:
    pages = {"README.md", "SECURITY.md", "CHANGELOG.md"}
    listed = set((PACKAGING / "debian/nvmefence.docs").read_text().split())
    assert listed | {first(r"install -m 644 (\S+) \S+/doc/nvmefence$", PACKAGING / "debian/rules")} == pages | {
        "docs"
    }
    assert set(first(r"%\{_docdir\}/%\{name\} (\w.+)$", PACKAGING / "rpm/nvmefence.spec").split()) == pages
    assert set(first(r"/doc/nvmefence (\w.+)$", ROOT / "Makefile").split()) == pages


def test_no_address_is_given_that_nobody_reads() -> None:
    files = [path for path in PACKAGING.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files += [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "pyproject.toml", ROOT / "setup.py"]
    given = {
        (path.name, one)
        for path in files
        for one in re.findall(r"[\w.+-]+@[\w-]+\.(?!service)[a-z]{2,}\b", path.read_text("utf-8"))
    }
    assert given == {("build-deb", "nobody@nvmefence.invalid")}, "MAINTAINER is the one place: CONTRIBUTING.md"


@pytest.mark.parametrize("maintainer", ["nobody", "a@b", "<a@b>", "A B a@b"])
def test_a_maintainer_without_a_name_or_an_address_is_refused(maintainer: str, tmp_path: Path) -> None:
    (tmp_path / "source/packaging").mkdir(parents=True)
    shutil.copytree(PACKAGING / "debian", tmp_path / "source/packaging/debian")
    command = [PACKAGING / "build-deb", tmp_path / "source", tmp_path]
    environment = {**os.environ, "MAINTAINER": maintainer}
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, env=environment)
    assert (done.returncode, done.stderr) == (2, "MAINTAINER must be like: Name <address>\n")


def test_python_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["requires-python"] == ">=3.11"
    assert first(r"^X-Python3-Version: (.+)$", PACKAGING / "debian/control") == ">= 3.11"
    assert first(r"^Requires: +%\{nvmefence_python\} (.+)$", PACKAGING / "rpm/nvmefence.spec") == ">= 3.11"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_of_a_host_map_is_taken_and_is_explained(path: Path) -> None:
    assert hostfile.load(path).hosts
    assert path.read_text("utf-8").startswith("# /etc/nvmefence/hosts.toml of ")


def test_the_examples_name_controllers_in_every_way_there_is() -> None:
    known = {key for path in EXAMPLES for host in tomllib.loads(path.read_text())["hosts"].values() for key in host}
    assert {"slot", "vf", "controllers", "aliases"} <= known
    assert len(EXAMPLES) == 4


def test_the_example_of_settings_is_taken() -> None:
    assert load({}, {"NVMEFENCE_CONFIG": str(PACKAGING / "examples/nvmefence.toml")}) != Settings()


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_what_the_projects_pages_name_is_there(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    for link in re.findall(r"\]\(([^)#]+)[)#]", text):
        assert link.startswith("https:") or (ROOT / link).exists(), link
    for path in re.findall(r"`((?:docs|packaging|tests|nvmefence)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target

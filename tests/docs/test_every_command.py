"""Nothing in the documentation goes untried: each command is run in a scene, or it is said here why not."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs import (
    manual,
    test_cluster,
    test_contributors,
    test_desk,
    test_direct_agent,
    test_guide,
    test_reporter,
    test_service,
)
from tests.docs.manual import Command
from tests.docs.steps import Step

BENCH = ".venv/bin/python -m tests.bench"
DRIVES = "needs drives under a real kernel"
CLUSTER = "needs a Kubernetes cluster with NNF's software"
RIGHTS = "tests/nnf/test_report_unit.py::test_the_rights_in_the_cluster_are_those_that_are_used_and_no_others"
GUEST = "boots guests for minutes"
READ = "tests/docs/test_contributors.py::test_what_would_boot_a_guest_is_understood"
FOUND = "tests/docs/test_contributors.py::test_the_tests_that_are_named_are_found looks which they find"
CLEAN_ROOT = "make test-packages runs it in a clean root"
EXCEPTIONS = {
    "make demo": "boots the emulated Rabbit for a show of minutes; tests/lab tests what it shows",
    "make build": "makes what this test runs in",
    "make test": "runs this test",
    "make check": "takes half a minute; make test begins with it",
    "make matrix": "installs other interpreters and compilers, and takes minutes",
    'make packages MAINTAINER="Name <address>"': "as make packages; "
    "tests/packages/test_built_deb.py::test_it_names_who_answers_for_it_or_nobody names one",
    "make model": "takes minutes and gigabytes; tests/model looks at the same with smaller bounds",
    "make packages": "builds for half a minute; make test-packages does, and installs each package in a clean root",
    "make rpm RPM_PYTHON=python3.12 RPM_BUNDLE=1": "needs that Python; tests/packages builds one",
    "make test-packages": "builds and installs for minutes",
    "make bench": "measures for minutes in the emulated Rabbit, and writes into this folder",
    "make chaos": "tries faults for minutes; tests/chaos tries each of them for a few rounds",
    "make chaos-lab": "boots a guest for minutes; tests/lab/guest/test_drive_faults.py has its short form",
    f"{BENCH} ...": "the same with options; that they exist is looked at below",
    "nvmefence qualify --drive S64HNX0T500123 ...": f"{DRIVES}; tests/lab/guest/test_qualify.py runs it",
    "nvme detach-ns": f"{DRIVES}; make bench runs it",
    "nvme attach-ns": DRIVES,
    "kubectl get nnfnode": "named as what is of no use here",
    "kubectl set env ...": CLUSTER,
    "kubectl logs ...": CLUSTER,
    "kubectl annotate ...": CLUSTER,
    "kubectl apply": "the beginning of the next",
    "kubectl apply ...": f"{CLUSTER}; {RIGHTS} reads what it applies",
    "apt install ./nvmefence_...": f"{CLEAN_ROOT}: "
    "tests/packages/test_built_deb.py::test_the_package_is_installed_used_upgraded_and_removed",
    "dnf install ./nvmefence-...": "needs a Fedora or RHEL; make test-packages has rpm install it on a Debian: "
    "tests/packages/test_built_rpm.py::test_the_package_is_installed_used_upgraded_and_removed",
    "pip install nvmefence-...": "make test-packages runs it in a virtual environment of its own: "
    "tests/packages/test_built_wheel.py::test_it_works_in_a_clean_environment",
    "python -m tests.lab install": "installs with apt; make test begins with it",
    "python -m tests.lab run ...": f"{GUEST}; {READ} reads it",
    "python -m tests.lab shell ...": f"{GUEST}; {READ} reads it",
    "python -m tests.lab pytest ...": f"{GUEST}; {READ} reads it",
    "python -m tests.chaos --lab": "as make chaos-lab, which runs it",
    "pytest tests/lab": f"{GUEST}, as make test does; {FOUND}",
    "pytest tests/lab -k small": f"{GUEST}, as make test does; {FOUND}",
    "pytest tests/lab/guest/test_yours.py": "is a file that the reader makes",
}
"""What no scene runs, and why. What ends with dots stands for all that begins so."""
_JOINTS = re.compile(r"\s*(?:&&|\|\||[|;&]|\n)\s*")


def executed() -> set[str]:
    scenes = (
        test_desk, test_service, test_reporter, test_cluster, test_direct_agent, test_guide, test_contributors,
    )  # fmt: skip
    steps: list[Step[Any]] = [step for scene in scenes for step in scene.STEPS]
    return {*test_desk.BESIDE, *test_reporter.BESIDE, *(command for step in steps for command in step.commands)}


def unclassified(commands: Iterable[Command], inline: Iterable[Command]) -> Iterator[str]:
    """Yield what is neither run nor an exception.

    A command within a sentence may be the beginning of one that is run, alone or with others: `pcs stonith update`.
    """
    run = executed()
    parts = run | {part for command in run for part in _JOINTS.split(command)}
    for command in commands:
        if command.text not in run and not excepted_by(command.text):
            yield f"{command.where}: {command.text}"
    for command in inline:
        begins = any(f"{part} ".startswith(f"{command.text} ") for part in parts)
        if not begins and not excepted_by(command.text):
            yield f"{command.where}: {command.text}"


def excepted_by(command: str) -> set[str]:
    """Return the exceptions that a command is of."""
    return {one for one in EXCEPTIONS if one == command or (one.endswith("...") and command.startswith(one[:-3]))}


def test_every_command_is_run_or_is_an_exception_with_a_reason() -> None:
    missed = list(unclassified(manual.commands(), manual.inline()))
    assert not missed, "make a step of it in tests/docs, or an exception with its reason: " + "; ".join(missed)


def test_a_command_that_is_new_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n"
        "    nvmefence check     # known\n    pcs stonith \\\n        reset   # new\n\n"
        "```bash\nnvmefence frobnicate\n```\n\n```text\nnvmefence is drawn\n```\n\n"
        "Then `pcs stonith upd`, `pcs stonith update`, `nvmefence`, and `make\ncoffee`.\n"
    )
    assert list(unclassified(manual.commands_of(page), manual.inline_of(page))) == [
        "page.md:4: pcs stonith reset",
        "page.md:8: nvmefence frobnicate",
        "page.md:15: pcs stonith upd",
        "page.md:15: make coffee",
    ]


def test_no_step_and_no_exception_is_about_a_command_that_is_gone() -> None:
    there = {command.text for command in (*manual.commands(), *manual.inline())}
    assert executed() - there == set()
    assert EXCEPTIONS.keys() - {one for command in there for one in excepted_by(command)} == set()
    assert not [command for command in executed() if excepted_by(command)]


def test_what_is_said_to_be_tested_elsewhere_is_tested_there() -> None:
    named = [name for reason in EXCEPTIONS.values() for name in re.findall(r"tests/[\w./]*\w(?:::\w+)?", reason)]
    assert len(named) > 10
    for name in named:
        path, _, function = name.partition("::")
        assert (manual.ROOT / path).exists(), name
        assert not function or f"\ndef {function}(" in (manual.ROOT / path).read_text("utf-8"), name


def test_every_block_says_what_it_is() -> None:
    kinds = (*manual.SHELLS, "text", "toml")
    odd = [f"{block.page.name}:{block.line}" for block in manual.blocks() if block.kind not in kinds]
    assert not odd, f"text, toml or a shell belongs behind the fence: {odd}"


@pytest.mark.parametrize("command", [name for name in EXCEPTIONS if name.startswith("make ")])
def test_the_targets_of_make_exist(command: str) -> None:
    words = ["make", "--dry-run", *shlex.split(command)[1:]]
    done = subprocess.run(
        words, cwd=manual.ROOT, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_options_of_the_measurement_exist() -> None:
    command = [sys.executable, "-m", "tests.bench", "--help"]
    done = subprocess.run(command, cwd=manual.ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    measured = [command.text for command in manual.commands() if command.text.startswith(BENCH)]
    options = {word for text in measured for word in re.findall(r"--[\w-]+", text)}
    assert options
    assert not [option for option in options if not re.search(rf"{option}\b(?!-)", done.stdout)]

"""What those who work on the project are told to type, in this folder; what boots a guest is only read."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.docs import manual
from tests.docs.steps import Step, follow
from tests.lab import __main__ as lab
from tests.lab import boot
from tests.lab.boot import Plan, Result
from tests.lab.host import LabError

READ_ONLY = (
    "python -m tests.lab shell --shape small",
    "python -m tests.lab run --drives 18 --secondaries 17 --namespaces 4 -- nvme list-subsys",
    "python -m tests.lab pytest --shape small --namespaces 8 -- tests/lab/guest/test_lab.py -k writer",
)
"""They boot a guest: read by the program, and not carried out."""
COLLECTED = "pytest tests/lab -k small"
"""It boots a guest for minutes, as make test does."""


class Checkout:
    """A developer at a shell in this folder, with what it is built with."""

    def shell(self, text: str, limit_s: float) -> subprocess.CompletedProcess[str]:
        """Run a shell's commands."""
        programs = Path(sys.executable).parent
        text = text.replace(".venv/bin/python", sys.executable)  # another interpreter may run the tests
        return subprocess.run(
            ["bash", "-c", text], cwd=manual.ROOT, capture_output=True, text=True, timeout=limit_s, check=False,
            env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTEST_ADDOPTS": "-p no:cacheprovider"},
        )  # fmt: skip


STEPS: list[Step[Checkout]] = [
    Step(".venv/bin/python -m pytest tests/unit/test_fence.py -q", says=[r"^\d+ passed in"], folder="."),
    Step("python -m tests.chaos --list", says=["^watcher-killed$", "^    SIGKILL of the watcher"], folder="."),
    Step("python -m tests.lab why", says=["."], exit=None, folder="."),
    Step("python -I -S -c pass", never=["."], folder="."),
]


def test_what_a_contributor_types_goes_as_written() -> None:
    follow(Checkout(), STEPS)


def words(command: str) -> list[str]:
    """Return the words of a command that a page has."""
    assert command in {one.text for one in (*manual.commands(), *manual.inline())}
    return shlex.split(command)


def test_the_tests_that_are_named_are_found() -> None:
    done = subprocess.run(
        [sys.executable, "-m", *words(COLLECTED), "--collect-only", "-q", "-p", "no:cacheprovider"],
        cwd=manual.ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", READ_ONLY)
def test_what_would_boot_a_guest_is_understood(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plans: list[Plan] = []

    def run(plan: Plan, *_: object, **_more: object) -> Result:
        plans.append(plan)
        raise LabError("not booted here")

    monkeypatch.setattr(boot, "run", run)
    given = words(command)[3:]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert lab.main(given) == 2
    assert "not booted here" in capsys.readouterr().err
    (plan,) = plans
    assert asked(given) <= set(map(str, vars(plan.shape).values())) | {"small"}
    assert plan.command[-len(after(given)) :] == after(given) if after(given) else plan.interactive


def after(given: Sequence[str]) -> list[str]:
    """Return what is to be run in the guest."""
    return list(given[given.index("--") + 1 :]) if "--" in given else []


def asked(given: Sequence[str]) -> set[str]:
    """Return the values of the options of the guest."""
    own = given[1 : given.index("--")] if "--" in given else given[1:]
    return set(own[1::2])

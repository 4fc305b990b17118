"""The machine on which the documentation is followed: made, and installed on, once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import pacemaker  # noqa: F401 (a fixture)
from tests.docs.machine import Machine, why_not
from tests.docs.steps import written


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    reason = why_not()
    if reason and os.environ.get("NVMEFENCE_LAB") != "require":
        pytest.skip(reason)
    machine = Machine(tmp_path_factory.mktemp("docs") / "machine")
    try:
        done = machine.once(written("make install"))
        assert done.returncode == 0, done.stdout + done.stderr
        yield machine
    finally:
        shutil.rmtree(machine.folder)

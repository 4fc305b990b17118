"""What the tests of whole programs start from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.place import Place
from tests.system.recording import Cluster


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    before = os.umask(0o022)  # the agent believes no file that others may write
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()
    os.umask(before)

"""What the tests under a real Pacemaker start from, and the rule for where there is none.

NVMEFENCE_LAB=off leaves them out, =require makes their absence a failure, else they are skipped with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import machine
from tests.cluster.fencer import Fencer
from tests.cluster.nodes import Cluster
from tests.cluster.site import Site


@pytest.fixture(scope="session")
def pacemaker() -> None:
    wish = os.environ.get("NVMEFENCE_LAB")
    reasons = ["NVMEFENCE_LAB=off"] if wish == "off" else machine.why_not()
    if reasons and wish == "require":
        pytest.fail(f"NVMEFENCE_LAB=require, but: {'; '.join(reasons)}", pytrace=False)
    if reasons:
        pytest.skip(f"cluster: {'; '.join(reasons)}")


@pytest.fixture
def site(pacemaker: None, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site")
    yield site
    site.close()


@pytest.fixture
def fencer(pacemaker: None, tmp_path: Path) -> Iterator[Fencer]:
    fencer = Fencer(tmp_path / "fencer")
    yield fencer
    fencer.room.kill()


@pytest.fixture(scope="module")
def single(pacemaker: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give a cluster of one node, enough where only the person at pcs matters."""
    cluster = Cluster(["rabbit-node-1"], tmp_path_factory.mktemp("single"))
    yield cluster
    cluster.stop()


@pytest.fixture
def pair(pacemaker: None, tmp_path: Path) -> Iterator[Cluster]:
    """Give a Rabbit and a compute in one cluster."""
    cluster = Cluster(["rabbit-node-1", "compute-node-1"], tmp_path / "pair")
    yield cluster
    cluster.stop()

"""Fixtures for tests inside the guest."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import bringup, observer, writer
from tests.lab.guest.product import hosts_toml
from tests.lab.guest.watching import Observed, Place
from tests.lab.shape import Shape


@pytest.fixture(scope="session")
def shape() -> Shape:
    """The shape of this guest."""
    return Shape.from_json(json.loads(os.environ["NVMEFENCE_LAB_SHAPE"]))


@pytest.fixture(scope="session")
def baseline(shape: Shape) -> bringup.Attachments:
    """What was attached when the guest came up: by serial number, by namespace id."""
    return bringup.survey()


@pytest.fixture(autouse=True)
def restored(shape: Shape, baseline: bringup.Attachments) -> Iterator[None]:
    """Bring back, after each test, what it detached, set offline, unbound or removed."""
    yield
    bringup.heal(shape, baseline)


@pytest.fixture
def drives() -> list[observer.Drive]:
    """The drives, by serial number."""
    return observer.drives()


@pytest.fixture
def drive(drives: list[observer.Drive]) -> observer.Drive:
    """The first drive."""
    return drives[0]


@pytest.fixture
def device(drive: observer.Drive) -> Iterator[observer.Device]:
    """The first drive's primary controller, open."""
    with observer.Device(drive.primary.path) as opened:
        yield opened


@pytest.fixture
def observed(drives: list[observer.Drive]) -> Iterator[Observed]:
    """Looks who is attached where, with descriptors of its own."""
    made = Observed(drives)
    yield made
    made.close()


@pytest.fixture
def start_writer(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Start a writer on a block device; return its log, see `writer.read_log`."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(block: Path) -> Path:
        log = tmp_path / f"{block.name}.log"
        processes.append(subprocess.Popen(writer.command(block, log)))
        return log

    yield start
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture
def place(shape: Shape, drives: list[observer.Drive], tmp_path: Path) -> Iterator[Place]:
    """A watcher's directories, with every drive of the shape expected by name; no watcher runs yet."""
    serials = json.dumps([drive.serial for drive in drives])
    made = Place(tmp_path, hosts_toml(shape, drives=f"serials = {serials}"))
    yield made
    made.close()

"""The RPM: built with rpmbuild, installed by rpm in a clean root, upgraded, removed.

The root is a Debian, whose packages RPM does not know: it is told not to ask for them, and apt brings them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packages import installed
from tests.packages.root import ROOT, CleanRoot, built, why_not
from tests.system.watching import until

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
MODULES = "/usr/lib/nvmefence"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[CleanRoot]:
    with CleanRoot(tmp_path / "machine") as machine:
        yield machine


def test_the_package_is_installed_used_upgraded_and_removed(machine: CleanRoot) -> None:
    package = f"/packages/{built('nvmefence-*.x86_64.rpm').name}"
    machine.apt_install("rpm", "python3", "python3-cffi-backend", "python3-pyudev")
    machine.must("rpm", "--install", "--nodeps", package)
    installed.files_are_in_place(machine, MODULES)
    installed.every_command_has_a_page(machine)
    installed.the_service_is_off_until_a_person_enables_it(machine)
    installed.programs_work(machine)

    installed.the_service_fences(machine)
    before = installed.process(machine)
    machine.must("rpm", "--upgrade", "--force", "--nodeps", package)
    until(lambda: installed.process(machine) not in (0, before), "an upgrade restarts a watcher that runs")
    assert machine.shows(installed.UNIT, "ActiveState") == "active"

    machine.must("rpm", "--erase", "nvmefence")
    installed.nothing_runs_and_the_records_stay(machine)
    assert not machine.has(MODULES), "what was compiled there has gone too"


def test_what_it_needs_is_named() -> None:
    command = ["rpm", "--query", "--requires", "--package", str(built("nvmefence-*.x86_64.rpm"))]
    needed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    assert {"python3 >= 3.11", "python3-cffi", "python3-pyudev", "systemd"} <= set(needed)


def test_one_with_pyudev_in_it_works_where_the_distribution_has_none(tmp_path: Path) -> None:
    source = next((ROOT / "build/source").glob("nvmefence-*.tar.gz"))
    folder = tmp_path / "packages"
    folder.mkdir()
    subprocess.run(
        [ROOT / "packaging/build-rpm", str(source).removesuffix(".tar.gz"), folder], check=True, timeout=300,
        env={**os.environ, "RPM_BUNDLE": "1", "PIP_PYTHON": sys.executable},
    )  # fmt: skip
    (package,) = folder.glob("*.x86_64.rpm")
    with CleanRoot(tmp_path / "machine", folder) as machine:
        machine.apt_install("rpm", "python3", "python3-cffi-backend", "libudev1")
        machine.must("rpm", "--install", "--nodeps", f"/packages/{package.name}")
        installed.programs_work(machine)

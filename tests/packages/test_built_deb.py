"""The Debian package: built with the distribution's tools, installed in a clean root, upgraded, removed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packages import installed
from tests.packages.root import ASK, CleanRoot, built, why_not
from tests.system.watching import until

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
MODULES = "/usr/lib/python3/dist-packages"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with the package, and with a newer one that differs in its version alone."""
    folder = tmp_path / "packages"
    folder.mkdir()
    shutil.copy(built("nvmefence_*.deb"), folder / "first.deb")
    subprocess.run(["dpkg-deb", "--raw-extract", folder / "first.deb", tmp_path / "newer"], check=True)
    control = tmp_path / "newer/DEBIAN/control"
    control.write_text("".join(_newer(line) for line in control.read_text().splitlines(keepends=True)))
    subprocess.run(
        ["dpkg-deb", "--build", tmp_path / "newer", folder / "newer.deb"], check=True, stdout=subprocess.DEVNULL
    )
    return folder


def _newer(line: str) -> str:
    return f"{line.strip()}+1\n" if line.startswith("Version:") else line


@pytest.fixture
def machine(tmp_path: Path, packages: Path) -> Iterator[CleanRoot]:
    with CleanRoot(tmp_path / "machine", packages) as machine:
        yield machine


def test_the_package_is_installed_used_upgraded_and_removed(machine: CleanRoot) -> None:
    said = machine.apt_install("/packages/first.deb")
    assert "Error" not in said
    installed.files_are_in_place(machine, MODULES)
    installed.every_command_has_a_page(machine)
    installed.the_service_is_off_until_a_person_enables_it(machine)
    installed.programs_work(machine)

    machine.must("dpkg", "--install", "/packages/newer.deb")
    installed.the_service_is_off_until_a_person_enables_it(machine)

    machine.must("dpkg", "--install", "--force-downgrade", "/packages/first.deb")
    installed.the_service_fences(machine)
    before = installed.process(machine)
    machine.must("dpkg", "--install", "/packages/newer.deb")
    until(lambda: installed.process(machine) not in (0, before), "an upgrade restarts a watcher that runs")
    assert machine.shows(installed.UNIT, "ActiveState") == "active"
    machine.must("fence_gfs2_recorder", "--action=monitor", *ASK)

    machine.must("apt-get", "purge", "-y", "nvmefence")
    installed.nothing_runs_and_the_records_stay(machine)
    left = machine.run("find", MODULES, "/etc/systemd", "/etc/logrotate.d", "-name", "*nvmefence*").stdout
    assert left == ""


def test_pcs_knows_the_agents(machine: CleanRoot) -> None:
    machine.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")  # no daemon of a cluster is started
    machine.must("chmod", "755", "/usr/sbin/policy-rc.d")
    machine.apt_install("pcs", "pacemaker", "pacemaker-cli-utils", "/packages/first.deb")
    described = machine.must("pcs", "stonith", "describe", "fence_gfs2_recorder")
    assert "fence_timeout: Seconds to wait for the response (default: 60)" in described
    assert "deadline: " in machine.must("pcs", "stonith", "describe", "fence_nvmefence")
    listed = machine.must("crm_resource", "--list-agents=stonith").split()
    assert {"fence_gfs2_recorder", "fence_nvmefence"} <= set(listed)


def test_it_names_who_answers_for_it_or_nobody() -> None:
    command = ["dpkg-deb", "--field", str(built("nvmefence_*.deb")), "Maintainer"]
    named = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    assert named == (os.environ.get("MAINTAINER") or "nobody is named <nobody@nvmefence.invalid>")


def test_lintian_has_nothing_to_say() -> None:
    command = ["lintian", "--allow-root", "--fail-on=error,warning", str(built("nvmefence_*.changes"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr

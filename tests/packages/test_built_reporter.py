"""The reporter to Kubernetes, which no package has: installed by make beside whatever is there, and removed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.docs.machine import Machine, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
PLACES = (
    "/opt/nvmefence-nnf-report",
    "/usr/sbin/nvmefence-nnf-report",
    "/etc/systemd/system/nvmefence-nnf-report.service",
    "/etc/sysusers.d/nvmefence-nnf-report.conf",
    "/etc/tmpfiles.d/nvmefence-nnf-report.conf",
    "/usr/local/share/man/man8/nvmefence-nnf-report.8",
    "/usr/local/share/bash-completion/completions/nvmefence-nnf-report",
)


def there(machine: Machine) -> list[str]:
    return [path for path in PLACES if machine.inside(path).exists() or machine.inside(path).is_symlink()]


def test_it_is_installed_by_one_command_and_removed(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")
    try:
        done = machine.once(
            "make install-nnf-report\n"
            "systemd-sysusers --dry-run nvmefence-nnf-report.conf || exit 1\n"
            "nvmefence-nnf-report --kubeconfig /dev/null --dry-run"
        )
        assert re.search("^nvmefence [0-9.]+$", done.stdout, re.MULTILINE), done.stdout + done.stderr
        assert "no way to the cluster by /dev/null" in done.stderr, "its client library is there"
        assert done.returncode == 3
        assert there(machine) == list(PLACES)
        unit = machine.inside("/etc/systemd/system/nvmefence-nnf-report.service").read_text()
        assert "ExecStart=/usr/sbin/nvmefence-nnf-report --kubeconfig /etc/nvmefence/nnf-report.kubeconfig" in unit
        assert not machine.inside("/opt/nvmefence").exists(), "nothing of the watcher is touched"
        removed = machine.once("make uninstall")
        assert removed.returncode == 0, removed.stderr
        assert there(machine) == []
    finally:
        shutil.rmtree(machine.folder)

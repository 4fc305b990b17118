"""`make install` gives a machine all that it needs, and `make uninstall` takes it away again."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    "sbin/nvmefence",
    "sbin/fence_gfs2_recorder",
    "sbin/fence_nvmefence",
    "etc/systemd/system/nvmefence-watcher.service",
    "etc/tmpfiles.d/nvmefence.conf",
    "etc/logrotate.d/nvmefence",
}
SHARED = {
    "man/man8/nvmefence-detach.8",
    "man/man8/fence_gfs2_recorder.8",
    "man/man5/nvmefence.toml.5",
    "bash-completion/completions/nvmefence",
    "bash-completion/completions/fence_nvmefence",
    "doc/nvmefence/docs/install.md",
    "doc/nvmefence/examples/hosts-rabbit.toml",
    "doc/nvmefence/examples/after-fence.conf",
}
"""Some of what goes below SHARE."""


def make(target: str, place: Path) -> subprocess.CompletedProcess[str]:
    where = [f"PREFIX={place}/opt", f"SBIN={place}/sbin", f"ETC={place}/etc", f"SHARE={place}/share"]
    return subprocess.run(
        ["make", target, *where], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def there(place: Path) -> set[str]:
    return {
        str(path.relative_to(place))
        for part in ("sbin", "etc")
        for path in (place / part).rglob("*")
        if not path.is_dir()
    }


def monitored(place: Path) -> str:
    """Return what the direct agent says of a drive that is not there."""
    hosts = place / "hosts.toml"
    hosts.write_text('version = 1\n[drives]\nserials = ["NONE-SUCH"]\n[hosts.c1]\ncontrollers = [2]\n')
    command = [str(place / "sbin/fence_nvmefence"), "-o", "monitor", f"--hosts-file={hosts}"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="an installation needs root")
def test_what_is_installed_works_and_goes_away_again(tmp_path: Path) -> None:
    done = make("install", tmp_path)
    assert done.returncode == 0, done.stderr
    assert there(tmp_path) == FILES
    assert {name for name in SHARED if (tmp_path / "share" / name).is_file()} == SHARED
    unit = (tmp_path / "etc/systemd/system/nvmefence-watcher.service").read_text()
    assert f"ExecStart={tmp_path}/sbin/nvmefence watch\n" in unit
    agents = ([agent, "-o", "metadata"] for agent in ("fence_gfs2_recorder", "fence_nvmefence"))
    for words in (["nvmefence", "version"], *agents):
        run = subprocess.run(
            [tmp_path / "sbin" / words[0], *words[1:]], cwd="/", capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert (run.returncode, run.stderr) == (0, "")
    assert "drive NONE-SUCH missing" in monitored(tmp_path), "it finds all that it needs to reach drives"
    assert make("uninstall", tmp_path).returncode == 0
    assert (there(tmp_path), (tmp_path / "opt").exists()) == (set(), False)
    assert not [path for path in (tmp_path / "share").rglob("*") if path.is_file()]


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="systemd-tmpfiles is not installed")
def test_tmpfiles_makes_the_directories_as_the_watcher_wants_them(tmp_path: Path) -> None:
    subprocess.run(
        ["systemd-tmpfiles", "--create", f"--root={tmp_path}", ROOT / "packaging/tmpfiles.d/nvmefence.conf"],
        timeout=60, check=True,
    )  # fmt: skip
    modes = {
        name: (tmp_path / "localdisk/gfs2-fencing" / name).stat().st_mode & 0o777
        for name in ("requests", "responses")
    }
    assert modes == {"requests": 0o750, "responses": 0o750}


@pytest.mark.skipif(shutil.which("logrotate") is None, reason="logrotate is not installed")
def test_logrotate_takes_its_file(tmp_path: Path) -> None:
    done = subprocess.run(
        ["logrotate", "--debug", "--state", tmp_path / "state", ROOT / "packaging/logrotate.d/nvmefence"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, "error" in done.stderr) == (0, False), done.stderr

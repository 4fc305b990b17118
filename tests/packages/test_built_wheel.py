"""The wheel: one for all versions of the interpreter, complete, and clean of what other builds left."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.packages.root import FLEET, HOSTS, ROOT, built


def test_it_has_every_module_and_nothing_else() -> None:
    with zipfile.ZipFile(built("nvmefence-*.whl")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "nvmefence"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    modules = [name for name in done.stdout.splitlines() if not name.endswith(".pml")]
    assert names == {name for name in modules if (ROOT / name).exists()} | {"nvmefence/nvme/_queue.abi3.so"}


def test_it_works_in_a_clean_environment(tmp_path: Path) -> None:
    def run(*words: str | Path) -> str:
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", tmp_path / "clean")
    programs = tmp_path / "clean/bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", built("nvmefence-*.whl"))
    assert "ioctl      available" in run(programs / "nvmefence", "version")
    for agent in ("fence_gfs2_recorder", "fence_nvmefence"):
        assert f'<resource-agent name="{agent}"' in run(programs / agent, "--action=metadata")
    (tmp_path / "fleet.toml").write_text(FLEET)
    (tmp_path / "hosts.toml").write_text(HOSTS)
    words = ("--host", "compute-1", "--simulate", "fleet.toml", "--hosts", "hosts.toml", "--quiesce", "none")
    assert "Fenced compute-1" in run(programs / "nvmefence", "detach", *words)
    run(programs / "python", "-m", "pip", "uninstall", "--quiet", "--yes", "nvmefence")
    assert not [path.name for path in programs.iterdir() if "fence" in path.name]

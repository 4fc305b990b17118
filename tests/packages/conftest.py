"""What takes minutes is asked for: make test-packages. The rest takes seconds and is part of every run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MAKER = Path(__file__).resolve().parents[2] / "packaging" / "manual"
collect_ignore_glob = [] if os.environ.get("NVMEFENCE_PACKAGES") else ["test_built_*.py"]
sys.path.append(str(MAKER))  # its modules are those of a program, of no package


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all manual pages and completions, as they are installed."""
    folder = tmp_path_factory.mktemp("made")
    subprocess.run([sys.executable, MAKER, folder], check=True, timeout=60)
    return folder

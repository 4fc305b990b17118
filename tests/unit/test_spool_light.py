"""What the agent loads of the spool costs it little of its start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_agent_s_part_loads_only_light_modules() -> None:
    root = Path(__file__).parents[2]
    script = (
        f"import sys; sys.path.insert(0, {str(root)!r}); import nvmefence.spool.files, nvmefence.spool.response;"
        "print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "nvmefence.spool.json_strict" in loaded
    assert not loaded & {
        "typing", "dataclasses", "inspect", "pathlib", "asyncio", "datetime", "difflib", "subprocess", "tempfile",
        "logging", "nvmefence.errors",
    }  # fmt: skip

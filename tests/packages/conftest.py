"""What takes minutes is asked for: make test-packages. The rest takes seconds and is part of every run."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("NVMEFENCE_PACKAGES") else ["test_built_*.py"]

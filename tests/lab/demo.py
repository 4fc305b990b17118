"""`make demo`: boot an emulated Rabbit, fence a compute that is writing, and watch what happens.

python -m tests.lab.demo
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from tests.lab import boot
from tests.lab.host import LabError
from tests.lab.shape import Shape

SHAPE = Shape(drives=6, secondaries=5, namespaces=3, bound=(2, 3, 4), memory_mib=1792)
LIMIT = 300


def main() -> int:
    """Run the demonstration; the exit code is 0 only when everything happened as it must."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    started = time.monotonic()
    say = _say if sys.stderr.isatty() else lambda _text: None
    print(f"Booting an emulated Rabbit under a real Linux kernel: {SHAPE.describe()}.", flush=True)
    folder = boot.new_folder()
    plan = boot.Plan(
        SHAPE, [sys.executable, "-m", "tests.lab.demo_inside"], LIMIT, {"FORCE_COLOR": "1"} if colour else {}
    )
    follower = Follower(folder / "stdout")
    follower.start()
    try:
        result = boot.run(plan, say, folder)
    except LabError as error:
        print(f"The demonstration needs the laboratory, which cannot be had here: {error}", file=sys.stderr)
        return 1
    finally:
        follower.finish()
    if result.exit_code is None:
        print(result.trouble(), file=sys.stderr)
        return 1
    if result.exit_code:
        print(result.stderr, file=sys.stderr)
    print(f"\nIn all {time.monotonic() - started:.0f} s on this machine ({result.figures()}).")
    print("Next: README.md, section 'Install and a first hosts.toml'; `make lab` gives a shell in such a machine.")
    return result.exit_code


def _say(text: str) -> None:
    sys.stderr.write(f"\r\x1b[2K{text}\r")
    sys.stderr.flush()


class Follower(threading.Thread):
    """Prints what the guest writes, while it writes it."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._over = threading.Event()
        self._at = 0

    def run(self) -> None:
        """Follow until `finish`."""
        while not self._over.wait(0.2):
            self._copy()

    def finish(self) -> None:
        """Print the rest."""
        self._over.set()
        self.join()
        self._copy()

    def _copy(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        if data:
            if not self._at and sys.stderr.isatty():
                sys.stderr.write("\r\x1b[2K")
                sys.stderr.flush()
            self._at += len(data)
            sys.stdout.write(data.decode(errors="replace"))
            sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

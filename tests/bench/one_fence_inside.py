"""Runs inside the guest: has the agent ask the watcher for a fence some times, and leaves what the median one told.

    python -m tests.bench.one_fence_inside --folder FOLDER --rounds N

It runs from `local.GUEST`. What is left in FOLDER: `response.json`, and what the log of fence events has of it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nvmefence.spool import response
from nvmefence.timeline import made, parts
from nvmefence.timeline.made import Timeline
from tests.bench import local
from tests.bench.rabbit import HOST, Rabbit
from tests.bench.turns import WrongResult, timed
from tests.bench.ways import write_hostmap

PLACE = local.GUEST / "desk"
LOG = PLACE / "log"
_SERVES_WITHIN_S = 60.0
_TIMEOUT_S = 60
_AGENT = f"""\
#!{local.PYTHON} -IS
import sys

sys.path.append("{local.SITE}")
from nvmefence.agents.fence_gfs2_recorder import console

console()
"""


class Told(NamedTuple):
    """One fence, as it is told of."""

    data: bytes
    """Of the response file."""
    request_id: str
    line: Timeline


def main() -> int:
    """Fence, restore, again and again; print each one's time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    options = parser.parse_args()
    rabbit = Rabbit(local.GUEST / "bin" / "bare_minimum")
    for name in ("requests", "responses", "log"):
        (PLACE / name).mkdir(parents=True)
    write_hostmap(PLACE / "hosts.toml", rabbit)
    agent = _agent()
    found = []
    with _watcher():
        for number in range(options.rounds + 1):
            told = _fence(agent)
            rabbit.check_cut()
            rabbit.restore()
            print(f"{number} {told.line.seconds:.6f} {told.line.notes}", flush=True)
            found += [told] if number else []  # the first one brings everything into memory
    found.sort(key=lambda one: one.line.seconds)
    _keep(found[len(found) // 2], options.folder)
    return 0


def _agent() -> Path:
    """Return the agent's script, as `make install` writes it."""
    path = local.GUEST / "bin" / "fence_gfs2_recorder"
    path.write_text(_AGENT)
    path.chmod(0o755)
    return path


@contextlib.contextmanager
def _watcher() -> Iterator[None]:
    said = PLACE / "said"
    command = [
        str(local.GUEST / "bin" / "nvmefence"), "watch", "--hosts", f"{PLACE}/hosts.toml", "--quiesce", "none",
        "--request-dir", f"{PLACE}/requests", "--response-dir", f"{PLACE}/responses", "--log-dir", str(LOG),
        "--audit", f"{PLACE}/audit.jsonl", "--records", f"{PLACE}/records", "--run-dir", f"{PLACE}/run",
        "--vigil-s", "0",
    ]  # fmt: skip
    with said.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, **local.ENVIRONMENT})
    try:
        until = time.monotonic() + _SERVES_WITHIN_S
        while "serving" not in said.read_text():
            if process.poll() is not None or time.monotonic() > until:
                raise WrongResult(f"the watcher does not serve:\n{said.read_text()}")
            time.sleep(0.05)
        time.sleep(2)  # its first look at the drives is over
        yield
    finally:
        process.terminate()
        process.wait(_SERVES_WITHIN_S)


def _fence(agent: Path) -> Told:
    """Have the agent ask once. Raises WrongResult."""
    before = set((PLACE / "responses").glob("*.json"))
    options = PLACE / "options"
    options.write_text(
        f"action=off\nport={HOST}\nfence_timeout={_TIMEOUT_S}\nlog_dir={LOG}\n"
        f"request_dir={PLACE}/requests\nresponse_dir={PLACE}/responses\n"
    )
    with options.open("rb") as stream:
        timed([str(agent)], stream, local.ENVIRONMENT)
    (path,) = set((PLACE / "responses").glob("*.json")) - before
    data = path.read_bytes()
    answer = response.parse(data)
    until = time.monotonic() + 5
    while (told := parts.of(answer, str(LOG))).after is None or told.agent is None:
        if time.monotonic() > until:
            raise WrongResult(f"the log does not tell of request {answer.request_id}")
        time.sleep(0.05)
    return Told(data, answer.request_id, made.make(answer, told))


def _keep(told: Told, folder: Path) -> None:
    (folder / "response.json").write_bytes(told.data)
    lines = (LOG / parts.LOG).read_text().splitlines(keepends=True)
    (folder / parts.LOG).write_text("".join(line for line in lines if told.request_id in line))


if __name__ == "__main__":
    sys.exit(main())

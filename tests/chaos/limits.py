"""Faults of what a process may use: descriptors, memory, and the clock on the wall."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.chaos import shim
from tests.chaos.frame import Campaign, Fault, Rounds
from tests.chaos.processes import alive
from tests.chaos.site import Broken, Site, somewhen
from tests.system.place import CLEAN
from tests.system.watching import AGENT

_KIB: Final = 1024
_STEP_KB: Final = 48
_NOT_LOADED: Final = 127
"""Exit code of the dynamic loader, where there is no descriptor for a library."""
_INFINITE: Final = resource.RLIM_INFINITY


def descriptors_at_work(given: Campaign) -> Rounds:
    """A running watcher may open so many descriptors more, from none on, and all again afterwards."""
    site = Site(given.path)
    with site.watcher() as running:
        site.served()
        more = 0
        while True:
            site.readmit("c1")
            pid = running.process.pid
            used = 1 + max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + more, before[1]))
            response = site.ask(site.fresh())
            site.wait(0.15)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            answer = site.answer(response)
            if answer["success"] is not True:
                if "open files" not in answer["message"]:
                    raise Broken(f"with {more} more descriptors it failed for another reason: {answer['message']}")
                site.served()
            alive(running)
            more = (more + 1) % 16
            yield


def descriptors_at_start(given: Campaign) -> Rounds:
    """Watcher and agent start with so many descriptors, from 3 on."""
    site = Site(given.path)
    limit = 3
    while True:
        site.readmit("c1")

        def limited(most: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

        with site.watcher(ready=False, preexec_fn=limited) as running:
            response = site.ask(site.fresh())
            end = time.monotonic() + 1.5
            while running.process.poll() is None and not response.exists() and time.monotonic() < end:
                site.wait(0.01)
            code = running.process.poll()
            if code == 0:
                raise Broken(f"with {limit} descriptors it ended with 0: {running.text()}")
        (site.requests / response.name).unlink(missing_ok=True)
        with site.watcher():
            site.served()
            site.readmit("c1")
            agent = site.agent_process("c1", 1.0, preexec_fn=limited)
            if agent.ended() not in (0, 1, _NOT_LOADED):
                raise Broken(f"with {limit} descriptors the agent ended with {agent.process.returncode}")
            site.until(lambda: not site.pending(), "no request is left")
        limit = 3 + (limit - 2) % 30
        yield


def memory_at_work(given: Campaign) -> Rounds:
    """A running watcher may take so many KiB of address space more, from none on, and all again afterwards."""
    site = Site(given.path)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(site.watcher())
        site.served()
        more = 0
        while True:
            site.readmit("c1")
            pid = running.process.pid
            size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
            resource.prlimit(pid, resource.RLIMIT_AS, (size + more * _KIB, _INFINITE))
            responses = [site.ask(site.fresh(), pad=_padding(given.rng)) for _ in range(given.rng.randrange(1, 30))]
            site.wait(0.25)
            if running.process.poll() is None:
                resource.prlimit(pid, resource.RLIMIT_AS, (_INFINITE, _INFINITE))
            site.wait(0.05)
            if running.process.poll() is not None:  # as the service manager does
                running = stack.enter_context(site.watcher())
            for response in responses:
                site.answer(response)
            site.readmit("c1")
            site.served()
            more = (more + _STEP_KB) % 2048
            yield


def _padding(rng: random.Random) -> str:
    return "x" * rng.randrange(60_000)


def memory_at_start(given: Campaign) -> Rounds:
    """Agent and `nvmefence detach` start with little address space."""
    site = Site(given.path)
    commands = {
        "agent": [*AGENT, "-o", "off", "-n", "c1", "--fence-timeout", "1", "--request-dir", str(site.requests),
                  "--response-dir", str(site.answers), "--log-dir", str(site.logs)],
        "detach": site.command("detach", "--host", "c1"),
    }  # fmt: skip
    low, high = 14 * _KIB, 80 * _KIB  # in 12 MiB a bare CPython 3.11 spins for ever before it runs anything
    with site.watcher() as running:
        while True:
            name = given.rng.choice(list(commands))
            most = given.rng.randrange(low, high) * _KIB
            site.readmit("c1")
            code = _in_memory(commands[name], most, site.path)
            site.look()
            if code == 0 and site.holders("c1"):
                raise Broken(f"{name} in {most} bytes ended with 0, and the host is attached")
            site.until(lambda: not site.pending(), "no request is left")
            alive(running)
            yield


def _in_memory(command: list[str], most: int, place: Path) -> int:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    done = subprocess.run(
        command, cwd=place, env=CLEAN, capture_output=True, timeout=20, check=False, preexec_fn=limited
    )
    return done.returncode


JUMPS_S: Final = (-86400.0 * 400, -3600.0, -301.0, -29.0, -1.0, 0.0, 1.0, 29.0, 301.0, 3600.0, 86400.0 * 400)


def clock_set(given: Campaign) -> Rounds:
    """The wall clock of all is set, at a random instant, while an agent fences or a request waits."""
    site = Site(given.path)
    control = site.shimmed()
    with site.watcher() as running:
        while True:
            site.readmit("c1", "c2")
            agent = site.agent_process("c1", 10.0)
            try:
                site.wait(somewhen(given.rng, 0.15))
                control.set_clock(given.rng.choice(JUMPS_S))
                site.wait(somewhen(given.rng, 0.1))
                if given.rng.random() < 0.5:
                    control.set_clock(given.rng.choice(JUMPS_S))
                if agent.ended() and "expired" not in agent.said:
                    raise Broken(f"a clock that was set cost a fence, and not because it expired: {agent.said}")
            finally:
                agent.kill()
            _old_request(site, given.rng)
            agent = site.agent_process("c2", 10.0)
            if agent.ended() != 0:
                raise Broken(f"after the clock was set, no fence succeeds: {agent.said}")
            alive(running)
            yield


def _old_request(site: Site, rng: random.Random) -> None:
    """A request comes that is too old, while the clock is set forth and back."""
    assert site.control is not None
    site.readmit("c1")
    shift = site.control["clock_ns"] / 1e9
    now = time.time() + shift
    path = site.requests / (name := site.fresh())
    age = rng.uniform(0.6, 200.0)
    site.control.set_clock(shift + 10.0)
    draft = site.path / "draft"
    draft.write_text(
        f'{{"request_id": "{name[:-5]}", "action": "off", "target_node": "c1", "timeout_s": 0.5, '
        f'"timestamp": "{time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - age - 1))}"}}'
    )
    draft.chmod(0o600)
    os.utime(draft, (now - age, now - age))
    draft.rename(path)
    site.control.set_clock(shift)
    answer = site.answer(site.answers / name)
    if answer["success"] or site.holders("c1") < 12:
        raise Broken(f"a request {age:.0f} s old with 0.5 s to live was acted upon: {answer['message']}")


FAULTS: Final = (
    Fault(
        "descriptors-at-work",
        "a running watcher may open 0, 1, 2 ... 15 descriptors more (RLIMIT_NOFILE), then as many as before",
        "no answer is false, a failure says why, the watcher lives, and all is well afterwards",
        descriptors_at_work,
        8,
    ),
    Fault(
        "descriptors-at-start",
        "watcher and agent start with 3, 4, 5 ... 32 descriptors",
        "they fence or fail, and what they say is true; no request stays behind",
        descriptors_at_start,
        2,
    ),
    Fault(
        "memory-at-work",
        "a running watcher may take 0, 48, 96 ... 2000 KiB of address space more (RLIMIT_AS), then all",
        "no answer is false or in parts, every request is answered in the end, and all is well afterwards",
        memory_at_work,
        3,
    ),
    Fault(
        "memory-at-start",
        "the agent and nvmefence detach start with 14 to 80 MiB of address space (RLIMIT_AS)",
        "exit 0 is true, no request stays behind",
        memory_at_start,
        8,
    ),
    Fault(
        "clock-set",
        "the wall clock is set back and forth by up to 400 days while a fence is under way (LD_PRELOAD)",
        "no request that is too old is acted upon, a fence fails at most as expired, and the next one succeeds",
        clock_set,
        4,
        shim.missing,
    ),
)

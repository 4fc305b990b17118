"""Faults of processes: killed, stopped, doubled, told to end, beside each other."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Final

from tests.chaos.frame import Campaign, Fault, Rounds
from tests.chaos.site import UNHURRIED, Broken, Site, somewhen
from tests.system.place import CLEAN, FLEET, MAIN
from tests.system.watching import Running

_SPAN_S: Final = 0.12
"""Longer than a fence of the unhurried drives takes, from the request's file to the response's."""
_QUICK_SPAN_S: Final = 0.02
"""The same for drives that answer at once."""
_HUNG: Final = UNHURRIED.replace('number = 1\nanswers = "late:0.003"', 'number = 1\nanswers = "never"')


def watcher_killed(given: Campaign) -> Rounds:
    """SIGKILL while an agent waits; the next watcher starts at once."""
    site = Site(given.path)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(site.watcher())
        while True:
            site.readmit("c1")
            agent = site.agent_process("c1", 8.0)
            try:
                site.asked(agent)
                site.wait(somewhen(given.rng, _SPAN_S))
                running.kill()
                running = stack.enter_context(site.watcher())
                if agent.ended() != 0:
                    raise Broken(f"nobody answered after a restart: {agent.said}")
            finally:
                agent.kill()
            site.until(lambda: not site.pending(), "the request is removed")
            yield


def watcher_stopped(given: Campaign) -> Rounds:
    """SIGSTOP at a random instant; the agent gives up, the host is readmitted, the watcher goes on.

    The simulated drives live in the watcher's process. So they answer at once here: a real drive would not carry
    out after the stop what it was sent before.
    """
    site = Site(given.path, FLEET)
    with site.watcher() as running:
        while True:
            site.readmit("c1")
            before = given.rng.random() < 0.3
            if before:
                running.process.send_signal(signal.SIGSTOP)
            agent = site.agent_process("c1", 0.3)
            try:
                if not before:
                    site.asked(agent)
                    time.sleep(somewhen(given.rng, _QUICK_SPAN_S))
                    running.process.send_signal(signal.SIGSTOP)
                code = agent.ended()
                if code and site.pending():
                    raise Broken("an agent that gave up has left its request")
                given_back = site.readmit("c1") if code else False
            finally:
                agent.kill()
                running.process.send_signal(signal.SIGCONT)
            if given_back:
                site.wait(0.5)
                if site.holders("c1") < 12:
                    raise Broken("a host that was readmitted after its agent had given up was cut")
            yield


def agent_stopped(given: Campaign) -> Rounds:
    """SIGSTOP of the agent for a random time, past its deadline or not."""
    site = Site(given.path)
    with site.watcher() as running:
        while True:
            site.readmit("c1")
            agent = site.agent_process("c1", 0.5)
            try:
                site.wait(somewhen(given.rng, _SPAN_S))
                agent.process.send_signal(signal.SIGSTOP)
                site.wait(somewhen(given.rng, 1.0))
                agent.process.send_signal(signal.SIGCONT)
                if agent.ended() and site.pending():
                    raise Broken("an agent that gave up has left its request")
            finally:
                agent.kill()
            site.until(lambda: not site.pending(), "no request is left")
            alive(running)
            yield


def agent_killed(given: Campaign) -> Rounds:
    """SIGKILL of the agent while nobody serves; the host is readmitted; then a watcher comes."""
    site = Site(given.path)
    while True:
        site.readmit("c1")
        agent = site.agent_process("c1", 0.25)
        time.sleep(somewhen(given.rng, 0.2))
        agent.kill()
        left = site.pending()
        time.sleep(0.3)  # then it is older than its 0.25 s, though it was written only just before the kill
        with site.watcher() as running:
            for name in left:
                answer = site.answer(site.answers / name)
                if answer["success"] or "expired" not in answer["message"]:
                    raise Broken(f"a request from before was acted upon: {answer['message']}")
            if site.holders("c1") < 12:
                raise Broken("a host that was readmitted was cut by a request from before")
            if given.rng.random() < 0.3:
                site.served("c2")
                site.readmit("c2")
            alive(running)
        yield


def two_watchers(given: Campaign) -> Rounds:
    """Two watchers start for one directory, and the one that serves is killed, stopped or told to end."""
    site = Site(given.path)
    while True:
        site.readmit("c1", "c2")
        with site.watcher(ready=False) as one:
            time.sleep(somewhen(given.rng, 0.2))
            with site.watcher(ready=False) as two:
                names = [site.fresh() for _ in range(2)]
                responses = [site.ask(name, target_node=f"c{n + 1}") for n, name in enumerate(names)]
                site.until(lambda: any("serving" in each.text() for each in (one, two)), "one of them serves")
                site.wait(somewhen(given.rng, _SPAN_S))
                serving = [each for each in (one, two) if "serving" in each.text()]
                _strike(given.rng, serving[0])
                for response in responses:
                    if not site.answer(response)["success"]:
                        raise Broken("one of two watchers did not fence")
                if len([each for each in (one, two) if _serves(each)]) > 1:
                    raise Broken("two watchers serve at once")
        _answered_once(site, names)
        yield


def _strike(rng: random.Random, running: Running) -> None:
    number = rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGHUP))
    running.process.send_signal(number)
    if number == signal.SIGSTOP:
        time.sleep(somewhen(rng, 0.5))
        running.process.send_signal(signal.SIGCONT)


def _serves(running: Running) -> bool:
    text = running.text()
    return running.process.poll() is None and "serving" in text and "stopping" not in text


def _answered_once(site: Site, names: list[str]) -> None:
    files = [line["file"] for line in site.audited() if line.get("event") == "answer"]
    for name in names:
        # A watcher that is killed between the line and the response has its successor write the line again.
        if files.count(name) > 2:
            raise Broken(f"{name} was answered {files.count(name)} times")


def beside_each_other(given: Campaign) -> Rounds:
    """`nvmefence detach`, the direct agent and the watcher fence the same host at once."""
    site = Site(given.path)
    direct = [*MAIN[:-1], "nvmefence.agents.fence_nvmefence", "-o", "off", "-n", "c1", "--hosts-file"]
    commands = [
        site.command("detach", "--host", "c1", "--json"),
        [*direct, "hosts.toml", "--simulate", "fleet.toml", "--quiesce", "none", "--log-dir", str(site.logs),
         "--audit", str(site.path / "direct.jsonl")],
    ]  # fmt: skip
    with site.watcher() as running:
        while True:
            site.readmit("c1")
            with _started(site, given.rng, commands) as processes:
                site.wait(somewhen(given.rng, 0.3))
                response = site.ask(site.fresh())
                answer = site.answer(response)
                codes = [process.wait(20) for process in processes]
            if codes != [0, 0] or answer["success"] is not True:
                raise Broken(f"not all of them confirmed: {codes}, {answer['message']}")
            if site.holders("c1"):
                raise Broken("all of them said success, and the host is attached")
            alive(running)
            yield


@contextlib.contextmanager
def _started(site: Site, rng: random.Random, commands: list[list[str]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes = []
    try:
        for command in commands:
            quiet = subprocess.DEVNULL
            processes.append(
                subprocess.Popen(command, cwd=site.path, env=CLEAN, stdin=quiet, stdout=quiet, stderr=quiet)
            )
            time.sleep(somewhen(rng, 0.2))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def told_to_end(given: Campaign) -> Rounds:
    """SIGTERM at a random instant, with commands in flight that a drive never answers in every second round."""
    site = Site(given.path)
    hung = False
    while True:
        hung = not hung
        site.write(_HUNG if hung else UNHURRIED)
        site.readmit("c1")
        with site.watcher("--deadline", "0.6") as running:
            response = site.ask(site.fresh())
            site.wait(somewhen(given.rng, _SPAN_S))
            start = time.monotonic()
            if running.stop(within=25.0) != 0:
                raise Broken(f"it did not end well: {running.text()}")
            took = time.monotonic() - start
            if took > 15.0:
                raise Broken(f"it took {took:.1f} s to end, with a deadline of 0.6 s")
            site.look()
        if response.exists() and hung and site.answer(response)["success"]:
            raise Broken("a drive that never answers was called cut")
        if not response.exists() and site.pending() != [response.name]:
            raise Broken("the request is lost")
        (site.requests / response.name).unlink(missing_ok=True)
        yield


def alive(running: Running) -> None:
    """Check that a watcher runs still. Raises Broken."""
    if running.process.poll() is not None:
        raise Broken(f"the watcher ended ({running.process.returncode}): {running.text()[-2000:]}")


FAULTS: Final = (
    Fault(
        "watcher-killed",
        "SIGKILL of the watcher at a random instant while an agent waits; it is started again at once",
        "no word is false at any instant, the audit line is there first, and the agent gets its success",
        watcher_killed,
        4,
    ),
    Fault(
        "watcher-stopped",
        "SIGSTOP of the watcher at a random instant; its agent gives up, the host is readmitted; SIGCONT",
        "the agent fails in time, and nothing is cut afterwards",
        watcher_stopped,
        3,
    ),
    Fault(
        "agent-stopped",
        "SIGSTOP of the agent at a random instant and SIGCONT, within its time or past it",
        "it ends in time, exit 0 is true, no request stays behind",
        agent_stopped,
        4,
    ),
    Fault(
        "agent-killed",
        "SIGKILL of the agent at a random instant while nobody serves; the host is readmitted; a watcher starts",
        "the request that was left is answered expired, and cuts nothing",
        agent_killed,
        3,
    ),
    Fault(
        "two-watchers",
        "two watchers for one directory; the one that serves is killed, stopped, told to end or to reload",
        "never more than one serves, every request is answered, with success",
        two_watchers,
        3,
    ),
    Fault(
        "beside-each-other",
        "nvmefence detach, the direct agent and the watcher fence one host at the same time",
        "all of them confirm, and it is true",
        beside_each_other,
        3,
    ),
    Fault(
        "told-to-end",
        "SIGTERM at a random instant of a fence, every second time with a drive that never answers",
        "it ends within its deadline and a little, exit 0, what it answered is true, nothing is lost",
        told_to_end,
        4,
    ),
)

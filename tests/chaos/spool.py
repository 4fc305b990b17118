"""Faults of the file systems under requests, responses, audit, logs and records."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.chaos import shim
from tests.chaos.frame import Campaign, Fault, Rounds
from tests.chaos.processes import alive
from tests.chaos.site import Broken, Site, in_order, somewhen

_KINDS: Final = {
    "any": shim.CHANGING, "open": shim.OPEN, "write": shim.WRITE, "sync": shim.SYNC, "rename": shim.RENAME,
    "unlink": shim.UNLINK, "stat": shim.STAT, "list": shim.LIST, "read": shim.READ,
}  # fmt: skip


class Apart(Site):
    """A site whose directories lie together in one place, apart from the fleet."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.disk = path / "spool"
        self.disk.mkdir()
        for name in ("requests", "answers", "logs", "audit"):
            old: Path = getattr(self, name)
            new = self.disk / old.name
            if name != "audit":
                old.rename(new)
            setattr(self, name, new)

    def make(self) -> None:
        """Make the directories anew, on what was mounted."""
        for directory in (self.requests, self.answers, self.logs):
            directory.mkdir(exist_ok=True)


def every_call(given: Campaign) -> Rounds:
    """The n-th call of the watcher on its files fails, for every n of a fence in any order, with any error."""
    site = Apart(given.path)
    control = site.shimmed()
    control.within(site.disk)
    left: list[tuple[int, int]] = []
    with site.watcher() as running:
        site.served()
        while True:
            if not left:
                control.fail(0, 0, kinds=shim.ALL)
                site.removed(site.ask(site.fresh()).name)
                left = [(nth, number) for nth in range(1, control["calls"] + 1) for number in shim.ERRORS]
                given.rng.shuffle(left)
            nth, number = left.pop()
            site.readmit("c1")
            name = site.fresh()
            with control.traced() as calls:
                control.fail(number, nth, 1, shim.ALL)
                answer = site.answer(site.ask(name))
                site.removed(name)
                control.mend()
            in_order(calls, site)
            if answer["success"] is not True:
                raise Broken(f"call {nth}: {os.strerror(number)}, and that cost the fence: {answer['message']}")
            alive(running)
            yield


def for_a_while(given: Campaign) -> Rounds:
    """All calls of a kind fail for a while, while an agent fences."""
    site = Apart(given.path)
    control = site.shimmed()
    control.within(site.disk)
    with site.watcher() as running:
        while True:
            site.readmit("c1")
            kinds = _KINDS[given.rng.choice(list(_KINDS))]
            number = given.rng.choice(shim.ERRORS)
            response = site.ask(site.fresh())
            with control.traced() as calls:
                site.wait(somewhen(given.rng, 0.1))
                control.fail(number, kinds=kinds)
                site.wait(somewhen(given.rng, 0.8))
                control.mend()
                if site.answer(response)["success"] is not True:
                    raise Broken(f"{os.strerror(number)} for a while cost a fence that had time")
                site.until(lambda: not site.pending(), "the request is removed")
            in_order(calls, site)
            alive(running)
            yield


def never_returns(given: Campaign) -> Rounds:
    """A call of the watcher on its files hangs for seconds: a thread that does not come back."""
    site = Apart(given.path)
    control = site.shimmed()
    control.within(site.disk)
    with site.watcher() as running:
        while True:
            site.readmit("c1", "c2")
            where = given.rng.choice((site.requests, site.answers, site.audit, site.logs))
            control.within(where)
            control.hang(given.rng.choice((0.3, 1.0, 2.5)), given.rng.randrange(1, 12), shim.ALL)
            agent = site.agent_process("c1", 6.0, env={"CHAOS_CONTROL": ""})
            second = site.ask(site.fresh(), target_node="c2")
            try:
                if agent.ended() != 0:
                    raise Broken(f"{where.name} hung for less than the agent waits, and it failed: {agent.said}")
                if site.answer(second)["success"] is not True:
                    raise Broken(f"{where.name} hung, and another fence failed")
            finally:
                agent.kill()
            control.mend()
            site.until(lambda: not site.pending(), "the requests are removed")
            alive(running)
            yield


@contextlib.contextmanager
def _disk(path: Path, size: str = "256k") -> Iterator[Path]:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(path)], check=True, timeout=10
    )
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False, timeout=10)


def no_mounts() -> str:
    """Return why nothing can be mounted here, else an empty string."""
    if os.geteuid():
        return "mounting needs root"
    done = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False, timeout=10
    )
    return "mounting is refused" if done.returncode else ""


def full_and_read_only(given: Campaign) -> Rounds:
    """One file system under all directories fills up, or becomes read-only, at random instants of a fence."""
    site = Apart(given.path)
    with _disk(site.disk):
        site.make()
        with site.watcher() as running:
            site.served()
            while True:
                for old in site.answers.glob("*.json"):  # an operator makes room
                    old.unlink()
                site.audit.unlink(missing_ok=True)
                site.readmit("c1")
                response = site.ask(site.fresh())
                site.wait(somewhen(given.rng, 0.08))
                with _spoiled(site.disk, given.rng.choice(("full", "read-only"))):
                    site.wait(somewhen(given.rng, 0.8))
                if site.answer(response)["success"] is not True:
                    raise Broken("a disk that was full or read-only for a while cost a fence that had time")
                site.until(lambda: not site.pending(), "the request is removed")
                alive(running)
                yield


@contextlib.contextmanager
def _spoiled(disk: Path, how: str) -> Iterator[None]:
    if how == "full":
        filler = disk / "filler"
        try:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
                while True:
                    stream.write(b"x" * 4096)
            yield
        finally:
            filler.unlink(missing_ok=True)
        return
    done = subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True, check=False, timeout=10)
    try:
        yield
    finally:
        if not done.returncode:  # refused while a file is open for writing
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True, timeout=10)


def replaced(given: Campaign) -> Rounds:
    """A directory is removed and made again, renamed away, mounted over or turned into a link, during a fence."""
    site = Site(given.path)
    ways = ["removed", "renamed", "linked", *([] if no_mounts() else ["mounted over"])]
    with site.watcher() as running, contextlib.ExitStack() as stack:
        while True:
            site.readmit("c1", "c2")
            path: Path = getattr(site, given.rng.choice(("requests", "answers", "logs")))
            response = site.ask(site.fresh())
            site.wait(somewhen(given.rng, 0.1))
            way = given.rng.choice(ways)
            _replace(path, way, given.rng, stack)
            site.served("c2", within=8.0)
            if path == site.answers and not response.exists():
                # It went with its directory, or comes into the new one.
                _answered_somewhere(site, response)
            stack.close()
            if path.is_symlink():
                target = path.resolve()
                path.unlink()
                target.rename(path)
            shutil.rmtree(path.with_name("away"), ignore_errors=True)
            site.served("c2", within=8.0)
            alive(running)
            yield


def _answered_somewhere(site: Site, response: Path) -> None:
    def on_record() -> bool:
        return any(line.get("event") == "answer" and line["file"] == response.name for line in site.audited())

    site.until(lambda: response.exists() or on_record(), "an answer")


def _replace(path: Path, way: str, rng: random.Random, stack: contextlib.ExitStack) -> None:
    away = path.with_name("away")
    if way == "mounted over":
        stack.enter_context(_disk(path))
        return
    if way == "removed":
        with contextlib.suppress(OSError):  # somebody writes into it meanwhile
            shutil.rmtree(path)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.rename(away)
    with contextlib.suppress(FileExistsError):
        if way == "linked":
            other = path.with_name(f"other-{rng.randrange(1 << 30)}")
            other.mkdir()
            path.symlink_to(other)
        else:
            path.mkdir()


FAULTS: Final = (
    Fault(
        "one-call-fails",
        "the n-th system call of the watcher on its files fails, for every n of a fence, with EIO, ENOSPC, EROFS, "
        "ESTALE, EDQUOT and EACCES in turn (LD_PRELOAD)",
        "the fence is answered, with success, and never before an audit line was written and synced",
        every_call,
        10,
        shim.missing,
    ),
    Fault(
        "calls-fail-for-a-while",
        "all calls of a kind (open, write, sync, rename, unlink, stat, list, read) fail for up to 0.8 s of a fence",
        "as before; the fence is answered with success once they work again",
        for_a_while,
        4,
        shim.missing,
    ),
    Fault(
        "a-call-hangs",
        "a call of the watcher on requests, responses, audit or logs hangs for up to 2.5 s",
        "agents that wait longer get their success, the other fence as well, and it is true",
        never_returns,
        1,
        shim.missing,
    ),
    Fault(
        "full-and-read-only",
        "the one file system under requests, responses, audit and logs is full or read-only at random instants",
        "no word is false or in parts, and the fence is answered with success when there is room again",
        full_and_read_only,
        4,
        no_mounts,
    ),
    Fault(
        "directory-replaced",
        "requests, responses or logs are removed and made again, renamed away, turned into a link or mounted over",
        "no word is false, the answer of a fence in hand comes, and requests in the new directory are served",
        replaced,
        4,
    ),
)

"""An unprivileged user who may write into the directories that agents and watcher share, really as another uid."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.chaos.frame import Campaign, Fault, Rounds
from tests.chaos.processes import alive
from tests.chaos.site import UNHURRIED, Broken, Site

STRANGER: Final = 54321
MODES: Final = {"sticky": 0o1777, "open to a group": 0o2770, "open to all": 0o777}
_LIE: Final = '{"request_id": "%s", "success": true, "action_performed": "off", "target_node": "c1", ' \
    '"message": "m", "timestamp": "2026-01-01T00:00:00Z"}'  # fmt: skip
VILLAIN: Final = '''
import os, random, time
rng = random.Random(seed)
requests, responses = place + "/requests", place + "/responses"
canary = place + "/outside/canary"
end = time.monotonic() + 60

def put(path, text):
    with open(path, "w") as stream:
        stream.write(text)
    os.chmod(path, rng.choice((0o600, 0o640, 0o644, 0o666)))

def names():
    """What agents and watcher may write next: the stranger sees each request's name."""
    return [name for name in os.listdir(requests) if name.endswith(".json")] or ["x.json"]

def act():
    name = rng.choice(names())
    where = rng.choice((requests, responses))
    target = rng.choice((canary, canary, canary, place + "/outside", "SELF", responses, requests))
    ours = (".watcher", ".watcher.lock", "rejected", "archive", ".audit.jsonl")
    draft = "." + name + ".tmp"
    own = rng.choice((name, draft, draft, draft, *ours))
    what = rng.choice((0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 8))
    if what == 0:
        os.symlink(target, where + "/" + own)
    elif what == 1:
        os.link(canary, where + "/" + own)
    elif what == 2:
        put(responses + "/" + name, lie % name[:-5])
    elif what == 3:
        put(requests + "/evil.json", '{"request_id": "evil", "action": "off", "target_node": "c2"}')
    elif what == 4:
        os.rename(where + "/" + name, where + "/" + "moved-" + name)
    elif what == 5:
        os.unlink(where + "/" + own)
    elif what == 6:
        os.mkfifo(where + "/" + own)
    elif what == 7:
        os.rename(where + "/" + rng.choice(os.listdir(where) or ["x"]), where + "/" + own)
    else:
        os.mkdir(where + "/" + own)

while time.monotonic() < end:
    try:
        act()
    except OSError:
        pass
    time.sleep(0.0005)
'''


@contextlib.contextmanager
def _stranger(site: Site, seed: int) -> Iterator[None]:
    """A process of another user that does what it can, until the end of the context."""
    pid = os.fork()  # without exec: this interpreter may lie where no other user gets to
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            exec(VILLAIN, {"place": str(site.path), "seed": seed, "lie": _LIE})
        os._exit(0)
    try:
        yield
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the stranger ended"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def stranger(given: Campaign) -> Rounds:
    """Links, files, renames and removals by another user in the shared directories, while agents fence."""
    given.path.chmod(0o755)
    while True:
        path = given.path / f"{given.rng.randrange(1 << 40):x}"
        path.mkdir(mode=0o755)
        site = _Unjudged(path, UNHURRIED)
        mode = given.rng.choice(list(MODES))
        for directory in (site.requests, site.answers):
            os.chown(directory, 0, STRANGER)
            directory.chmod(MODES[mode])
        outside = path / "outside"
        outside.mkdir()
        outside.chmod(0o777)
        (outside / "canary").write_text("untouched")
        (outside / "canary").chmod(0o644)
        with site.watcher() as running:
            with _stranger(site, given.rng.randrange(1 << 30)):
                for _ in range(3):
                    site.readmit("c1")
                    agent = site.agent_process("c1", 1.0)
                    try:
                        agent.ended()  # 0 is true, whatever lies there; 1 is what the stranger can do
                    finally:
                        agent.kill()
            alive(running)
            _nothing_was_believed(site, outside)
            _tidy(site)
            site.readmit("c1", "c2")
            site.served(within=25.0)
        yield


def _nothing_was_believed(site: Site, outside: Path) -> None:
    if (outside / "canary").read_text() != "untouched" or [one.name for one in outside.iterdir()] != ["canary"]:
        raise Broken("something outside was changed through a link")
    if site.holders("c2") < 12:
        raise Broken("a stranger's request cut a host")


def _tidy(site: Site) -> None:
    """What an operator does who finds out: only root may write there from now on, and what is not root's goes."""
    for directory in (site.requests, site.answers):
        directory.chmod(0o755)
        for entry in list(directory.iterdir()):
            if entry.lstat().st_uid == STRANGER or entry.is_symlink():
                subprocess.run(["rm", "-rf", str(entry)], check=True, timeout=10)


class _Unjudged(Site):
    """Where a stranger may take a true response away and bring it back, what lies there is no word of ours."""

    def look(self) -> None:
        """Judge nothing: it is the agents whose word counts."""


class _Judged(Site):
    """Only what root has written is an answer of the watcher's."""

    def _judge(self, name: str) -> None:
        with contextlib.suppress(OSError):
            if (self.answers / name).lstat().st_uid == 0 and (self.answers / name).is_file():
                super()._judge(name)


def root_squash(given: Campaign) -> Rounds:
    """Requests and responses belong to nobody, as where an NFS server trusts no root."""
    given.path.chmod(0o755)
    site = _Judged(given.path, UNHURRIED)
    with site.watcher() as running:
        while True:
            site.readmit("c1")
            name = site.fresh()
            draft = site.requests / f".{name}.tmp"
            draft.write_text(f'{{"request_id": "{name[:-5]}", "action": "off", "target_node": "c1"}}')
            draft.chmod(0o600)
            os.chown(draft, 65534, 65534)
            draft.rename(site.requests / name)
            site.removed(name)
            running.hears(f"The request {name} is rejected: {name} belongs to user 65534")
            if site.holders("c1") < 12:
                raise Broken("a request that belongs to nobody was acted upon")
            agent = site.agent_process("c1", 0.6)
            lie = site.path / "lie"
            try:
                site.asked(agent)
                for waiting in site.pending():
                    lie.write_text(_LIE % waiting[:-5])
                    lie.chmod(0o644)
                    os.chown(lie, 65534, 65534)
                    with contextlib.suppress(OSError):
                        os.rename(lie, site.answers / waiting)
                agent.ended()
            finally:
                agent.kill()
            site.served()  # what the agent gave up may be under way still
            yield


def not_root() -> str:
    """Return why nobody else can be had here, else an empty string."""
    return "acting as another user needs root" if os.geteuid() else ""


FAULTS: Final = (
    Fault(
        "stranger",
        "another user (a real uid) plants links, pipes, files, renames and removes, in shared directories that are "
        "sticky, open to its group or open to all, while agents fence",
        "exit 0 is true, nothing outside is touched, nobody else is cut, the watcher lives and serves again",
        stranger,
        2,
        not_root,
    ),
    Fault(
        "root-squash",
        "requests and responses that belong to nobody, as on an NFS server that trusts no root",
        "such a request is refused with its reason, such a response is not believed",
        root_squash,
        3,
        not_root,
    ),
)

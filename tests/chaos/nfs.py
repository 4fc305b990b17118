"""What NFS does differently, done to the watcher on a local file system.

A kernel that serves and mounts NFS is not to be had everywhere; the differences that a program sees are few:
- inotify says nothing of what another machine does;
- an open directory may list what it held when it was opened, until its attributes expire (acdirmin, 30 s, see
  nfs(5)); only opening it again makes the client ask (close-to-open, nfs_lookup_verify_inode in fs/nfs/dir.c);
- what the server has lost is ESTALE for everything that is open;
- a file that is removed while it is open stays as .nfsXXXX.
"""

from __future__ import annotations

import time
from typing import Final

from tests.chaos import shim
from tests.chaos.frame import Campaign, Fault, Rounds
from tests.chaos.processes import alive
from tests.chaos.site import Broken, somewhen
from tests.chaos.spool import Apart

_SOON_S: Final = 10.0
"""A request is found by a rescan, a second apart, and not only when an attribute cache of half a minute expires."""


def nfs(given: Campaign) -> Rounds:
    """Agents fence through directories that behave as on NFS; now and then the server forgets what was open."""
    site = Apart(given.path)
    control = site.shimmed()
    control.within(site.disk)
    for field in ("cached", "deaf", "silly"):
        control[field] = 1
    with site.watcher() as running:
        while True:
            site.readmit("c1")
            agent = site.agent_process("c1", 20.0, env={"CHAOS_CONTROL": ""})
            try:
                forgotten = given.rng.random() < 0.4
                if forgotten:
                    site.wait(somewhen(given.rng, 0.5))
                    control.go_stale()
                if agent.ended() != 0:
                    raise Broken(f"no fence on NFS: {agent.said}")
            finally:
                agent.kill()
            took = time.monotonic() - agent.started
            if took > _SOON_S and not forgotten:
                raise Broken(f"a fence took {took:.1f} s")
            site.until(lambda: not site.pending(), "the request is removed")
            alive(running)
            yield


FAULTS: Final = (
    Fault(
        "nfs",
        "no inotify, listings as of a directory's opening, stale handles, .nfs files in place of removed ones",
        "agents get their success, within ten seconds unless the server forgot what was open",
        nfs,
        2,
        shim.missing,
    ),
)

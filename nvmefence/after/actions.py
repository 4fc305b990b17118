"""What is done for which setting, and what those who are told of a fence hear of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, NamedTuple

from nvmefence.after import corosync, hooks
from nvmefence.after.run import Ended, run

CLUSTER: Final = ("dlm", "stonith")
"""What tells cluster software that a host is fenced. Never done for simulated drives."""
_NOTHING_PENDING: Final = (125, 131)
"""Exit codes of dlm_tool where no fence waits for an acknowledgement: ECANCELED, or what is left of -125."""

_SAID: Final = 300
"""Characters of a failed program's output that a log gets; the audit gets all that is kept."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be done, and where things are."""

    what: tuple[str, ...]
    """Of "dlm", "stonith", "hooks"."""
    hooks_dir: str
    corosync_conf: str
    limit_s: float
    """Seconds for each program."""
    path: str = "/usr/sbin:/usr/bin:/sbin:/bin"
    """Where programs are looked for; also their PATH."""
    dlm_socket: str = "dlmc_sock"
    """The name of dlm_controld's abstract socket."""

    @property
    def environment(self) -> dict[str, str]:
        """All variables that a program is given."""
        return {"PATH": self.path, "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Fence:
    """A fence that succeeded."""

    host: str
    """Its name in the host map."""
    names: tuple[str, ...]
    """All names by which the host is known: in the map, its aliases, and the one that was asked for."""
    target_node: str
    """As the request names it."""
    action: str
    message: str
    time: str
    """RFC 3339, UTC."""
    simulated: bool
    request_id: str = ""
    recorder_node: str = ""
    filesystems: tuple[str, ...] = field(default=())
    response: str = ""
    """Path of the response file; empty: there is none."""

    def encode(self, job: int) -> bytes:
        """Return it as one message."""
        return json.dumps({"job": job, **asdict(self)}).encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> tuple[int, Fence]:
        """Return the job's number and the fence of a message."""
        document = json.loads(data)
        known = {one.name: document[one.name] for one in fields(cls)}
        known |= {key: tuple(document[key]) for key in ("names", "filesystems")}
        return document["job"], cls(**known)

    def told(self) -> bytes:
        """Return what a hook reads on its standard input."""
        document = {
            "version": 1,
            "event": "fenced",
            "host": self.host,
            "target_node": self.target_node,
            "action": self.action,
            "success": True,
            "message": self.message,
            "time": self.time,
            "simulated": self.simulated,
            "request_id": self.request_id or None,
            "recorder_node": self.recorder_node or None,
            "gfs2_filesystems": list(self.filesystems),
            "response": self.response or None,
        }
        return json.dumps(document).encode("ascii") + b"\n"


class Done(NamedTuple):
    """What came of one thing that was done, or not."""

    what: str
    """ "dlm", "stonith", "hooks", or "hook NAME"."""
    good: bool
    text: str
    """In words, for a log; holds whatever a program wrote."""
    exit: int | None = None
    """The program's exit code, or -n where signal n ended it; None: it was not run, or has no end."""
    seconds: float = 0.0
    output: str = ""
    """The end of what it wrote."""
    standing: bool = False
    """This will be the same after every fence: it is to be said once."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return self._asdict()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Done:
        """Return it from plain data."""
        return cls(**{name: document[name] for name in cls._fields})


def tell_cluster(options: Options, fence: Fence) -> Iterator[Done]:
    """Acknowledge the fence to DLM, then to Pacemaker, as far as that is set."""
    for what in CLUSTER:
        if what not in options.what:
            continue
        if fence.simulated:
            yield Done(what, True, "not done: the drives are simulated", standing=True)
            continue
        try:
            node = corosync.find(options.corosync_conf, fence.names)
            yield (_dlm if what == "dlm" else _stonith)(options, node)
        except corosync.NotFound as trouble:
            yield Done(what, False, f"not done: {trouble}")


def _dlm(options: Options, node: corosync.Node) -> Done:
    if node.nodeid is None:
        return Done("dlm", False, f"not done: {options.corosync_conf}: node {node.name} has no nodeid")
    ended = _program(options, "dlm_tool", "fence_ack", str(node.nodeid))
    if isinstance(ended, str):
        return Done("dlm", False, ended)
    done = f"node {node.nodeid} ({node.name})"
    if ended.exit in _NOTHING_PENDING:
        return _done("dlm", ended, True, f"{done}: no fence was waiting for an acknowledgement")
    if ended.exit == 0 and not _listens(options.dlm_socket):
        # dlm_tool 4.2 ends with 0 even if there is nobody to hear it.
        why = f"{done}: nobody hears it: no dlm_controld, or not in this network namespace (PrivateNetwork=)"
        return _done("dlm", ended, False, why)
    return _done("dlm", ended, ended.exit == 0, f"{done} {'acknowledged' if ended.exit == 0 else 'refused'}")


def _stonith(options: Options, node: corosync.Node) -> Done:
    if node.is_address:
        return Done("stonith", False, f"not done: {options.corosync_conf}: node {node.name} has no name")
    ended = _program(options, "stonith_admin", f"--confirm={node.name}")
    if isinstance(ended, str):
        return Done("stonith", False, ended)
    good = ended.exit == 0
    return _done("stonith", ended, good, f"{node.name} {'confirmed' if good else 'not confirmed'}")


def run_hooks(options: Options, fence: Fence) -> Iterator[Done]:
    """Run the site's own executables, one after another, as far as that is set."""
    if "hooks" not in options.what:
        return
    try:
        found = hooks.find(options.hooks_dir)
    except hooks.Refused as refusal:
        yield Done("hooks", False, f"none is run: {refusal}", standing=True)
        return
    for name, reason in found.refused:
        yield Done(f"hook {name}", False, f"not run: {reason}", standing=True)
    told = fence.told()
    for name in found.names:
        ended = run([os.path.join(options.hooks_dir, name)], options.environment, options.limit_s, told)
        yield _done(f"hook {name}", ended, ended.exit == 0, "done" if ended.exit == 0 else "failed")


def _program(options: Options, name: str, *words: str) -> Ended | str:
    """Run a program of the system; return why not if it is not there."""
    for directory in options.path.split(":"):
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK):
            return run([path, *words], options.environment, options.limit_s)
    return f"not done: no {name} in {options.path}"


def _done(what: str, ended: Ended, good: bool, text: str) -> Done:
    good = good and not ended.problem
    if not good:
        text += f": {ended.problem or _how(ended.exit)}"
        text += f": {ended.output[-_SAID:]}" if ended.output else ""
    return Done(what, good, text, ended.exit, round(ended.seconds, 3), ended.output)


def _how(exit_code: int | None) -> str:
    return f"ended by signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"exit code {exit_code}"


def _listens(name: str) -> bool:
    """Whether an abstract socket of this name is there, as far as this network namespace shows (proc(5))."""
    try:
        with open("/proc/self/net/unix", encoding="ascii", errors="replace") as table:
            return any(line.rpartition(" @")[2].strip("@\n") == name for line in table if " @" in line)
    except OSError:
        return True

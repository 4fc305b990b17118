"""The agent `fence_nvmefence`: cuts a node off the drives itself; no watcher is needed.

Exit 0 of off and reboot means that a read-back on every expected drive showed the node cut off. What is done with
drives is done in a child process, see `at_drives`; this one only listens to it, and can always leave in time.
"""

from __future__ import annotations

import os
import sys
import time

from nvmefence import __version__
from nvmefence.agents import apart, convention, running, stopping
from nvmefence.agents.convention import FAILED, OFF, OK, Agent, Option, UsageError, complain, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import NoReturn

    from nvmefence.agents.apart import Child
    from nvmefence.agents.events import Journal

NAME = "fence_nvmefence"
_FENCES = ("off", "reboot", "on")
_READS = ("status", "monitor", "list-status")
_LONGEST_S = 86400.0
_DEADLINE_S = 30.0
"""Seconds as long as nothing else is known."""
_GRACE_S = 4.0
"""Seconds after its deadline until the child is given up."""
_RECORD_S = 0.5
"""Seconds that logs and audit may take after the verdict."""
_LOG_S = 0.1
"""Of these, what is left for the logs if the audit takes all."""
_GIVEN_UP = ("timeout", "stopped", "lost")
"""Verdicts of this process, not of its child."""
_LOG_DIR = "/var/log/gfs2-fencing"

_LONGDESC = """\
fence_nvmefence cuts a node off shared NVMe storage: it detaches all of the node's controllers from all namespaces \
of every expected drive, reads the drives back, and succeeds only if none is attached any more. It does so itself, \
where it runs, so the drives must be there; nothing else has to run. Use it as the second level of a fencing \
topology whose first level is fence_gfs2_recorder, or alone.

It cuts storage, not power: nobody power-cycles the node, and reboot is off. The node stays cut off until it is \
restored, even if it rejoins the cluster, and status says off until then. on gives back what was taken if the \
setting agents_may_restore allows it, and changes nothing otherwise.

An agent that is killed cannot tell why it failed. So give Pacemaker at least 10 seconds more than the deadline. \
Settings come from the environment of pacemakerd, then from the parameters of the device, then from \
/etc/nvmefence/nvmefence.toml."""

AGENT = Agent(
    NAME,
    "Fence agent that cuts a node off shared NVMe storage through this node's own access to the drives",
    _LONGDESC,
    url="",
    version=__version__,
    options=(
        *convention.COMMON,
        Option("hosts_file", "Host map (default: that of the settings, /etc/nvmefence/hosts.toml)", value="path",
               environment="NVMEFENCE_HOSTS", aliases=("hosts",)),
        Option("deadline", "Seconds after which a fence that is not confirmed has failed (default: that of the "
               "settings, 30)", kind="second", value="seconds", environment="NVMEFENCE_DEADLINE"),
        Option("quiesce", "What is done about writes under way: auto, auto:SECONDS, drain, offline, wait:SECONDS "
               "or none (default: that of the settings, auto)", value="method", environment="NVMEFENCE_QUIESCE"),
        Option("backend", "How commands reach the kernel: auto, io_uring or ioctl (default: that of the settings, "
               "auto)", value="name", environment="NVMEFENCE_BACKEND"),
        Option("settings_file", "Settings file (default: /etc/nvmefence/nvmefence.toml, which may be missing)",
               value="path", environment="NVMEFENCE_CONFIG", aliases=("config",)),
        Option("log_dir", "Directory for logs of fence events (default: that of the settings, "
               f"{_LOG_DIR})", value="path", environment="LOG_DIR", aliases=("log_path",)),
        Option("audit", "File for a durable line on every fence (default: that of the settings, "
               "/var/lib/nvmefence/audit.jsonl)", value="path", environment="NVMEFENCE_AUDIT"),
        Option("simulate", "FOR TESTS ONLY: fleet file of emulated drives to work on; no node loses anything, and "
               "the cluster is told that it did", value="path"),
    ),
    actions=(
        ("on", 'automatic="0"'), ("off", ""), ("status", ""), ("monitor", ""), ("list", ""), ("list-status", ""),
        ("metadata", ""), ("validate-all", ""), ("manpage", ""),
    ),
)  # fmt: skip


class Verdict:
    """How a call ended: `result` in one word for logs and audit, `details` for a person."""

    __slots__ = ("details", "result")

    def __init__(self, result: str, details: str) -> None:
        self.result = result
        self.details = details


def _listen(child: Child, begun: float, values: dict[str, str], settled: Callable[[str, str], None]) -> Verdict:
    """Say what the child has to say until it tells how it ended, or has to be given up.

    `settled` takes log directory and audit file, as soon as the child knows the settings.
    """
    until = begun + _likely_deadline_s(values) + _GRACE_S
    try:
        while told := child.hear(until):
            kind, *texts = told
            if kind == "settings":
                until = float(texts[0]) + _GRACE_S
                settled(*texts[1:])
            elif kind == "verdict":
                return Verdict(*texts)
            elif kind == apart.DEFECT:
                return Verdict("lost", texts[0])
            else:
                _pass_on(kind, texts[0])
    except apart.Late:
        child.kill()
        waited = f"{until - begun:.1f}".removesuffix(".0")
        return Verdict("timeout", f"no end within {waited} s: a drive, or this machine, does not go on")
    except apart.Stopped as error:
        child.kill()
        return Verdict("stopped", f"stopped by {error}")
    except BaseException:
        child.kill()
        raise
    return Verdict("lost", "the process that worked on the drives ended without a result")


def _likely_deadline_s(values: dict[str, str]) -> float:
    """Return the deadline, as far as it can be told before the settings are read."""
    try:
        return min(max(float(values["deadline"]), 0.0), _LONGEST_S)
    except ValueError:
        return _DEADLINE_S


def _pass_on(kind: str, text: str) -> None:
    if kind == "say":
        say(text)
    else:
        complain(f"{NAME}: {text}")


class Fence:
    """One off, reboot or on, from its call to its verdict and its record."""

    name = NAME

    def __init__(self, action: str, target: str, values: dict[str, str]) -> None:
        self.action = action
        self.target = target
        self.values = values
        self.delay_s = convention.seconds(values, "delay", low=0.0, high=_LONGEST_S)
        self.verbose = convention.truth(values, "verbose")
        self.request_id = f"direct-{os.urandom(8).hex()}"
        self.recorder = os.uname().nodename
        self.process = os.getpid()
        given = values["log_dir"]
        self._log_dir = given if given.startswith("/") else _LOG_DIR
        self._audit_file = ""
        self._journal: Journal | None = None
        self._child: Child | None = None

    def run(self) -> int:
        """Fence, put it on record, and return the exit code. SIGTERM and the like end the fence, not the record."""
        stopping.hold_signals()
        verdict = self._delayed() or self._fence()
        confirmed = verdict.result in (("unchanged", "restored") if self.action == "on" else ("fenced",))
        if not confirmed:
            complain(f"{NAME}: {self.action} of {self.target} is not confirmed: {verdict.details}")
        elif self.verbose or self.action != "off" or verdict.details.startswith("SIMULATED"):
            complain(f"{NAME}: {self.action} of {self.target}: {verdict.details}")
        try:
            self._record("INFO" if confirmed else "ERROR", verdict.result, verdict.details)
            self._finish(verdict)
        except Exception as error:  # the verdict stands, whatever becomes of its record
            complain(f"{NAME}: not on record: {running.defect(error)}")
        return OK if confirmed else FAILED

    def _delayed(self) -> Verdict | None:
        by = stopping.pause(self.delay_s) if self.delay_s else ""
        return Verdict("stopped", f"stopped by {by} before anything was done") if by else None

    def _fence(self) -> Verdict:
        begun = time.monotonic()
        try:
            self._child = apart.Child(lambda tell: self._work(tell, begun))
        except OSError as error:
            return Verdict("lost", f"no process can be started: {error.strerror}")
        return _listen(self._child, begun, self.values, self._settled)

    def _work(self, tell: apart.Tell, begun: float) -> None:
        _at_drives().change(self, tell, begun)

    def _settled(self, log_dir: str, audit_file: str) -> None:
        self._log_dir, self._audit_file = log_dir, audit_file
        self._record("INFO", "begun", f"{self.action} through this node's own access to the drives")

    def _record(self, level: str, status: str, details: str) -> None:
        from nvmefence.agents.events import Journal
        from nvmefence.eventlog import Event

        self._journal = self._journal or Journal(self._log_dir)
        event = Event(
            level,
            self.action,
            self.target,
            status,
            details,
            request_id=self.request_id,
            recorder=self.recorder,
            filesystems=[],
        )
        self._journal.record(event)

    def _finish(self, verdict: Verdict) -> None:
        """Give logs and audit a moment, and say what went wrong with them. The verdict stands by now."""
        until = time.monotonic() + _RECORD_S
        if self._audit_file and verdict.result in _GIVEN_UP:
            self._child = apart.Child(lambda tell: self._audit(tell, verdict))  # the other one was to do it
        if self._audit_file and self._child:
            try:
                while (told := self._child.hear(until)) and told[0] != "recorded":
                    _pass_on(*told[:2])
            except apart.Late:
                complain(f"{NAME}: no audit line: {self._audit_file} did not take it within {_RECORD_S:g} s")
            except apart.Stopped:
                pass
        left = max(_LOG_S, until - time.monotonic())
        trouble = self._journal.close(left) if self._journal else ""
        if trouble:
            complain(f"{NAME}: no log: {trouble}")

    def _audit(self, tell: apart.Tell, verdict: Verdict) -> None:
        from nvmefence.agents import direct_record

        details = f"NOT fenced {self.target}: {verdict.details}"
        direct_record.write(self, tell, self._audit_file, "not-fenced", details)


def _at_drives() -> ModuleType:
    """Import, in the child, what works on drives."""
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # asyncio does without, and it takes long to load
    from nvmefence.agents import at_drives

    return at_drives


def _read(action: str, values: dict[str, str]) -> int:
    """Do what only reads drives: status, monitor, list-status."""
    target = convention.target_of(values) if action == "status" else ""
    verbose = convention.truth(values, "verbose")

    begun = time.monotonic()
    child = apart.Child(lambda tell: _at_drives().read(action, target, values, tell, verbose=verbose))
    verdict = _listen(child, begun, values, lambda _log_dir, _audit: None)
    if verdict.details:
        complain(f"{NAME}: {verdict.details}")
    return {"ok": OK, "off": OFF}.get(verdict.result, FAILED)


def main(arguments: list[str]) -> int:
    """Do what one call asks and return the exit code. Raises UsageError."""
    os.umask(0o022)  # Pacemaker's would do for our files, and not for directories
    values = convention.read_options(AGENT, arguments, os.environ)
    asked = values["help"] or values["version"]
    action = "" if asked else convention.action_of(values)
    if page := running.page(AGENT, action, values):
        return OK if say(page) else FAILED
    if action in _FENCES:
        return Fence(action, convention.target_of(values), values).run()
    if action in _READS:
        return _read(action, values)
    if action not in ("list", "validate-all"):
        raise UsageError(f"unknown action {action!a}")
    from nvmefence.agents import at_map

    return at_map.list_hosts(values) if action == "list" else at_map.validate(values)


def console() -> NoReturn:
    """Run the agent on this process's arguments, and end the process."""
    running.run(NAME, main)


if __name__ == "__main__":
    console()

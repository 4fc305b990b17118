"""The agent `fence_gfs2_recorder`: asks the watcher for a fence through a file and waits for its answer.

Exit 0 of off, reboot and on means that a response to this very request was read which says success beyond doubt.

Imported first is what a request needs; what comes after it is imported while the watcher is at work on it, and what
only other actions need, by these.
"""

from __future__ import annotations

import os
import sys
import time

from nvmefence import __version__, config, streams
from nvmefence.agents import convention, exchange, stopping
from nvmefence.agents.convention import FAILED, OFF, OK, Agent, Option, UsageError, complain, say
from nvmefence.plain import escaped, json_fields
from nvmefence.spool.errors import SpoolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from nvmefence.agents import waiting
    from nvmefence.agents.events import Journal

NAME = "fence_gfs2_recorder"
_FENCES = ("off", "reboot", "on")
_LONGEST_S = 86400.0
_MOUNTS = "/proc/self/mounts"
_MOUNTS_LIMIT = 1024 * 1024
_MOST_FILESYSTEMS = 64

_LONGDESC = """\
fence_gfs2_recorder hands a fence to the watcher of nvmefence: it writes a request file, waits for the response \
file and succeeds only if that says, for this request and this node, that the node is cut off its storage. It cuts \
storage, not power: reboot is off. The node stays cut off until it is unfenced, even if it rejoins the cluster; \
status says off until then.

An agent that is killed cannot tell why it failed. So give Pacemaker at least 10 seconds more than fence_timeout: \
with fence_timeout=60, pcmk_off_timeout=70 and pcmk_reboot_timeout=70. Settings come as parameters of the device \
or from the environment of pacemakerd (/etc/default/pacemaker, /etc/sysconfig/pacemaker), which takes precedence; \
"meta env=..." reaches no agent.

List the nodes with pcmk_host_list, or with the parameter hosts."""

AGENT = Agent(
    NAME,
    "Fence agent that has a node cut off shared NVMe storage through request and response files",
    _LONGDESC,
    url="",
    version=__version__,
    options=(
        *convention.COMMON,
        Option("request_dir", "Directory for fence requests", default=config.REQUEST_DIR, value="path",
               environment="NNF_FENCE_REQUEST_DIR", aliases=("request_path",)),
        Option("response_dir", "Directory for fence responses", default=config.RESPONSE_DIR, value="path",
               environment="NNF_FENCE_RESPONSE_DIR", aliases=("response_path",)),
        Option("log_dir", "Directory for logs of fence events", default="/var/log/gfs2-fencing", value="path",
               environment="LOG_DIR", aliases=("log_path",)),
        Option("fence_timeout", "Seconds to wait for the response", kind="second", default="60", value="seconds",
               environment="FENCE_TIMEOUT", aliases=("recorder_timeout",)),
        Option("poll_interval", "Longest pause in seconds between two looks for the response", default="0.5",
               value="seconds", environment="POLL_INTERVAL", aliases=("recorder_poll_interval",)),
        Option("gfs2_filesystems", "GFS2 file systems to name in the request, separated by commas; if none are "
               "given, those mounted here", value="names"),
        Option("heartbeat_check", "Whether monitor fails when no watcher gives signs of life", kind="boolean",
               default="1", value="0|1"),
        Option("hosts", "Nodes that list names, separated by commas", value="names"),
    ),
    actions=(
        ("on", 'automatic="0"'), ("off", ""), ("reboot", ""), ("status", ""), ("monitor", ""), ("list", ""),
        ("list-status", ""), ("metadata", ""), ("validate-all", ""), ("manpage", ""),
    ),
)  # fmt: skip


class Settings:
    """The options of one call, checked. Raises UsageError when made."""

    def __init__(self, values: dict[str, str]) -> None:
        self.request_dir = convention.directory(values, "request_dir")
        self.response_dir = convention.directory(values, "response_dir")
        self.log_dir = convention.directory(values, "log_dir")
        self.timeout_s = convention.seconds(values, "fence_timeout", low=0.05, high=_LONGEST_S)
        self.poll_s = convention.seconds(values, "poll_interval", low=0.001, high=60.0)
        self.delay_s = convention.seconds(values, "delay", low=0.0, high=_LONGEST_S)
        self.filesystems = convention.words(values, "gfs2_filesystems")
        self.hosts = convention.words(values, "hosts")
        self.heartbeat = convention.truth(values, "heartbeat_check")
        self.verbose = convention.truth(values, "verbose")


def mounted_gfs2() -> list[str]:
    """Return the devices of the GFS2 file systems mounted here; nothing if that cannot be told.

    Reads the kernel's table, which asks no file system anything.
    """
    try:
        with open(_MOUNTS, "rb") as mounts:
            table = mounts.read(_MOUNTS_LIMIT)
    except OSError:
        return []
    rows = [os.fsdecode(line).split(" ") for line in table.splitlines()]
    found = [row[0] for row in rows if len(row) > 2 and row[2] == "gfs2"]
    return list(dict.fromkeys(found))[:_MOST_FILESYSTEMS]


def fresh_id() -> str:
    """Return a random UUID (version 4), without the cost of importing the module for it."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _now() -> str:
    """Return the time to the millisecond: a request's time runs out from here on."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"


class Times:
    """When what happened here, by the monotonic clock: for the timeline of a fence, in the detailed log."""

    def __init__(self) -> None:
        self._moments = {"ready": time.monotonic()}
        self._processor_s = time.process_time()
        self._clock = ""

    def note(self, name: str, when: float | None = None) -> None:
        """Take note of a moment, by default now; 0 is none."""
        moment = time.monotonic() if when is None else when
        if moment:
            self._moments[name] = moment

    def settle(self) -> None:
        """Find out what takes its time: to be called while the watcher is at work."""
        from nvmefence import clock

        self._moments["began"] = clock.began(self._moments["ready"], self._processor_s)
        self._clock = clock.identity()

    def told(self) -> dict[str, str | float]:
        """Return all of it; see docs/timeline.md."""
        here: dict[str, str | float] = {
            "writer": NAME,
            "clock": self._clock,
            "wall": round(time.time(), 6),
            "monotonic": round(time.monotonic(), 6),
        }
        return here | {name: round(moment, 6) for name, moment in self._moments.items()}


class Fence:
    """One request from its writing to its verdict."""

    def __init__(self, action: str, target: str, settings: Settings) -> None:
        self._times = Times()
        self.action = action
        self.target = target
        self.settings = settings
        self.request_id = fresh_id()
        self.name = f"{self.request_id}.json"
        self.recorder = os.uname().nodename
        self.filesystems = settings.filesystems or mounted_gfs2()
        self._journal: Journal | None = None

    def run(self) -> int:
        """Fence, log, and return the exit code. SIGTERM and the like end the wait, never the withdrawal."""
        stopping.hold_signals()
        in_time = stopping.end_after(self.settings.delay_s + self.settings.timeout_s, self._hangs)
        try:
            return self._run()
        finally:
            in_time()

    def _run(self) -> int:
        verdict = self._delayed() or self._ask()
        self._times.note("judged")
        level = "INFO" if verdict.confirmed else "ERROR"
        self._record(level, verdict.status, verdict.details, self._times.told())
        if not verdict.confirmed:
            complain(f"{NAME}: {self.action} of {self.target} is not confirmed: {verdict.details}")
        elif self.settings.verbose or verdict.details.startswith("SIMULATED"):
            complain(f"{NAME}: {self.action} of {self.target}: {verdict.details}")
        trouble = self._journal.close() if self._journal else ""
        if trouble:
            complain(f"{NAME}: no log: {trouble}")
        if not verdict.confirmed:
            exchange.settle(self.settings.request_dir)  # last: it may wait for the disk, and all is said
        return OK if verdict.confirmed else FAILED

    def _hangs(self) -> None:
        """Say, from another thread, why the agent ends."""
        settings = self.settings
        complain(
            f"{NAME}: {self.action} of {self.target} is not confirmed: {settings.request_dir}, "
            f"{settings.response_dir} or {settings.log_dir} hangs; the request expires"
        )

    def _delayed(self) -> waiting.Verdict | None:
        by = stopping.pause(self.settings.delay_s) if self.settings.delay_s else ""
        return _in_vain("stopped", f"stopped by {by} before a request was made") if by else None

    def _ask(self) -> waiting.Verdict:
        settings = self.settings
        since = time.monotonic()
        confirmed = False
        try:
            self._times.note("asked", since)
            self._times.note("visible", exchange.write_durably(settings.request_dir, self.name, self._request()))
            self._times.note("durable")
            verdict = self._wait(since)
            self._times.note("seen", verdict.seen)
            confirmed = verdict.confirmed
        except SpoolError as error:
            verdict = _in_vain("unrequested", f"no request was made: {error.reason}")
        finally:
            trouble = "" if confirmed else exchange.withdraw(settings.request_dir, self.name)
        if trouble:
            verdict.details += f"; the request could not be withdrawn: {trouble}"
        return verdict

    def _wait(self, since: float) -> waiting.Verdict:
        from nvmefence.agents import waiting  # only here: the watcher is at work meanwhile

        settings = self.settings
        if settings.verbose:
            complain(f"{NAME}: wrote {settings.request_dir}/{self.name}")
        self._record("INFO", "requested", f"waiting {settings.timeout_s:g} s for the response")
        self._times.settle()
        self._times.note("waiting")
        return waiting.wait(
            settings.response_dir,
            self.name,
            self.request_id,
            self.target,
            since=since,
            within_s=settings.timeout_s,
            poll_s=settings.poll_s,
        )

    def _request(self) -> bytes:
        timeout = self.settings.timeout_s
        request = {
            "request_id": self.request_id,
            "timestamp": _now(),
            "action": self.action,
            "target_node": self.target,
            "gfs2_filesystems": self.filesystems,
            "recorder_node": self.recorder,
            "timeout_s": int(timeout) if timeout.is_integer() else timeout,
        }
        return ("{\n  " + ",\n  ".join(json_fields(request)) + "\n}\n").encode()

    def _record(
        self, level: str, status: str, details: str, timeline: dict[str, str | float] | None = None
    ) -> None:
        from nvmefence.agents.events import Journal
        from nvmefence.eventlog import Event

        self._journal = self._journal or Journal(self.settings.log_dir)
        self._journal.record(
            Event(
                level,
                self.action,
                self.target,
                status,
                details,
                request_id=self.request_id,
                recorder=self.recorder,
                filesystems=self.filesystems,
                timeline=timeline,
            )
        )


def _in_vain(status: str, details: str) -> waiting.Verdict:
    from nvmefence.agents.waiting import Verdict

    return Verdict(status, details)


def monitor(settings: Settings) -> int:
    """Succeed if a fence could work: usable directories and, unless that is switched off, a living watcher."""
    from nvmefence.agents import standing
    from nvmefence.spool import heartbeat

    trouble = standing.unusable(settings.request_dir, settings.response_dir)
    if not trouble and settings.heartbeat:
        trouble = heartbeat.missing(settings.request_dir)
    if trouble:
        complain(f"{NAME}: {trouble}")
        return FAILED
    return OK


def _fenced(settings: Settings) -> set[str] | None:
    from nvmefence.agents import standing

    try:
        return standing.fenced_nodes(settings.response_dir)
    except SpoolError as error:
        complain(f"{NAME}: cannot tell who is fenced: {error.reason}")
        return None


def status(target: str, settings: Settings) -> int:
    """Return OFF while a successful response for the node stands, FAILED if that cannot be told, else OK."""
    fenced = _fenced(settings)
    if fenced is None:
        return FAILED
    say(f"Status: {'OFF' if target in fenced else 'ON'}")
    return OFF if target in fenced else OK


def list_hosts(settings: Settings, *, with_status: bool) -> int:
    """Print the hosts that the parameter `hosts` names, as `plug,alias` or `plug,alias,state`."""
    fenced = _fenced(settings) if with_status else None
    for host in settings.hosts:
        state = "UNKNOWN" if fenced is None else "OFF" if host in fenced else "ON"
        say(escaped(f"{host},,{state}" if with_status else f"{host},"))
    return OK


def _page(action: str, values: dict[str, str]) -> str:
    """Return what only needs to be printed, else an empty string."""
    if values["version"]:
        return f"{NAME} {__version__}"
    if not values["help"] and action not in ("metadata", "manpage"):
        return ""
    from nvmefence.agents import pages

    if values["help"]:
        return pages.usage(AGENT)
    return pages.metadata(AGENT) if action == "metadata" else pages.manpage(AGENT)


def main(arguments: list[str]) -> int:
    """Do what one call asks and return the exit code. Raises UsageError."""
    values = convention.read_options(AGENT, arguments, os.environ)
    asked = values["help"] or values["version"]
    action = "" if asked else convention.action_of(values)
    if page := _page(action, values):
        return OK if say(page) else FAILED
    if action not in {*_FENCES, *(name for name, _ in AGENT.actions)}:
        raise UsageError(f"unknown action {action!a}")
    settings = Settings(values)
    if action in _FENCES:
        return Fence(action, convention.target_of(values), settings).run()
    if action == "status":
        return status(convention.target_of(values), settings)
    if action in ("list", "list-status"):
        return list_hosts(settings, with_status=action == "list-status")
    return monitor(settings) if action == "monitor" else OK


def console() -> NoReturn:
    """Run the agent on this process's arguments, and end the process: with 1 for everything that went wrong.

    Ends it at once. Nothing is left to be done, and taking the interpreter apart takes as long as a tenth of all.
    """
    os._exit(_exit_code())


def _exit_code() -> int:
    streams.ensure_open()
    try:
        return main(sys.argv[1:])
    except UsageError as error:
        complain(f"{NAME}: {error}")
    except KeyboardInterrupt:
        complain(f"{NAME}: interrupted")
    except Exception as error:  # whatever it was, nothing is confirmed
        try:
            text = str(error)
        except Exception:
            text = "its text cannot be told"
        complain(f"{NAME}: defect: {type(error).__name__}: {text}")
    return FAILED


if __name__ == "__main__":
    console()

"""What the direct agent does with drives: in its child process, which tells the agent how it goes on.

`tell` takes "settings" with the monotonic time of the deadline, log directory and audit file; "say" and "complain"
with a line; and at last "verdict" with a word and a line. What comes after the verdict holds nobody up, and nothing
is closed before it: the process ends, and a drive that does not answer cannot be let go of any sooner.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nvmefence import direct_guard
from nvmefence.agents import at_map
from nvmefence.direct import Direct
from nvmefence.errors import AccessError, NvmefenceError, UnknownHostError
from nvmefence.fencing.evidence import DriveEvidence
from nvmefence.fencing.survey import State, Survey
from nvmefence.records.store import RecordError
from nvmefence.settings import Settings, check_deadline
from nvmefence.watcher.worker import Stuck

if TYPE_CHECKING:
    from nvmefence.agents.apart import Tell
    from nvmefence.agents.fence_nvmefence import Fence

READ_S: Final = 10.0
"""Seconds, at most, for what only reads: Pacemaker gives a monitor 20."""
_OUTLIVE_S: Final = 30.0
_TICK_S: Final = 0.005
_REASONS: Final = 4
_PR_SET_PDEATHSIG: Final = 1
_POWER: Final = " (reboot was asked for: the storage is cut, nobody power-cycled the node)"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done:
    """How an off, reboot or on ended."""

    result: str
    """The audit's word."""
    details: str
    evidence: Any = None
    seconds: dict[str, float] = field(default_factory=dict)
    guard: direct_guard.Said = field(default_factory=direct_guard.Said)


def change(call: Fence, tell: Tell, begun: float) -> None:
    """Do off, reboot or on, tell the verdict, and put it into the audit. `begun`: monotonic time of the call."""
    settings: Settings | None = None
    _end_with(call.process)
    try:
        settings = at_map.settings_for_a_fence(call.values, lambda text: tell("complain", text))
        tell("settings", str(begun + settings.deadline), settings.log_dir, settings.audit)
        do = _on if call.action == "on" else _off
        done = do(call, settings, tell, begun)
    except UnknownHostError as error:
        done = Done("unknown-host", f"nothing was done: {error}")
    except NvmefenceError as error:
        done = Done("not-fenced", f"nothing was done: {error}")
    except OSError as error:
        done = Done("not-fenced", f"the drives cannot be reached: {error}")
    _end_with(None)
    tell("verdict", done.result, done.details)
    if settings is not None:
        from nvmefence.agents import direct_record  # only here: the node is cut off by now

        if done.guard.alarm:
            direct_record.mass_fence(call, tell, settings, done.guard)
        direct_record.write(call, tell, settings.audit, done.result, done.details, done.evidence, done.seconds)
    tell("recorded")
    _outlive(call.process)


def _outlive(agent: int) -> None:
    """Wait until the agent has ended: this process keeps restores away until the cluster has heard of the fence."""
    until = time.monotonic() + _OUTLIVE_S
    while os.getppid() == agent and time.monotonic() < until:
        time.sleep(_TICK_S)


def _off(call: Fence, settings: Settings, tell: Tell, begun: float) -> Done:
    """Cut the node off. Only `FenceReport.confirmed` makes it "fenced"."""
    direct = Direct(settings, [call.target], call.name, call.request_id)
    said = direct_guard.ask(settings, direct.names)
    for text in filter(None, (said.alarm, said.trouble)):
        tell("complain", text)
    if said.held:
        return Done("not-fenced", f"NOT fenced {direct.names[0]}: {said.held}", guard=said)
    direct.open()

    def heard(drive: DriveEvidence, phase: str) -> None:
        if call.verbose:
            tell("complain", f"{drive.serial}: {phase}")

    report = _run(direct.fence(heard, begun))
    for trouble in direct.unrecorded.values():
        tell("complain", f"what was taken is not on record: {trouble}")
    (host,) = report.hosts
    confirmed = report.confirmed(host)
    details = report.message(host) + (_POWER if confirmed and call.action == "reboot" else "")
    return Done("fenced" if confirmed else "not-fenced", details, report.to_json(host), direct.seconds, said)


def _on(call: Fence, settings: Settings, tell: Tell, begun: float) -> Done:
    """Give back what is on record if agents may; else nothing, and say so. Raises UnknownHostError."""
    direct = Direct(settings, [call.target])
    (host,) = direct.hosts
    if not settings.agents_may_restore:
        mark = "SIMULATED: " if settings.simulate else ""
        return Done(
            "unchanged",
            f"{mark}nothing was changed for {host.name}: agents may not give storage back (agents_may_restore). "
            "If it was fenced, its storage is still cut",
        )
    from nvmefence import direct_restore  # only here: no fence needs it

    direct.open()
    try:
        ended = _run(direct_restore.restore(direct, host, begun + settings.deadline))
    except (RecordError, Stuck) as error:
        return Done("not-restored", f"nothing was given back to {host.name}: {error}")
    left = "".join(f"; {one}" for one in ended.left[:_REASONS])
    return Done("restored" if ended.complete else "not-restored", ended.message() + left)


def read(action: str, target: str, values: dict[str, str], tell: Tell, *, verbose: bool) -> None:
    """Do status, monitor or list-status, and tell the verdict: "ok", "off" or "failed"."""
    try:
        settings = at_map.settings(values, lambda text: tell("complain", text) if verbose else None)
        until = time.monotonic() + min(settings.deadline, READ_S)
        tell("settings", str(until), settings.log_dir, settings.audit)
        if action == "monitor":
            result, details = _monitor(settings, until)
        elif action == "status":
            result, details = _status(settings, target, until, tell)
        else:
            result, details = _list_status(settings, until, tell)
    except NvmefenceError as error:
        result, details = "failed", str(error)
    except OSError as error:
        result, details = "failed", f"the drives cannot be reached: {error}"
    tell("verdict", result, details)


def _monitor(settings: Settings, until: float) -> tuple[str, str]:
    """Succeed if every host of the map could be fenced now; as `nvmefence check`, it only reads."""
    from nvmefence.fencing import preflight

    check_deadline(settings)
    direct = Direct(settings)
    direct.open()
    site = direct.site
    found = site.discover()
    findings, _ = _run(preflight.check(site.transport, direct.hostmap, found, settings.quiesce, _left(until)))
    bad = [f"{one.subject}: {one.text}" for one in findings if one.level is preflight.Level.FAIL]
    return ("failed", f"a fence would not be confirmed now: {_some(bad)}") if bad else ("ok", "")


def _status(settings: Settings, target: str, until: float, tell: Tell) -> tuple[str, str]:
    """ "ok" if the host is attached to anything, "off" if a complete read of all drives shows that it is not."""
    direct = Direct(settings, [target])
    direct.open()
    found = _run(direct.survey(_left(until)))
    (host,) = direct.names
    state = _state(found, host)
    if state == "UNKNOWN":
        return "failed", f"status of {target} cannot be told: {_some(_unknown(found, [host]))}"
    tell("say", f"Status: {state}")
    return "off" if state == "OFF" else "ok", ""


def _list_status(settings: Settings, until: float, tell: Tell) -> tuple[str, str]:
    """Tell the hosts of the map and their states. A drive that cannot be read makes states unknown, no failure."""
    direct = Direct(settings)
    found = Survey([], ["no drive can be reached"], "")
    trouble = ""
    try:
        direct.open()
        found = _run(direct.survey(_left(until)))
    except AccessError as error:
        trouble = str(error)
    for host in direct.hosts:
        for line in at_map.lines(host):
            tell("say", f"{line},{_state(found, host.name)}")
    return "ok", trouble or _some(_unknown(found, direct.names))


def _state(found: Survey, host: str) -> str:
    entries = [drive.hosts[host] for drive in found.drives]
    if any(entry.attached for entry in entries):
        return "ON"
    complete = not found.missing and entries and all(entry.state is State.NONE for entry in entries)
    return "OFF" if complete else "UNKNOWN"


def _unknown(found: Survey, hosts: list[str]) -> list[str]:
    """Return why states are unknown, as far as they are."""
    reasons = list(found.missing)
    for drive in found.drives:
        reasons += [f"{drive.serial}: {drive.hosts[host].reason}" for host in hosts if drive.hosts[host].reason]
    if not found.drives and not reasons:
        reasons.append("no expected drive is there")
    return reasons


def _left(until: float) -> float:
    return max(until - time.monotonic(), 0.0)


def _some(reasons: Iterable[str]) -> str:
    """Return the first of the reasons in a line, and how many more there are."""
    every = list(dict.fromkeys(reasons))
    more = f"; and {len(every) - _REASONS} more" if len(every) > _REASONS else ""
    return "; ".join(every[:_REASONS]) + more


def _end_with(agent: int | None) -> None:
    """Have the kernel end this process when the agent ends, whose number that is; None: not any more.

    Pacemaker ends all processes of an agent at once. The agent alone can be ended by a person, or for want of
    memory, and nothing shall be cut for nobody.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if agent else 0)
    if agent not in (None, os.getppid()):
        os._exit(1)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine. What it leaves behind is not waited for, unlike `asyncio.run` does."""
    return asyncio.new_event_loop().run_until_complete(work)

"""The drive as it was: attachments and secondary controllers, whatever a measurement left; proven by reading."""

from __future__ import annotations

import asyncio
from typing import Final

from nvmefence.nvme import status
from nvmefence.nvme.structures import SecondaryController
from nvmefence.qualify.bench import Bench
from nvmefence.qualify.control import Control, entry_of
from nvmefence.qualify.figures import Attachments, State, Trouble, pairs

_TRIES: Final = 3
_PAUSE_S: Final = 0.5


async def put_back(control: Control, bench: Bench, before: State) -> list[str]:
    """Bring everything back to `before`; return what is not as it was, in words."""
    bench.stop()
    left: list[str] = []
    for attempt in range(_TRIES):
        if attempt:
            await asyncio.sleep(_PAUSE_S)
        try:
            failed = await _repair(control, bench, before)
            now = await control.state()
        except Trouble as trouble:
            left = [f"it cannot be told what is put back: {trouble}"]
            continue
        left = _differences(before, now, failed)
        if not left:
            break
    return left


async def _repair(control: Control, bench: Bench, before: State) -> dict[tuple[int, int], str]:
    """Put back what can be; return why an attachment could not be changed."""
    failed: dict[tuple[int, int], str] = {}
    now = await control.state()
    for entry in before.secondaries or ():
        found = entry_of(now.secondaries, entry.cntlid)
        if entry.online and found is not None and not found.online:
            await control.online(entry)
            if entry.cntlid == control.target:
                await bench.reboot()  # its driver must begin anew
    missing = set(pairs(before.attachments)) - set(pairs(now.attachments))
    surplus = set(pairs(now.attachments)) - set(pairs(before.attachments))
    ours = (control.target, control.own.cntlid)
    for nsid, cntlid in sorted(missing | surplus):
        if cntlid in ours and nsid in before.attachments:
            step = await control.change(nsid, cntlid, attach=(nsid, cntlid) in missing)
            if step.status:
                failed[nsid, cntlid] = status.describe(step.status)
    return failed


def _differences(before: State, now: State, failed: dict[tuple[int, int], str]) -> list[str]:
    there, wanted = set(pairs(now.attachments)), set(pairs(before.attachments))
    left = []
    for nsid, cntlid in sorted(wanted ^ there):
        what = "is not attached to" if (nsid, cntlid) in wanted else "is now attached to"
        why = failed.get((nsid, cntlid), "")
        left.append(f"namespace {nsid} {what} controller {cntlid}{f': {why}' if why else ''}")
    for entry in before.secondaries or ():
        found = entry_of(now.secondaries, entry.cntlid)
        if found is None:
            left.append(f"controller {entry.cntlid} is no longer in the Secondary Controller List")
        elif (entry.online, entry.queues, entry.interrupts) != (found.online, found.queues, found.interrupts):
            left.append(f"controller {entry.cntlid} is {_words(found)}, was {_words(entry)}")
    return left


def _words(entry: SecondaryController) -> str:
    state = "online" if entry.online else "offline"
    return f"{state} with {entry.queues} queues and {entry.interrupts} interrupts"


def by_hand(control: Control, attachments: Attachments) -> list[str]:
    """Return nvme-cli's commands that attach what was attached, for when this process does not live to do it."""
    ours = {control.target, control.own.cntlid}
    return [
        f"nvme attach-ns {control.own.path} --namespace-id={nsid} "
        f"--controllers={','.join(str(one) for one in sorted(ids & ours))}"
        for nsid, ids in sorted(attachments.items())
        if ids & ours
    ]

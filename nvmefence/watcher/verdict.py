"""What a response proves, judged anew from its evidence, and what to do about it."""

from __future__ import annotations

import enum
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from nvmefence.nvme import status
from nvmefence.spool.request import Action
from nvmefence.spool.response import Response
from nvmefence.watcher import loose

_CONFIRMED: Final = ("cut", "already")
_OFFLINE: Final = ("drain", "offline")
"""Methods that take secondary controllers offline."""
_TEXT_LIMIT: Final = 2000
_STATUS_LIMIT: Final = 0xFFFF
_MOST_DRIVES: Final = 1024
"""No machine has more. Evidence that names more is not nvmefence's, and to lay it out can take minutes."""


class Verdict(enum.Enum):
    """What may be taken from a response."""

    FENCED = "fenced"
    """Success, and its evidence shows it."""
    CLAIMED = "claimed"
    """Success, and nothing in the file shows it."""
    DOUBTFUL = "doubtful"
    """Success or confirmation is said, and the same file says otherwise."""
    NOT_FENCED = "not-fenced"
    NO_FENCE = "no-fence"
    """It answers an `on`, which is no fence."""


@dataclass(slots=True)
class Sent:
    """Detach commands for one host on one drive that ended alike."""

    status: int | None
    words: str
    nsids: list[int] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"status": self.status, "status_text": self.words, "namespaces": self.nsids}


@dataclass(slots=True)
class DriveView:
    """One drive of the evidence, seen from the host that the response is about."""

    serial: str
    model: str
    device: str
    own_controller: int | None
    outcome: str
    controllers: list[int]
    """The host's, on this drive."""
    namespaces: int
    found: dict[int, list[int]]
    """Where the host was attached at first: its controllers by NSID."""
    detached: dict[int, list[int]]
    read_back: dict[int, list[int]] | None
    """Where it was attached at the last complete read; None: there was none after the last cut."""
    quiesce: str
    quiesced: bool
    quiesce_reason: str
    """Why it is not another method."""
    offline: dict[int, str]
    """The host's controllers that were offline at the end, and why."""
    reason: str
    advice: str
    sent: list[Sent]
    seconds: dict[str, float]

    @property
    def confirmed(self) -> bool:
        """Whether the drive's own evidence shows that the host is cut."""
        return self.outcome in _CONFIRMED and not self.defect

    @property
    def defect(self) -> str:
        """Why the drive's outcome cannot be confirmed although it says so; empty when it does not or can be."""
        if self.outcome not in _CONFIRMED:
            return ""
        if not self.controllers:
            return "the host's controllers are not named"
        if self.read_back is None:
            return "there is no complete read-back"
        if self.read_back:
            return "the read-back still shows the host attached"
        return "" if self.quiesced else "the quiesce rule was not met"

    def to_json(self) -> dict[str, Any]:
        """Return plain data with a fixed set of keys."""
        return {
            "serial": self.serial,
            "model": self.model,
            "device": self.device,
            "own_controller": self.own_controller,
            "outcome": self.outcome,
            "confirmed": self.confirmed,
            "controllers": self.controllers,
            "namespaces": self.namespaces,
            "found": _by_nsid(self.found),
            "detached": _by_nsid(self.detached),
            "read_back": None if self.read_back is None else _by_nsid(self.read_back),
            "quiesce": self.quiesce,
            "quiesced": self.quiesced,
            "quiesce_reason": self.quiesce_reason,
            "offline": {str(cntlid): why for cntlid, why in self.offline.items()},
            "reason": self.reason,
            "advice": self.advice,
            "commands": [sent.to_json() for sent in self.sent],
            "seconds": self.seconds,
        }


@dataclass(slots=True)
class Explanation:
    """A response, interpreted."""

    response: Response
    evidence: str
    """ "evidence" (ours), "none", "omitted" (for its size) or "foreign" (another writer's form)."""
    host: str = ""
    """The host's name in the host map."""
    simulated: bool | None = None
    """None: not said."""
    backend: str = ""
    started_at: str = ""
    seconds: float | None = None
    missing: list[str] = field(default_factory=list)
    drives: list[DriveView] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    """Where the file says two things that cannot both be true."""

    @property
    def verdict(self) -> Verdict:
        """What may be taken from the response."""
        if self.contradictions:
            return Verdict.DOUBTFUL
        if self.response.action_performed == Action.ON.value:
            return Verdict.NO_FENCE
        if not self.response.success:
            return Verdict.NOT_FENCED
        return Verdict.FENCED if self.evidence == "evidence" else Verdict.CLAIMED

    @property
    def target(self) -> str:
        """The node's name in the request."""
        return self.response.target_node or "(no name)"

    @property
    def statement(self) -> str:
        """The verdict in one line."""
        mark = "SIMULATED: " if self.simulated else ""
        alias = self.host and self.host.lower() != self.target.lower()
        who = f"{self.target} (host {self.host} of the map)" if alias else self.target
        cut = sum(drive.confirmed for drive in self.drives)
        of = (
            f"{cut} of {len(self.drives)} drives that are there"
            if self.missing
            else f"{cut} of {len(self.drives)} drives"
        )
        words = {
            Verdict.FENCED: f"{who} is fenced: cut from all of {len(self.drives)} expected drives",
            Verdict.CLAIMED: f"{who} is fenced, by the word of this response alone",
            Verdict.DOUBTFUL: f"{who}: DO NOT RELY on this response: it contradicts itself",
            Verdict.NOT_FENCED: f"{who} is NOT fenced by this request"
            + (f": cut from {of}" if self.drives else ""),
            Verdict.NO_FENCE: f"{who}: an unfence (on) was answered, not a fence: {self.response.status}",
        }
        return mark + words[self.verdict]

    @property
    def meaning(self) -> list[str]:
        """What that means, in true sentences."""
        verdict, target = self.verdict, self.target
        if verdict is Verdict.FENCED:
            return list(self._proof())
        if verdict is Verdict.CLAIMED:
            return [f"{self._lack} Nothing in this file shows what was done on which drive."]
        if verdict is Verdict.DOUBTFUL:
            return [*self.contradictions, f"Take it that {target} may still be able to write."]
        if verdict is Verdict.NO_FENCE:
            return ["It says nothing about a fence; an earlier fence has a response of its own."]
        return list(self._failure())

    def _proof(self) -> Iterator[str]:
        yield (
            f"On every expected drive a read-back after the last detach showed none of {self.target}'s controllers "
            "on any allocated namespace."
        )
        if not any(drive.detached for drive in self.drives):
            yield "Nothing was attached when it was looked at, so nothing had to be detached."
        methods = list(dict.fromkeys(drive.quiesce for drive in self.drives))
        if "none" in methods:
            yield "Quiesce was none: a write that a drive was already working on at the cut may have landed later."
        if any(method in _OFFLINE for method in methods):
            yield "Its secondary controllers were offline during the cut, so nothing under way can land later."
        waits = ", ".join(method for method in methods if method != "none" and method not in _OFFLINE)
        if waits:
            yield f"Writes under way at the cut were given time to land before that ({waits})."
        yield "This was so when it was written; what is so now, nvmefence status shows."

    def _failure(self) -> Iterator[str]:
        yield f"{self.target} may still be able to write."
        if self.evidence != "evidence":
            yield self._lack
            yield f"What it says: {self.response.message}"
        yield from self.missing
        for drive in self.drives:
            if not drive.confirmed:
                yield f"{drive.serial}: {drive.reason or drive.outcome}"

    @property
    def _lack(self) -> str:
        return {
            "none": "The response carries no evidence: no drive was looked at for it, or its writer gives none, as "
            "the NNF node manager does.",
            "omitted": "The evidence was left out for its size; it is in the audit, see nvmefence history.",
            "foreign": "The evidence is not in nvmefence's form, so it is not judged here.",
        }.get(self.evidence, "")

    @property
    def advice(self) -> list[str]:
        """What to do; empty when nothing is to be done."""
        verdict = self.verdict
        if verdict in (Verdict.FENCED, Verdict.NO_FENCE):
            return []
        name = shlex.quote(self.host or self.target)
        look = f"look: nvmefence status --host {name}"
        if verdict is Verdict.CLAIMED:
            return [look]
        found = [f"{drive.serial}: {drive.advice}" for drive in self.drives if drive.advice and not drive.confirmed]
        if self.missing:
            found.append(
                "make the drives agree with [drives] in the host map: put a missing one back, or correct the map"
            )
        found += [f"try again: nvmefence detach --host {name}", look]
        found.append(
            f"or switch {self.target} off by its power; do not confirm the fence by hand before one of them is done"
        )
        return list(dict.fromkeys(found))

    def to_json(self) -> dict[str, Any]:
        """Return plain data with a fixed set of keys."""
        response = self.response
        return {
            "verdict": self.verdict.value,
            "statement": self.statement,
            "meaning": self.meaning,
            "advice": self.advice,
            "success": response.success,
            "simulated": self.simulated,
            "request_id": response.request_id,
            "action": response.action,
            "action_performed": response.action_performed,
            "target_node": response.target_node,
            "host": self.host,
            "recorder_node": response.recorder_node,
            "message": response.message,
            "answered_at": response.timestamp,
            "evidence": "complete" if self.evidence == "evidence" else self.evidence,
            "backend": self.backend,
            "started_at": self.started_at,
            "seconds": self.seconds,
            "missing": self.missing,
            "contradictions": self.contradictions,
            "drives": [drive.to_json() for drive in self.drives],
        }


def explain(response: Response) -> Explanation:
    """Interpret a response. Never raises for what its evidence holds."""
    found = loose.table(response.evidence)
    if not response.evidence:
        made = Explanation(response, "none")
    elif "confirmed" not in found or not _few(found.get("drives")) or not _few(found.get("missing", [])):
        made = Explanation(response, "omitted" if "omitted" in found else "foreign")
    else:
        made = _from_evidence(response, found)
        made.contradictions = list(_contradictions(made, found.get("confirmed")))
    if made.simulated is None and response.message.startswith("SIMULATED"):
        made.simulated = True
    if response.success and response.action_performed not in {action.value for action in Action}:
        made.contradictions.append(f"It says success, and that what was done is {response.action_performed!r}.")
    return made


def _few(value: object) -> bool:
    return isinstance(value, list) and len(value) <= _MOST_DRIVES


def _from_evidence(response: Response, found: dict[str, Any]) -> Explanation:
    host = loose.text(found.get("host"))
    simulated = found.get("simulated")
    return Explanation(
        response,
        "evidence",
        host=host,
        simulated=True
        if simulated or found.get("backend") == "simulated"
        else False
        if simulated is False
        else None,
        backend=loose.text(found.get("backend")),
        started_at=loose.text(found.get("started_at")),
        seconds=loose.seconds(found.get("seconds")),
        missing=[loose.text(one, _TEXT_LIMIT) or "(not text)" for one in loose.items(found.get("missing"))],
        drives=[_drive(loose.table(one), host) for one in loose.items(found.get("drives"))],
    )


def _drive(found: dict[str, Any], host: str) -> DriveView:
    mine = loose.table(loose.table(found.get("hosts")).get(host))
    ids = loose.controllers(mine.get("controllers"))
    read_back = found.get("read_back")
    reason = loose.text(mine.get("reason"), _TEXT_LIMIT)
    return DriveView(
        serial=loose.text(found.get("serial")) or "(no serial)",
        model=loose.text(found.get("model")),
        device=loose.text(found.get("device")),
        own_controller=loose.number(found.get("own_controller")),
        outcome=loose.text(mine.get("outcome"), 40) or "unknown",
        controllers=ids,
        namespaces=max(loose.number(found.get("namespaces")) or 0, 0),
        found=_of(loose.attachments(found.get("found")), ids),
        detached=loose.attachments(mine.get("detached")),
        read_back=_of(loose.attachments(read_back), ids) if isinstance(read_back, dict) else None,
        quiesce=loose.text(found.get("quiesce"), 40),
        quiesced=mine.get("quiesced") is True,
        quiesce_reason=loose.text(found.get("quiesce_reason"), _TEXT_LIMIT),
        offline=_offline(found.get("secondaries"), ids),
        reason=reason,
        advice=loose.text(found.get("advice"), _TEXT_LIMIT) if reason else "",
        sent=_sent(found.get("sent"), ids),
        seconds={
            loose.text(phase, 40): value
            for phase, raw in loose.table(found.get("seconds")).items()
            if (value := loose.seconds(raw)) is not None
        },
    )


def _offline(value: object, ids: list[int]) -> dict[int, str]:
    """Return which of these controllers were left offline, and why."""
    found = {}
    for cntlid in ids:
        entry = loose.table(loose.table(value).get(str(cntlid)))
        if entry and entry.get("back_online") is not True:
            found[cntlid] = loose.text(entry.get("problem"), _TEXT_LIMIT)
    return found


def _sent(value: object, ids: list[int]) -> list[Sent]:
    """Return the commands that concern these controllers, those that ended alike together."""
    groups: dict[tuple[int | None, str], Sent] = {}
    for one in map(loose.table, loose.items(value)):
        nsid, code = loose.number(one.get("nsid")), loose.number(one.get("status"))
        if nsid is None or set(ids).isdisjoint(loose.controllers(one.get("controllers"))):
            continue
        known = code is not None and abs(code) <= _STATUS_LIMIT
        words = status.describe(code) if known and code is not None else loose.text(one.get("status_text"))
        groups.setdefault((code, words), Sent(code, words)).nsids.append(nsid)
    return list(groups.values())


def _contradictions(made: Explanation, confirmed: object) -> Iterator[str]:
    response = made.response
    if response.success and response.action_performed == Action.ON.value:
        return
    if not response.success:
        if confirmed is True:
            yield "The response says failure, and its evidence says that the fence is confirmed."
        return
    if confirmed is not True:
        yield "The response says success, and its evidence says that the fence is not confirmed."
    if made.missing:
        yield f"The response says success, and drives were missing: {'; '.join(made.missing)}"
    if not made.drives:
        yield "The response says success, and no drive is in its evidence."
    for drive in made.drives:
        if not drive.confirmed:
            why = drive.defect or f"its outcome is {drive.outcome}"
            yield f"The response says success, and on {drive.serial} {why}."


def _of(attachments: dict[int, list[int]], ids: list[int]) -> dict[int, list[int]]:
    found = {nsid: [one for one in present if one in ids] for nsid, present in attachments.items()}
    return {nsid: present for nsid, present in found.items() if present}


def _by_nsid(attachments: dict[int, list[int]]) -> dict[str, list[int]]:
    return {str(nsid): ids for nsid, ids in attachments.items()}

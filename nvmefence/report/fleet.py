"""The part of a report about now: hosts against drives, and who is on record."""

from __future__ import annotations

from typing import Final

from nvmefence.fencing.survey import DriveSurvey, State
from nvmefence.report.gather import Fleet
from nvmefence.report.markup import Markup, element, joined, table

_LOOKS: Final = {
    "attached": ("\u25a0", "good"),
    "partly": ("\u25a4", "warn"),
    "none": ("\u00b7", "cut"),
    "unknown": ("?", "bad"),
    "RETURNED": ("!", "bad"),
}
"""By state: its mark and its colour."""
_TONES: Final = {"red": "bad", "yellow": "warn", "blue": "cut", "green": "good"}


def section(fleet: Fleet) -> Markup:
    """Return it."""
    pieces = [element("h2", "The fleet now", id="fleet")]
    if fleet.survey is None:
        pieces.append(element("p", f"The drives were not read: {fleet.why}", class_="soft"))
    else:
        pieces += _matrix(fleet)
    pieces += [element("p", words, class_=_TONES.get(colour, "")) for words, colour in fleet.on_record]
    pieces += [
        element("p", f"A record is not believed, so its host may be fenced and not shown so: {one}", class_="bad")
        for one in fleet.unread
    ]
    if not fleet.on_record and not fleet.unread:
        pieces.append(element("p", "Nothing is on record as taken from any host: nobody counts as fenced."))
    return joined(pieces)


def _matrix(fleet: Fleet) -> list[Markup]:
    survey = fleet.survey
    assert survey is not None
    drives = survey.drives
    header: list[object] = [
        "host",
        "drives",
        *(element("span", drive.serial, class_="up") for drive in drives),
    ]
    rows = []
    for host in fleet.hosts:
        states = [_state(drive, host, host in fleet.back) for drive in drives]
        counted = ", ".join(f"{states.count(state)} {state}" for state in _LOOKS if state in states) or "no drive"
        marks = [
            element("td", _LOOKS[state][0], class_=f"mark {_LOOKS[state][1]}", title=_told(drive, host, state))
            for drive, state in zip(drives, states, strict=True)
        ]
        rows.append([element("th", host, scope="row"), element("td", counted, class_="keep"), *marks])
    legend = joined(
        (
            element("span", element("span", f" {mark} ", class_=f"badge {tone}"), f" {state} ")
            for state, (mark, tone) in _LOOKS.items()
        ),
        " ",
    )
    wrong = [*survey.missing]
    for drive in drives:
        found = {(entry.reason, entry.advice) for entry in drive.hosts.values() if entry.reason}
        wrong += [f"{drive.serial}: {reason}" + (f" ({advice})" if advice else "") for reason, advice in found]
    if not drives:
        wrong.append("no expected drive is there: is this the right machine?")
    return [
        table(header, rows, "fleet"),
        element("p", "A mark for each drive: ", legend, class_="soft"),
        *(element("p", one, class_="bad") for one in sorted(set(wrong))),
    ]


def _state(drive: DriveSurvey, host: str, back: bool) -> str:
    entry = drive.hosts[host]
    return "RETURNED" if back and entry.attached else entry.state.value


def _told(drive: DriveSurvey, host: str, state: str) -> str:
    entry = drive.hosts[host]
    of = f" {len(entry.attached)} of {len(drive.namespaces)} namespaces" if entry.state is not State.UNKNOWN else ""
    return f"{host} on {drive.serial}: {state}{of}"

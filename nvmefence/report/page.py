"""A report as one page of HTML: self-contained, without a script, and with a policy that allows none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from nvmefence import __version__
from nvmefence.report import chart, fleet
from nvmefence.report.chart import duration, when
from nvmefence.report.gather import Fence, Gathered, Standing, is_fence, quantile, total
from nvmefence.report.markup import Markup, element, joined, source, table
from nvmefence.report.style import SHEET
from nvmefence.timeline import svg
from nvmefence.watcher import past
from nvmefence.watcher.past import Entry
from nvmefence.watcher.verdict import DriveView, Verdict

_RESULTS: Final = {
    "fenced": "good", "enforced": "good", "restored": "cut", "unchanged": "cut", "returned-no-longer": "cut",
    "not-fenced": "bad", "not-enforced": "bad", "returned": "bad", "interrupted": "bad",
    "after-done": "cut", "mass-fence": "bad", "mass-fence-held": "bad", "mass-fence-allowed": "cut",
}  # fmt: skip
_VERDICTS: Final = {
    Verdict.FENCED: "good",
    Verdict.CLAIMED: "warn",
    Verdict.DOUBTFUL: "bad",
    Verdict.NOT_FENCED: "bad",
    Verdict.NO_FENCE: "cut",
}
_STEPS: Final = ("waited", "discovery", "reading", "cut", "read_back", "quiesce", "total")
_BAD_LINES: Final = 20
_STYLE: Final = re.compile(r"<style>(.*?)</style>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made the page, and when."""

    machine: str
    made_at: float
    """Seconds since 1970."""
    zone: str


def page(made: Gathered, origin: Origin) -> str:
    """Return the page."""
    pictures, sheets = _pictures(made.fences)
    policy = "; ".join(
        [
            "default-src 'none'", f"style-src {' '.join(map(source, [SHEET, *sheets]))}", "base-uri 'none'",
            "form-action 'none'",
        ]
    )  # fmt: skip
    head = [
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="referrer" content="no-referrer">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        element("title", f"nvmefence on {origin.machine}, {when(origin.made_at)}"),
        *(Markup(f"<style>{sheet}</style>") for sheet in [SHEET, *sheets]),
    ]
    body = [
        *_top(made, origin),
        fleet.section(made.fleet),
        *_durations(made),
        *_history(made),
        *_fences(made.fences, pictures),
        *_responses(made),
        *_sources(made),
    ]
    whole = element("html", element("head", joined(head, "\n")), element("body", joined(body, "\n")), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def _pictures(fences: Sequence[Fence]) -> tuple[list[Markup], list[str]]:
    """Return a picture for each fence, and their style sheets, each once: a policy must name them all."""
    pictures, sheets = [], dict[str, None]()
    for fence in fences:
        if not fence.timeline.way:
            pictures.append(Markup(""))
            continue
        subject = f"{fence.entry.action or 'fence'} of {fence.seen.target}"
        drawn = svg.draw(fence.timeline, fence.seen.statement, subject)
        sheets |= dict.fromkeys(_STYLE.findall(drawn))
        pictures.append(element("div", Markup(_STYLE.sub("", drawn)), class_="picture"))
    return pictures, list(sheets)


def _top(made: Gathered, origin: Origin) -> list[Markup]:
    since = f", since {when(made.since)}" if made.since is not None else ""
    pieces = [
        element("h1", f"nvmefence on {origin.machine}"),
        element("p", f"Made {when(origin.made_at)} {origin.zone} by nvmefence {__version__}{since}", class_="soft"),
    ]
    pieces += [_banner(words, "warn") for words in _simulated(made)]
    pieces += [_banner(words, tone) for words, tone in _news(made)]
    pieces.append(_tiles(made))
    links = (
        ("fleet", "The fleet now"), ("durations", "Durations"), ("history", "History"), ("fences", "Fences"),
        ("responses", "Responses"), ("sources", "Sources"),
    )  # fmt: skip
    pieces.append(element("nav", *(element("a", words, href=f"#{name}") for name, words in links)))
    return pieces


def _simulated(made: Gathered) -> Iterator[str]:
    """Say what is not true of any drive."""
    emulated = sum(entry.simulated is True for entry in made.entries)
    if made.fleet.simulated:
        yield "SIMULATED: the drives of the fleet are emulated"
    if emulated:
        of = (
            "all entries are" if emulated == len(made.entries) else f"{emulated} of {len(made.entries)} entries are"
        )
        yield f"SIMULATED: {of} of emulated drives; no host lost anything by them"


def _banner(words: str, tone: str) -> Markup:
    return element("p", words, class_=f"banner {tone}")


def _news(made: Gathered) -> list[tuple[str, str]]:
    """Return what a person should know first."""
    news = [(f"{host} is fenced and back: it can write", "bad") for host in made.fleet.back]
    latest: dict[str, Entry] = {}
    for entry in made.entries:
        if is_fence(entry) or entry.result in ("restored", past.INTERRUPTED):
            latest[(entry.hosts[0] if entry.hosts else entry.target_node).lower()] = entry
    for host, entry in sorted(latest.items()):
        if entry.result.startswith("not-") or entry.result == past.INTERRUPTED:
            news.append((f"The last fence of {host} is not confirmed: it may still be able to write", "bad"))
    survey = made.fleet.survey
    if survey is not None and not survey.complete:
        news.append(("Not every expected drive could be read: no fence would be confirmed there", "bad"))
    if not news:
        seen = " No fenced host is back, and every expected drive could be read." if survey is not None else ""
        news.append((f"No fence is left unconfirmed.{seen}", "good"))
    return news


def _tiles(made: Gathered) -> Markup:
    fences = [entry for entry in made.entries if is_fence(entry)]
    failed = [entry for entry in fences if entry.result.startswith("not-")]
    took = [seconds for entry in fences if (seconds := total(entry)) is not None]
    survey = made.fleet.survey
    read = "-" if survey is None else f"{sum(not d.problem for d in survey.drives)} of {len(survey.drives)}"
    tiles = [
        (len(fences), "fences", ""),
        (len(failed), "not confirmed", "bad" if failed else ""),
        (len(made.fleet.fenced), "hosts fenced now", "cut" if made.fleet.fenced else ""),
        (len(made.fleet.back) if survey is not None else "-", "of them back", "bad" if made.fleet.back else ""),
        (read, "drives read", "" if survey is None or survey.complete else "bad"),
        (duration(quantile(took, 0.5)) if took else "-", "half of the fences took no longer", ""),
        (duration(max(took)) if took else "-", "the longest fence", ""),
    ]
    return element(
        "div",
        *(
            element("div", element("b", n, class_=tone), element("span", of), class_="tile")
            for n, of, tone in tiles
        ),
        class_="tiles",
    )


def _durations(made: Gathered) -> list[Markup]:
    fences = [entry for entry in made.entries if is_fence(entry)]
    pieces = [element("h2", "Durations", id="durations")]
    rows = []
    for step in _STEPS:
        took = [entry.seconds[step] for entry in fences if step in entry.seconds]
        if took:
            shown = [min(took), quantile(took, 0.5), quantile(took, 0.95), max(took)]
            rows.append([step.replace("_", "-"), _number(len(took)), *(_number(duration(one)) for one in shown)])
    if not rows:
        return [*pieces, element("p", "No fence tells how long it took.", class_="soft")]
    columns = ("fences", "shortest", "half took no longer", "95 of 100 took no longer", "longest")
    header = ["step", *map(_number_head, columns)]
    note = "A step on the drives is that of the slowest, as they work side by side. Green: confirmed, red: not."
    return [*pieces, chart.durations(fences), table(header, rows), element("p", note, class_="soft")]


def _number(value: object) -> Markup:
    return element("td", value, class_="num")


def _number_head(words: str) -> Markup:
    return element("th", words, class_="num", scope="col")


def _badge(result: str, tone: str) -> Markup:
    return element("span", result, class_=f"badge {tone}")


def _history(made: Gathered) -> list[Markup]:
    pieces = [element("h2", "History", id="history")]
    if not made.entries:
        words = "Nothing is on record for that time." if made.history.entries else "Nothing is on record."
        return [*pieces, element("p", words, class_="soft")]
    anchors = {id(fence.entry): number for number, fence in enumerate(made.fences)}
    if made.left_out:
        pieces.append(
            element(
                "p", f"The newest {len(made.entries)}; {made.left_out} older ones are left out, "
                "see nvmefence history.", class_="soft",
            )
        )  # fmt: skip
    header = [
        "when",
        "node",
        "action",
        "asked by",
        "result",
        "drives",
        *map(_number_head, ("waited", "total")),
        "message",
    ]
    rows = [_row(entry, anchors.get(id(entry))) for entry in reversed(made.entries)]
    return [*pieces, table(header, rows)]


def _row(entry: Entry, anchor: int | None) -> list[object]:
    moment = element("time", when(entry.when), datetime=past.rfc3339(entry.when))
    if anchor is not None:
        moment = element("a", moment, href=f"#fence-{anchor}")
    return [
        element("td", moment, class_="keep"),
        element("td", _node(entry), class_="keep"),
        entry.action or "-",
        entry.recorder_node or "-",
        _badge(entry.result, _RESULTS.get(entry.result, "warn")),
        element("td", "-" if entry.drives is None else f"{entry.drives[0]} of {entry.drives[1]}", class_="keep"),
        _number(duration(entry.seconds.get("waited"))),
        _number(duration(total(entry))),
        element("td", entry.message, class_="long"),
    ]


def _node(entry: Entry) -> str:
    hosts = ", ".join(entry.hosts)
    if not entry.target_node:
        return hosts or "-"
    same = hosts.lower() in ("", entry.target_node.lower())
    return entry.target_node if same else f"{entry.target_node} ({hosts})"


def _fences(fences: Sequence[Fence], pictures: Sequence[Markup]) -> list[Markup]:
    pieces = [element("h2", "Fences, drive by drive", id="fences")]
    if not fences:
        return [*pieces, element("p", "There is none.", class_="soft")]
    pieces.append(element("p", "The newest first; each is judged anew by its evidence.", class_="soft"))
    for number, (fence, picture) in enumerate(zip(fences, pictures, strict=True)):
        entry, seen = fence.entry, fence.seen
        summary = element(
            "summary",
            when(entry.when),
            " ",
            element("b", _node(entry)),
            _badge(entry.result, _RESULTS.get(entry.result, "warn")),
            f"{duration(total(entry))}",
        )
        parts = [element("p", seen.statement, class_=_VERDICTS[seen.verdict])]
        parts += [element("p", sentence) for sentence in seen.meaning]
        if seen.advice:
            parts.append(element("ul", *(element("li", one) for one in seen.advice)))
        parts += [picture, *_drives(seen.drives)]
        origin = f"request {seen.response.request_id or '-'}, {entry.source}:{entry.line}"
        parts.append(element("p", origin, class_="soft"))
        body = element("div", joined(parts))
        start = Markup(f'<details id="fence-{number}"{" open" if number == 0 else ""}>')
        pieces.append(Markup(f"{start}{summary}{body}</details>"))
    return pieces


def _drives(drives: Sequence[DriveView]) -> list[Markup]:
    if not drives:
        return []
    phases = list(dict.fromkeys(phase for drive in drives for phase in drive.seconds))
    header = [
        "drive",
        "through",
        "result",
        _number_head("detached"),
        "read-back",
        "quiesce",
        *map(_number_head, phases),
    ]
    rows: list[list[object]] = []
    for drive in drives:
        back = "none" if drive.read_back is None else "attached" if drive.read_back else "not attached"
        good = drive.read_back is not None and not drive.read_back
        rows.append(
            [
                drive.serial,
                drive.device or "-",
                element("td", drive.reason or drive.outcome, class_="good" if drive.confirmed else "bad"),
                _number(f"{sum(map(len, drive.detached.values()))}"),
                element("td", back, class_="keep" if good else "keep bad"),
                element("td", drive.quiesce or "-", class_="keep" if drive.quiesced else "keep bad"),
                *(_number(duration(drive.seconds.get(phase))) for phase in phases),
            ]
        )
    return [table(header, rows, "tight")]


def _responses(made: Gathered) -> list[Markup]:
    pieces = [element("h2", "Responses that lie there", id="responses")]
    if made.trouble:
        pieces.append(element("p", made.trouble, class_="bad"))
    if not made.responses:
        return [*pieces, element("p", "There is none.", class_="soft")]
    if made.responses_left_out:
        words = f"The newest {len(made.responses)}; {made.responses_left_out} older ones are not looked at."
        pieces.append(element("p", words, class_="soft"))
    return [*pieces, table(["file", "written", "what it proves"], map(_response, made.responses))]


def _response(one: Standing) -> list[object]:
    if one.seen is None:
        return [one.name, "-", element("td", one.problem, class_="long bad")]
    tone = _VERDICTS[one.seen.verdict]
    return [
        one.name,
        element("td", one.seen.response.timestamp, class_="keep"),
        element("td", _badge(one.seen.verdict.value, tone), " ", one.seen.statement, class_="long"),
    ]


def _sources(made: Gathered) -> list[Markup]:
    history = made.history
    pieces = [element("h2", "Sources", id="sources")]
    if history.files:
        pieces.append(element("ul", *(element("li", element("code", path)) for path in history.files)))
    elif not history.unread:
        pieces.append(element("p", "There is no audit: no watcher has answered a request here yet.", class_="soft"))
    pieces += [
        element("p", f"{one.path} cannot be read, so this may not be all: {one.reason}", class_="bad")
        for one in history.unread
    ]
    shown = [f"{one.path}, line {one.number}: {one.reason}" for one in history.bad[:_BAD_LINES]]
    if history.bad_lines:
        pieces.append(element("p", f"{history.bad_lines} lines are not used:", class_="warn"))
        pieces.append(element("ul", *(element("li", one) for one in shown)))
    if history.unknown_events:
        words = f"{history.unknown_events} lines are of a kind that this version does not know."
        pieces.append(element("p", words, class_="warn"))
    return pieces

"""The page of a report: whatever was written into the files, it shows text and does nothing; and it is quick."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvmefence.fencing.survey import DriveSurvey, HostOnDrive, State, Survey
from nvmefence.report import gather
from nvmefence.report.gather import Fleet
from nvmefence.report.page import Origin, page
from nvmefence.settings import Settings
from nvmefence.spool.response import RESPONSE_LIMIT
from nvmefence.watcher import past
from tests.unit.test_history import answer, begun, drive, written

EVIL = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(1)>]]>--></style></title></svg>\x1b[2J\u202e\0\ud800&lt;"
)
TAGS = {
    "a", "b", "body", "circle", "code", "desc", "details", "div", "h1", "h2", "head", "html", "li", "line", "meta",
    "nav", "p", "rect", "span", "style", "summary", "svg", "table", "tbody", "td", "text", "th", "thead", "time",
    "title", "tr", "ul",
}  # fmt: skip
ATTRIBUTES = {
    "class", "content", "cx", "cy", "datetime", "height", "href", "http-equiv", "id", "lang", "name", "open", "r",
    "role", "scope", "tabindex", "text-anchor", "title", "viewbox", "width", "x", "x1", "x2", "xmlns", "y", "y1",
    "y2", "charset",
}  # fmt: skip
VOID = {"meta"}
_TEXTS = ("request_id", "action_performed", "target_node", "message", "timestamp")


class Seen(HTMLParser):
    """What a browser makes of a page, as far as that is needed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.styles: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.styles.append(data)
        else:
            self.text += data

    def of(self, tag: str, name: str) -> list[str]:
        return [value for one, key, value in self.attributes if (one, key) == (tag, name)]


def made(place: Path, *documents: Any, fleet: Fleet | None = None, since: float | None = None) -> str:
    """The page of an audit."""
    if documents:
        written(place / "audit.jsonl", *documents)
    where = Settings(audit=str(place / "audit.jsonl"), response_dir=str(place / "res"))
    found = gather.gather(where, fleet or Fleet(why="no drives here"), since)
    return page(found, Origin("rabbit", time.time(), "UTC"))


def harmless(text: str) -> Seen:
    """Fail unless a page can do nothing but be read."""
    seen = Seen(text)
    assert seen.open == []
    assert set(seen.tags) <= TAGS
    assert {name for _, name, _ in seen.attributes} <= ATTRIBUTES
    ids = set(seen.of("details", "id") + seen.of("h2", "id"))
    for target in seen.of("a", "href"):
        assert target.startswith("#")
        assert target[1:] in ids
    assert "url(" not in "".join(seen.styles)
    assert "@import" not in "".join(seen.styles)
    (policy,) = [content for content in seen.of("meta", "content") if "default-src" in content]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in seen.styles]
    assert rules == {
        "default-src": "'none'", "base-uri": "'none'", "form-action": "'none'",
        "style-src": " ".join(f"'sha256-{one}'" for one in hashes),
    }  # fmt: skip
    assert text.index("Content-Security-Policy") < text.index("<style>")
    assert all(char.isprintable() or char == "\n" for char in text)
    return seen


def fenced(number: int = 0, **evidence: Any) -> dict[str, Any]:
    """An audit line as the watcher writes it."""
    took: dict[str, Any] = {
        "open": 0.001,
        "look": 0.002,
        "read": 0.01,
        "cut": 0.02,
        "read-back": 0.003,
        "total": 0.04,
    }
    one = drive(**took)
    one["hosts"]["c1"] |= {"controllers": [2], "quiesced": True, "detached": {"1": [2]}, "reason": ""}
    one |= {"read_back": {}, "quiesce": "none", "device": "/dev/nvme0", "namespaces": 1, "sent": []}
    made = {"host": "c1", "confirmed": True, "simulated": False, "started_at": "2026-11-24T04:09:00.000Z",
            "seconds": 0.04, "missing": [], "drives": [one]}  # fmt: skip
    response = {"request_id": f"id-{number}", "success": True, "action_performed": "off", "timestamp": "2026"}
    when = f"2026-11-24T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}.000Z"
    times = {"waited": 0.01, "total": 0.05, "fence": 0.04, "discovery": 0.001}
    return answer(
        time=when, file=f"{number}.json", response=response, evidence=made | evidence, times=times,
        request={"action": "off", "recorder_node": "r1", "request_id": f"id-{number}"},
    )  # fmt: skip


def survey(*names: str, serial: str = "S1", state: State = State.NONE) -> Survey:
    hosts = {name: HostOnDrive(state, reason="no answer" if state is State.UNKNOWN else "") for name in names}
    return Survey([DriveSurvey(serial, "nqn", "M", namespaces=[1], hosts=hosts)], [], "ioctl")


def test_a_fence_is_shown_with_its_proof_its_drives_and_its_timeline(tmp_path: Path) -> None:
    seen = harmless(made(tmp_path, fenced(), fleet=Fleet(survey("c1"), ["c1"], fenced=["c1"])))
    assert "c1 is fenced: cut from all of 1 expected drives" in seen.text
    assert "No fence is left unconfirmed. No fenced host is back" in seen.text
    assert seen.tags.count("svg") == 1
    assert {"/dev/nvme0", "not attached", "50.0 ms", "read-back"} <= set(re.split(r"[<>]", made(tmp_path)))
    assert "#fence-0" in seen.of("a", "href")


@pytest.mark.parametrize(
    ("values", "share", "least"),
    [
        ([79.0, 218.6], 0.5, 79.0),
        ([3.0], 0.5, 3.0),
        ([3.0], 0.95, 3.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        (list(range(1, 21)), 0.95, 19),
        (list(range(1, 21)), 0.5, 10),
        (list(range(1, 101)), 0.95, 95),
        ([1.0, 2.0], 0.0, 1.0),
        ([1.0, 2.0], 1.0, 2.0),
    ],
)
def test_a_quantile_is_the_least_value_that_so_many_do_not_exceed(
    values: list[float], share: float, least: float
) -> None:
    assert gather.quantile(values, share) == least
    assert sum(one <= least for one in values) >= share * len(values)
    assert sum(one < least for one in values) < max(share * len(values), 1)


def test_half_of_two_fences_took_no_longer_than_the_shorter_one(tmp_path: Path) -> None:
    short, long = answer(1, times={"total": 0.079}), answer(2, file="b.json", times={"total": 0.2186})
    shown = Seen(made(tmp_path, short, long)).text
    assert re.search(r"79(\.0)? ms\s*half of the fences took no longer", shown)


def test_with_nothing_on_record_there_is_a_page(tmp_path: Path) -> None:
    seen = harmless(made(tmp_path))
    for words in ("Nothing is on record.", "There is no audit", "nobody counts as fenced", "no drives here"):
        assert words in seen.text


def test_what_a_person_should_know_comes_first(tmp_path: Path) -> None:
    bad = fenced(5, confirmed=False) | {"result": "not-fenced", "message": "NOT fenced c1"}
    fleet = Fleet(survey("c1", state=State.UNKNOWN), ["c1"], fenced=["c1"], back=["c1"])
    banners = re.findall(r'class="banner (\w+)">([^<]*)', made(tmp_path, fenced(), bad, fleet=fleet))
    assert [tone for tone, _ in banners] == ["bad"] * 3
    assert [words for _, words in banners] == [
        "c1 is fenced and back: it can write",
        "The last fence of c1 is not confirmed: it may still be able to write",
        "Not every expected drive could be read: no fence would be confirmed there",
    ]
    again = made(tmp_path, fenced(), bad, fenced(9))
    assert "The last fence of" not in again, "a later one was confirmed"


def test_what_was_emulated_is_not_taken_for_true_nor_the_other_way_round(tmp_path: Path) -> None:
    assert "SIMULATED" not in made(tmp_path, fenced(), fleet=Fleet(survey("c1"), ["c1"]))
    mixed = made(tmp_path, fenced(), fenced(1, simulated=True), fleet=Fleet(survey("c1"), ["c1"], simulated=True))
    assert "SIMULATED: the drives of the fleet are emulated" in mixed
    assert "SIMULATED: 1 of 2 entries are of emulated drives" in mixed


def test_what_claims_more_than_it_proves_is_not_believed(tmp_path: Path) -> None:
    liar = fenced()
    liar["evidence"]["drives"][0]["read_back"] = {"1": [2]}
    assert "DO NOT RELY on this response" in made(tmp_path, liar)


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    evil = fenced(7, host=EVIL, missing=[EVIL], started_at=EVIL, backend=EVIL)
    evil |= {"target_node": EVIL, "message": EVIL, "file": EVIL, "result": EVIL}
    evil["request"] |= {"action": EVIL, "recorder_node": EVIL, "request_id": EVIL}
    evil["response"] |= {"request_id": EVIL, "action_performed": EVIL, "timestamp": EVIL, "timeline": {
        "writer": EVIL, "clock": EVIL, "read": 1.0, "answered": 2.0, "hint": EVIL, "ended": 1.5}}  # fmt: skip
    of_drive = evil["evidence"]["drives"][0]
    of_drive |= {"serial": EVIL, "device": EVIL, "model": EVIL, "quiesce": EVIL, "seconds": {EVIL: 0.5, "cut": 0.2}}
    of_drive["hosts"] = {EVIL: of_drive["hosts"]["c1"] | {"reason": EVIL, "outcome": EVIL}}
    lost = evil | {"result": "not-fenced", "time": "2026-11-24T05:00:00Z"}
    other = evil | {"event": "returned", "result": "returned", "time": "2026-11-24T06:00:00Z"}
    (tmp_path / "res").mkdir()
    for name in ("<b>.json", "\"'.json", "ok.json"):
        document: dict[str, Any] = dict.fromkeys(_TEXTS, EVIL) | {"success": True, "evidence": evil["evidence"]}
        (tmp_path / "res" / name).write_text(json.dumps(document))
    (tmp_path / "res" / "no.json").write_text("<script>alert(1)</script>")
    fleet = Fleet(
        survey(EVIL, serial=EVIL), [EVIL], fenced=[EVIL], back=[EVIL], on_record=[(EVIL, EVIL)], unread=[EVIL]
    )
    text = made(tmp_path, evil, lost, other, begun(1, files=(EVIL,), hosts=(EVIL,)), b"<script>\n", fleet=fleet)
    seen = harmless(text)
    assert seen.text.count("<script>alert(1)</script>") > 20
    assert "<script" not in text
    assert "\\x1b[2J\\u202e\\x00\\ud800&lt;" in html.unescape(text)
    text.encode()  # it can be written


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(EVIL),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["host", "drives", "seconds", "cut", "hosts", "c1", "missing", "timeline", "read_back"]),
        inner, max_size=4),
    max_leaves=20,
))  # fmt: skip
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_form_of_evidence_ends_it(tmp_path: Path, anything: Any) -> None:
    one = fenced() | {"evidence": anything}
    two = fenced(1) | {"response": anything, "times": anything, "request": anything}
    three = fenced(2)
    three["evidence"]["drives"] = [anything, {"seconds": anything, "hosts": {"c1": anything}}]
    harmless(made(tmp_path, one, two, three))


def test_since_leaves_out_what_was_before(tmp_path: Path) -> None:
    documents = [fenced(number) for number in range(10)]
    text = made(tmp_path, *documents, since=past.moment("2026-11-24T00:00:06Z"))
    assert text.count("<details") == 4
    assert len(re.findall(r'<time datetime="[^"]*">', text)) == 4


def test_of_a_long_history_the_newest_is_shown(tmp_path: Path) -> None:
    text = "".join(json.dumps(fenced(number)) + "\n" for number in range(10_000))
    (tmp_path / "audit.jsonl").write_text(text)
    begun_at = time.process_time()
    shown = made(tmp_path)
    took = time.process_time() - begun_at
    print(f"{len(text) >> 20} MiB of audit in {took:.2f} s, {len(shown) >> 10} KiB of page")
    assert "9000 older ones are left out" in shown
    assert shown.count("<details") == gather.FENCES
    assert len(shown) < 4 << 20
    assert "id-9999" in shown


def test_evidence_that_is_very_large_is_not_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_EVIDENCE_BYTES", 5000)
    text = made(tmp_path, *(fenced(number) for number in range(20)))
    assert 1 <= text.count("<details") <= 6
    assert "id-19" in text


def test_a_response_that_is_no_file_holds_nothing_up(tmp_path: Path) -> None:
    answers = tmp_path / "res"
    answers.mkdir()
    os.mkfifo(answers / "fifo.json")
    (answers / "link.json").symlink_to("/etc/passwd")
    (answers / "folder.json").mkdir()
    (answers / "long.json").write_bytes(b" " * (RESPONSE_LIMIT + 1))
    text = made(tmp_path)
    for words in ("not a regular file", "Too many levels of symbolic links", "more than 4194304 bytes"):
        assert words in text
    assert "root:" not in text

"""`history` and `explain` on what a real watcher leaves: answers, failures, and a fence without an end."""

from __future__ import annotations

import contextlib
import gzip
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.place import CLEAN, FLEET, HUNG, MAIN, REMOVED, STATE, Place

OLD = "2020-01-01T00:00:00Z"
EVIL = "\x1b[2J\x1b]0;x\x07\n\u202e"
LIMIT_S = 15


class Station(Place):
    """A place with the watcher's directories."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.requests, self.responses, self.audit = path / "req", path / "res", path / "audit.jsonl"
        for directory in (self.requests, self.responses, path / "log"):
            directory.mkdir()

    def ask(self, name: str, target: str, **fields: Any) -> None:
        document = {"request_id": name, "action": "off", "target_node": target, "recorder_node": "r1", **fields}
        draft = self.requests / f".{name}.tmp"
        draft.write_text(json.dumps(document))
        draft.rename(self.requests / f"{name}.json")

    @contextlib.contextmanager
    def watcher(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [
            *MAIN, "watch", "--simulate", "fleet.toml", "--hosts", "hosts.toml", "--quiesce", "wait:0.1",
            "--vigil-s", "0", "--request-dir", str(self.requests), "--response-dir", str(self.responses),
            "--log-dir", str(self.path / "log"), "--audit", str(self.audit),
        ]  # fmt: skip
        with subprocess.Popen(command, cwd=self.path, env=CLEAN, stderr=subprocess.DEVNULL) as process:
            try:
                yield process
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    process.wait(LIMIT_S)
            finally:
                process.kill()

    def serve(self, *names: str) -> None:
        """Have a watcher answer requests, and stop it."""
        with self.watcher():
            self.until(lambda: all((self.responses / f"{name}.json").exists() for name in names))

    def until(self, condition: Any) -> None:
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end, "the watcher has not done it in time"
            time.sleep(0.02)

    def past(self, *words: str) -> subprocess.CompletedProcess[str]:
        where = ["--response-dir", str(self.responses)]
        if words[0] == "history":
            where += ["--audit", str(self.audit)]
        return self.spawn([*MAIN, *words, *where])

    def records(self, *words: str) -> list[dict[str, Any]]:
        done = self.past("history", "--json", *words)
        assert (done.returncode, done.stderr) == (0, "")
        found: list[dict[str, Any]] = json.loads(done.stdout)["records"]
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Station:
    """Answers of two watchers; the second had a drive less."""
    station = Station(tmp_path_factory.mktemp("served"))
    station.ask("one", "c1", recorder_node=EVIL)
    station.ask("two", "c2")
    station.ask("old", "c1", timestamp=OLD)
    station.ask("unknown", "c3")
    station.serve("one", "two", "old", "unknown")
    (station.path / STATE).unlink()  # it knows another drive
    station.write(FLEET + REMOVED)
    station.ask("missing", "c1-ib", action="reboot")
    station.serve("missing")
    return station


@pytest.fixture
def station(tmp_path: Path) -> Station:
    return Station(tmp_path)


def test_history_of_answers(served: Station) -> None:
    found = {record["file"].removesuffix(".json"): record for record in served.records()}
    assert {name: record["result"] for name, record in found.items()} == {
        "one": "fenced", "two": "fenced", "old": "expired", "unknown": "unknown-host", "missing": "not-fenced",
    }  # fmt: skip
    assert served.records()[-1]["file"] == "missing.json"
    one, missing = found["one"], found["missing"]
    assert (one["hosts"], one["drives"], one["simulated"]) == (["c1"], {"cut": 3, "total": 3}, True)
    assert one["recorder_node"] == EVIL
    assert all(seconds is not None and seconds >= 0 for seconds in one["seconds"].values())
    assert 0.1 <= one["seconds"]["quiesce"] <= one["seconds"]["fence"] <= one["seconds"]["total"] < LIMIT_S
    assert (missing["target_node"], missing["hosts"], missing["action"]) == ("c1-ib", ["c1"], "reboot")
    assert missing["drives"] == {"cut": 2, "total": 2}


def test_two_hosts_of_one_pass_are_two_records(served: Station) -> None:
    begun = [json.loads(line) for line in served.audit.read_text().splitlines() if '"begun"' in line]
    assert sorted(begun[0]["files"]) == ["one.json", "two.json"]
    assert [record["file"] for record in served.records("--host", "c2")] == ["two.json"]


def test_history_by_any_name_of_the_host(served: Station) -> None:
    for name in ("c1", "C1-IB"):
        assert {record["file"] for record in served.records("--host", name)} == {
            "one.json",
            "old.json",
            "missing.json",
        }
    assert [record["file"] for record in served.records("--host", "c1", "--last", "1")] == ["missing.json"]
    assert len(served.records("--since", "1h")) == 5
    assert served.records("--since", "2100-01-01") == []


def test_history_as_text_is_harmless(served: Station) -> None:
    done = served.past("history")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(c.isprintable() or c == "\n" for c in done.stdout)
    assert "fenced SIMULATED" in done.stdout
    assert "\\x1b[2J" in done.stdout
    assert "Nothing was done: expired" in done.stdout
    coloured = served.spawn(
        [*MAIN, "history", "--audit", str(served.audit), "--response-dir", str(served.responses)], FORCE_COLOR="1"
    )
    assert "\x1b[3" in coloured.stdout
    assert "\x1b[2J" not in coloured.stdout


def test_settings_may_come_from_the_environment(served: Station) -> None:
    variables = {"NVMEFENCE_AUDIT": str(served.audit), "NNF_FENCE_RESPONSE_DIR": str(served.responses)}
    done = served.spawn([*MAIN, "history", "--json"], **variables)
    assert len(json.loads(done.stdout)["records"]) == 5
    assert served.spawn([*MAIN, "explain", "one"], **variables).returncode == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "one",
            [
                "SIMULATED: these drives were emulated",
                "c1 is fenced: cut from all of 3",
                "none of c1's controllers",
            ],
        ),
        (
            "missing",
            ["c1-ib (host c1 of the map) is NOT fenced", "1 of 3 drives missing", "detach --host c1", "wait:0.1"],
        ),
        ("old", ["c1 is NOT fenced", "carries no evidence", "expired"]),
        ("unknown", ["c3 is NOT fenced", "host 'c3' is not in hosts.toml"]),
    ],
)
def test_explain_answers(served: Station, name: str, words: list[str]) -> None:
    by_path = served.past("explain", str(served.responses / f"{name}.json"))
    by_id = served.past("explain", name)
    assert (by_path.returncode, by_path.stderr) == (0, "")
    assert by_id.stdout == by_path.stdout
    assert all(c.isprintable() or c == "\n" for c in by_path.stdout)
    for word in words:
        assert word in by_path.stdout


def test_explain_as_json_and_from_standard_input(served: Station) -> None:
    with open(served.responses / "missing.json", "rb") as stream:
        done = subprocess.run(
            [*MAIN, "explain", "-", "--json"], stdin=stream, env=CLEAN, capture_output=True, timeout=30, check=False
        )
    made = json.loads(done.stdout)
    assert (done.returncode, made["exit"], made["file"]) == (0, 0, "standard input")
    assert (made["verdict"], made["simulated"], made["missing"]) == ("not-fenced", True, ["1 of 3 drives missing"])
    assert [drive["confirmed"] for drive in made["drives"]] == [True, True]


def test_a_watcher_that_was_killed_in_the_middle_and_the_next_one(station: Station) -> None:
    station.write(FLEET + HUNG)
    station.ask("cut-short", "c1-ib")
    with station.watcher() as process:
        station.until(lambda: station.audit.exists() and station.records())
        (record,) = station.records()
        assert (record["result"], record["hosts"]) == ("under-way", ["c1"])
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT_S)
    (record,) = station.records()
    assert (record["result"], record["answered_later"], record["watcher"]["pid"]) == (
        "interrupted",
        "",
        process.pid,
    )
    assert "there is none since" in station.past("history").stdout
    station.write()
    station.serve("cut-short")
    first, second = station.records("--host", "c1")
    assert (first["result"], first["answered_later"], first["target_node"]) == ("interrupted", "fenced", "c1-ib")
    assert (second["result"], second["watcher"]["pid"] != process.pid) == ("fenced", True)


def test_rotated_files_a_torn_line_and_the_stand_in(station: Station) -> None:
    station.ask("a", "c1")
    station.serve("a")
    (station.path / "audit.jsonl-20261122.gz").write_bytes(gzip.compress(station.audit.read_bytes()))
    station.audit.unlink()
    station.ask("b", "c2")
    station.serve("b")
    station.audit.rename(station.path / "audit.jsonl.1")
    station.audit.mkdir()  # takes no line
    station.ask("c", "c1")
    station.serve("c")
    station.audit.rmdir()
    station.audit.write_bytes(b'{"time":"2026-11-24T04:')
    done = station.past("history", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert [record["file"] for record in document["records"]] == ["a.json", "b.json", "c.json"]
    assert [record["result"] for record in document["records"]] == ["fenced"] * 3
    assert len(document["files"]) == 4
    assert document["bad"] == [{"file": str(station.audit), "line": 1, "reason": "the last line, not finished"}]
    assert f"{station.audit}: not used: line 1: the last line" in station.past("history").stdout


def test_exit_codes_of_what_is_not_there(station: Station) -> None:
    done = station.past("history")
    assert (done.returncode, done.stdout) == (11, "")
    assert "there is no audit" in done.stderr
    assert "none has answered a request on this machine yet" in done.stderr
    done = station.past("explain", "nothing", "--json")
    assert done.returncode == json.loads(done.stdout)["exit"] == 11
    (station.path / "x.json").write_text('{"action": "off"}')
    done = station.past("explain", "x.json")
    assert (done.returncode, done.stdout) == (11, "")
    assert "x.json is not a response: request_id must be text" in done.stderr
    assert station.past("explain").returncode == 2
    station.audit.symlink_to("audit.jsonl")
    done = station.past("history")
    assert (done.returncode, "symbolic links" in done.stderr) == (11, True)

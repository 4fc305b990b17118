"""The watcher as a process: what agents of all kinds get from it, and what its operator can do to it."""

from __future__ import annotations

import datetime
import json
import os
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.system.place import CLEAN, FLEET, HOSTS, HUNG, MAIN, REMOVED, SLOT_0, SLOT_1, SLOW
from tests.system.watching import Running, Watching, until


@pytest.fixture
def place(tmp_path: Path) -> Watching:
    return Watching(tmp_path)


def holders(place: Watching) -> set[int]:
    """The controllers that are attached anywhere."""
    return {cntlid for drive in place.attached().values() for ids in drive.values() for cntlid in ids}


def test_agent_and_watcher_cut_a_host_and_nobody_else(place: Watching) -> None:
    with place.watcher() as running:
        done = place.agent("-o", "off", "-n", "c1", "-v")
        assert (done.returncode, SLOT_0 in holders(place)) == (0, False), done.stderr
        assert holders(place) == {1, SLOT_1, 4, 5}
        assert "Fenced c1: detached 12 attachments on 3 drives" in done.stderr
        assert place.agent("-o", "monitor").returncode == 0
        assert place.agent("-o", "status", "-n", "c1").returncode == 2
        assert running.stop() == 0
    (line,) = place.lines()
    assert (line["result"], line["request"]["recorder_node"]) == ("fenced", os.uname().nodename)
    assert place.pending() == []


def test_the_six_fields_and_the_evidence_are_there(place: Watching) -> None:
    with place.watcher():
        answer = place.answered(place.ask("r.json", action="reboot", recorder_node="rabbit-1"))
    assert answer.pop("evidence")["drives"][0]["read_back"] == {}
    assert answer.pop("message").endswith("the storage is cut, nobody power-cycled the node)")
    assert datetime.datetime.fromisoformat(answer.pop("timestamp"))
    assert answer.pop("timeline")["writer"] == "watcher"
    assert answer == {
        "request_id": "r", "success": True, "action_performed": "reboot", "target_node": "c1", "action": "reboot",
        "recorder_node": "rabbit-1", "status": "success",
    }  # fmt: skip


@pytest.mark.parametrize("stamp", ["offset", "naive", "zulu", "none"])
def test_requests_of_every_agent_in_the_field_are_served(place: Watching, stamp: str) -> None:
    now = datetime.datetime.now().astimezone()
    stamps = {
        "offset": now.isoformat(),
        "naive": now.replace(tzinfo=None).isoformat(),
        "zulu": now.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "none": None,
    }
    request_id = str(uuid.uuid4())
    with place.watcher():
        founding = place.ask(f"{request_id}.json", timestamp=stamps[stamp], gfs2_filesystems=["lustre-fs1"])
        named = place.ask(
            f"c2-{request_id}.json",
            request_id=request_id,
            target_node="c2",
            timestamp=stamps[stamp],
            vendor={"x": 1},
        )
        assert place.answered(founding)["success"] is True
        answer = place.answered(named)
    assert (answer["success"], answer["target_node"], answer["request_id"]) == (True, "c2", request_id)
    assert nnf_node_manager_says_fenced(place) == {"c1", "c2"}
    assert [line["request"]["unknown"] for line in place.lines() if line["target_node"] == "c2"] == [
        {"vendor": {"x": 1}}
    ]


def nnf_node_manager_says_fenced(place: Watching) -> set[str]:
    """Its rule: any *.json with a host's name as target_node, and success true or status "success"."""
    nodes = set()
    for path in place.answers.glob("*.json"):
        document = json.loads(path.read_text())
        if document["success"] is True or document.get("status") == "success":
            nodes.add(document["target_node"])
    return nodes


def test_a_request_written_in_place_and_slowly_is_served_when_it_is_whole(place: Watching) -> None:
    text = json.dumps({"request_id": "slow", "action": "off", "target_node": "c1"})
    with place.watcher():
        path = place.requests / "slow.json"
        with path.open("w") as stream:
            path.chmod(0o600)
            for part in (text[:20], text[20:40], text[40:]):
                stream.write(part)
                stream.flush()
                time.sleep(0.4)
        assert place.answered(place.answers / "slow.json")["success"] is True
    assert not (place.requests / "rejected").exists()


def test_what_is_no_request_is_put_aside_with_its_reason(place: Watching) -> None:
    (place.path / "secret").write_text("{}")
    with place.watcher() as running:
        (place.requests / "link.json").symlink_to(place.path / "secret")
        os.mkfifo(place.requests / "pipe.json")
        (place.requests / "folder.json").mkdir()
        place.put("big.json", b"x" * 70_000)
        twice = place.put("twice.json", '{"request_id": "a", "request_id": "b"}')
        wrong = place.put("wrong.json", '{"request_id": "w-1", "action": "explode", "target_node": "c1"}')
        open_to_all = place.ask("open.json")
        (place.requests / "open.json").chmod(0o666)
        assert place.answered(wrong)["message"].endswith("action must be off, reboot or on, is 'explode'")
        rejected = place.requests / "rejected"
        names = {"link.json", "pipe.json", "big.json", "twice.json", "wrong.json"}
        until(
            lambda: rejected.is_dir() and names <= {p.name for p in rejected.iterdir()}, "everything is put aside"
        )
        assert place.answered(place.ask("good.json"))["success"] is True
        running.hears("entries are no requests and stay: 'folder.json'")
    assert not twice.exists()
    assert "twice" in (rejected / "twice.json.reason").read_text()
    assert open_to_all.exists() or (rejected / "open.json").exists()


def test_an_answered_request_is_not_executed_again(place: Watching) -> None:
    with place.watcher() as running:
        first = place.answered(place.ask("r.json"))
        until(lambda: not place.pending(), "the request is removed")
        place.ask("r.json", target_node="c2")
        running.hears("r.json was answered before and is not executed again")
        until(lambda: not place.pending(), "the repeat is removed")
    assert json.loads((place.answers / "r.json").read_text()) == first
    assert SLOT_1 in holders(place)


def test_nothing_but_a_young_request_cuts(place: Watching) -> None:
    old = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=400)).isoformat()
    place.ask("late.json", timeout_s=0.3)
    time.sleep(0.4)
    with place.watcher():
        answers = [
            place.answered(place.ask("old.json", timestamp=old)),
            place.answered(place.answers / "late.json"),
            place.answered(place.ask("stranger.json", target_node="nobody")),
        ]
    assert [answer["success"] for answer in answers] == [False] * 3
    assert "s old, and max_request_age_s is 300 s" in answers[0]["message"]
    assert "its own timeout_s is 0.3 s" in answers[1]["message"]
    assert "host 'nobody' is not in hosts.toml" in answers[2]["message"]
    assert holders(place) == {1, 2, 3, 4, 5}


def test_on_touches_no_drive_and_says_so(place: Watching) -> None:
    with place.watcher():
        place.answered(place.ask("fence.json"))
        answer = place.answered(place.ask("unfence.json", action="on"))
    assert answer["success"] is True
    assert "its storage is still cut" in answer["message"]
    assert SLOT_0 not in holders(place)


def test_a_missing_drive_fails_the_fence_with_its_reason(place: Watching) -> None:
    place.write(FLEET + REMOVED)
    with place.watcher() as running:
        done = place.agent("-o", "off", "-n", "c1")
        running.hears("no fence will be confirmed")
    assert done.returncode == 1
    assert "NOT fenced c1 (2 of 2 drives cut): 1 of 3 drives missing" in done.stderr


def test_sigterm_finishes_the_fence_in_hand(place: Watching) -> None:
    place.write(FLEET + SLOW)
    with place.watcher() as running:
        response = place.ask("r.json")
        running.hears("fencing c1")
        assert running.stop() == 0
    assert json.loads(response.read_text())["success"] is True
    assert place.pending() == []


def test_a_hung_drive_delays_no_other_fence_beyond_its_own_deadline(place: Watching) -> None:
    place.write(FLEET + HUNG)
    with place.watcher("--deadline", "8") as running:
        start = time.monotonic()
        first = place.ask("r-1.json")
        running.hears("fencing c1")
        time.sleep(1)
        second = place.ask("r-2.json", target_node="c2")
        running.hears("fencing c2", within=6)  # not after the first has ended
        messages = [place.answered(path)["message"] for path in (first, second)]
        assert time.monotonic() - start < 20
    assert ["HUNG: Identify Controller: no answer" in message for message in messages] == [True, True], messages
    assert SLOT_0 not in {
        c for serial, d in place.attached().items() if serial != "SIM00001" for i in d.values() for c in i
    }


def test_all_hosts_at_once_share_a_pass(place: Watching) -> None:
    hosts = "".join(f"[hosts.h{n}]\nslot = {n}\n" for n in range(16))
    place.write(
        "[fleet]\ndrives = 3\nsecondary_controllers = 20\nnamespaces = 4\n",
        f"version = 1\n[drives]\ncount = 3\n{hosts}",
    )
    responses = [place.ask(f"r-{n}.json", target_node=f"h{n}") for n in range(16)]
    with place.watcher():
        assert all(place.answered(response)["success"] for response in responses)
        until(lambda: len(place.lines()) == 16, "a line for each")
    assert [len(line["hosts"]) for line in place.lines("begun")] == [16]


def test_a_new_host_map_counts_after_sighup_and_a_bad_one_does_not(place: Watching) -> None:
    with place.watcher() as running:
        place.write(hosts=HOSTS + "[hosts.c3]\nslot = 2\n")
        assert place.answered(place.ask("before.json", target_node="c3"))["success"] is False
        running.process.send_signal(signal.SIGHUP)
        running.hears("host map read anew from hosts.toml: 3 hosts")
        assert place.answered(place.ask("after.json", target_node="c3"))["success"] is True
        place.write(hosts="version = 1\n[hosts")
        running.process.send_signal(signal.SIGHUP)
        running.hears("host map: kept as it was, for the new one is refused")
        assert place.answered(place.ask("still.json", target_node="c1"))["success"] is True
        place.write()
        running.process.send_signal(signal.SIGHUP)
        running.hears("host map: well again")


def test_only_one_watcher_serves_a_directory(place: Watching) -> None:
    with place.watcher() as first:
        done = subprocess.run(
            [*MAIN, *place.arguments()], cwd=place.path, env=CLEAN, capture_output=True, text=True, timeout=30,
            check=False,
        )  # fmt: skip
        assert done.returncode == 10
        assert f"another watcher serves '{place.requests}' (process {first.process.pid} on" in done.stderr
        with place.watcher(ready=False) as second:
            time.sleep(0.5)
            first.kill()
            second.hears("serving")
            assert place.answered(place.ask("r.json"))["success"] is True


def test_a_watcher_that_was_stopped_does_not_act_on_what_expired_meanwhile(place: Watching) -> None:
    with place.watcher() as running:
        running.process.send_signal(signal.SIGSTOP)
        response = place.ask("r.json", timeout_s=0.5)
        time.sleep(0.7)
        running.process.send_signal(signal.SIGCONT)
        assert "expired" in place.answered(response)["message"]
    assert holders(place) == {1, 2, 3, 4, 5}


class Manager:
    """A service manager's end of the notify socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path / "notify"))
        self.socket.settimeout(20)
        self.environment = {"NOTIFY_SOCKET": str(path / "notify")}

    def hears(self, start: str) -> dict[str, str]:
        """Wait for a message with this assignment."""
        while True:
            lines = self.socket.recv(4096).decode().splitlines()
            if any(line.startswith(start) for line in lines):
                return dict(line.split("=", 1) for line in lines)


def test_the_service_manager_hears_how_it_is(place: Watching) -> None:
    manager = Manager(place.path)
    variables = {**manager.environment, "WATCHDOG_USEC": "300000"}
    with place.watcher(env=variables) as running:
        assert manager.hears("READY=1")["STATUS"] == "serving; no fence yet"
        assert [manager.hears("WATCHDOG=1") for _ in range(3)]
        place.ask("r.json")
        assert manager.hears("STATUS=fencing c1")
        assert "last: SIMULATED: Fenced c1" in manager.hears("STATUS=serving; last")["STATUS"]
        running.process.send_signal(signal.SIGHUP)
        assert int(manager.hears("RELOADING=1")["MONOTONIC_USEC"]) > 0
        assert manager.hears("READY=1")
        running.process.send_signal(signal.SIGTERM)
        assert manager.hears("STOPPING=1")


def test_it_talks_json_to_programs(place: Watching) -> None:
    with place.watcher("--json", ready=False) as running:
        running.hears('"serving ')
        place.answered(place.ask("r.json"))
        running.hears('"result": "fenced"')
        running.stop()
        lines: list[dict[str, Any]] = [json.loads(line) for line in running.text().splitlines()]
    assert {line["level"] for line in lines} <= {"info", "notice", "warning", "error"}
    assert [line["target_node"] for line in lines if line.get("result")] == ["c1"]


def test_bad_settings_end_it_before_anything_is_served(place: Watching) -> None:
    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [*MAIN, *place.arguments(*words)], cwd=place.path, env=CLEAN, capture_output=True, text=True,
            timeout=30, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    assert run("--response-dir", str(place.requests))[0] == 3
    code, said = run("--request-dir", "/localdisk/gfs2-fencing/requests")
    assert (code, "simulated drives do not serve" in said) == (3, True)
    by_settings = [word for word in place.arguments() if word not in ("--simulate", "fleet.toml")]
    done = subprocess.run(
        [*MAIN, *by_settings], cwd=place.path, env={**CLEAN, "NVMEFENCE_SIMULATE": "fleet.toml"},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "the settings say that drives are simulated (fleet.toml), and the command line does not" in done.stderr
    assert run("--hosts", "missing.toml")[0] == 3
    assert run("--quiesce", "wait:40")[0] == 3
    assert run("--max-request-age-s", "0")[0] == 3
    assert run("--no-such-option")[0] == 2


def test_nothing_is_loaded_for_a_fence(place: Watching) -> None:
    place.write(FLEET + SLOW)
    command = [MAIN[0], "-X", "importtime", *MAIN[1:], *place.arguments()]
    running = Running(command, place.path)
    try:
        running.hears("SIMULATED drives through")
        before = running.text().count("import time:")
        answers = [place.answered(place.ask(f"r-{host}.json", target_node=host)) for host in ("c1", "c2", "nobody")]
        place.put("bad.json", '{"request_id": "w-1"}')
        running.hears("bad.json is rejected")
        running.process.send_signal(signal.SIGHUP)
        running.hears("host map read anew")
        assert [answer["success"] for answer in answers] == [True, True, False]
        assert before > 50
        assert running.text().count("import time:") == before, running.text()[-3000:]
    finally:
        running.kill()

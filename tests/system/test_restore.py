"""What was taken is given back by processes: whole, in part, after a kill, and never beside a fence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from nvmefence.errors import Exit
from tests.system.place import CLEAN, FLEET, REMOVED, SLOW, STATE, Place
from tests.system.watching import Watching, until

HOSTS_WITHOUT_C1 = "version = 1\n[drives]\ncount = 3\n[hosts.c2]\nslot = 1\n"
DRAIN = ("--quiesce", "drain")


@pytest.fixture
def watched(tmp_path: Path) -> Watching:
    return Watching(tmp_path)


def state(place: Place) -> Any:
    """What differs from the fleet's initial state."""
    file = place.path / STATE
    return json.loads(file.read_text())["drives"] if file.exists() else {}


def record(place: Place, host: str = "c1") -> Any:
    file = place.path / "fleet.toml.fenced" / f"{host}.json"
    return json.loads(file.read_text()) if file.exists() else None


def archived(place: Place) -> list[str]:
    directory = place.path / "fleet.toml.fenced" / "archive"
    return sorted(file.name for file in directory.iterdir()) if directory.exists() else []


@pytest.mark.parametrize("rule", ["none", "drain", "offline"])
def test_a_host_gets_everything_back_bit_for_bit(place: Place, rule: str) -> None:
    done = place.run("detach", "--host", "c1", "--quiesce", rule)
    assert done.returncode == 0
    assert "What was taken is on record. Give it back: nvmefence restore --host c1" in done.stdout
    assert state(place)
    on_record = record(place)
    assert (on_record["confirmed"], len(on_record["drives"]), on_record["asked"][0]["by"]) == (
        True,
        3,
        "command line",
    )
    done = place.run("restore", "--host", "C1-IB")
    assert (done.returncode, done.stderr) == (0, "")
    assert "SIMULATED: Restored c1: it has 12 attachments" in done.stdout
    assert "c1 is fenced no longer" in done.stdout
    assert state(place) == {}
    assert record(place) is None
    assert len(archived(place)) == 1


def test_restoring_again_says_that_nothing_is_on_record(place: Place) -> None:
    place.run("detach", "--host", "c1")
    place.run("restore", "--host", "c1")
    done = place.run("restore", "--host", "c1")
    assert done.returncode == 0
    assert "Nothing is on record as taken from c1" in done.stdout
    assert state(place) == {}


def test_a_dry_run_changes_nothing_and_names_every_command(place: Place) -> None:
    place.run("detach", "--host", "c1", "--quiesce", "offline")
    before, was = state(place), record(place)
    done = place.run("restore", "--host", "c1", "--dry-run")
    assert done.returncode == 0
    assert done.stdout.count("(attach)") == 12
    assert done.stdout.count("(online, with 2 queues and 2 interrupts)") == 3
    assert "dry run: 15 commands would be sent to restore c1; none was sent" in done.stdout
    code, document = place.json("restore", "--host", "c1", "--dry-run")
    assert (code, len(document["commands"]), document["left"]) == (0, 15, [])
    assert (state(place), record(place)) == (before, was)


def test_12_what_cannot_be_given_back_is_named_and_stays_on_record(place: Place) -> None:
    place.run("detach", "--host", "c1")
    document = record(place)
    first, second = document["drives"][0]["taken"][:2]
    first["identity"]["nguid"] = "0" * 31 + "1"
    second["identity"] = None
    (place.path / "fleet.toml.fenced" / "c1.json").write_text(json.dumps(document))
    done = place.run("restore", "--host", "c1")
    assert done.returncode == Exit.NOT_RESTORED
    assert "NOT all of c1 restored (10 attachments on 3 drives)" in done.stdout
    assert "namespace 1 for controller 2: another namespace has its number now" in done.stdout
    assert "namespace 2 for controller 2: which namespace it was is not on record" in done.stdout
    assert "  nvme attach-ns /dev/nvme0 --namespace-id=2 --controllers=2\n" in done.stdout
    left = record(place)
    assert [one["nsid"] for drive in left["drives"] for one in drive["taken"]] == [1, 2]
    assert (left["fenced_at"], left["confirmed"]) == (None, False)
    code, document = place.json("restore", "--host", "c1")
    assert (code, document["complete"], len(document["result"]["left"])) == (12, False, 2)
    assert [place.run("restore", "--host", "c1", "--dry-run").returncode, document["exit"]] == [12, 12]


def test_12_a_drive_that_is_missing_gets_its_part_when_it_is_back(place: Place) -> None:
    place.run("detach", "--host", "c1")
    place.write(FLEET + REMOVED.replace('serial = "GONE"', 'serial = "SIM00001"'))
    done = place.run("restore", "--host", "c1")
    assert done.returncode == Exit.NOT_RESTORED
    assert "SIM00001: namespace 1 for controller 2: the drive is not among the expected ones" in done.stdout
    place.write()
    assert place.run("restore", "--host", "c1").returncode == 0
    assert state(place) == {}


def test_4_and_11_nothing_is_done_for_who_is_unknown_or_whose_record_is_spoiled(place: Place) -> None:
    place.run("detach", "--host", "c1")
    before = state(place)
    assert place.run("restore", "--host", "c9").returncode == Exit.UNKNOWN_HOST
    assert place.run("unfence", "--host", "c9").returncode == Exit.UNKNOWN_HOST
    file = place.path / "fleet.toml.fenced" / "c1.json"
    file.write_text(file.read_text()[:-20])
    done = place.run("restore", "--host", "c1")
    assert done.returncode == Exit.BAD_FILE
    assert "the record of 'c1'" in done.stderr
    assert "nvmefence unfence" in done.stderr
    assert state(place) == before
    done = place.run("unfence", "--host", "c1")
    assert done.returncode == 0
    assert "put aside unread" in done.stderr
    assert not file.exists()


@pytest.mark.parametrize("command", ["restore", "unfence"])
def test_a_rehearsal_leaves_what_says_that_a_real_host_is_fenced(place: Place, command: str) -> None:
    """Whatever directories it is given: a rehearsal's own record and response go, a real host's stay."""
    responses, records = place.path / "responses", place.path / "fleet.toml.fenced"
    responses.mkdir()
    answer = {
        "request_id": "r", "success": True, "action_performed": "off", "target_node": "c1", "timestamp": "t",
        "status": "success", "message": "Fenced c1: detached 12 attachments",
    }  # fmt: skip
    (responses / "real.json").write_text(json.dumps(answer))
    (responses / "trial.json").write_text(json.dumps(answer | {"message": f"SIMULATED: {answer['message']}"}))
    place.run("detach", "--host", "c1")
    done = place.run(command, "--host", "c1", "--response-dir", str(responses))
    assert done.returncode == 0
    assert sorted(path.name for path in responses.glob("*.json")) == ["real.json"]
    place.run("detach", "--host", "c1")
    file = records / "c1.json"
    file.write_text(json.dumps(record(place) | {"simulated": False}))
    before = file.read_bytes(), state(place)
    done = place.run(command, "--host", "c1", "--response-dir", str(responses))
    assert done.returncode == Exit.BAD_FILE
    assert "it is about real drives" in done.stderr
    assert (file.read_bytes(), state(place)) == before


def test_2_a_host_must_be_named(place: Place) -> None:
    assert place.run("restore").returncode == place.run("unfence").returncode == 2


def test_unfence_touches_no_drive_and_tells_what_stays(place: Place) -> None:
    place.run("detach", "--host", "c1", "--quiesce", "offline")
    before = state(place)
    told = place.run("unfence", "--host", "c1", "--dry-run")
    assert "would be fenced no longer; nothing was changed" in told.stdout
    assert record(place) is not None
    done = place.run("unfence", "--host", "c1")
    assert done.returncode == 0
    assert "c1 is fenced no longer; no drive was touched" in done.stdout
    assert "It does not get back the 12 attachments" in done.stdout
    assert "SIM00002: controller 2 stays offline" in done.stdout
    assert (state(place), record(place)) == (before, None)
    assert "nothing says that it is fenced" in place.run("unfence", "--host", "c1").stdout


def test_unfence_clears_a_host_that_is_no_longer_in_the_map(place: Place) -> None:
    place.run("detach", "--host", "c1")
    place.write(hosts=HOSTS_WITHOUT_C1)
    assert place.run("restore", "--host", "c1").returncode == Exit.UNKNOWN_HOST
    assert place.run("unfence", "--host", "c1").returncode == 0
    assert record(place) is None


def test_a_second_fence_adds_to_the_record_and_one_that_finds_nothing_takes_nothing_off(place: Place) -> None:
    place.run("detach", "--host", "c1")
    taken = [drive["taken"] for drive in record(place)["drives"]]
    place.run("detach", "--host", "c1")
    after = record(place)
    assert [drive["taken"] for drive in after["drives"]] == taken
    assert len(after["asked"]) == 2


def test_records_of_simulated_drives_are_never_taken_for_real_ones(place: Place, tmp_path: Path) -> None:
    place.run("detach", "--host", "c1")
    file = place.path / "fleet.toml.fenced" / "c1.json"
    document = json.loads(file.read_text()) | {"simulated": False}
    file.write_text(json.dumps(document))
    done = place.run("restore", "--host", "c1")
    assert done.returncode == Exit.BAD_FILE
    assert "it is about real drives" in done.stderr


def test_a_record_that_cannot_be_written_changes_nothing_about_the_fence_and_is_said(place: Place) -> None:
    (place.path / "file").write_text("")
    done = place.run("detach", "--host", "c1", "--records", str(place.path / "file" / "fenced"))
    assert done.returncode == 0
    assert "c1: what was taken is NOT on record: " in done.stdout
    code, document = place.json("detach", "--host", "c2", "--records", str(place.path / "file" / "fenced"))
    assert code == 0
    assert "Not a directory" in document["hosts"][0]["not_on_record"]


# Fences and restores beside each other


def begin(place: Place, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        place.command(*words), cwd=place.path, env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_13_a_restore_is_refused_while_the_host_is_being_fenced(place: Place) -> None:
    place.run("detach", "--host", "c1")
    fence = begin(place, "detach", "--host", "c1", "--quiesce", "wait:2")
    until(lambda: place.run("restore", "--host", "c1", "--dry-run") and fence.poll() is None, "it is under way")
    for command in ("restore", "unfence"):
        done = place.run(command, "--host", "c1")
        assert done.returncode == Exit.UNDER_WAY, done.stdout
        assert f"a fence (process {fence.pid}) of c1 is under way" in done.stderr
    assert place.run("restore", "--host", "c2").returncode == 0
    assert fence.wait(20) == 0
    fence.communicate()
    assert state(place) != {}
    assert place.run("restore", "--host", "c1").returncode == 0


def test_a_fence_that_begins_in_a_restore_wins(place: Place) -> None:
    place.run("detach", "--host", "c1")
    place.write(FLEET + SLOW.replace('serial = "SLOW"', 'serial = "SIM00001"'))
    restore = begin(place, "restore", "--host", "c1", "--json")
    until(lambda: any(2 in ids for drive in place.attached().values() for ids in drive.values()), "it is at work")
    assert restore.poll() is None, "a drive that takes 0.4 s for each answer"
    code, fence = place.json("detach", "--host", "c1")
    out, _ = restore.communicate(timeout=20)
    assert code == 0, fence["hosts"][0]["message"]
    assert restore.returncode in (Exit.NOT_RESTORED, Exit.UNDER_WAY)
    assert "a fence of c1 has begun" in json.loads(out)["message"]
    assert all(2 not in ids for drive in place.attached().values() for ids in drive.values())
    place.write()
    assert place.run("restore", "--host", "c1").returncode == 0
    assert state(place) == {}, "nothing was lost"


# Killed


KILLS = 16
UNKNOWN = "which namespace it was is not on record, so it cannot be told from another"
UNHURRIED = FLEET + "latency_ms = 15\n"


def killed(place: Place, n: int, span: float, *words: str) -> bool:
    """Run a command that is killed at a moment of its time; returns whether it did not end by itself."""
    process = begin(place, *words)
    time.sleep(span * (0.4 + 0.6 * (n % KILLS) / KILLS))
    process.kill()
    process.communicate()
    return process.returncode < 0


EARLY, LATE = 1.1, 0.9
"""What the span is multiplied by after a kill that found nothing begun, or nothing left: the machine is not always
as quick as when it was measured."""


def seconds(place: Place, *words: str) -> float:
    start = time.monotonic()
    assert place.run(*words).returncode == 0
    return time.monotonic() - start


@pytest.mark.parametrize("rule", ["none", "drain", "offline"])
def test_a_restore_killed_at_any_moment_is_ended_by_the_next_one(place: Place, rule: str) -> None:
    place.write(UNHURRIED)
    place.run("detach", "--host", "c1", "--quiesce", rule)
    span = seconds(place, "restore", "--host", "c1")
    halves = 0
    for n in range(4 * KILLS):
        if n >= KILLS and halves:
            break
        place.run("detach", "--host", "c1", "--quiesce", rule)
        whole = state(place)
        if killed(place, n, span, "restore", "--host", "c1"):
            half = state(place) not in ({}, whole) or (state(place) == {}) != (record(place) is None)
            halves += half
            span *= 1.0 if half else EARLY if state(place) else LATE
        else:
            span *= LATE
        done = place.run("restore", "--host", "c1")
        assert done.returncode == 0, done.stdout
        assert state(place) == {}
        assert record(place) is None
    assert halves, "no kill found it at work"


@pytest.mark.parametrize("rule", ["wait:0.1", "drain"])
def test_a_fence_killed_at_any_moment_and_done_again_loses_next_to_nothing(place: Place, rule: str) -> None:
    place.write(UNHURRIED)
    span = seconds(place, "detach", "--host", "c1", "--quiesce", rule)
    place.run("restore", "--host", "c1")
    lost = halves = 0
    for n in range(4 * KILLS):
        if n >= KILLS and halves:
            break
        if killed(place, n, span, "detach", "--host", "c1", "--quiesce", rule):
            halves += bool(state(place))
            span *= 1.0 if state(place) else EARLY
        else:
            span *= LATE
        on_record = record(place)
        assert place.run("detach", "--host", "c1", "--quiesce", rule).returncode == 0
        assert all(2 not in ids for drive in place.attached().values() for ids in drive.values())
        for drive in (on_record or {"drives": []})["drives"]:
            (now,) = [one for one in record(place)["drives"] if one["serial"] == drive["serial"]]
            assert {one["nsid"] for one in now["taken"]} >= {one["nsid"] for one in drive["taken"]}
        code, document = place.json("restore", "--host", "c1")
        if code:  # killed when the drives had not said yet which namespaces these were
            assert {one["reason"] for one in document["result"]["left"]} == {UNKNOWN}
            assert place.run("unfence", "--host", "c1").returncode == 0
        assert all("secondaries" not in drive for drive in state(place).values()), "all are online again"
        if state(place):
            lost += 1
            (place.path / STATE).unlink()
    assert halves, "no kill found it at work"
    assert lost <= 3 * KILLS // 4, "only what was cut milliseconds before the kill is on no record"


# Agent and watcher


def test_on_gives_back_what_was_taken_if_agents_may(watched: Watching) -> None:
    with watched.watcher("--agents-may-restore", *DRAIN) as running:
        assert watched.agent("-o", "off", "-n", "c1").returncode == 0
        assert record(watched)["asked"][0]["by"] == "watcher"
        assert watched.agent("-o", "status", "-n", "c1").returncode == 2
        done = watched.agent("-o", "on", "-n", "c1", "-v")
        assert done.returncode == 0, done.stderr
        running.hears("Restored c1: it has 12 attachments on 3 drives again")
        assert state(watched) == {}
        assert record(watched) is None
        assert watched.agent("-o", "status", "-n", "c1").returncode == 0
        again = watched.agent("-o", "on", "-n", "c1")
        assert again.returncode == 0
        running.hears("Nothing is on record as taken from c1")
        assert running.stop() == 0
    assert [line["result"] for line in watched.lines()] == ["fenced", "restored", "restored"]
    assert [line["evidence"] and line["evidence"]["complete"] for line in watched.lines()[1:]] == [True, None]


def test_a_fence_that_is_asked_for_during_an_on_wins(watched: Watching) -> None:
    watched.write(FLEET + SLOW.replace('serial = "SLOW"', 'serial = "SIM00001"'))
    with watched.watcher("--agents-may-restore") as running:
        assert watched.answered(watched.ask("r-1.json"))["success"] is True
        on = watched.ask("r-2.json", action="on")
        running.hears("restoring c1")
        time.sleep(0.5)
        assert watched.answered(watched.ask("r-3.json"))["success"] is True
        answer = watched.answered(on)
        assert answer["success"] is False
        assert "a fence of c1 has begun" in answer["message"]
        assert all(2 not in ids for drive in watched.attached().values() for ids in drive.values())
        assert watched.answered(watched.ask("r-4.json", action="on"))["success"] is True
        assert state(watched) == {}


def test_an_on_during_a_fence_is_refused(watched: Watching) -> None:
    with watched.watcher("--agents-may-restore", "--quiesce", "wait:1") as running:
        watched.ask("r-1.json")
        running.hears("fencing c1")
        answer = watched.answered(watched.ask("r-2.json", action="on"))
        assert (answer["success"], "a fence of c1 is under way" in answer["message"]) == (False, True)


def test_on_changes_nothing_unless_agents_may(watched: Watching) -> None:
    with watched.watcher():
        assert watched.agent("-o", "off", "-n", "c1").returncode == 0
        before = state(watched)
        assert watched.agent("-o", "on", "-n", "c1").returncode == 0
        assert state(watched) == before
        assert record(watched) is not None
    assert watched.lines()[-1]["result"] == "unchanged"


def test_on_fails_if_not_everything_can_be_given_back(watched: Watching) -> None:
    with watched.watcher("--agents-may-restore"):
        watched.agent("-o", "off", "-n", "c1")
        document = record(watched)
        document["drives"][0]["taken"][0]["identity"] = None
        (watched.path / "fleet.toml.fenced" / "c1.json").write_text(json.dumps(document))
        done = watched.agent("-o", "on", "-n", "c1")
        assert done.returncode == 1
        assert "NOT all of c1 restored" in done.stderr
        assert watched.agent("-o", "status", "-n", "c1").returncode == 0, "it has some of its storage"
    assert watched.lines()[-1]["result"] == "not-restored"


def test_the_command_line_archives_the_responses_of_a_host_it_restored(watched: Watching) -> None:
    with watched.watcher():
        for name, target in (("r-1", "c1"), ("r-2", "c1-ib"), ("r-3", "c2")):
            watched.answered(watched.ask(f"{name}.json", target_node=target))
        directory = ("--response-dir", str(watched.answers))
        done = watched.run("restore", "--host", "c1", *directory)
        assert (done.returncode, "archived: r-1.json, r-2.json" in done.stdout) == (0, True), done.stdout
        assert [file.name for file in sorted(watched.answers.glob("*.json"))] == ["r-3.json"]
        assert watched.agent("-o", "status", "-n", "c1").returncode == 0
        done = watched.run("unfence", "--host", "c2", *directory)
        assert "response r-3.json is archived" in done.stdout
        assert watched.agent("-o", "status", "-n", "c2").returncode == 0


def test_a_restore_of_simulated_drives_leaves_the_clusters_responses_alone(place: Place) -> None:
    place.run("detach", "--host", "c1")
    code, document = place.json("restore", "--host", "c1")
    assert (code, document["responses_archived"]) == (0, [])


def test_at_its_start_the_watcher_mends_what_a_killed_fence_left_offline(watched: Watching) -> None:
    process = begin(watched, "detach", "--host", "c1", "--quiesce", "drain")
    process.communicate()
    document = record(watched)
    offline = {"controller": 2, "queues": 2, "interrupts": 2, "when": document["since"], "stays": False}
    changed = json.loads((watched.path / STATE).read_text())
    for drive in document["drives"]:
        drive["offline"] = [dict(offline)]
        changed["drives"][drive["serial"]]["secondaries"] = {"2": [False, 0, 0]}
    changed["drives"]["SIM00002"]["attached"] = {}
    (watched.path / STATE).write_text(json.dumps(changed))
    (watched.path / "fleet.toml.fenced" / "c1.json").write_text(json.dumps(document))
    with watched.watcher() as running:
        running.hears("back online, left offline by a fence of c1: SIM00000: controller 2, SIM00001: controller 2")
        running.hears("SIM00002: controller 2 stays offline: it is still attached to namespace 1, 2, 3, 4")
    states = {serial: drive.get("secondaries") for serial, drive in state(watched).items()}
    assert states == {"SIM00000": None, "SIM00001": None, "SIM00002": {"2": [False, 0, 0]}}
    left = {drive["serial"] for drive in record(watched)["drives"] if drive["offline"]}
    assert left == {"SIM00002"}


def test_the_watcher_goes_on_when_its_records_cannot_be_written_and_says_so(watched: Watching) -> None:
    (watched.path / "file").write_text("")
    with watched.watcher("--records", str(watched.path / "file" / "fenced")) as running:
        answer = watched.answered(watched.ask("r-1.json"))
        assert answer["success"] is True
        assert "not on record for a restore" in answer["message"]
        running.hears("record of c1: ")
        os.kill(running.process.pid, signal.SIGTERM)

"""The command line as processes on simulated fleets: exit codes, JSON, text, time and settings."""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import time
import tomllib

import pytest

from nvmefence.inventory import hostfile
from tests.system.place import (
    CLEAN,
    FLEET,
    HOSTS,
    HUNG,
    MAIN,
    REMOVED,
    SLOT_0,
    SLOT_1,
    STATE,
    UNFENCEABLE,
    Place,
    outcomes,
)

# Exit codes, one by one


def test_0_fence_is_confirmed_and_only_the_target_is_cut(place: Place) -> None:
    done = place.run("detach", "--host", "c1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "SIMULATED: Fenced c1: detached 12 attachments on 3 drives" in done.stdout
    assert place.attached() == {s: {n: [1, 3, 4, 5] for n in "1234"} for s in place.attached()}


def test_0_fencing_again_says_already(place: Place) -> None:
    place.run("detach", "--host", "c1")
    before = place.attached()
    done = place.run("detach", "--host", "C1-IB")
    assert done.returncode == 0
    assert "already detached on all of 3 drives" in done.stdout
    assert place.attached() == before


def test_1_drive_that_refuses_to_detach_is_not_confirmed_and_says_what_to_do(place: Place) -> None:
    done = place.write(FLEET + UNFENCEABLE).run("detach", "--host", "c1")
    assert done.returncode == 1
    why = "still attached to namespace 1, 2, 3, 4: Invalid Command Opcode"
    assert f"NOT fenced c1 (2 of 3 drives cut): OLD: {why}" in done.stdout
    assert "c1 may still be able to write" in done.stdout


@pytest.mark.parametrize(
    "words",
    [[], ["detatch"], ["detach"], ["detach", "--host"], ["hosts"], ["status", "--dry-run"], ["detach", "c1"]],
    ids=" ".join,
)
def test_2_wrong_command_line_does_nothing(place: Place, words: list[str]) -> None:
    done = place.spawn([*MAIN, *words])
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: nvmefence" in done.stderr


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("hosts.toml", "version = 1\n", "hosts.toml: drives: is missing"),
        ("hosts.toml", "version = \n", "hosts.toml: Invalid value (at line 1"),
        ("hosts.toml", None, "there is no host map hosts.toml"),
        ("fleet.toml", "[fleet]\ndrivs = 3\n", "fleet.toml: fleet.drivs: unknown key (did you mean 'drives'?)"),
        ("fleet.toml", None, "there is no fleet file fleet.toml"),
        (STATE, "{", f"{STATE}: not JSON"),
    ],
)
@pytest.mark.parametrize("command", [["detach", "--host", "c1"], ["status"], ["check"]], ids=lambda words: words[0])
def test_3_bad_file_is_named_with_its_key(
    place: Place, command: list[str], file: str, text: str | None, said: str
) -> None:
    path = place.path / file
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    done = place.run(*command)
    assert (done.returncode, done.stdout) == (3, "")
    assert said in done.stderr
    assert "what to do: " in done.stderr


def test_3_bad_setting_is_named_with_its_source(place: Place) -> None:
    assert "--deadline: must be a number" in place.run("status", "--deadline", "soon").stderr
    done = place.run("status", NVMEFENCE_BACKEND="uring")
    assert done.returncode == 3
    assert "NVMEFENCE_BACKEND: must be one of auto, io_uring, ioctl" in done.stderr


@pytest.mark.parametrize("command", ["detach", "status"])
def test_4_unknown_host_is_named_with_the_nearest_and_nothing_is_done(place: Place, command: str) -> None:
    done = place.run(command, "--host", "c1", "--host", "c11")
    assert (done.returncode, done.stdout) == (4, "")
    assert "host 'c11' is not in hosts.toml (did you mean 'c1'?)" in done.stderr
    assert not (place.path / STATE).exists()


def test_5_missing_drive_is_not_confirmed_though_the_rest_is_cut(place: Place) -> None:
    place.write(FLEET + REMOVED)
    code, document = place.json("detach", "--host", "c1")
    assert code == document["exit"] == 5
    assert document["hosts"][0]["missing"] == ["1 of 3 drives missing"]
    assert outcomes(document) == {"SIM00000": "cut", "SIM00002": "cut"}
    assert place.run("status").returncode == 5
    assert place.run("detach", "--host", "c1", "--dry-run").returncode == 5


def test_6_controllers_that_cannot_be_named_are_not_cut(place: Place) -> None:
    place.write(hosts=HOSTS + "[hosts.c3]\nvf = 9\n")
    done = place.run("detach", "--host", "c3")
    assert done.returncode == 6
    assert "virtual function 9 does not exist on this drive (it has 5)" in done.stdout
    assert not (place.path / STATE).exists()
    assert place.run("detach", "--host", "c3", "--dry-run").returncode == 6


def test_6_own_controller_is_not_cut(place: Place) -> None:
    fleet = "[fleet]\ndrives = 1\ncontrollers = 3\n"
    place.write(fleet, "version = 1\n[drives]\ncount = 1\n[hosts.me]\ncontrollers = 1\n")
    done = place.run("detach", "--host", "me")
    assert done.returncode == 6
    assert "controller 1 is this machine's own" in done.stdout


def drop_admin() -> None:
    """Give up CAP_SYS_ADMIN (21) for what is executed next: PR_CAPBSET_DROP is 24."""
    ctypes.CDLL(None).prctl(24, 21, 0, 0, 0)


@pytest.mark.parametrize("words", [["detach", "--host", "c1"], ["status"], ["check"], ["hosts", "discover"]])
def test_7_real_drives_need_the_right_to_send_admin_commands(place: Place, words: list[str]) -> None:
    done = subprocess.run(
        [*MAIN, *words, "--hosts", "hosts.toml"],
        cwd=place.path, env=CLEAN, capture_output=True, text=True, timeout=30, check=False, preexec_fn=drop_admin,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, "")
    assert "CAP_SYS_ADMIN" in done.stderr
    assert "run as root" in done.stderr


def test_8_status_of_a_drive_that_does_not_answer_is_unknown(place: Place) -> None:
    place.write(FLEET + HUNG)
    code, document = place.json("status", "--deadline", "0.5")
    assert code == document["exit"] == 8
    states = {d["serial"]: d["hosts"]["c1"]["state"] for d in document["drives"]}
    assert states == {"SIM00000": "attached", "HUNG": "unknown", "SIM00002": "attached"}
    assert place.run("detach", "--host", "c1", "--dry-run", "--deadline", "0.5").returncode == 8


@pytest.mark.parametrize("fault", [HUNG, REMOVED, UNFENCEABLE], ids=["hung", "removed", "unfenceable"])
def test_9_check_finds_what_would_make_a_fence_fail(place: Place, fault: str) -> None:
    place.write(FLEET + fault)
    code, document = place.json("check", "--deadline", "0.5")
    assert code == document["exit"] == 9
    assert len([f for f in document["findings"] if f["level"] == "fail"]) == 1
    done = place.run("check", "--deadline", "0.5")
    assert done.returncode == 9
    assert "1 findings stand in the way of a fence" in done.stdout
    assert place.run("detach", "--host", "c1", "--deadline", "0.5").returncode != 0


def test_0_check_of_good_drives_passes(place: Place) -> None:
    done = place.run("check")
    assert done.returncode == 0
    assert "every host of the map could be fenced now on 3 drives" in done.stdout


# JSON

SIMULATED: dict[str, tuple[list[str], set[str]]] = {
    "detach": (["detach", "--host", "c1"], {"simulated", "exit", "hosts"}),
    "dry run": (
        ["detach", "--host", "c1", "--dry-run"],
        {"dry_run", "simulated", "exit", "commands", "missing", "drives"},
    ),
    "status": (["status"], {"simulated", "exit", "missing", "drives"}),
    "check": (["check"], {"simulated", "exit", "findings", "drives"}),
    "discover": (["hosts", "discover"], {"simulated", "drives"}),
}
HOST_KEYS = {
    "host", "confirmed", "message", "simulated", "backend", "started_at", "seconds", "missing", "drives",
    "not_on_record",
}  # fmt: skip


@pytest.mark.parametrize("name", SIMULATED)
@pytest.mark.parametrize("fault", ["", HUNG, REMOVED], ids=["good", "hung", "removed"])
def test_json_has_the_same_keys_whatever_happens_and_says_simulated(place: Place, name: str, fault: str) -> None:
    words, keys = SIMULATED[name]
    code, document = place.write(FLEET + fault).json(*words, "--deadline", "0.4")
    assert keys <= set(document)
    assert document["simulated"] is True
    assert document.get("exit", code) == code
    if name == "detach":
        (host,) = document["hosts"]
        assert set(host) == HOST_KEYS
        assert host["simulated"] is True
        assert host["backend"] == "simulated"
        assert host["message"].startswith("SIMULATED: ")
        assert host["confirmed"] is (code == 0)


@pytest.mark.parametrize("words", [words for words, _ in SIMULATED.values()], ids=list(SIMULATED))
def test_text_says_simulated(place: Place, words: list[str]) -> None:
    assert "SIMULATED" in place.run(*words).stdout


def test_json_of_commands_without_drives(place: Place) -> None:
    code, shown = place.json("hosts", "show")
    assert code == 0
    assert set(shown) == {"path", "expected", "ignore", "own", "hosts"}
    assert shown["hosts"]["c1"] == {"aliases": ["c1-ib"], "is": "slot 0 (VF 2)"}
    code, versions = place.json("version")
    assert code == 0
    assert set(versions) == {"nvmefence", "python", "kernel", "backends"}


@pytest.mark.parametrize(("words", "code"), [(["status", "--host", "x"], 4), (["status", "--deadline", "x"], 3)])
def test_json_of_an_error_has_fixed_keys(place: Place, words: list[str], code: int) -> None:
    returned, document = place.json(*words)
    assert returned == document["exit"] == code
    assert set(document) == {"error", "advice", "exit"}


def test_several_hosts_are_cut_in_one_pass(place: Place) -> None:
    code, document = place.json("detach", "--host", "c1", "--host", "c2", "--host", "C1")
    assert code == 0
    assert [host["host"] for host in document["hosts"]] == ["c1", "c2"]
    (drive, *_) = document["hosts"][0]["drives"]
    assert [sent["controllers"] for sent in drive["sent"]] == [[SLOT_0, SLOT_1]] * 4


# Nothing is changed by looking


@pytest.mark.parametrize(
    "words",
    [words for name, (words, _) in SIMULATED.items() if name != "detach"],
    ids=" ".join,
)
def test_looking_changes_nothing(place: Place, words: list[str]) -> None:
    assert place.run(*words).returncode == 0
    assert sorted(p.name for p in place.path.iterdir()) == ["fleet.toml", "hosts.toml"]


def test_dry_run_prints_what_a_fence_then_sends(place: Place) -> None:
    _, dry = place.json("detach", "--host", "c1", "--dry-run")
    _, wet = place.json("detach", "--host", "c1")
    planned = [(c["serial"], c["nsid"], c["controllers"]) for c in dry["commands"]]
    drives = wet["hosts"][0]["drives"]
    assert planned == [(d["serial"], s["nsid"], s["controllers"]) for d in drives for s in d["sent"]]
    assert {(c["opcode"], c["cdw10"]) for c in dry["commands"]} == {(0x15, 1)}


def test_status_after_a_fence_shows_none(place: Place) -> None:
    place.run("detach", "--host", "c1")
    _, document = place.json("status")
    states = [{name: host["state"] for name, host in d["hosts"].items()} for d in document["drives"]]
    assert states == [{"c1": "none", "c2": "attached"}] * 3


# Time


def test_hung_drive_fails_by_the_deadline_and_the_others_are_cut_early(place: Place) -> None:
    place.write(FLEET + HUNG)
    begin = time.monotonic()
    code, document = place.json("detach", "--host", "c1", "--deadline", "5")
    assert 4.9 < time.monotonic() - begin < 30
    assert code == 1
    assert outcomes(document) == {"SIM00000": "cut", "HUNG": "unknown", "SIM00002": "cut"}
    seconds = {d["serial"]: d["seconds"]["total"] for d in document["hosts"][0]["drives"]}
    assert max(seconds["SIM00000"], seconds["SIM00002"]) < 4.5 <= seconds["HUNG"]
    assert "HUNG: Identify Controller: no answer" in document["hosts"][0]["message"]


def test_quiesce_is_waited_for_before_success_is_said(place: Place) -> None:
    begin = time.monotonic()
    done = place.run("detach", "--host", "c1", "--quiesce", "wait:0.7")
    assert time.monotonic() - begin > 0.7
    assert done.returncode == 0
    assert "given 0.7 s to land" in done.stdout


def test_no_quiesce_is_said(place: Place) -> None:
    assert "may still land" in place.run("detach", "--host", "c1").stdout


# Processes side by side


def test_processes_that_fence_at_once_all_confirm_and_lose_nothing(place: Place) -> None:
    place.write(FLEET + "latency_ms = 2\n")
    running = [
        subprocess.Popen(
            [*place.command("detach", "--host", host), "--json"],
            cwd=place.path, env=CLEAN, stdout=subprocess.PIPE, text=True,
        )
        for host in ("c1", "c2", "c1")
    ]  # fmt: skip
    documents = [json.loads(process.communicate(timeout=30)[0]) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert all(document["hosts"][0]["confirmed"] for document in documents)
    assert place.attached() == {s: {n: [1, 4, 5] for n in "1234"} for s in place.attached()}


# Settings


def test_environment_goes_before_the_command_line_and_says_so(place: Place) -> None:
    done = place.run("status", "--deadline", "20", NVMEFENCE_DEADLINE="25")
    assert done.returncode == 0
    assert "NVMEFENCE_DEADLINE=25 in the environment takes precedence over --deadline 20" in done.stderr


def test_environment_alone_is_enough(place: Place) -> None:
    done = place.spawn(
        [*MAIN, "detach", "--host", "c1"],
        NVMEFENCE_SIMULATE="fleet.toml", NVMEFENCE_HOSTS="hosts.toml", NVMEFENCE_QUIESCE="none",
    )  # fmt: skip
    assert done.returncode == 0


def test_settings_file_is_enough_and_a_wrong_key_is_refused(place: Place) -> None:
    settings = place.path / "n.toml"
    settings.write_text('simulate = "fleet.toml"\nhosts = "hosts.toml"\nquiesce = "none"\n')
    command = [*MAIN, "detach", "--host", "c1", "--config", "n.toml"]
    assert place.spawn(command).returncode == 0
    settings.write_text('simulat = "fleet.toml"\n')
    done = place.spawn(command)
    assert done.returncode == 3
    assert "n.toml: simulat: unknown setting (did you mean 'simulate'?)" in done.stderr


# A map from what was found


@pytest.mark.parametrize(
    "fleet", [FLEET, "[fleet]\ndrives = 3\ncontrollers = 4\nnamespaces = 2\n"], ids=["virtual functions", "ports"]
)
def test_discovered_map_works_once_its_hosts_are_named(place: Place, fleet: str) -> None:
    place.write(fleet)
    text = place.run("hosts", "discover").stdout
    with pytest.raises(KeyError):
        _ = tomllib.loads(text)["hosts"]
    filled = re.sub(r"^# (\[hosts\.|vf = |controllers = )", r"\1", text, flags=re.MULTILINE)
    names = list(hostfile.parse(tomllib.loads(filled), "found").hosts)
    assert len(names) >= 3
    place.write(fleet, filled)
    assert place.run("check").returncode == 0
    assert place.run("detach", "--host", names[-1]).returncode == 0


def test_nothing_to_discover_is_an_error_with_advice(place: Place) -> None:
    place.write("[fleet]\ndrives = 1\n[[drive]]\nanswers = 'removed'\n")
    done = place.run("hosts", "discover")
    assert (done.returncode, done.stdout) == (5, "")
    assert "no NVMe drive was found" in done.stderr

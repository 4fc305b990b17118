"""Many hosts at once, with a real watcher: an alarm, or a wait for a person's word."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.system.place import CLEAN, MAIN
from tests.system.test_watch import Manager
from tests.system.watching import Watching, until

NAMES = [f"h{n}" for n in range(8)]


class Crowd(Watching):
    """Eight hosts."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        hosts = "".join(f"[hosts.{name}]\nslot = {n}\n" for n, name in enumerate(NAMES))
        self.write(
            "[fleet]\ndrives = 3\nsecondary_controllers = 12\nnamespaces = 2\n",
            f"version = 1\n[drives]\ncount = 3\n{hosts}",
        )
        self.run_dir = path / "run"

    def hold(self, *more: str, action: str = "hold") -> list[str]:
        return ["--mass-fence-action", action, "--run-dir", str(self.run_dir), *more]

    def burst(self, names: list[str], **fields: Any) -> dict[str, Path]:
        """Ask for all of them, one after another by their dates."""
        return {name: self.ask(f"r-{name}.json", target_node=name, **fields) for name in names}

    def allow(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*MAIN, "allow-mass-fence", "--run-dir", str(self.run_dir), *words]
        return self.spawn(command)

    def cut(self) -> list[str]:
        """The hosts that have lost every namespace of every drive."""
        drives = self.attached().values()
        return [
            name
            for n, name in enumerate(NAMES)
            if not any(2 + n in ids for drive in drives for ids in drive.values())
        ]

    def attached(self) -> dict[str, dict[str, list[int]]]:
        state = self.path / "fleet.toml.state.json"
        changed = json.loads(state.read_text())["drives"] if state.exists() else {}
        full = f"{(1 << 13) - 2:x}"
        return {
            serial: {nsid: [c for c in range(13) if int(masks.get(nsid, full), 16) >> c & 1] for nsid in ("1", "2")}
            for serial in ("SIM00000", "SIM00001", "SIM00002")
            for masks in [changed.get(serial, {}).get("attached", {})]
        }


def first_of(crowd: Crowd) -> Path:
    """The response that comes first; it is waited for."""
    return until(lambda: next(iter(crowd.answers.glob("r-*.json")), None), "a response")  # type: ignore[return-value]


@pytest.fixture
def crowd(tmp_path: Path) -> Crowd:
    return Crowd(tmp_path)


def test_an_alarm_names_all_and_holds_nobody(crowd: Crowd) -> None:
    with crowd.watcher() as running:
        responses = crowd.burst(NAMES)
        assert all(crowd.answered(path)["success"] for path in responses.values())
        running.hears("error: mass fence: more than 4 hosts in 60 s: fenced h")
        until(lambda: crowd.lines("mass-fence"), "an audit line")
        alarms = crowd.lines("mass-fence")
        assert {host for line in alarms for host in line["hosts"]} == set(NAMES)
        assert [(line["action"], line["held"], line["limit"]) for line in alarms[:1]] == [("alarm", [], 4)]
    assert crowd.cut() == NAMES
    assert "held:" not in running.text()


def test_four_hosts_and_all_their_retries_are_no_alarm(crowd: Crowd) -> None:
    with crowd.watcher(*crowd.hold()) as running:
        for attempt in range(3):
            for name in NAMES[:4]:
                assert crowd.answered(crowd.ask(f"r-{name}-{attempt}.json", target_node=name))["success"] is True
    assert "mass fence" not in running.text()
    assert crowd.lines("mass-fence") == []


def test_no_limit_is_no_alarm(crowd: Crowd) -> None:
    with crowd.watcher(*crowd.hold("--mass-fence-hosts", "0")) as running:
        assert all(crowd.answered(path)["success"] for path in crowd.burst(NAMES).values())
    assert "mass fence" not in running.text()


def test_hosts_beyond_the_limit_wait_for_a_persons_word(crowd: Crowd) -> None:
    with crowd.watcher(*crowd.hold()) as running:
        responses = crowd.burst(NAMES, timeout_s=60)
        until(lambda: len(crowd.cut()) == 4, "four are cut")
        until(lambda: len(list(crowd.answers.glob("*.json"))) == 4, "four are answered")
        running.hears("held: h", times=4)
        time.sleep(1.5)  # a look and more
        held = sorted(set(NAMES) - set(crowd.cut()))
        assert len(held) == 4
        assert running.text().count("held: h") == 4
        assert sorted(crowd.pending()) == [f"r-{name}.json" for name in held]
        told = crowd.allow("--for", "30")
        assert told.returncode == 0, told.stderr
        assert "may be fenced for 30 s; held now: " in told.stdout
        assert all(name in told.stdout for name in held)
        start = time.monotonic()
        assert all(crowd.answered(path)["success"] for path in responses.values())
        assert time.monotonic() - start < 5
        running.hears("allows any number of hosts for")
        until(lambda: len(crowd.lines("mass-fence")) >= 3, "on record")
    assert crowd.cut() == NAMES
    actions = [line["action"] for line in crowd.lines("mass-fence")]
    assert actions[0] == "hold"
    assert "allowed" in actions


def test_hosts_that_nobody_allows_are_refused_in_time_and_not_cut(crowd: Crowd) -> None:
    with crowd.watcher(*crowd.hold("--mass-fence-hosts", "2")) as running:
        crowd.burst(NAMES[:2])
        until(lambda: len(crowd.cut()) == 2, "two are cut")
        done = crowd.agent("-o", "off", "-n", "h5", "--fence-timeout", "4")
        assert done.returncode == 1
        assert "NOT fenced h5: held by the mass-fence guard (more than 2 hosts in 60 s)" in done.stderr
        assert "nvmefence allow-mass-fence" in done.stderr
        # Its next try does not wait for another minute to pass.
        late = crowd.ask("r-late.json", target_node="h5", timeout_s=3)
        assert crowd.answered(late)["success"] is False
        # Who was let through may be fenced again, by a person's hand anyone.
        assert crowd.answered(crowd.ask("again.json", target_node="h0"))["success"] is True
        assert crowd.run("detach", "--host", "h6").returncode == 0
        running.hears("mass fence: more than 2 hosts")
    assert crowd.cut() == ["h0", "h1", "h6"]


def test_a_request_that_is_withdrawn_while_it_is_held_cuts_nobody(crowd: Crowd) -> None:
    with crowd.watcher(*crowd.hold("--mass-fence-hosts", "1")) as running:
        crowd.burst(NAMES[:2], timeout_s=60)
        running.hears("held: h")
        until(crowd.cut, "one is cut")
        (name,) = set(NAMES[:2]) - set(crowd.cut())
        (crowd.requests / f"r-{name}.json").unlink()
        assert crowd.allow().returncode == 0
        running.hears("allows any number of hosts")
        time.sleep(1.2)
    assert len(crowd.cut()) == 1
    assert not (crowd.answers / f"r-{name}.json").exists()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_a_watcher_that_is_started_anew_holds_as_before(crowd: Crowd, by: signal.Signals) -> None:
    with crowd.watcher(*crowd.hold("--mass-fence-hosts", "2")) as running:
        crowd.burst(NAMES[:5], timeout_s=60)
        running.hears("held: h", times=3)
        until(lambda: len(list(crowd.answers.glob("*.json"))) == 2, "two are answered")
        until(lambda: json.loads((crowd.run_dir / "mass-fence-state").read_text())["held"], "it is written down")
        running.stop(by)
    with crowd.watcher(*crowd.hold("--mass-fence-hosts", "2")) as running:
        running.hears("held: h", times=3)
        time.sleep(1.2)
        assert len(crowd.cut()) == 2
        assert crowd.allow().returncode == 0
        until(lambda: len(crowd.cut()) == 5, "all are cut after the word")


def test_a_word_that_is_given_before_lets_them_through_at_once(crowd: Crowd) -> None:
    assert crowd.allow("--for", "60").returncode == 0
    with crowd.watcher(*crowd.hold()) as running:
        assert all(crowd.answered(path)["success"] for path in crowd.burst(NAMES).values())
    assert "held:" not in running.text()
    assert "mass fence: more than 4 hosts" in running.text()


def test_a_word_that_is_taken_back_or_not_to_be_believed_lets_nobody_through(crowd: Crowd) -> None:
    assert crowd.allow().returncode == 0
    assert crowd.allow("--withdraw").stdout == "Taken back\n"
    assert crowd.allow("--withdraw").stdout == "There was nothing to take back\n"
    crowd.allow()
    (crowd.run_dir / "mass-fence-allowed").chmod(0o666)
    with crowd.watcher(*crowd.hold("--mass-fence-hosts", "1")) as running:
        crowd.burst(NAMES[:2], timeout_s=60)
        running.hears("held: h")
        running.hears("mass fence permit: ")
        running.hears("may be written by others")
        assert crowd.answered(first_of(crowd))["success"] is True
    assert len(crowd.cut()) == 1


def test_an_on_for_a_held_host_is_refused(crowd: Crowd) -> None:
    with crowd.watcher(*crowd.hold("--mass-fence-hosts", "1")) as running:
        crowd.answered(crowd.ask("r-0.json", target_node="h0"))
        crowd.ask("r-1.json", target_node="h1", timeout_s=60)
        running.hears("held: h1")
        answer = crowd.answered(crowd.ask("on.json", target_node="h1", action="on"))
    assert answer["success"] is False
    assert "under way" in answer["message"]


def test_a_run_directory_that_cannot_be_had_is_said_and_nobody_is_let_through(crowd: Crowd) -> None:
    crowd.run_dir.write_text("a file")
    with crowd.watcher(*crowd.hold("--mass-fence-hosts", "1")) as running:
        crowd.burst(NAMES[:2], timeout_s=60)
        running.hears("held: h")
        running.hears("mass fence guard: a watcher that is started anew will not know what is held")
        assert crowd.answered(first_of(crowd))["success"] is True
    assert len(crowd.cut()) == 1
    done = crowd.allow()
    assert done.returncode == 7
    assert str(crowd.run_dir) in done.stderr


def test_a_person_is_told_and_not_held(crowd: Crowd) -> None:
    words = [word for name in NAMES[:5] for word in ("--host", name)]
    done = crowd.run("detach", *words, NVMEFENCE_MASS_FENCE_ACTION="hold")
    assert done.returncode == 0
    assert "note: mass fence: more than 4 hosts in 60 s: fenced h0, h1, h2, h3, h4" in done.stderr
    assert crowd.cut() == NAMES[:5]
    done = crowd.run("detach", *words[:8])
    assert "mass fence" not in done.stderr


def test_the_command_speaks_json_and_knows_when_it_knows_nothing(crowd: Crowd) -> None:
    done = crowd.allow("--json", "--for", "5")
    assert json.loads(done.stdout) == {"allowed_s": 5.0, "held": None}
    assert "is mass_fence_action hold, and run_dir the same?" in crowd.allow().stdout
    assert json.loads(crowd.allow("--json", "--withdraw").stdout) == {"withdrawn": True}
    with crowd.watcher(*crowd.hold()):
        until((crowd.run_dir / "mass-fence-state").exists, "the guard has written")
        assert json.loads(crowd.allow("--json").stdout)["held"] == []
    assert crowd.allow("--for", "1e9").returncode == 2


def test_the_service_manager_hears_of_it(crowd: Crowd) -> None:
    manager = Manager(crowd.path)
    with crowd.watcher(*crowd.hold("--mass-fence-hosts", "1"), env={**CLEAN, **manager.environment}):
        crowd.burst(NAMES[:2], timeout_s=60)
        until(lambda: "TROUBLE: mass fence: more than 1 host in 60 s" in manager.hears("STATUS=")["STATUS"], "so")

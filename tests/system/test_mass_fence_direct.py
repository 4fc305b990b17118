"""The mass-fence guard of fences that no watcher does: agents and commands count each other's, and a watcher's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nvmefence.watcher import permit
from tests.system.direct import Node
from tests.system.place import MAIN
from tests.system.test_mass_fence import NAMES, Crowd
from tests.system.watching import until


class Agents(Crowd):
    """The crowd, with the direct agent."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.node = Node.__new__(Node)
        self.node.path, self.node.logs, self.node.audit = path, path / "agent-logs", path / "audit.jsonl"

    def fence(self, name: str, action: str = "alarm", limit: int = 1) -> tuple[int, str]:
        """Have the agent fence a host; returns its exit code and what it said."""
        (self.path / "n.toml").write_text(
            f'mass_fence_action = "{action}"\nmass_fence_hosts = {limit}\nrun_dir = "{self.run_dir}"\n'
        )
        result = self.node.fence(target=name, settings_file="n.toml")
        return result.code, result.err

    def detach(self, name: str) -> tuple[int, str]:
        done = self.run(
            "detach", "--host", name, NVMEFENCE_MASS_FENCE_HOSTS="1", NVMEFENCE_MASS_FENCE_ACTION="hold",
            NVMEFENCE_RUN_DIR=str(self.run_dir),
        )  # fmt: skip
        return done.returncode, done.stderr


@pytest.fixture
def crowd(tmp_path: Path) -> Agents:
    return Agents(tmp_path)


def test_one_host_too_many_is_an_alarm_of_the_agent_and_in_the_audit(crowd: Agents) -> None:
    assert crowd.fence("h0") == (0, "fence_nvmefence: off of h0: " + crowd.node.lines()[-1]["message"] + "\n")
    assert crowd.fence("h0")[0] == 0, "a host counts once"
    code, said = crowd.fence("h1")
    assert code == 0
    assert "mass fence: more than 1 host in 60 s: fenced h0, h1" in said
    (alarm,) = [line for line in crowd.node.lines(4) if line["event"] == "mass-fence"]
    assert (alarm["action"], alarm["hosts"], alarm["held"], alarm["limit"]) == ("alarm", ["h0", "h1"], [], 1)
    done = crowd.spawn([*MAIN, "history", "--audit", str(crowd.node.audit)])
    assert "2 hosts within 60 s, more than 1" in done.stdout
    assert crowd.cut() == ["h0", "h1"]


def test_with_hold_the_agent_cuts_no_more_until_a_person_allows_it(crowd: Agents) -> None:
    assert crowd.fence("h0", "hold")[0] == 0
    for name in ("h1", "h2"):
        code, said = crowd.fence(name, "hold")
        assert code == 1
        assert f"NOT fenced {name}: {name} held by the mass-fence guard (more than 1 host in 60 s)" in said
    assert crowd.cut() == ["h0"]
    assert crowd.fence("h0", "hold")[0] == 0, "who was fenced just now may be fenced again"
    assert crowd.allow().returncode == 0
    assert crowd.fence("h2", "hold")[0] == 0
    assert crowd.cut() == ["h0", "h2"]


def test_a_host_that_a_watcher_holds_is_held_by_the_second_level_as_well(crowd: Agents) -> None:
    with crowd.watcher(*crowd.hold("--mass-fence-hosts", "1")) as running:
        crowd.burst(["h0", "h1"], timeout_s=60)
        running.hears("held: h")
        until(lambda: len(crowd.cut()) == 1, "one is cut")
        (held,) = {"h0", "h1"} - set(crowd.cut())
        until(lambda: permit.load(str(crowd.run_dir)).get("held"), "it is written down")
        code, said = crowd.fence(held, "hold")
        assert (code, "held by the mass-fence guard" in said) == (1, True)
        assert held not in crowd.cut()


def test_a_watcher_counts_what_agents_have_fenced(crowd: Agents) -> None:
    assert crowd.fence("h0", "hold")[0] == 0
    with crowd.watcher(*crowd.hold("--mass-fence-hosts", "1")) as running:
        crowd.ask("r.json", target_node="h1", timeout_s=60)
        running.hears("held: h1")
        time.sleep(0.5)
    assert crowd.cut() == ["h0"]


def test_a_person_is_told_and_not_held(crowd: Agents) -> None:
    code, said = crowd.detach("h0")
    assert (code, "mass fence" in said) == (0, False)
    code, said = crowd.detach("h1")
    assert code == 0
    assert "mass fence: more than 1 host in 60 s: fenced h0, h1" in said
    assert crowd.fence("h2", "hold")[0] == 1, "what a person did counts"


def test_many_agents_at_once_are_all_counted(crowd: Agents) -> None:
    crowd.fence("h0", limit=100)
    options = {"settings_file": "n.toml", "action": "off"}
    started = [crowd.node.start(crowd.node.options(**options, port=name)) for name in NAMES]
    assert [process.wait(30) for process in started] == [0] * len(NAMES)
    for process in started:
        process.communicate()
    assert set(permit.begun(str(crowd.run_dir))["begun"]) == set(NAMES)


def test_a_spoiled_count_is_said_and_written_anew(crowd: Agents) -> None:
    assert crowd.fence("h0", "hold")[0] == 0
    (crowd.run_dir / permit.BEGUN).write_text("{")
    code, said = crowd.fence("h1", "hold")
    assert (code, "fences elsewhere are not counted" in said) == (0, True)
    code, said = crowd.fence("h2", "hold")
    assert (code, "fences elsewhere" in said, "held by the mass-fence guard" in said) == (1, False, True)


def test_a_spoiled_count_does_not_keep_a_person_from_being_heard(crowd: Agents) -> None:
    with crowd.watcher(*crowd.hold("--mass-fence-hosts", "1")) as running:
        crowd.burst(["h0", "h1"], timeout_s=60)
        running.hears("held: h")
        (crowd.run_dir / permit.BEGUN).write_text("{")
        assert crowd.allow().returncode == 0
        until(lambda: len(crowd.cut()) == 2, "both are cut")


def test_where_nothing_can_be_counted_a_fence_goes_on_and_says_so(crowd: Agents) -> None:
    crowd.run_dir.write_text("no directory")
    code, said = crowd.fence("h0", "hold")
    assert code == 0
    assert "fences elsewhere are not counted" in said
    assert crowd.cut() == ["h0"]

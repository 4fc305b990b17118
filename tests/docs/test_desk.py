"""Installing, fencing by hand, and looking at what was fenced, as the documentation has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvmefence.inventory import hostfile
from nvmefence.spool import heartbeat
from tests.docs import manual
from tests.docs.machine import ATTACHMENTS, CONTROLLERS, MAP, RESPONSES, Machine, readme_map
from tests.docs.scenes import WATCH, Desk
from tests.docs.steps import ENDED, Step, follow, written
from tests.nnf import node_manager
from tests.nnf.resources import node, system

REHEARSAL = "/localdisk/rehearsal"
DRIVES = tuple(f"SIM{number:05}" for number in range(18))
"""Of the README's fleet."""


def fill_in_the_hosts(desk: Desk) -> None:
    """Add hosts to what was discovered, as a person does who knows the slots."""
    found = desk.machine.inside(MAP).read_text()
    _, hosts = readme_map().split("[hosts", 1)
    desk.machine.inside(MAP).write_text(f"{found}\n[hosts{hosts}")


def have_a_cluster(desk: Desk) -> None:
    """Put a `kubectl` there that has the resources of a Rabbit with these drives and computes, and no map."""
    computes = dict(enumerate(CONTROLLERS))
    found = {
        "systemconfiguration": system({"rabbit-1": computes}),
        "nnfnode": node(computes, DRIVES, rabbit="rabbit-1"),
    }
    for kind, resource in found.items():
        desk.machine.inside(f"/localdisk/{kind}.json").write_text(json.dumps(resource))
    program = desk.machine.inside("/usr/sbin/kubectl")
    program.write_text('#!/bin/sh\n[ "$1 $6 $7" = "get -o json" ] && cat "/localdisk/$2.json"\n')
    program.chmod(0o755)
    desk.machine.inside(MAP).unlink()


def the_map_is_the_readmes(desk: Desk) -> None:
    hostmap = hostfile.load(desk.machine.inside(MAP))
    assert {host.name: host.selector.words() for host in hostmap.hosts.values()} == {
        "compute-1": "slot 0 (VF 2)",
        "compute-2": "slot 1 (VF 3)",
    }
    assert hostmap.expected.serials == DRIVES


def only_compute_2_is_cut_off(desk: Desk) -> None:
    assert desk.machine.cut_off() == {"compute-2": ATTACHMENTS}


def nobody_is_cut_off(desk: Desk) -> None:
    assert desk.machine.cut_off() == {}


def lay_out_the_rehearsal(desk: Desk) -> None:
    """Put the two files there that the rehearsal needs, both from the README."""
    folder = desk.machine.inside(REHEARSAL)
    folder.mkdir()
    (folder / "fleet.toml").write_text(manual.toml("[fleet]")[0].text)
    (folder / "hosts.toml").write_text(readme_map())


def describe_a_bench(desk: Desk) -> None:
    """Put the fleet of one drive there."""
    (block,) = [one for one in manual.blocks_of(manual.ROOT / "docs/qualify.md") if "[fleet]" in one.text]
    desk.machine.inside("/localdisk/bench.toml").write_text(block.text)


def is_a_page(desk: Desk, words: str) -> None:
    text = desk.machine.inside("/var/lib/nvmefence/report.html").read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert words in text
    assert "compute-2 is fenced" in text


def recorder(desk: Desk, action: str, node: str) -> tuple[int, str]:
    """Return how the agent ends, and what it says."""
    done = desk.shell(f"fence_gfs2_recorder --action={action} --plug={node}", 30)
    return done.returncode, done.stdout.strip()


def responses(desk: Desk) -> Path:
    return desk.machine.inside(RESPONSES)


def fence_without_a_response(desk: Desk) -> None:
    desk.room.must("nvmefence", "detach", "--host", "compute-2")
    assert recorder(desk, "status", "compute-2") == (0, "Status: ON")
    assert node_manager.fenced(responses(desk)) == set()


def nnf_knows_of_it(desk: Desk) -> None:
    assert node_manager.fenced(responses(desk)) == {"compute-2"}
    (response,) = responses(desk).glob("*.json")
    assert "already detached" in json.loads(response.read_text())["message"]


FIRST_START: list[Step[Desk]] = [
    Step("nvmefence version", says=[r"^nvmefence +\d", "^io_uring", "^ioctl"]),
    Step("nvmefence hosts discover > /etc/nvmefence/hosts.toml", after=fill_in_the_hosts),
    Step("nvmefence check", says=["every host of the map could be fenced now on 18 drives"]),
    Step("nvmefence status", says=[r"^drive +namespaces +compute-1 +compute-2", r"4 +attached +attached"]),
    Step("nvmefence hosts show", says=["^compute-2 .*c2.example.org"]),
]
EMERGENCY: list[Step[Desk]] = [
    Step("nvmefence detach --host compute-2 --dry-run", says=["; none was sent"], after=nobody_is_cut_off),
    Step("nvmefence detach --host compute-2; echo $?", says=["Fenced compute-2", "^0$"],
         after=only_compute_2_is_cut_off),
    Step("nvmefence detach --host HOST", says=["already detached"], fill={"HOST": lambda _: "compute-2"}),
    Step("nvmefence status --host compute-2", says=["4 +none$", "compute-2: fenced since"], never=["attached"]),
    Step("nvmefence restore --host compute-2 --dry-run", says=["restore compute-2; none was sent"],
         after=only_compute_2_is_cut_off),
    Step("nvmefence restore --host compute-2; echo $?", says=["fenced no longer", "^0$"], after=nobody_is_cut_off),
    Step("nvmefence detach --host compute-2; echo $?", says=["^0$"], after=only_compute_2_is_cut_off),
    Step("nvmefence unfence --host compute-2", says=["fenced no longer; no drive was touched"],
         after=only_compute_2_is_cut_off),
    Step("nvmefence detach --host compute-2; echo $?", says=["already detached", "^0$"]),
    Step("nvmefence restore --host compute-2", says=["took nothing from it: nothing was given back"]),
]  # fmt: skip
PAST: list[Step[Desk]] = [
    Step("nvmefence history", says=[r"compute-2 +off +rabbit +fenced.* 18 of 18"], before=Desk.ask),
    Step("nvmefence history --last 5", says=[r"compute-2 +off +rabbit +fenced"]),
    Step("nvmefence history --host compute-2 --last 1", says=[r"compute-2 +off +rabbit +fenced"]),
    Step("nvmefence explain ID", says=["compute-2 is fenced", "cut .*not attached"],
         fill={"ID": lambda desk: desk.machine.response()}),
    Step("nvmefence explain ID --timeline", fill={"ID": lambda desk: desk.machine.response()},
         says=["ms from the agent's start, ", "agent: response read and judged", "^The answer waited for drive SIM",
               r"the last 5 of 18; all of them: --all"], never=["^Note: "]),
    Step("nvmefence explain ID --timeline --all", fill={"ID": lambda desk: desk.machine.response()},
         says=[r"Drives \(all\)", "^ .* SIM00000 "]),
    Step("nvmefence explain ID --timeline --json", fill={"ID": lambda desk: desk.machine.response()},
         says=['"critical_path": ', '"verdict": "fenced"']),
    Step("nvmefence explain ID --svg fence.svg", fill={"ID": lambda desk: desk.machine.response()},
         says=["drawn into fence.svg"], folder="/localdisk",
         after=lambda desk: ET.parse(desk.machine.inside("/localdisk/fence.svg"))),
    Step("fence_gfs2_recorder --action=monitor; echo $?", says=["^0$"]),
]  # fmt: skip
PAGE = "/var/lib/nvmefence/report.html"
LOOKS: list[Step[Desk]] = [
    Step("nvmefence status --watch", exit=ENDED, limit_s=3, says=["^drive +namespaces", "compute-2: fenced since"],
         before=Desk.ask),
    Step("nvmefence status --watch 10 --json", exit=ENDED, limit_s=3, says=[r'^{"time": .*"troubles": \[\]}$']),
    Step("nvmefence history --since 1w", says=[r"compute-2 +off +rabbit +fenced"]),
    Step(f"nvmefence report -o {PAGE}", says=["1 entries, 1 fences drive by drive"],
         after=lambda desk: is_a_page(desk, "18 attached")),
    Step(f"nvmefence report -o {PAGE} --since 1w --no-survey", says=["1 entries"],
         after=lambda desk: is_a_page(desk, "not wanted")),
]  # fmt: skip
REHEARSED: list[Step[Desk]] = [
    Step(
        "mkdir requests responses\n"
        "nvmefence watch --simulate fleet.toml --hosts hosts.toml --request-dir $PWD/requests "
        "--response-dir $PWD/responses --log-dir $PWD/log --audit $PWD/audit.jsonl &\n"
        "fence_gfs2_recorder --action=off --plug=compute-2 --request-dir=$PWD/requests "
        "--response-dir=$PWD/responses --log-dir=$PWD/log; echo $?\n"
        "kill %1",
        says=["^0$", "serving", "SIMULATED: Fenced compute-2", "stopped"], folder=REHEARSAL,
        before=lay_out_the_rehearsal,
    ),
]  # fmt: skip
ALLOWED: list[Step[Desk]] = [
    Step("nvmefence allow-mass-fence", says=["^Any number of hosts may be fenced for 600 s; "]),
    Step("nvmefence allow-mass-fence --withdraw", says=["^Taken back$"]),
]
OF_NNF = "nvmefence hosts import --nnf system.json node.json --rabbit rabbit-1"
IMPORTED: list[Step[Desk]] = [
    Step("kubectl get systemconfiguration -n default default -o json > system.json", folder="/localdisk",
         before=have_a_cluster),
    Step("kubectl get nnfnode -n rabbit-1 nnf-nlc -o json > node.json", folder="/localdisk"),
    Step(OF_NNF, says=["^# spec.storageNodes.*says the same$", r"^\[hosts.compute-2\]", "^slot = 1"],
         folder="/localdisk"),
    Step(f"{OF_NNF} --check --output /etc/nvmefence/hosts.toml", says=["^2 hosts of rabbit-1 written to"],
         folder="/localdisk", after=the_map_is_the_readmes),
    Step("kubectl get nnfnode -n rabbit-1 nnf-nlc -o json | nvmefence hosts import --nnf - --check",
         says=["^# SIMULATED: Checked on 18 live drives"]),
    Step("nvmefence check", says=["every host of the map could be fenced now on 18 drives"]),
]  # fmt: skip
QUALIFIED: list[Step[Desk]] = [
    Step("nvmefence qualify --simulate bench.toml --drive SIM00000 --controller 1 --namespace 1 "
         "--rounds 2 --watch 1",
         says=["^SIMULATED: no drive was measured", "every step worked", "as they were before: read back",
               "Everything that was asked was measured"], folder="/localdisk", before=describe_a_bench),
]  # fmt: skip
BESIDE = [WATCH, "make install", "make uninstall", "make help"]
"""Commands that scenes are made with, or that a test below runs."""
STATUS = "fence_gfs2_recorder --action=status --plug=compute-2; echo $?"
UNANSWERED: list[Step[Desk]] = [
    Step("nvmefence status --host compute-2", says=["compute-2: fenced since"], before=fence_without_a_response),
    Step("fence_gfs2_recorder --action=off --plug=compute-2; echo $?", says=["^0$"],
         after=only_compute_2_is_cut_off),
    Step(STATUS, says=["^Status: OFF$", "^2$"], after=nnf_knows_of_it),
]  # fmt: skip
STEPS = [*FIRST_START, *EMERGENCY, *PAST, *LOOKS, *REHEARSED, *ALLOWED, *IMPORTED, *QUALIFIED, *UNANSWERED]


@pytest.fixture(scope="module")
def room(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk.alone(machine, tmp_path_factory.mktemp("desk"))
    yield desk
    desk.room.kill()


@pytest.fixture
def desk(room: Desk) -> Iterator[Desk]:
    room.machine.reset(readme_map())
    yield room
    room.kill_watcher()


def test_a_first_start_goes_as_written(desk: Desk) -> None:
    desk.machine.inside(MAP).unlink()
    follow(desk, FIRST_START)


def test_the_commands_for_an_emergency_cut_the_host_and_nobody_else(desk: Desk) -> None:
    follow(desk, EMERGENCY)


def test_what_the_watcher_did_can_be_looked_at(desk: Desk) -> None:
    desk.start_watcher()
    follow(desk, PAST)
    desk.stop_watcher()


def test_a_fence_without_a_response_gets_one_from_the_watcher(desk: Desk) -> None:
    desk.start_watcher()
    follow(desk, UNANSWERED)
    desk.room.must("nvmefence", "restore", "--host", "compute-2")
    assert recorder(desk, "status", "compute-2") == (0, "Status: ON")
    nobody_is_cut_off(desk)
    desk.stop_watcher()


def test_monitor_succeeds_until_the_last_sign_of_life_is_too_old_as_written(desk: Desk) -> None:
    desk.start_watcher()
    desk.stop_watcher()
    sign = desk.machine.inside(f"/localdisk/gfs2-fencing/requests/{heartbeat.NAME}")
    page = " ".join((manual.ROOT / "docs/pacemaker.md").read_text("utf-8").split())
    assert f"goes on succeeding for {heartbeat.FRESH_S:g} s after the watcher has stopped" in page
    for age, code in ((0.0, 0), (heartbeat.FRESH_S - 5, 0), (heartbeat.FRESH_S + 1, 1)):
        then = time.time() - age
        os.utime(sign, (then, then))
        assert recorder(desk, "monitor", "compute-2")[0] == code, age


def test_status_knows_a_node_by_the_name_that_was_asked_for_and_no_other(desk: Desk) -> None:
    desk.start_watcher()
    assert recorder(desk, "off", "c2.example.org")[0] == 0
    only_compute_2_is_cut_off(desk)
    assert recorder(desk, "status", "c2.example.org") == (2, "Status: OFF")
    assert recorder(desk, "status", "compute-2") == (0, "Status: ON")
    for name in ("compute-2", "c2.example.org"):
        assert "compute-2: fenced since" in desk.room.must("nvmefence", "status", "--host", name)
    desk.stop_watcher()


def test_looking_is_as_written(desk: Desk) -> None:
    desk.start_watcher()
    follow(desk, LOOKS)
    desk.stop_watcher()


def test_a_persons_word_for_many_fences_is_given_and_taken_back(desk: Desk) -> None:
    follow(desk, ALLOWED)


def test_a_measurement_is_rehearsed_as_written(desk: Desk) -> None:
    follow(desk, QUALIFIED)


def test_the_host_map_comes_from_nnfs_resources(desk: Desk) -> None:
    follow(desk, IMPORTED)
    desk.machine.inside("/usr/sbin/kubectl").unlink()


def test_the_rehearsal_needs_no_cluster_and_no_drives(desk: Desk) -> None:
    follow(desk, REHEARSED)
    nobody_is_cut_off(desk)


def test_the_removal_takes_all_away_but_what_people_made(machine: Machine, tmp_path: Path) -> None:
    machine.reset(readme_map())
    other = machine.copy(tmp_path / "machine")
    try:
        assert other.inside("/usr/sbin/nvmefence").is_symlink()
        done = other.once(written("make uninstall"))
        assert done.returncode == 0, done.stderr
        assert not other.inside("/usr/sbin/nvmefence").is_symlink()
        assert not other.inside("/opt/nvmefence").exists()
        assert other.inside(MAP).read_text() == readme_map()
    finally:
        shutil.rmtree(other.folder)


def test_what_is_said_to_be_installed_is_what_is_installed(machine: Machine) -> None:
    for place, what, _ in manual.table("docs/install.md", "Installation"):
        for path in manual.code(place):
            found = machine.inside(path)
            assert found.exists() or found.is_symlink(), what


def test_make_help_names_the_targets_that_the_pages_name() -> None:
    done = subprocess.run(
        written("make help").split(), cwd=manual.ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0
    for target in ("demo", "test", "bench", "install"):
        assert f"make {target} " in done.stdout

"""The operator's guide, task by task: the commands that no other page's tests run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import manual
from tests.docs.machine import ATTACHMENTS, MAP, SETTINGS, Machine, readme_map
from tests.docs.scenes import Desk, Node
from tests.docs.steps import Step, follow, written
from tests.docs.test_cluster import cluster, node  # noqa: F401 (fixtures)
from tests.docs.test_desk import fill_in_the_hosts, room  # noqa: F401 (a fixture)

PAGE = manual.ROOT / "docs/guide.md"
EXAMPLES = manual.ROOT / "packaging/examples"
FLEET = "/localdisk/fleet.toml"
STATE = "/var/lib/nvmefence"
TAKEN = f"{STATE}/taken"
"""Emulated drives do not have their records in the usual directory, but in any other of that place."""
HELP = ("version.txt", "hosts.txt", "check.json", "drives.json", "history.json", "explain.json")
UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


def lay_out(desk: Desk, name: str) -> None:
    """Have the drives, and the host map, that the examples of this name describe."""
    desk.machine.inside(FLEET).write_text((EXAMPLES / f"fleet-{name}.toml").read_text())
    desk.machine.inside(MAP).write_text((EXAMPLES / f"hosts-{name}.toml").read_text())


def add_a_drive(desk: Desk) -> None:
    fleet = desk.machine.inside(FLEET)
    fleet.write_text(fleet.read_text().replace("drives = 18", "drives = 19"))


def name_it(desk: Desk) -> None:
    hosts = desk.machine.inside(MAP)
    hosts.write_text(hosts.read_text().replace("count = 18", "count = 19"))


def rename_compute_2(desk: Desk) -> None:
    text = desk.machine.inside(MAP).read_text()
    new = text.replace("[hosts.compute-2]", "[hosts.login-1]").replace('"c2.example.org"', '"compute-2"')
    desk.machine.inside(MAP).write_text(new)


def keep_records_where_they_usually_are(desk: Desk) -> None:
    desk.machine.inside("/etc/nvmefence/nvmefence.toml").write_text(f'{SETTINGS}records = "{TAKEN}"\n')
    desk.room.must("nvmefence", "detach", "--host", "compute-2")


def be_another_machine(desk: Desk) -> None:
    """Have nothing on record, as on the machine that the service moves to."""
    shutil.rmtree(desk.machine.inside(TAKEN))


def what_was_taken_is_known(desk: Desk) -> None:
    desk.room.must("nvmefence", "restore", "--host", "compute-2")
    assert desk.machine.cut_off() == {}


def have_been_helped_before(desk: Desk) -> None:
    shutil.rmtree(desk.machine.inside("/localdisk/help"), ignore_errors=True)
    desk.ask()


def all_is_there(desk: Desk) -> None:
    for name in HELP:
        text = desk.machine.inside(f"/localdisk/help/{name}").read_text()
        assert json.loads(text) if name.endswith(".json") else text.strip(), name


def be_node_a(node: Node) -> None:  # noqa: F811
    lay_out(node, "dual-port")
    for number, name in ((8, "node-a"), (9, "node-b")):
        node.room.must(
            "cibadmin", "--create", "--scope", "nodes", "--xml-text", f'<node id="{number}" uname="{name}"/>'
        )
        entry = rf"s/^nodelist {{/&\nnode {{\nring0_addr: 10.99.0.{number}\nname: {name}\nnodeid: {number}\n}}/"
        node.room.must("sed", "--in-place", entry, "/etc/corosync/corosync.conf")


def fence_emulated_drives(node: Node) -> None:  # noqa: F811
    """Have the device ask for emulated drives, as it must, and for no long wait."""
    node.room.must("pcs", "stonith", "update", "fence-b", f"simulate={FLEET}", "quiesce=wait:0.2")


def node_b_is_cut_off(node: Node) -> None:  # noqa: F811
    drives = json.loads(node.machine.inside(f"{FLEET}.state.json").read_text())["drives"].values()
    masks = [int(mask, 16) for drive in drives for mask in drive["attached"].values()]
    assert masks == [0] * 4


TRIED = [command.text for command in manual.commands_of(PAGE)[1:9]]
"""What needs no machine: from the copy of the examples on."""
MAPS: list[Step[Desk]] = [
    Step("cp /usr/local/share/doc/nvmefence/examples/hosts-rabbit.toml /etc/nvmefence/hosts.toml"),
    Step("nvmefence hosts show", says=["^compute-2 .*slot 1"]),
    Step("nvmefence hosts discover", before=lambda desk: lay_out(desk, "dual-port"),
         says=["S64HNX0T500123 .*: our controller 1, 2 namespaces, controllers 1-2"]),
]  # fmt: skip
DRIVES: list[Step[Desk]] = [
    Step("nvmefence check", exit=9, before=add_a_drive, says=["19 drives found, 18 expected"]),
    Step("nvmefence check", before=name_it, says=["every host of the map could be fenced now on 19 drives"]),
    Step("nvmefence detach --host compute-2; echo $?", says=["^0$"]),
    Step("nvmefence restore --host compute-2; echo $?", says=["^0$"]),
    Step("nvmefence hosts show", before=rename_compute_2, says=["^login-1 .*compute-2"]),
    Step("nvmefence detach --host compute-2; echo $?", says=["Fenced login-1", "^0$"]),
]
MOVED: list[Step[Desk]] = [
    Step("tar -C /var/lib -cf nvmefence-state.tar nvmefence", folder="/localdisk",
         before=keep_records_where_they_usually_are, after=be_another_machine),
    Step("tar -C /var/lib -xf nvmefence-state.tar", folder="/localdisk", after=what_was_taken_is_known),
]  # fmt: skip
ASKED: list[Step[Desk]] = [
    Step(
        "\n".join(
            [
                "mkdir help && cd help",
                "nvmefence version > version.txt; uname -a >> version.txt",
                "nvmefence hosts show > hosts.txt",
                "nvmefence check --json > check.json",
                "nvmefence hosts discover --json > drives.json",
                "nvmefence history --last 20 --json > history.json",
                "nvmefence explain ID --json > explain.json",
            ]
        ),
        before=have_been_helped_before, after=all_is_there, folder="/localdisk",
        fill={"ID": lambda desk: desk.machine.response()},
    ),
    Step("ls /usr/local/share/doc/nvmefence/examples",
         says=["^nvmefence.rules.yml$", "^nvmefence-dashboard.json$", "^fleet-rabbit.toml$"]),
]  # fmt: skip
MUTUAL: list[Step[Node]] = [
    Step("pcs stonith create fence-b fence_nvmefence pcmk_host_list=node-b deadline=30 pcmk_off_timeout=40",
         never=["."], before=be_node_a, after=fence_emulated_drives),
    Step("pcs stonith create fence-a fence_nvmefence pcmk_host_list=node-a deadline=30 pcmk_off_timeout=40",
         never=["."]),
    Step("pcs constraint location fence-b avoids node-b", never=["."]),
    Step("pcs constraint location fence-a avoids node-a", never=["."]),
    Step("pcs stonith fence node-b", says=["Node: node-b fenced"], after=node_b_is_cut_off),
]  # fmt: skip
STEPS = [Step("\n".join(TRIED)), *MAPS, *DRIVES, *MOVED, *ASKED, *MUTUAL]


@pytest.fixture
def desk(room: Desk) -> Iterator[Desk]:  # noqa: F811
    room.machine.reset(readme_map())
    yield room
    room.kill_watcher()


def test_it_is_tried_without_drives_and_without_rights(tmp_path: Path) -> None:
    assert manual.commands_of(PAGE)[0].text == "make build"
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "NVMEFENCE_QUIESCE": "auto:0.2"}
    lines = [line for command in TRIED for line in (written(command), "echo")]
    done = subprocess.run(
        [*(UNPRIVILEGED if os.geteuid() == 0 else ()), "bash", "-c", "\n".join(lines)],
        cwd=manual.ROOT, env=environment, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words in (
        "every host of the map could be fenced now on 18 drives",
        "SIMULATED: Fenced compute-2: detached 72 attachments on 18 drives",
        "SIMULATED: Restored compute-2",
        "SIMULATED: Fenced node-b: detached 4 attachments on 2 drives in 0.2",
    ):
        assert words in done.stdout
    assert [line for line in done.stdout.splitlines() if line in ("0", "1")] == ["0", "0", "0"]


def test_host_maps_are_begun_as_written(desk: Desk) -> None:
    follow(desk, MAPS)


def test_a_drive_is_added_and_a_host_is_renamed_as_written(desk: Desk) -> None:
    follow(desk, DRIVES)
    assert desk.machine.cut_off() == {"compute-2": ATTACHMENTS + 4}


def test_what_is_on_record_moves_with_the_service(desk: Desk) -> None:
    follow(desk, MOVED)


def test_what_is_to_be_sent_is_gathered(desk: Desk) -> None:
    desk.start_watcher()
    follow(desk, ASKED)
    desk.stop_watcher()


@pytest.mark.cluster
def test_one_of_two_hosts_cuts_the_other_off_as_written(node: Node) -> None:  # noqa: F811
    follow(node, MUTUAL)


def test_every_task_is_in_the_table_at_the_top() -> None:
    text = PAGE.read_text("utf-8")
    tasks = {heading[3:] for heading in text.splitlines() if heading.startswith("## ")}
    table, *_ = text.split("\n## ")
    linked = {link.removeprefix("#") for link in manual.links(PAGE) if link.startswith("#")}
    assert {task for task in tasks if f"(#{task.lower().replace(' ', '-')})" not in table} == set()
    assert linked <= manual.anchors(PAGE)


def test_the_machine_of_the_guide_is_the_one_that_is_installed(machine: Machine) -> None:
    for name in ("fleet-rabbit.toml", "hosts-rabbit.toml", "fleet-dual-port.toml", "hosts-dual-port.toml"):
        assert machine.inside(f"/usr/local/share/doc/nvmefence/examples/{name}").exists()

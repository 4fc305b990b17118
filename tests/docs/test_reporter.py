"""The reporter to Kubernetes as a service: installed, started and looked at as written, with its unit and user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.machine import CONTROLLERS, RESPONSES, Machine
from tests.docs.scenes import Service
from tests.docs.steps import Step, follow, written
from tests.docs.test_service import pytestmark as pytestmark  # noqa: PLC0414 (what a service needs)
from tests.docs.test_service import running
from tests.nnf.answers import write
from tests.nnf.api_server import ApiServer, kubeconfig, make_keys, serving
from tests.nnf.resources import RABBIT, node
from tests.system.service_room import TARGET, ServiceRoom
from tests.system.watching import until

UNIT = "nvmefence-nnf-report.service"
KUBECONFIG = "/etc/nvmefence/nnf-report.kubeconfig"
SOONER = "[Service]\nRestartSec=100ms\n"
"""All that is different from the unit as it is installed."""


class Reporting(Service):
    """A person at a shell of the Rabbit, with a cluster that has its NnfNode."""

    def __init__(self, machine: Machine, room: ServiceRoom, server: ApiServer, keys: Path) -> None:
        super().__init__(machine, room)
        self.server = server
        self.keys = keys

    def credentials(self, place: str, token: str) -> None:
        """Put a kubeconfig there."""
        kubeconfig(self.server, self.machine.inside(place), self.keys, token=token, embedded=True)

    def fence(self, name: str, host: str) -> None:
        """Put a response there, as the watcher does."""
        write(self.machine.inside(RESPONSES), name, host)

    def says_fenced(self, host: str) -> None:
        """Fail unless Kubernetes is soon told of a host."""
        until(lambda: self.server.statuses()[host] == "Fenced", f"{host} is reported")


def have_a_response(rabbit: Reporting) -> None:
    """Have the directories, with a fence from before the reporter's time."""
    assert rabbit.room.run("systemd-tmpfiles", "--create", "nvmefence.conf").returncode == 0
    rabbit.fence("r-1", "compute-2")


def have_credentials(rabbit: Reporting) -> None:
    rabbit.credentials("/localdisk/nnf-report.kubeconfig", rabbit.server.token)


def nothing_is_told(rabbit: Reporting) -> None:
    assert set(rabbit.server.statuses().values()) == {"Ready"}
    assert rabbit.server.patches == []


def compute_2_is_told(rabbit: Reporting) -> None:
    rabbit.says_fenced("compute-2")
    until(lambda: "fenced by 1" in rabbit.room.shows(UNIT, "StatusText"), "it says so")
    assert rabbit.server.statuses()["compute-1"] == "Ready"


def it_runs_as_its_own_user(rabbit: Reporting) -> None:
    process = rabbit.room.shows(UNIT, "MainPID")
    assert rabbit.room.run("stat", "-c", "%U:%G", f"/proc/{process}").stdout == (
        "nvmefence-report:nvmefence-report\n"
    )


STEPS: list[Step[Reporting]] = [
    Step("systemctl daemon-reload"),
    Step("systemd-sysusers nvmefence-nnf-report.conf", says=["Creating user '?nvmefence-report"]),
    Step("systemd-tmpfiles --create nvmefence-nnf-report.conf", before=have_a_response),
    Step(f"install -g nvmefence-report -m 0640 nnf-report.kubeconfig {KUBECONFIG}", folder="/localdisk",
         before=have_credentials),
    Step(f"runuser -u nvmefence-report -- nvmefence-nnf-report --kubeconfig {KUBECONFIG} --dry-run",
         says=["compute-2 .*Fenced"], after=nothing_is_told),
    Step("systemctl enable --now nvmefence-nnf-report", says=["Created symlink"], after=compute_2_is_told),
    Step("systemctl status nvmefence-nnf-report", after=it_runs_as_its_own_user,
         says=[r"Active: active \(running\)", 'Status: ".*says what the responses show; fenced by 1']),
]  # fmt: skip
BESIDE = ["make install-nnf-report"]


@pytest.fixture
def rabbit(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reporting]:
    """Give a systemd on the machine that knows the reporter, and nobody that it could run as."""
    done = machine.once(written("make install-nnf-report"))
    assert done.returncode == 0, done.stdout + done.stderr
    keys = make_keys(tmp_path)
    server = ApiServer(node(dict(enumerate(CONTROLLERS)), rabbit=RABBIT))
    more = {f"{UNIT}.d/sooner.conf": SOONER, "network-online.target": TARGET}
    with running(machine, tmp_path, monkeypatch, UNIT, more) as room:
        for command in (("hostname", RABBIT), ("ip", "link", "set", "lo", "up")):
            assert room.run(*command).returncode == 0
        with serving(server, keys, room.first):
            yield Reporting(machine, room, server, keys)
    assert server.refused == []


def test_the_reporter_is_started_as_written_and_reads_new_credentials(rabbit: Reporting) -> None:
    follow(rabbit, STEPS)
    before = rabbit.room.shows(UNIT, "MainPID")
    rabbit.server.token = "another"
    rabbit.credentials(KUBECONFIG, "another")
    rabbit.fence("r-2", "compute-1")
    rabbit.says_fenced("compute-1")
    assert rabbit.room.shows(UNIT, "MainPID") != before
    assert rabbit.room.run("systemctl", "stop", UNIT).returncode == 0
    assert rabbit.room.shows(UNIT, "Result") == "success"

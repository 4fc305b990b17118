"""The reporter to Kubernetes as a service: installed, started and looked at as written, with its unit and user."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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


class Cluster(ApiServer):
    """An API server that also has the secret which a token of the reporter is in, as kubectl asks for it."""

    def __init__(self, keys: Path) -> None:
        super().__init__(node(dict(enumerate(CONTROLLERS)), rabbit=RABBIT))
        data = {"ca.crt": (keys / "tls.crt").read_bytes(), "token": self.token.encode()}
        secrets = {"name": "secrets", "namespaced": True, "kind": "Secret", "verbs": ["get"]}
        self.more: dict[str, dict[str, object]] = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [secrets]},
            f"/api/v1/namespaces/{RABBIT}/secrets/nvmefence-nnf-report": {
                "kind": "Secret", "apiVersion": "v1", "metadata": {"name": "nvmefence-nnf-report"},
                "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
            },
        }  # fmt: skip

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> tuple[int, Any]:
        path = urlsplit(target).path
        return (200, self.more[path]) if path in self.more else super().answer(method, target, headers, body)


def be_an_administrator(rabbit: Reporting) -> None:
    place = rabbit.machine.inside("/localdisk/.kube")
    place.mkdir()
    rabbit.credentials("/localdisk/.kube/config", "an administrator's")


def holds_the_certificate(rabbit: Reporting) -> None:
    assert rabbit.machine.inside("/localdisk/ca.crt").read_text() == (rabbit.keys / "tls.crt").read_text()


def the_reporter_takes_it(rabbit: Reporting) -> None:
    """Fail unless the kubeconfig is good enough for the server, and has all in it."""
    for name in (".kube", "ca.crt"):
        rabbit.machine.inside(f"/localdisk/{name}").rename(rabbit.machine.inside(f"/localdisk/gone{name}"))
    have_a_response(rabbit)
    done = rabbit.shell("nvmefence-nnf-report --kubeconfig /localdisk/nnf-report.kubeconfig --dry-run", 30)
    assert "compute-2 is Fenced" in done.stderr, done.stderr


def address(rabbit: Reporting) -> str:
    return rabbit.server.url.removeprefix("https://")


HOME = "/localdisk; export HOME=/localdisk"
SECRET = "kubectl get secret -n rabbit-1 nvmefence-nnf-report -o jsonpath="
CONFIG = "kubectl config --kubeconfig nnf-report.kubeconfig"
CREDENTIALS: list[Step[Reporting]] = [
    Step(f"{SECRET}'{{.data.ca\\.crt}}' | base64 -d > ca.crt", folder=HOME, before=be_an_administrator,
         after=holds_the_certificate),
    Step(f"{CONFIG} set-cluster nnf --server https://API:6443 --certificate-authority ca.crt --embed-certs",
         folder=HOME, fill={"API:6443": address}),
    Step(f"{CONFIG} set-credentials nvmefence-nnf-report "
         f"--token \"$({SECRET}'{{.data.token}}' | base64 -d)\"", folder=HOME),
    Step(f"{CONFIG} set-context nnf --cluster nnf --user nvmefence-nnf-report", folder=HOME),
    Step(f"{CONFIG} use-context nnf", folder=HOME, after=the_reporter_takes_it),
]  # fmt: skip
SERVICE: list[Step[Reporting]] = [
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
STEPS = [*CREDENTIALS, *SERVICE]
BESIDE = ["make install-nnf-report"]


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Machine:
    """Install the reporter as well."""
    done = machine.once(written("make install-nnf-report"))
    assert done.returncode == 0, done.stdout + done.stderr
    return machine


@pytest.fixture
def rabbit(installed: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reporting]:
    """Give a systemd on the machine that knows the reporter, and nobody that it could run as."""
    keys = make_keys(tmp_path)
    server = Cluster(keys)
    more = {f"{UNIT}.d/sooner.conf": SOONER, "network-online.target": TARGET}
    with running(installed, tmp_path, monkeypatch, UNIT, more) as room:
        for command in (("hostname", RABBIT), ("ip", "link", "set", "lo", "up")):
            assert room.run(*command).returncode == 0
        with serving(server, keys, room.first):
            yield Reporting(installed, room, server, keys)
    assert server.refused == []


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where there is no kubectl that works: that of Debian 12 (1.20) crashes when it writes credentials."""
    if shutil.which("kubectl") is None:
        pytest.skip("not installed: kubectl")
    place = tmp_path_factory.mktemp("kubectl") / "trial"
    words = ["kubectl", "config", f"--kubeconfig={place}", "set-credentials", "trial", "--token=t"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        pytest.skip(f"kubectl crashes: {done.stderr.splitlines()[0] if done.stderr else done.returncode}")


@pytest.mark.usefixtures("kubectl")
def test_the_reporters_kubeconfig_is_made_as_written(rabbit: Reporting) -> None:
    follow(rabbit, CREDENTIALS)


def test_the_reporter_is_started_as_written_and_reads_new_credentials(rabbit: Reporting) -> None:
    follow(rabbit, SERVICE)
    before = rabbit.room.shows(UNIT, "MainPID")
    rabbit.server.token = "another"
    rabbit.credentials(KUBECONFIG, "another")
    rabbit.fence("r-2", "compute-1")
    rabbit.says_fenced("compute-1")
    assert rabbit.room.shows(UNIT, "MainPID") != before
    assert rabbit.room.run("systemctl", "stop", UNIT).returncode == 0
    assert rabbit.room.shows(UNIT, "Result") == "success"

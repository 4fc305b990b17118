"""The reporter as a process: beside a watcher that it cannot slow down or change, and against a server over TLS."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nvmefence.nnf import report
from tests.nnf import node_manager
from tests.nnf.answers import write
from tests.nnf.api_server import ApiServer, kubeconfig, make_keys, serving
from tests.nnf.resources import RABBIT, node
from tests.system.watching import Running, Watching, until

REPORT = [sys.executable, "-m", "nvmefence.nnf.report"]
ROOT = Path(__file__).parents[2]


class Beside(Watching):
    """A place with a watcher's directories, a server, and ways to run the reporter."""

    server: ApiServer
    keys: Path

    def report(self, *more: str) -> list[str]:
        config = kubeconfig(self.server, self.path / "kubeconfig", self.keys)
        return [
            *REPORT, "--rabbit", RABBIT, "--kubeconfig", str(config), "--response-dir", str(self.answers),
            "--config", os.devnull, *more,
        ]  # fmt: skip

    @contextmanager
    def reporter(self, *more: str, **options: Any) -> Iterator[Running]:
        running = Running(self.report("--simulated", *more), self.path, **options)
        try:
            yield running
        finally:
            running.kill()

    def once(self, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.spawn(self.report("--simulated", "--once", *more), PYTHONPATH=str(ROOT), **variables)

    def files(self) -> dict[str, tuple[int, bytes, int]]:
        """All files of the response directory, with when they were changed last."""
        return {
            str(path.relative_to(self.answers)): (path.stat().st_ctime_ns, path.read_bytes(), path.stat().st_mode)
            for path in self.answers.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Beside]:
    made = Beside(tmp_path)
    (tmp_path / "keys").mkdir()
    made.keys = make_keys(tmp_path / "keys")
    with serving(ApiServer(node()), made.keys) as made.server:
        yield made
    assert made.server.refused == []


def fenced(place: Beside) -> set[str]:
    return {host for host, status in place.server.statuses().items() if status == "Fenced"}


def test_a_fence_by_the_watcher_is_in_kubernetes_at_once(place: Beside) -> None:
    with place.watcher(), place.reporter("--rescan", "600", "--resync", "600") as reporter:
        reporter.hears("reporting")
        until(lambda: place.server.requests, "it has compared")
        place.answered(place.ask("r-1.json", target_node="c2"))
        until(lambda: fenced(place) == {"c2"}, "the hint was heard", 5)
        assert reporter.stop() == 0


def test_without_hints_the_timed_look_finds_it_and_what_goes(place: Beside) -> None:
    with place.watcher(), place.reporter("--rescan", "0.2") as reporter:
        place.answered(place.ask("r-1.json", target_node="c2"))
        until(lambda: fenced(place) == {"c2"}, "it is reported")
        assert place.run("restore", "--host", "c2", "--response-dir", str(place.answers)).returncode == 0
        until(lambda: place.server.statuses()["c2"] == "Offline", "it is handed back")
        assert reporter.stop(signal.SIGINT) == 0


def node_manager_of(directory: Path) -> Callable[[dict[str, Any]], None]:
    """Return what a node manager does whenever its NnfNode changes: all servers anew, by its rules."""

    def reconcile(found: dict[str, Any]) -> None:
        fenced = node_manager.fenced(directory)
        for server in found["status"]["servers"][1:]:
            is_fenced = server.get("hostname") in fenced
            server["status"], server["health"] = ("Fenced", "Critical") if is_fenced else ("Ready", "OK")

    return reconcile


def test_with_a_node_manager_that_shares_the_responses_both_say_the_same(place: Beside) -> None:
    place.server.changed = node_manager_of(place.answers)
    with place.watcher(), place.reporter("--rescan", "0.2", "--resync", "0.2") as reporter:
        place.answered(place.ask("r-1.json", target_node="c2"))
        until(lambda: fenced(place) == {"c2"}, "it is reported")
        assert place.run("restore", "--host", "c2", "--response-dir", str(place.answers)).returncode == 0
        until(lambda: place.server.statuses() == {"c1": "Ready", "c2": "Ready"}, "its node manager says what it is")
        time.sleep(0.5)
        assert len(place.server.patches) == 2
        assert "does not find" not in reporter.text()


def test_whatever_becomes_of_the_reporter_a_fence_is_as_it_is_without_one(place: Beside) -> None:
    place.server.delay_s = 30.0
    with place.watcher(), place.reporter("--rescan", "0.1", "--resync", "0.1") as reporter:
        reporter.hears("reporting")
        until(lambda: place.server.requests, "it has compared")
        for number, state in enumerate(("runs", "stopped", "waits for the server", "killed")):
            if state == "stopped":
                reporter.process.send_signal(signal.SIGSTOP)
            elif state == "waits for the server":
                place.server.faults = ["slow"] * 100
                reporter.process.send_signal(signal.SIGCONT)
                until(lambda: len(place.server.faults) < 100, "it waits for the server")
            elif state == "killed":
                reporter.kill()
            started = time.monotonic()
            answer = place.answered(place.ask(f"r-{number}.json", target_node="c1"), within=15)
            assert time.monotonic() - started < 10.0, state
            assert (answer["success"], answer["evidence"]["confirmed"]) == (True, True), state


def test_the_reporter_leaves_the_directory_as_it_is(place: Beside) -> None:
    with place.watcher():
        for name, host in (("r-1.json", "c1"), ("r-2.json", "c2")):
            place.answered(place.ask(name, target_node=host))
    place.run("unfence", "--host", "c1", "--response-dir", str(place.answers))
    before = place.files()
    place.server.put("c1", "Fenced")
    assert place.once().returncode == 0
    assert place.server.statuses() == {"c1": "Offline", "c2": "Fenced"}
    assert place.files() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's process needs root")
def test_a_user_without_rights_but_to_read_is_enough_and_cannot_write(place: Beside) -> None:
    nobody = pwd.getpwnam("nobody")
    place.answers.chmod(0o2750)
    os.chown(place.answers, 0, nobody.pw_gid)  # what tmpfiles.d sets: the group comes with each new file
    with place.watcher():
        response = place.ask("r-1.json", target_node="c2")
        place.answered(response)
    assert (response.stat().st_gid, response.stat().st_mode & 0o777) == (nobody.pw_gid, 0o640)
    for path in (place.path, *list(place.path.parents)[:3], place.keys):
        path.chmod(path.stat().st_mode | 0o055)
    # That user need not be able to read where this project lies, so everything is loaded before.
    report = place.report("--simulated", "--once")[len(REPORT) :]
    script = (
        f"import os; from nvmefence.nnf import cluster, report; arguments = {report!r}\n"
        f"cluster.connect({RABBIT!r}, arguments[3], None, 5).get()\n"
        f"os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})\n"
        f"try: open({str(place.answers / 'x')!r}, 'w')\n"
        "except PermissionError: print('cannot write', flush=True)\n"
        "raise SystemExit(report.main(arguments))"
    )
    done = place.spawn([sys.executable, "-c", script], PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cannot write\n"
    assert fenced(place) == {"c2"}


def test_real_fences_only_unless_it_is_told_otherwise(place: Beside) -> None:
    with place.watcher():
        place.answered(place.ask("r-1.json", target_node="c2"))
    done = place.spawn(place.report("--once"), PYTHONPATH=str(ROOT))
    assert done.returncode == 0
    assert "its drives were simulated" in done.stderr
    assert fenced(place) == set()


def test_once_says_how_it_went(place: Beside) -> None:
    write(place.answers, "r-1", "c2")
    done = place.once("--dry-run", "--json")
    assert (done.returncode, fenced(place)) == (0, set())
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["event"], one["host"], one["dry_run"]) for one in lines] == [("fenced", "c2", True)]
    assert place.once().returncode == 0
    assert fenced(place) == {"c2"}
    place.server.forbidden = True
    assert place.once().returncode == 8
    place.server.token = "another"
    assert place.once().returncode == 7
    place.answers.rename(place.path / "away")
    assert place.once().returncode == 8
    (place.path / "kubeconfig").write_text("{}")
    broken = [*REPORT, "--rabbit", RABBIT, "--kubeconfig", str(place.path / "kubeconfig"), "--config", os.devnull]
    assert place.spawn(broken, PYTHONPATH=str(ROOT)).returncode == 3


@pytest.mark.parametrize(
    "wrong", [["--rabbit", "../x"], ["--api-version", "v1/../.."], ["--rescan", "0"], ["--resync", "x"]]
)
def test_what_could_lead_elsewhere_is_no_argument(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        report.main(wrong)
    assert ended.value.code == 2


def test_it_ends_at_once_when_it_is_told_to_while_the_server_does_not_answer(place: Beside) -> None:
    place.server.delay_s = 30.0
    place.server.faults = ["slow"] * 10
    with place.reporter() as reporter:
        until(lambda: place.server.requests, "it waits for the server")
        assert reporter.stop(within=15) == 0


def test_nothing_of_the_client_is_loaded_where_fences_are_made() -> None:
    looks = (
        "import sys; import nvmefence.cli.watch, nvmefence.watcher.service, nvmefence.cli.detach;"
        "import nvmefence.agents.fence_gfs2_recorder, nvmefence.agents.fence_nvmefence;"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('lightkube', 'httpx', 'httpx2', 'yaml')"
        " or m.startswith('nvmefence.nnf')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", looks], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"

"""After a fence: what is done, by watcher and command line, and what it can do to neither's answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.place import CLEAN, FLEET, REMOVED
from tests.system.watching import Running, Watching, until

REAL = [sys.executable, "-m", "tests.system.real_drives"]
ROOT = Path(__file__).parents[2]
COROSYNC = "nodelist {\nnode {\nname: node-1\nnodeid: 11\n}\nnode {\nname: c2\nnodeid: 12\n}\n}\n"
HOSTS = (
    'version = 1\n[drives]\ncount = 3\n[hosts.c1]\nslot = 0\naliases = ["node-1"]\n[hosts.c2]\nslot = 1\n'
    "[hosts.c3]\nslot = 2\n"
)


class After(Watching):
    """A place with programs and hooks that write down what happens to them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.write(FLEET, HOSTS)
        self.log = path / "programs.log"
        self.socket = f"nvmefence-test-{os.getpid()}-{time.monotonic_ns()}"
        for name in ("bin", "hooks.d"):
            (path / name).mkdir(mode=0o755)
        (path / "corosync.conf").write_text(COROSYNC)
        (path / "corosync.conf").chmod(0o644)
        for name in ("dlm_tool", "stonith_admin"):
            self.program(name)

    def program(self, name: str, script: str = "", room: str = "bin") -> None:
        path = self.path / room / name
        path.write_text(f"#!/bin/sh\nprintf '%s\\n' \"{name} $* $(cat)\" >>{self.log}\n{script}\n")
        path.chmod(0o755)

    def hook(self, name: str, script: str = "") -> None:
        self.program(name, script, "hooks.d")

    def after(self, *what: str, limit: float = 5.0) -> list[str]:
        return [
            "--after", ",".join(what), "--hooks-dir", str(self.path / "hooks.d"), "--after-timeout-s", str(limit),
            "--corosync-conf", str(self.path / "corosync.conf"),
        ]  # fmt: skip

    @property
    def variables(self) -> dict[str, str]:
        return {"TEST_PROGRAMS": str(self.path / "bin"), "TEST_DLM_SOCKET": self.socket, "PYTHONPATH": str(ROOT)}

    @contextlib.contextmanager
    def real(self, *what: str, limit: float = 5.0) -> Iterator[Running]:
        """A running watcher whose drives count as real."""
        command = [*REAL, *self.arguments(*self.after(*what, limit=limit))]
        running = Running(command, self.path, env=self.variables)
        try:
            running.hears("serving")
            yield running
        finally:
            running.kill()

    def detach(
        self, *words: str, what: str = "dlm,stonith,hooks", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return self.spawn(self.detaching(*words, what=what), **self.variables, **variables)

    def detaching(self, *words: str, what: str = "dlm,stonith,hooks", limit: float = 5.0) -> list[str]:
        simulated = ["--simulate", "fleet.toml", "--hosts", "hosts.toml", "--quiesce", "none"]
        return [*REAL, "detach", *simulated, *self.after(what, limit=limit), *words]

    def watched(self, response: Path) -> Any:
        """Return a response as soon as it is there, though somebody may remove it at once."""
        found: list[bytes] = []

        def look() -> bool:
            with contextlib.suppress(FileNotFoundError):
                found.append(response.read_bytes())
            return bool(found)

        until(look, f"response {response.name}")
        return json.loads(found[0])

    def logged(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def told(self, hook: str) -> list[dict[str, Any]]:
        """What a hook read on its standard input, each time."""
        return [json.loads(line.split(" ", 1)[1]) for line in self.logged() if line.startswith(f"{hook} ")]


@pytest.fixture
def place(tmp_path: Path) -> After:
    return After(tmp_path)


@pytest.fixture
def controld(place: After) -> Iterator[None]:
    """A socket where dlm_controld has its own."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{place.socket}")
        listening.listen()
        yield


def test_by_itself_nothing_is_done(place: After) -> None:
    place.hook("10-a")
    with place.watcher("--hooks-dir", str(place.path / "hooks.d")) as running:
        assert place.answered(place.ask("r.json"))["success"] is True
        assert Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text() == ""
    assert place.run("detach", "--host", "c2").returncode == 0
    assert (place.logged(), place.lines("after")) == ([], [])


@pytest.mark.usefixtures("controld")
def test_a_true_success_is_told_to_all_and_is_on_record(place: After) -> None:
    place.hook("20-last")
    place.hook("10-first", "echo said something; exit 3")
    with place.real("dlm", "stonith", "hooks") as running:
        answer = place.answered(place.ask("r.json", action="reboot", recorder_node="r1", gfs2_filesystems=["fs"]))
        assert answer["success"] is True
        until(lambda: len(place.lines("after")) == 4, "four audit lines")
        running.hears("after the fence of c1: hook 20-last: done")
    assert [line.split(" {")[0].strip() for line in place.logged()] == [
        "dlm_tool fence_ack 11", "stonith_admin --confirm=node-1", "10-first", "20-last",
    ]  # fmt: skip
    (told,) = place.told("10-first")
    assert told == {
        "version": 1, "event": "fenced", "host": "c1", "target_node": "c1", "action": "reboot", "success": True,
        "message": answer["message"], "time": told["time"], "simulated": False, "request_id": "r",
        "recorder_node": "r1", "gfs2_filesystems": ["fs"], "response": str(place.answers / "r.json"),
    }  # fmt: skip
    lines = place.lines("after")
    assert [(line["what"], line["good"], line["exit"]) for line in lines] == [
        ("dlm", True, 0), ("stonith", True, 0), ("hook 10-first", False, 3), ("hook 20-last", True, 0),
    ]  # fmt: skip
    assert lines[2]["output"] == "said something"
    assert {(line["host"], line["request_id"]) for line in lines} == {("c1", "r")}
    assert "warning: after the fence of c1: hook 10-first: failed: exit code 3: said something" in running.text()
    assert "info: after the fence of c1: dlm: node 11 (node-1) acknowledged" in running.text()


@pytest.mark.usefixtures("controld")
def test_a_success_that_found_nothing_to_cut_is_told_again(place: After) -> None:
    with place.real("dlm") as running:
        for number in (1, 2):
            assert place.answered(place.ask(f"r-{number}.json"))["success"] is True
            running.hears("acknowledged", times=number)
    assert place.logged() == ["dlm_tool fence_ack 11 "] * 2


@pytest.mark.usefixtures("controld")
def test_nothing_but_a_true_success_is_told(place: After) -> None:
    place.write(FLEET + REMOVED, HOSTS)
    place.hook("10-a")
    with place.real("dlm", "stonith", "hooks"):
        answers = [
            place.answered(place.ask("failed.json")),
            place.answered(place.ask("unknown.json", target_node="nobody")),
            place.answered(place.ask("on.json", action="on")),
        ]
        place.put("bad.json", '{"request_id": "bad"}')
        until((place.answers / "bad.json").exists, "it is rejected")
        time.sleep(0.5)
    assert [answer["success"] for answer in answers[:2]] == [False, False]
    assert place.detach("--host", "c1").returncode == 5
    assert place.detach("--host", "c1", "--dry-run").returncode == 5
    assert (place.logged(), place.lines("after")) == ([], [])


def test_of_simulated_drives_hooks_alone_hear_and_hear_that(place: After) -> None:
    place.hook("10-a")
    with place.watcher(*place.after("dlm", "stonith", "hooks")) as running:
        assert place.answered(place.ask("r.json"))["success"] is True
        running.hears("hook 10-a: done")
    assert [line.split()[0] for line in place.logged()] == ["10-a"]
    assert place.told("10-a")[0]["simulated"] is True


MALICE = {
    "hangs": "trap '' TERM INT HUP; while ! test -e {over}; do sleep 0.1; done",
    "floods": "while ! test -e {over}; do echo flood; done",
    "forks": "sleep 60 & exit 0",
    "fails": "exit 1",
    "kills itself": "kill -9 $$",
    "kills its parent": "kill -9 $PPID",
    "deletes the response": "sleep 0.3; rm -f {answers}/*",
    "spoils the request directory": "rm -f {requests}/.watcher",
}


@pytest.mark.parametrize("what", MALICE)
def test_whatever_a_hook_does_answers_are_the_same_and_as_quick(place: After, what: str) -> None:
    over = place.path / "over"
    place.hook("10-bad", MALICE[what].format(answers=place.answers, requests=place.requests, over=over))
    place.hook("20-good")
    with place.real("hooks", limit=8.0) as running:
        assert place.watched(place.ask("r-0.json", target_node="c3"))["success"] is True
        running.hears("after the fence of c3: hook")
        if what == "kills its parent":
            running.hears("after the fence of c3: hooks: left undone: the process that does it was killed")
        took = []
        for number in range(6):
            start = time.monotonic()
            response = place.ask(f"r-{number + 1}.json", target_node=("c1", "c2")[number % 2])
            answer = place.watched(response)
            took.append(time.monotonic() - start)
            assert answer["success"] is True
        assert sorted(took)[-2] < 7.0, took  # one may meet a busy moment of this machine
        over.touch()
        assert running.process.poll() is None
        if what != "kills its parent":
            running.hears("after the fence of c2: hook 20-good: done", times=3)
        assert running.stop() == 0
    assert [line["result"] for line in place.lines()] == ["fenced"] * 7


@pytest.mark.usefixtures("controld")
def test_a_hook_that_hangs_does_not_hold_up_the_acknowledgement_of_the_next_fence(place: After) -> None:
    place.hook("10-a", "sleep 60")
    with place.real("dlm", "hooks", limit=10.0):
        place.answered(place.ask("r-1.json"))
        until(lambda: place.told("10-a"), "the hook runs")
        start = time.monotonic()
        place.answered(place.ask("r-2.json", target_node="c2"))
        until(lambda: "dlm_tool fence_ack 12 " in place.logged(), "the second is acknowledged")
        assert time.monotonic() - start < 9, "before the first is over"


def test_a_watcher_waits_for_what_it_has_begun_and_then_goes(place: After) -> None:
    place.hook("10-a", f"sleep 0.7; echo end >>{place.log}")
    with place.real("hooks") as running:
        place.answered(place.ask("r.json"))
        until(lambda: place.told("10-a"), "the hook runs")
        assert running.stop() == 0
    assert place.logged()[-1] == "end"
    assert place.lines("after")[0]["what"] == "hook 10-a"


def test_a_watcher_that_is_killed_leaves_no_lock_and_what_was_begun_goes_on(place: After) -> None:
    place.hook("10-a", f"sleep 1; echo end >>{place.log}")
    with place.real("hooks") as running:
        place.answered(place.ask("r.json"))
        until(lambda: place.told("10-a"), "the hook runs")
        running.kill()
    with place.real("hooks"):
        assert place.answered(place.ask("r-2.json", target_node="c2"))["success"] is True
        until(lambda: "end" in place.logged(), "the hook ends")


def test_a_watcher_without_its_helper_says_so_and_answers(place: After) -> None:
    place.hook("10-a")
    with place.real("hooks") as running:
        children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text()
        os.kill(int(children), signal.SIGKILL)
        running.hears("after a fence: the process that does it has ended; restart the watcher")
        assert place.answered(place.ask("r.json"))["success"] is True
        running.hears("after the fence of c1: nothing is done")
        assert running.stop() == 0
    assert place.logged() == []


def test_what_is_wrong_with_hooks_and_nodes_is_said_once(place: After) -> None:
    place.hook("10-a")
    place.hook("20-b~")
    (place.path / "hooks.d" / "10-a").chmod(0o777)
    with place.real("stonith", "hooks") as running:
        for number in range(3):
            place.answered(place.ask(f"r-{number}.json", target_node="c3"))
            running.hears("after the fence of c3: stonith: not done", times=number + 1)
        place.hook("30-c")
        place.answered(place.ask("r-4.json"))
        running.hears("hook 30-c: done")
    text = running.text()
    assert text.count("hook 10-a: not run: may be written by others (mode 0777)") == 1
    assert text.count("hook 20-b~: not run: ") == 1
    assert "no node is called c3; aliases in the host map count as names" in text


def test_nothing_is_loaded_for_what_is_done_after_a_fence(place: After) -> None:
    place.hook("10-a")
    command = [REAL[0], "-X", "importtime", *REAL[1:], *place.arguments(*place.after("dlm", "hooks"))]
    running = Running(command, place.path, env=place.variables)
    try:
        running.hears("drives through")
        before = running.text().count("import time:")
        assert place.answered(place.ask("r.json"))["success"] is True
        running.hears("hook 10-a: done")
        assert before > 50
        assert running.text().count("import time:") == before, running.text()[-3000:]
    finally:
        running.kill()


@pytest.mark.usefixtures("controld")
def test_the_command_line_tells_of_it_after_its_result(place: After) -> None:
    place.hook("10-a", "exit 9")
    done = place.detach("--host", "node-1", "--host", "c3", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["exit"]) == (0, 0)
    assert [line.split(" {")[0].strip() for line in sorted(place.logged())] == [
        "10-a", "10-a", "dlm_tool fence_ack 11", "stonith_admin --confirm=node-1",
    ]  # fmt: skip
    for text in (
        "note: after the fence of c1: dlm: node 11 (node-1) acknowledged",
        "note: after the fence of c1: stonith: node-1 confirmed",
        "note: after the fence of c1: hook 10-a: failed: exit code 9",
        "note: after the fence of c3: dlm: not done: ",
    ):
        assert text in done.stderr
    told = {one["host"]: one for one in place.told("10-a")}
    assert (told["c1"]["request_id"], told["c1"]["response"], told["c1"]["action"]) == (None, None, "off")


def test_the_result_is_printed_before_anything_is_done(place: After) -> None:
    place.hook("10-a", f"cat {place.path}/out >>{place.log}")
    with (place.path / "out").open("wb") as out:
        done = subprocess.run(
            place.detaching("--host", "c1", what="hooks"), cwd=place.path, env={**CLEAN, **place.variables},
            stdout=out, stderr=subprocess.PIPE, text=True, timeout=30, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Fenced c1" in place.log.read_text()


@pytest.mark.parametrize("front", ["", "1"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_waiting_and_changes_no_exit_code(
    place: After, number: signal.Signals, front: str
) -> None:
    place.hook("10-a", f"sleep 2; echo end >>{place.log}")
    process = subprocess.Popen(
        place.detaching("--host", "c1", what="hooks"), cwd=place.path,
        env={**CLEAN, **place.variables, "TEST_FRONT": front}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    until(lambda: place.told("10-a"), "the hook runs")
    process.send_signal(number)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, "Fenced c1" in out) == (0, True)
    assert "after the fence of c1: not waited for any longer; it goes on by itself" in err
    assert place.logged()[-1] != "end"
    until(lambda: place.logged()[-1] == "end", "the hook ends")


@pytest.mark.parametrize("front", ["", "1"])
@pytest.mark.parametrize("what", ["hangs", "floods", "forks", "kills its parent"])
def test_whatever_a_hook_does_the_command_ends_with_its_own_code(place: After, what: str, front: str) -> None:
    place.hook("10-bad", MALICE[what])
    start = time.monotonic()
    command = place.detaching("--host", "c1", what="hooks", limit=0.5)
    done = place.spawn(command, **place.variables, TEST_FRONT=front)
    assert (done.returncode, "Fenced c1" in done.stdout) == (0, True), done.stderr
    assert time.monotonic() - start < 10

"""The process beside: what is done after which fence, in which order, and what never holds up another."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nvmefence.after import helper as beside
from nvmefence.after import serving
from nvmefence.after.actions import Done, Fence, Options
from nvmefence.after.helper import Gone, Helper

PATIENCE_S = 20.0
FENCE = Fence("c2", ("c2", "c2-ib", "node-2"), "node-2", "reboot", "Fenced c2", "2026-11-25T12:00:00.000Z", False)
COROSYNC = "nodelist {\nnode {\nname: node-1\nnodeid: 1\n}\nnode {\nname: Node-2\nnodeid: 22\n}\n}\n"


class Bench:
    """Programs that write down what happens to them, and a helper that runs them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log"
        for name in ("bin", "hooks.d"):
            (path / name).mkdir(mode=0o755)
        (path / "corosync.conf").write_text(COROSYNC)
        (path / "corosync.conf").chmod(0o644)
        self.socket = f"nvmefence-test-{os.getpid()}-{time.monotonic_ns()}"
        self.options = Options(
            ("dlm", "stonith", "hooks"),
            str(path / "hooks.d"),
            str(path / "corosync.conf"),
            5.0,
            path=f"{path}/bin:/usr/bin:/bin",
            dlm_socket=self.socket,
        )
        self.helpers: list[Helper] = []
        for name in ("dlm_tool", "stonith_admin"):
            self.program(name)

    def program(self, name: str, script: str = "", room: str = "bin") -> None:
        """Make a program that logs its name, its arguments and its input, and then does something."""
        path = self.path / room / name
        path.write_text(f"#!/bin/sh\nprintf '%s\\n' \"{name} $* $(cat)\" >>{self.log}\n{script}\n")
        path.chmod(0o755)

    def hook(self, name: str, script: str = "") -> None:
        self.program(name, script, "hooks.d")

    def start(self, *what: str, **changes: object) -> Helper:
        options = replace(self.options, **({"what": what} if what else {}), **changes)  # type: ignore[arg-type]
        self.helpers.append(Helper(options))
        return self.helpers[-1]

    def logged(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for helper in made.helpers:
        helper.close()


@pytest.fixture
def controld(bench: Bench) -> Iterator[None]:
    """A socket where dlm_controld has its own."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{bench.socket}")
        listening.listen()
        yield


def heard(helper: Helper, job: int) -> list[Done]:
    """Return all reports about a job."""
    found: list[Done] = []
    end = time.monotonic() + PATIENCE_S
    while True:
        assert select.select([helper], [], [], end - time.monotonic())[0], f"nothing is heard: {found}"
        report = helper.receive()
        if report is None or report.job != job:
            continue
        if report.done is None:
            return found
        found.append(report.done)


def post(helper: Helper, fence: Fence = FENCE) -> list[Done]:
    return heard(helper, helper.post(fence))


@pytest.mark.usefixtures("controld")
def test_dlm_comes_before_stonith_before_hooks_in_their_order(bench: Bench) -> None:
    bench.hook("20-b")
    bench.hook("10-a", "exit 1")
    done = post(bench.start())
    assert [(one.what, one.good) for one in done] == [
        ("dlm", True), ("stonith", True), ("hook 10-a", False), ("hook 20-b", True),
    ]  # fmt: skip
    assert [line.split()[0] for line in bench.logged()] == ["dlm_tool", "stonith_admin", "10-a", "20-b"]
    assert bench.logged()[:2] == ["dlm_tool fence_ack 22 ", "stonith_admin --confirm=Node-2 "]


@pytest.mark.usefixtures("controld")
@pytest.mark.parametrize("what", ["dlm", "stonith", "hooks"])
def test_only_what_is_set_is_done(bench: Bench, what: str) -> None:
    bench.hook("hooks")
    (done,) = post(bench.start(what))
    assert done.what == ("hook hooks" if what == "hooks" else what)
    (line,) = bench.logged()
    assert line.startswith({"dlm": "dlm_tool", "stonith": "stonith_admin", "hooks": "hooks"}[what])


def test_a_hook_hears_of_the_fence(bench: Bench) -> None:
    bench.hook("10-a")
    fence = replace(
        FENCE, request_id='"; reboot', recorder_node="r1", filesystems=("fs-1", "é\n"), response="/x/r.json"
    )
    post(bench.start("hooks"), fence)
    name, _, told = bench.logged()[0].partition(" ")
    assert name == "10-a"
    assert json.loads(told) == {
        "version": 1, "event": "fenced", "host": "c2", "target_node": "node-2", "action": "reboot",
        "success": True, "message": "Fenced c2", "time": "2026-11-25T12:00:00.000Z", "simulated": False,
        "request_id": '"; reboot', "recorder_node": "r1", "gfs2_filesystems": ["fs-1", "é\n"],
        "response": "/x/r.json",
    }  # fmt: skip


@pytest.mark.usefixtures("controld")
def test_of_simulated_drives_only_hooks_hear(bench: Bench) -> None:
    bench.hook("10-a")
    done = post(bench.start(), replace(FENCE, simulated=True))
    assert [(one.what, one.exit) for one in done] == [("dlm", None), ("stonith", None), ("hook 10-a", 0)]
    assert done[0].text == "not done: the drives are simulated"
    (line,) = bench.logged()
    assert '"simulated": true' in line


@pytest.mark.usefixtures("controld")
@pytest.mark.parametrize(
    ("script", "good", "text"),
    [
        ("exit 131", True, "no fence was waiting for an acknowledgement"),
        ("exit 125", True, "no fence was waiting for an acknowledgement"),
        ("echo no way; exit 1", False, "node 22 (Node-2) refused: exit code 1: no way"),
        ("kill -9 $$", False, "node 22 (Node-2) refused: ended by signal 9"),
        ("sleep 60", False, "killed after 0.3 s"),
    ],
)
def test_what_dlm_tool_says_is_understood(bench: Bench, script: str, good: bool, text: str) -> None:
    bench.program("dlm_tool", script)
    (done,) = post(bench.start("dlm", limit_s=0.3))
    assert (done.good, text in done.text) == (good, True), done.text


def test_an_acknowledgement_that_nobody_hears_is_none(bench: Bench) -> None:
    (done,) = post(bench.start("dlm"))
    assert (done.exit, done.good) == (0, False)
    assert "node 22 (Node-2): nobody hears it: no dlm_controld, or not in this network namespace" in done.text


@pytest.mark.usefixtures("controld")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (COROSYNC.replace("Node-2", "other"), "no node is called c2, c2-ib, node-2"),
        (COROSYNC.replace("node-1", "c2"), "c2, Node-2 could all be the host called"),
        (COROSYNC.replace("}\n}", "}"), "has no end"),
        (COROSYNC + "garbage", "line 11: not understood"),
        ("", "no node is called"),
    ],
)
def test_without_a_node_for_certain_the_cluster_is_told_nothing(bench: Bench, text: str, reason: str) -> None:
    (bench.path / "corosync.conf").write_text(text)
    bench.hook("10-a")
    done = post(bench.start())
    assert [(one.what, one.good) for one in done] == [("dlm", False), ("stonith", False), ("hook 10-a", True)]
    assert all(reason in one.text for one in done[:2]), done
    assert [line.split()[0] for line in bench.logged()] == ["10-a"]


@pytest.mark.usefixtures("controld")
def test_a_node_without_number_or_name_is_told_as_far_as_it_goes(bench: Bench) -> None:
    (bench.path / "corosync.conf").write_text("nodelist {\nnode {\nring0_addr: 10.0.0.2\n}\n}\n")
    done = post(bench.start("dlm", "stonith"), replace(FENCE, names=("c2", "10.0.0.2")))
    assert [one.text.rpartition(": ")[2] for one in done] == [
        "node 10.0.0.2 has no nodeid", "node 10.0.0.2 has no name",
    ]  # fmt: skip
    assert bench.logged() == []


@pytest.mark.usefixtures("controld")
def test_a_program_that_is_not_installed_is_named(bench: Bench) -> None:
    (bench.path / "bin" / "dlm_tool").unlink()
    done = post(bench.start("dlm", "stonith"))
    assert done[0].text == f"not done: no dlm_tool in {bench.options.path}"
    assert done[1].good


def test_what_is_no_hook_is_named(bench: Bench) -> None:
    bench.hook("10-a~")
    (bench.path / "hooks.d" / "readme").write_text("text")
    done = post(bench.start("hooks"))
    assert [(one.what, one.standing) for one in done] == [("hook 10-a~", True), ("hook readme", True)]
    (bench.path / "hooks.d").chmod(0o777)
    (refused,) = post(bench.helpers[0])
    assert refused.text.endswith("may be written by others (mode 0777)")
    assert bench.logged() == []


def began(bench: Bench, hook: str) -> None:
    """Wait until a hook runs."""
    end = time.monotonic() + PATIENCE_S
    while not any(line.startswith(hook) for line in bench.logged()):
        assert time.monotonic() < end, bench.logged()
        time.sleep(0.01)


@pytest.mark.usefixtures("controld")
def test_a_hook_that_hangs_holds_up_no_acknowledgement(bench: Bench) -> None:
    goes_on = bench.path / "goes on"
    bench.hook("10-a", f"while ! test -e '{goes_on}'; do sleep 0.05; done; echo end >>{bench.log}")
    helper = bench.start("dlm", "hooks", limit_s=60.0)
    helper.post(FENCE)
    heard_of: list[str] = []
    posted = 1
    while heard_of.count("end") < 3:
        if heard_of.count("dlm") == 3 and not goes_on.exists():
            time.sleep(0.3)  # in which a second hook would begin, if they ran beside each other
            goes_on.touch()
        if heard_of == ["dlm"] and posted == 1:
            began(bench, "10-a")
            posted += sum(helper.post(FENCE) > 0 for _ in range(2))
        assert select.select([helper], [], [], PATIENCE_S)[0], heard_of
        report = helper.receive()
        if report:
            heard_of.append(report.done.what if report.done else "end")
    assert heard_of[:3] == ["dlm"] * 3
    hooks = [line.split()[0] for line in bench.logged() if not line.startswith("dlm_tool")]
    assert hooks == ["10-a", "end"] * 3, "one after another"


def test_what_hangs_without_a_program_is_left(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(_options: Options, fence: Fence) -> Iterator[Done]:
        yield Done("hook 10-a", True, "done")
        if fence.host == "c2":
            time.sleep(60)  # as a look at a directory whose server is gone

    monkeypatch.setattr(serving, "_MARGIN_S", 0.2)
    monkeypatch.setitem(serving._DO, "hooks", stuck)
    helper = bench.start("hooks", limit_s=0.2)
    start = time.monotonic()
    first, second = helper.post(FENCE), helper.post(replace(FENCE, host="c3"))
    assert [one.text for one in heard(helper, first)] == [
        "done", "left undone: something does not answer, perhaps a disk",
    ]  # fmt: skip
    assert [one.text for one in heard(helper, second)] == ["done"]
    assert time.monotonic() - start < 5


def test_a_defect_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_options: Options, _fence: Fence) -> Iterator[Done]:
        raise ZeroDivisionError("oh")
        yield Done("", True, "")

    monkeypatch.setitem(serving._DO, "cluster", broken)
    bench.hook("10-a")
    done = post(bench.start())
    assert [one.text for one in done] == ["defect in nvmefence: ZeroDivisionError: oh", "done"]


def test_what_is_too_much_is_refused_and_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_BACKLOG", 2)
    bench.hook("10-a", "sleep 0.3")
    helper = bench.start("hooks")
    jobs = [helper.post(FENCE) for _ in range(6)]
    texts = [one.text for job in sorted(jobs, reverse=True)[:1] for one in heard(helper, job)]
    assert texts == ["not done: too much is waiting"]


def test_a_message_that_is_too_large_is_not_taken(bench: Bench) -> None:
    helper = bench.start("hooks")
    assert helper.post(replace(FENCE, message="x" * beside.MESSAGE_LIMIT)) == 0
    assert post(helper) == []


def test_posting_never_waits(bench: Bench) -> None:
    helper = bench.start("hooks")
    os.kill(helper.pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        assert 0 in [helper.post(replace(FENCE, message="x" * 10_000)) for _ in range(1000)]
        assert time.monotonic() - start < 5
    finally:
        os.kill(helper.pid, signal.SIGCONT)


def test_a_helper_that_is_dead_is_noticed(bench: Bench) -> None:
    helper = bench.start("hooks")
    os.kill(helper.pid, signal.SIGKILL)
    assert select.select([helper], [], [], PATIENCE_S)[0]
    with pytest.raises(Gone):
        helper.receive()
    assert helper.post(FENCE) == 0


def ends(pid: int, within: float = PATIENCE_S) -> bool:
    """Whether a child of ours ends in time."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    return False


def test_what_was_handed_on_is_done_though_nobody_listens_any_more(bench: Bench) -> None:
    bench.hook("10-a", "sleep 0.3; echo end >>" + str(bench.log))
    helper = bench.start("hooks")
    helper.post(FENCE)
    helper.post(FENCE)
    helper._socket.close()
    assert ends(helper.pid)
    assert [line.split()[0] for line in bench.logged()] == ["10-a", "end", "10-a", "end"]


def test_it_holds_nothing_of_its_maker_and_may_be_killed_first(bench: Bench) -> None:
    bench.hook("10-a", "cat /proc/self/oom_score_adj; ls /proc/$PPID/fd | wc -l")
    held, other = os.pipe()
    try:
        helper = bench.start("hooks")
        # The socket, and, once it has settled, /dev/null three times.
        until(lambda: len(os.listdir(f"/proc/{helper.pid}/fd")) <= 5)
        opened = {os.readlink(f"/proc/{helper.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{helper.pid}/fd")}
        assert os.readlink(f"/proc/self/fd/{held}") not in opened
        assert os.getsid(helper.pid) == helper.pid
        (done,) = post(helper)
        assert done.output.split("; ")[0] == "0"
    finally:
        os.close(held)
        os.close(other)


def until(look: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_fence_is_the_same_after_its_way_through_a_message() -> None:
    fence = replace(FENCE, filesystems=("a", "\ud800\n"), request_id="\x7f", simulated=True)
    assert Fence.decode(fence.encode(7)) == (7, fence)
    done = Done("hook x", False, "t", -9, 1.5, "o", True)
    assert Done.of(json.loads(json.dumps(done.to_json()))) == done

"""Evil text from every source, and every sink that it can come to: nothing is obeyed by a terminal or a log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nvmefence import eventlog
from tests.system.place import CLEAN, FLEET, HOSTS
from tests.system.test_watch import Manager
from tests.system.watching import Watching, until

EVIL = "\x1b[2J\x1b]0;owned\x07\r\nFAKE LINE\x9b31m\u202e\u2028\x85\x7f"
"""Clears a terminal, names its window, begins lines, turns the direction of writing."""
EVIL_MAP = HOSTS.replace('aliases = ["c1-ib"]', 'aliases = ["c1-ib", "c1\\u001b[2J"]')


@pytest.fixture
def place(tmp_path: Path) -> Watching:
    return Watching(tmp_path)


def harmless(sink: str, text: str | bytes) -> None:
    """Whatever a sink holds is lines of printable characters; none of them is one that the text began."""
    shown = text.decode() if isinstance(text, bytes) else text
    for line in shown.split("\n"):
        assert line.replace("\t", "").isprintable(), f"{sink}: {line!r}"
        assert not line.startswith("FAKE LINE"), f"{sink}: {line!r}"


def said(place: Watching, *words: str, **variables: str) -> str:
    done = place.run(*words, **variables)
    return done.stdout + done.stderr


@pytest.mark.parametrize("style", [(), ("--json",)], ids=["text", "json"])
def test_nothing_that_a_request_says_steers_a_sink(place: Watching, style: tuple[str, ...]) -> None:
    manager = Manager(place.path)
    with place.watcher(*style, env=manager.environment, ready=False) as running:
        running.hears("serving ")
        evil = {"recorder_node": EVIL, "gfs2_filesystems": [EVIL], EVIL: EVIL}
        place.answered(place.ask("good.json", **evil))
        place.answered(place.ask("stranger.json", target_node="c9", **evil))
        place.ask("bad-target.json", target_node=EVIL)
        place.ask("bad-id.json", request_id=EVIL, recorder_node=EVIL)
        place.ask("bad-action.json", action=EVIL, timestamp=EVIL)
        (place.requests / f"{EVIL.replace('/', '')}.json").write_text("{}")
        running.hears("are no requests and stay")
        until(lambda: len(place.pending()) == 1, "all but the evil name are worked off")
        status = manager.hears("STATUS=")["STATUS"]
        running.stop()
        harmless("journal", running.text())
        harmless("service manager", status)
    for name in eventlog.FILES:
        harmless(name, (place.logs / name).read_bytes())
    harmless("audit", place.audit.read_bytes())
    for path in [*place.answers.iterdir(), *(place.requests / "rejected").glob("*.reason")]:
        harmless(path.name, path.read_bytes())
    for form in ([], ["--json"]):
        past = [
            sys.executable, "-m", "nvmefence.cli.main", "history", "--audit", str(place.audit), "--response-dir",
            str(place.answers), *form,
        ]  # fmt: skip
        harmless("history", place.spawn(past).stdout)
        for response in sorted(place.answers.glob("*.json")):
            page = [sys.executable, "-m", "nvmefence.cli.main", "explain", str(response), *form]
            harmless("explain", place.spawn(page).stdout)


def test_nothing_that_a_map_a_setting_or_a_word_says_steers_a_terminal(place: Watching) -> None:
    place.write(FLEET, EVIL_MAP)
    for words in (["hosts", "show"], ["status"], ["check"], ["detach", "--host", EVIL], ["detach", "--host", "c1"]):
        harmless(" ".join(words[:2]), said(place, *words))
    for key in ("DEADLINE", "QUIESCE", "BACKEND", "AUDIT", "LOG_DIR"):
        harmless(key, said(place, "detach", "--host", "c1", "--dry-run", **{f"NVMEFENCE_{key}": EVIL}))
    place.write(FLEET, HOSTS + f'["{EVIL.encode("unicode_escape").decode().replace(chr(92), "")}"]\n')
    harmless("a wrong map", said(place, "hosts", "show"))
    place.write(FLEET.replace("[fleet]", '[fleet]\n"\\u001b[2J" = 1'))
    harmless("a wrong fleet", said(place, "status"))


@pytest.mark.parametrize("agent", ["fence_gfs2_recorder", "fence_nvmefence"])
def test_nothing_that_an_agent_is_told_steers_pacemakers_log(place: Watching, agent: str) -> None:
    for text in (
        f"action={EVIL}\nport=c1\n",
        f"action=off\nport={EVIL}\n",
        f"action=off\nport=c1\nlog_dir={EVIL}\n",
        f"action=off\nport=c1\ndelay={EVIL}\n",
        f"action=list\nhosts={EVIL}\nhosts_file={EVIL}\n",
    ):
        done = subprocess.run(
            [sys.executable, "-m", f"nvmefence.agents.{agent}"], input=text, cwd=place.path, env=CLEAN, timeout=30,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1)
        harmless(agent, done.stdout + done.stderr)

"""`nvmefence report` as a command: where the page goes, whole, and what it says of what could not be read."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.place import FLEET, MAIN
from tests.system.test_terminal import on_terminal
from tests.system.watching import Watching

OUT = "report.html"
SILENT = '\n[[drive]]\nnumber = 1\nanswers = "never"\n'


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Watching:
    """A place where c1 was fenced."""
    place = Watching(tmp_path_factory.mktemp("lived"))
    with place.watcher() as running:
        assert place.answered(place.ask("a.json"))["success"] is True
        assert running.stop() == 0
    return place


@pytest.fixture
def place(lived: Watching) -> Iterator[Watching]:
    yield lived
    lived.write()
    (lived.path / OUT).unlink(missing_ok=True)


def words(place: Watching, *more: str) -> list[str]:
    return ["report", "--audit", str(place.audit), "--response-dir", str(place.answers), *more]


def test_the_page_has_the_fleet_the_history_and_the_fence(place: Watching) -> None:
    before = os.umask(0o027)
    try:
        done = place.run(*words(place, "-o", OUT))
    finally:
        os.umask(before)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{OUT}: 1 entries, 1 fences drive by drive\n"
    text = (place.path / OUT).read_text()
    assert "SIMULATED" in text
    assert re.search(r"c1</th><td class=\"keep\">3 none</td>", text)
    assert re.search(r"c2</th><td class=\"keep\">3 attached</td>", text)
    assert "c1 is fenced: cut from all of 3 expected drives" in text
    assert text.count("<svg") == 1
    assert stat.S_IMODE((place.path / OUT).stat().st_mode) == 0o640
    assert not list(place.path.glob(".report-*"))


def test_in_a_pipe_it_is_the_page_and_nothing_else(place: Watching) -> None:
    done = place.run(*words(place, "--no-survey"))
    assert done.returncode == 0
    assert done.stdout.startswith("<!DOCTYPE html>\n")
    assert done.stdout.endswith("</html>\n")
    assert "The drives were not read: that was not wanted (--no-survey)" in done.stdout
    assert "c1: fenced since" in done.stdout


def test_on_a_terminal_it_asks_for_a_file(place: Watching) -> None:
    code, shown = on_terminal(place, place.command(*words(place)))
    assert code == 11
    assert "name a file with -o" in shown
    assert "<html" not in shown


def test_numbers_for_programs(place: Watching) -> None:
    code, document = place.json(*words(place, "-o", OUT))
    assert code == document["exit"] == 0
    assert (document["fences"], document["fences_not_confirmed"], document["surveyed"]) == (1, 0, True)
    assert document["files"] == [str(place.audit)]


def test_a_page_that_is_there_stays_until_the_new_one_is_whole(place: Watching) -> None:
    path = place.path / OUT
    path.write_text("old")
    held = path.open()
    assert place.run(*words(place, "-o", OUT, "--no-survey")).returncode == 0
    assert (held.read(), path.read_text()[:9]) == ("old", "<!DOCTYPE")


@pytest.mark.parametrize("where", ["nowhere/r.html", ".", "/dev/full"])
def test_a_page_that_cannot_be_written_is_an_error(place: Watching, where: str) -> None:
    done = place.run(*words(place, "-o", where, "--no-survey"))
    assert done.returncode == 11
    assert "cannot be written" in done.stderr
    assert "name another file with -o" in done.stderr


def test_drives_that_cannot_be_read_cost_no_page(place: Watching) -> None:
    place.write(FLEET + SILENT)
    done = place.run(*words(place, "-o", OUT, "--deadline", "1"))
    assert done.returncode == 0
    text = (place.path / OUT).read_text()
    assert "SIM00001: " in text
    assert "no answer" in text
    assert "Not every expected drive could be read" in text


def test_without_a_host_map_the_past_is_shown_all_the_same(place: Watching, tmp_path: Path) -> None:
    command = [*MAIN, *words(place, "-o", str(tmp_path / OUT), "--hosts", str(tmp_path / "none.toml"))]
    done = place.spawn([*command, "--records", str(tmp_path / "none")])
    assert done.returncode == 0, done.stderr
    assert "the drives were not read: " in done.stdout
    assert "c1 is fenced: cut from all of 3 expected drives" in (tmp_path / OUT).read_text()


def test_an_audit_that_cannot_be_read_is_said_and_is_an_exit_code(place: Watching, tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    audit.mkdir()
    places = ("--audit", str(audit), "--response-dir", str(tmp_path))
    done = place.run("report", *places, "-o", OUT, "--no-survey", "--json")
    assert done.returncode == json.loads(done.stdout)["exit"] == 11
    assert "cannot be read, so this may not be all: not a regular file" in (place.path / OUT).read_text()

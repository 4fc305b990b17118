"""Text for people: nothing read from a drive or a file can steer the terminal, and colours stay on terminals."""

from __future__ import annotations

import io
import json
import tomllib

import pytest

from nvmefence.cli.detach import _Board, _print, _row
from nvmefence.cli.hosts import as_map
from nvmefence.cli.text import Cell, Screen, plain
from nvmefence.fencing.evidence import DriveEvidence, FenceReport
from nvmefence.fencing.preflight import DriveFacts
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController

EVIL = "S\x1b[2J\r\n\x07\x9b31m\u202e\u2028\0\x7f\ttail"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


def evidence(serial: str = EVIL) -> DriveEvidence:
    return DriveEvidence(
        serial, EVIL, EVIL, ("c1",), device=f"/dev/{EVIL}", targets={"c1": (3,)}, problem=EVIL, advice=EVIL
    )


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert plain("a\x1b[31mb\n\u202ec") == "a\\x1b[31mb\\n\\u202ec"
    assert plain("Gerät 机 é") == "Gerät 机 é"
    assert harmless(plain("".join(map(chr, range(0x3000)))))
    assert plain("\udcff") == "\\udcff"


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_no_way_of_printing_lets_control_characters_through(
    kind: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out, err = kind(), io.StringIO()
    screen = Screen(out, err)
    screen.line(EVIL, "red")
    screen.table(["a", "b"], [[EVIL, Cell(EVIL, "red")]])
    screen.error(EVIL, EVIL)
    assert harmless(out.getvalue() + err.getvalue())
    assert out.getvalue().count("\n") == 3, "no line break of the data's making"
    assert err.getvalue().count("\n") == 2


def test_live_lines_show_control_characters_too() -> None:
    err = Terminal()
    screen = Screen(io.StringIO(), err)
    screen.progress(EVIL)
    screen.settled(EVIL)
    screen.clear()
    assert harmless(err.getvalue().replace("\r\x1b[2K", ""))


def test_report_of_a_drive_with_an_evil_identity_is_harmless() -> None:
    out = io.StringIO()
    report = FenceReport(("c1",), [evidence()], [f"drive {EVIL}"], "ioctl", "", 0.1, False)
    _print(report, Screen(out, io.StringIO()))
    assert harmless(out.getvalue())
    assert "NOT fenced c1" in out.getvalue()
    assert json.dumps(report.to_json("c1")).isprintable()


def test_progress_of_a_drive_with_an_evil_identity_is_harmless() -> None:
    err = Terminal()
    board = _Board(Screen(io.StringIO(), err), ["c1"])
    board.heard(evidence(), "cut")
    board.heard(evidence(), "done")
    text = err.getvalue()
    assert "\\x1b[2J" in text
    assert harmless(text.replace("\x1b[31m", "").replace("\x1b[0m", ""))


def test_host_map_proposed_for_a_drive_with_an_evil_identity_is_harmless_and_parses() -> None:
    drive = Drive(
        "nqn", 'S"\ufffd\ufffd', EVIL, "1", (LocalController("nvme0", "/dev/nvme0", 0, "", "live", False),)
    )
    broken = DriveFacts(drive, problem=EVIL)
    text = as_map([broken], simulated=False)
    assert harmless(text)
    assert tomllib.loads(text)["drives"]["serials"] == ['S"\ufffd\ufffd']


def test_host_map_proposed_without_other_controllers_parses_when_filled_in() -> None:
    drive = Drive("nqn", "S1", "M", "1", (LocalController("nvme0", "/dev/nvme0", 0, "", "live", False),))
    text = as_map([DriveFacts(drive, controllers=[0])], simulated=False)
    filled = text.replace("# [hosts", "[hosts").replace("# controllers", "controllers")
    assert hostfile.parse(tomllib.loads(filled), "x").find("HOST-1").name == "HOST-1"


@pytest.mark.parametrize(
    ("variables", "terminal", "coloured"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
)
def test_colour_is_for_terminals_and_who_asks(
    variables: dict[str, str], terminal: bool, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    out = Terminal() if terminal else io.StringIO()
    Screen(out, io.StringIO()).line("text", "red")
    assert out.getvalue() == ("\x1b[31mtext\x1b[0m\n" if coloured else "text\n")


def test_unknown_colour_is_no_colour() -> None:
    assert Screen(Terminal(), io.StringIO()).paint("text", "") == "text"


def test_table_is_aligned_and_its_words_need_no_colour() -> None:
    out = io.StringIO()
    Screen(out, io.StringIO()).table(["drive", "result"], [["S1", Cell("cut", "green")], ["LONGER", "unknown"]])
    assert out.getvalue() == "drive   result\nS1      cut\nLONGER  unknown\n"


def test_empty_table_has_its_header() -> None:
    out = io.StringIO()
    Screen(out, io.StringIO()).table(["drive"], [])
    assert out.getvalue() == "drive\n"


def test_framed_table_that_does_not_fit_gives_way_to_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "20")
    out = Terminal()
    Screen(out, io.StringIO()).table(["drive"] * 8, [["S" * 20] * 8])
    assert "S" * 20 in out.getvalue()
    assert "…" not in out.getvalue()


def test_table_on_a_terminal_shows_brackets_as_they_are() -> None:
    out = Terminal()
    Screen(out, io.StringIO()).table(["drive"], [["[red]S1[/red]"]])
    assert "[red]S1[/red]" in out.getvalue()


def test_progress_is_for_terminals_only() -> None:
    err = io.StringIO()
    screen = Screen(io.StringIO(), err)
    screen.progress("waiting")
    screen.settled("S1 cut", "green")
    screen.clear()
    assert err.getvalue() == ""


def test_live_line_is_replaced_kept_below_what_settles_and_removed() -> None:
    err = Terminal()
    screen = Screen(io.StringIO(), err)
    screen.progress("one")
    screen.settled("S1 cut", "green")
    screen.error("wrong", "mend it")
    text = err.getvalue()
    assert text.index("one") < text.index("\x1b[32mS1 cut\x1b[0m\n") < text.rindex("one") < text.index("wrong")
    assert text.endswith("\r\x1b[2Knvmefence: wrong\n  what to do: mend it\n")
    screen.clear()
    assert err.getvalue() == text


def test_row_of_a_drive_that_was_never_reached_has_all_its_cells() -> None:
    row = [cell.text if isinstance(cell, Cell) else cell for cell in _row(DriveEvidence("S1", "n", "M"), "c1")]
    assert row[:6] == ["S1", "-", "unknown", "-", "-", "0.0"]
    assert row[-1] == "not confirmed before the deadline"

"""The calling convention that the fence agents share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvmefence import plain
from nvmefence.agents import convention, pages
from nvmefence.agents.convention import COMMON, Agent, Option, UsageError

AGENT = Agent(
    "fence_x",
    'An agent with <odd> & "bad" words',
    "One.\n\n.Two - three\\",
    url="https://example.org/?a&b",
    version="1",
    options=(*COMMON, Option("log_dir", "Where", default="/a<b", environment="LOGS", aliases=("log_path",))),
    actions=(("on", 'automatic="0"'), ("off", "")),
)
ROOT = Path(__file__).resolve().parents[2]


def from_input(text: str, **environment: str) -> dict[str, str]:
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    try:
        return convention.read_options(AGENT, [], environment, stdin=reader)
    finally:
        os.close(reader)


def test_input_ignores_comments_blanks_and_unknown_keys_and_the_last_value_wins() -> None:
    values = from_input("#action=on\n\nfoo=1\n=x\naction=off\naction=a=b \r\nport\n")
    assert values["action"] == "a=b"
    assert values["port"] == ""


def test_names_are_equal_whatever_their_case_and_hyphens() -> None:
    assert from_input("LOG-dir=/x\n")["log_dir"] == "/x"
    assert from_input("log-path=/y\n")["log_dir"] == "/y"
    assert convention.read_options(AGENT, ["--LOG_DIR", "/z"], {})["log_dir"] == "/z"


def test_the_environment_precedes_options_and_these_the_default() -> None:
    assert from_input("log_dir=/x", LOGS="/e")["log_dir"] == "/e"
    assert from_input("log_dir=/x", LOGS="")["log_dir"] == "/x"
    assert from_input("log_dir=")["log_dir"] == "/a<b"


@pytest.mark.parametrize("words", [["--nope"], ["-z"], ["off"], ["--plug"], ["-n"], ["-"]])
def test_a_wrong_command_line_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        convention.read_options(AGENT, words, {})


def test_input_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long").write_text("x=" + "y" * 70000)
    with (tmp_path / "long").open() as file, pytest.raises(UsageError, match="64 KiB"):
        convention.read_options(AGENT, [], {}, stdin=file.fileno())


@pytest.mark.parametrize(
    ("given", "canonical"), [("OFF", "off"), ("Meta_Data", "metadata"), ("list_status", "list-status")]
)
def test_actions_have_one_spelling(given: str, canonical: str) -> None:
    assert convention.action_of({"action": given}) == canonical


@pytest.mark.parametrize(
    ("port", "plug", "nodename", "target"),
    [
        ("a", "", "n", "a"),
        ("", "b", "n", "b"),
        ("a", "a", "n", "a"),
        ("", "", "n", "n"),
        ("A-b_c.d", "", "", "A-b_c.d"),
    ],
)
def test_the_target_is_port_or_plug_and_nodename_last(port: str, plug: str, nodename: str, target: str) -> None:
    assert convention.target_of({"port": port, "plug": plug, "nodename": nodename}) == target


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\nb", "a\\b", 'a"b', "ä", "x" * 256])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        convention.target_of({"port": name, "plug": "", "nodename": ""})


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "", "x", "101", "1 0"])
def test_seconds_outside_their_range_are_refused(text: str) -> None:
    assert convention.seconds({"t": "90s"}, "t", low=0, high=100) == 90
    with pytest.raises(UsageError):
        convention.seconds({"t": text}, "t", low=0, high=100)


def test_truth_is_yes_or_no_or_refused() -> None:
    assert [convention.truth({"x": word}, "x") for word in ("1", "Yes", "0", "off", "")] == [True] * 2 + [False] * 3
    assert convention.truth({"verbose": "3"}, "verbose")
    with pytest.raises(UsageError):
        convention.truth({"x": "2"}, "x")


def test_metadata_escapes_and_names_its_defaults() -> None:
    root = ET.fromstring(pages.metadata(AGENT))
    assert root.attrib["shortdesc"] == AGENT.shortdesc
    parameter = root.findall("parameters/parameter")[-1]
    assert parameter[0].attrib["mixed"] == "--log-dir=[log_dir]"
    assert parameter[1].attrib == {"type": "string", "default": "/a<b"}
    assert parameter[2].text == "Where (default: /a<b)"
    assert "nodename" not in {p.attrib["name"] for p in root.iter("parameter")}


def test_the_manual_page_takes_no_text_for_a_request() -> None:
    lines = pages.manpage(AGENT).split("\n")
    assert "\\&.Two \\- three\\e" in lines
    assert lines[0].startswith(".TH FENCE_X 8 ")


def test_escaped_text_is_one_harmless_line() -> None:
    assert plain.escaped("a\n\x1b[1m\u202e\udc80ö") == "a\\n\\x1b[1m\\u202e\\udc80ö"


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.text(st.characters(exclude_categories=["Cs"]))
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
    )
)
def test_json_fields_say_what_they_were_given(fields: dict[str, str | int | float | list[str]]) -> None:
    text = "{" + ",".join(plain.json_fields(fields)) + "}"
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == fields


def test_json_fields_have_a_question_mark_for_what_is_no_character() -> None:
    assert plain.json_fields({"a": "x\udcffy\U0001f600"}) == ['"a": "x\\u003fy\\ud83d\\ude00"']


def test_the_recorder_imports_nothing_heavy() -> None:
    code = (
        "import sys, nvmefence.agents.fence_gfs2_recorder, nvmefence.agents.waiting, nvmefence.agents.events\n"
        "print(*sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {"typing", "dataclasses", "argparse", "pathlib", "asyncio", "ctypes", "socket", "uuid", "datetime",
             "logging", "subprocess", "cffi", "pyudev", "threading", "inspect",
             "collections", "contextlib", "enum", "functools", "json", "re", "signal"}  # fmt: skip
    assert heavy & set(run.stdout.split()) == set()


def test_the_installed_script_heeds_nothing_of_its_environment(tmp_path: Path) -> None:
    (tmp_path / "nvmefence.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "os.py").write_text("raise SystemExit('not this one')")
    script = tmp_path / "fence_gfs2_recorder"
    with script.open("wb") as stream:
        writer = [str(ROOT / "packaging" / "write-agent"), sys.executable, "fence_gfs2_recorder"]
        subprocess.run(writer, stdout=stream, timeout=60, check=True)
    script.chmod(0o755)
    run = subprocess.run(
        [script], input="action=metadata\n", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PYTHONHOME": "/none"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert ET.fromstring(run.stdout).attrib["name"] == "fence_gfs2_recorder"

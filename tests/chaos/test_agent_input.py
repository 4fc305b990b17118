"""Whatever stands on an agent's standard input or command line, it asks for what was said, or refuses in a line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmefence.agents import convention, fence_gfs2_recorder, fence_nvmefence, running
from nvmefence.agents.convention import Agent

Asked = list[tuple[str, str]]
AGENTS: Final[dict[str, Agent]] = {"recorder": fence_gfs2_recorder.AGENT, "direct": fence_nvmefence.AGENT}
_EVIL = (
    "\x1b[2J", "a\rb", "\u202e", "x\0y", "\ud800", "²", "١", "9" * 5000, "nan", "inf", "-1", "1e999", "0x1",
    "../../x", "$(reboot)", "`id`", "';--", "a" * 300, "{}", "\x9b31m", "\u2028", "c1", "c1.example.org", "off",
    "ON", "reboot", "meta_data", "list", "list-status", "validate-all", "status", "1", "yes", "60s", "", " ", "#",
    "=", "\x85", "%s%n",
)  # fmt: skip
VALUES: Final = st.one_of(st.sampled_from(_EVIL), st.text(max_size=20))
NAMES: Final = sorted(
    {name for agent in AGENTS.values() for option in agent.options for name in (option.name, *option.aliases)}
)
KEYS: Final = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(["action", "port", "plug", "nodename", "hosts", "verbose"]),
    st.sampled_from(NAMES).map(str.upper),
    st.sampled_from(NAMES).map(lambda name: name.replace("_", "-")),
    VALUES,
)
LINES: Final = st.one_of(
    st.tuples(KEYS, VALUES).map("=".join), st.tuples(st.just("action"), VALUES).map("=".join), VALUES
)
INPUT: Final = st.one_of(
    st.lists(LINES, max_size=8).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")),
    st.binary(max_size=200),
)
WORDS: Final = st.lists(
    st.one_of(
        st.tuples(KEYS, VALUES).map(lambda pair: f"--{pair[0]}={pair[1]}"),
        KEYS.map(lambda name: f"--{name}"),
        st.sampled_from(["-o", "-n", "-p", "-v", "-h", "-V", "-z", "-", "--"]),
        VALUES,
    ),
    max_size=8,
)


@contextmanager
def fed(data: bytes) -> Iterator[None]:
    """Standard input holds these bytes, and no more."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    before = os.dup(0)
    try:
        os.dup2(reader, 0)
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(reader)


def called(which: str, data: bytes, words: list[str]) -> tuple[int, Asked, list[str]]:
    """Call an agent; return its exit code, what it would have fenced, and what it wrote to both streams."""
    asked: Asked = []
    wrote: list[str] = []

    def write(_number: int, text: str, *_more: object) -> bool:
        wrote.append(text)
        return True

    def fence(self: Any) -> int:
        asked.append((self.action, self.target))
        if which == "recorder":
            request = json.loads(self._request())
            assert (request["action"], request["target_node"]) == asked[-1]
            assert request["request_id"] == self.request_id
        return 1

    module = {"recorder": fence_gfs2_recorder, "direct": fence_nvmefence}[which]
    with ExitStack() as stack:
        stack.enter_context(fed(data))
        stack.enter_context(mock.patch.object(convention, "_write", write))
        stack.enter_context(mock.patch.object(module.Fence, "run", fence))
        stack.enter_context(mock.patch.object(fence_nvmefence, "_read", return_value=1))
        stack.enter_context(mock.patch("sys.argv", ["agent", *words]))
        run: Callable[[], int] = (
            fence_gfs2_recorder._exit_code
            if which == "recorder"
            else lambda: running._exit_code("fence_nvmefence", fence_nvmefence.main)
        )
        return run(), asked, wrote


def holds(which: str, data: bytes, words: list[str]) -> None:
    before = os.umask(0o022)
    try:
        code, asked, wrote = called(which, data, words)
    finally:
        os.umask(before)
    assert code in (0, 1, 2)
    assert len(asked) <= 1
    for action, target in asked:
        assert action in ("off", "reboot", "on")
        assert target.isascii()
        assert target.isprintable()
        assert target in data.decode("utf-8", "surrogateescape") + "\n".join(words)
    for text in wrote:
        assert "defect" not in text, text
        assert all(line.replace("\t", "").isprintable() for line in text.split("\n")), repr(text)[:2000]


@pytest.mark.parametrize("which", AGENTS)
@given(data=INPUT)
@settings(max_examples=200, deadline=None)
def test_standard_input_is_understood_or_refused(which: str, data: bytes) -> None:
    holds(which, data, [])


@pytest.mark.parametrize("which", AGENTS)
@given(words=WORDS)
@settings(max_examples=200, deadline=None)
def test_a_command_line_is_understood_or_refused(which: str, words: list[str]) -> None:
    holds(which, b"", [word.replace("\0", "") for word in words])


@pytest.mark.parametrize("which", AGENTS)
@pytest.mark.parametrize("key", NAMES)
@pytest.mark.parametrize("action", ["off", "list"])
def test_an_evil_value_of_any_parameter_is_harmless(which: str, key: str, action: str) -> None:
    for value in _EVIL:
        text = f"action={action}\nport=c1\n{key}={value}\n"
        holds(which, text.encode("utf-8", "surrogatepass"), [])

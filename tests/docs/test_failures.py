"""The failure table and the program are in step: what it quotes is said, and what is said has a row."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import pytest

from nvmefence import errors
from nvmefence.nvme import status
from nvmefence.nvme.transport import NO_ANSWER
from nvmefence.watcher.answers import Result
from nvmefence.watcher.counting import Reason
from tests.docs import manual
from tests.docs.manual import ROOT
from tests.docs.test_facts import source_texts

PAGE: Final = "docs/failures.md"
FENCE: Final = "Fences that are not confirmed"
ANSWERED: Final = "What a drive answered"
REFUSED: Final = "Commands that refuse"
ELSEWHERE: Final = (
    ("docs/restore.md", "What is left out, and why"),
    ("docs/nnf.md", "When something is wrong"),
)
"""Tables that the page leads to."""
SAYERS: Final = {
    "AccessError": 0, "BusyError": 0, "ClusterError": 0, "ConfigError": 0, "DriveProblem": 0, "FileError": 0,
    "Finding": 2, "NotFound": 0, "Refusal": 0, "Stuck": 0, "UnderWayError": 0, "UnknownHostError": 0, "Unusable": 0,
    "UsageError": 0, "Verdict": 1, "_give_up": 1, "_in_vain": 1, "_trouble": 1, "complain": 0, "error": 0,
    "warn": 0, "warning": 0,
}  # fmt: skip
"""What is called with a message, and which argument that is."""
TELLING: Final = (
    "after/actions.py", "agents/at_drives.py", "agents/waiting.py", "fencing/evidence.py", "fencing/fence.py",
    "fencing/restore.py", "fencing/secondaries.py", "fencing/terms.py", "inventory/hostmap.py",
    "records/hostlock.py", "records/recorder.py", "restoring.py", "spool/heartbeat.py", "spool/request.py",
    "watcher/afterwards.py", "watcher/answers.py", "watcher/delivery.py", "watcher/desk.py", "watcher/enforcing.py",
    "watcher/guard.py", "watcher/massfence.py", "watcher/passes.py", "watcher/publishing.py", "watcher/service.py",
    "watcher/vigil.py",
)  # fmt: skip
"""Modules where messages are returned, collected or kept: all that they build is looked at."""
TOGETHER: Final = {
    "after/corosync.py": "FILE: line n: ...",
    "nnf/layout.py": "there is no Rabbit RABBIT",
    "nnf/node.py": "... has no status.servers yet",
}
"""Modules whose messages say by themselves what is wrong where: one quotation stands for all."""
NO_FAILURE: Final = {
    " (reboot was asked for: the storage is cut, nobody power-cycled the node)": "said of a success",
    "already detached on all of": "said of a success",
    "waited .. s, as controllers had nothing attached when they went offline": "said of a success",
    "all .. expected drives are there": "said of a success",
    "nvmefence allow-mass-fence": "what to type",
    "no fence yet": "what the service says before the first",
    "no message": "stands for a response's message that is empty",
    "its own timeout_s": "which of two times a request is too old for; the message around it has a row",
    "its time is over": "tells a late answer from others, and is shown to nobody",
    "report this as a defect": "what to do",
    ".. queues and .. interrupts": "a command of a dry run",
    "the resources that others have": "a command of a dry run",
    "Virtualization Management opcode=1Ch controller=.. (online, with ..)": "a command of a dry run",
    "Namespace Attachment opcode=..h nsid=.. cdw10=..h (attach) controllers=..": "a command of a dry run",
}
"""What is built there besides, and why it has no row."""
_FRAGMENT: Final = 8
_SURE: Final = 24
"""Characters of a piece that are enough, however long the message is."""
_EDGES: Final = " ;:,.()"
_HOLE: Final = "\0"


@dataclass(frozen=True)
class Said:
    """A message as the source builds it: what is filled in is a hole."""

    where: str
    text: str
    sayer: str = ""

    @property
    def module(self) -> str:
        """The module that says it."""
        return self.where.partition(":")[0]

    @cached_property
    def longest(self) -> str:
        """The longest piece that is always there."""
        return max((piece.strip(_EDGES) for piece in self.text.split(_HOLE)), key=len)


def template(node: ast.expr) -> Iterator[str]:
    """Yield what an expression can say."""
    match node:
        case ast.Constant(value=str(text)):
            yield re.sub(r"\{\w+[^{}]*\}", _HOLE, text)  # of a text that is filled in later
        case ast.JoinedStr(values=values):
            yield "".join(str(value.value) if isinstance(value, ast.Constant) else _HOLE for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            yield from template(left)
            yield from template(right)
        case ast.IfExp(body=body, orelse=orelse):
            yield from template(body)
            yield from template(orelse)
        case ast.BoolOp(values=several) | ast.Tuple(elts=several) | ast.List(elts=several):
            for one in several:
                yield from template(one)
        case ast.Call(func=ast.Name(id="escaped"), args=[inner, *_]):
            yield from template(inner)


@cache
def said() -> tuple[Said, ...]:
    """Return the messages of the program that tell of something wrong."""
    found = []
    for path in sorted((ROOT / "nvmefence").rglob("*.py")):
        module = path.relative_to(ROOT / "nvmefence").as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for sayer, expression in _messages(node, module in TELLING):
                for text in template(expression):
                    one = Said(f"{module}:{expression.lineno}", text, sayer)
                    if len(one.longest) >= _FRAGMENT and " " in one.longest:
                        found.append(one)
    return tuple(found)


def _messages(node: ast.AST, telling: bool) -> Iterator[tuple[str, ast.expr]]:
    """Yield the expressions that make a message, each with what is called with it."""
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in SAYERS and len(node.args) > SAYERS[name]:
            yield name, node.args[SAYERS[name]]
        elif telling and name in ("append", "when"):
            yield "", node.args[0]
    elif telling:
        match node:
            case ast.Return(value=ast.expr() as value) | ast.Yield(value=ast.expr() as value):
                yield "", value
            case ast.Assign(value=value) | ast.AugAssign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                yield "", value
            case ast.Dict(values=values):
                yield from (("", value) for value in values)


@cache
def quoted() -> tuple[str, ...]:
    """Return what the tables quote."""
    pages = [(PAGE, heading) for heading in headings()] + list(ELSEWHERE)
    return tuple(text for page, heading in pages for row in manual.table(page, heading) for text in quotes(row))


def headings() -> list[str]:
    return re.findall(r"^#+ (.+)$", (ROOT / PAGE).read_text("utf-8"), re.MULTILINE)


def quotes(row: list[str]) -> list[str]:
    """Return the messages that a row is about; they stand behind an exit code where there is one."""
    return manual.code(row[1] if row[0].isdigit() else row[0])


@cache
def pieces(text: str) -> tuple[str, ...]:
    """Return a quoted message's pieces between what stands for something else."""
    parts = re.split(r"\.\.\.|\b[A-Z]{4,}\b|/dev/\w+|\b[nm]\b", text)
    return tuple(part.strip(_EDGES) for part in parts if len(part.strip(_EDGES)) >= _FRAGMENT)


def quotes_it(text: str, one: Said) -> bool:
    """Whether a quotation has the longest piece of the message, or most of it."""
    return any(
        one.longest in piece
        or (piece in one.longest and (len(piece) >= _SURE or len(piece) * 2 >= len(one.longest)))
        for piece in pieces(text)
    )


def shown(one: Said) -> str:
    return one.text.replace(_HOLE, "..")


def test_what_is_said_has_a_row() -> None:
    known = [one for one in said() if one.module not in TOGETHER]
    missing = {
        f"{one.where}: {shown(one)}"
        for one in known
        if shown(one) not in NO_FAILURE and not any(quotes_it(text, one) for text in quoted())
    }
    assert not missing, "no row has it: " + "\n".join(sorted(missing))
    assert NO_FAILURE.keys() - {shown(one) for one in known} == set()
    assert set(TOGETHER.values()) - set(quoted()) == set()


@pytest.mark.parametrize("heading", headings())
def test_what_is_quoted_is_said(heading: str) -> None:
    texts = source_texts() | {status.describe(code) for code in status._MEANINGS}
    for row in manual.table(PAGE, heading):
        for text in quotes(row):
            for piece in pieces(text):
                parts = [part for part in piece.split(": ") if len(part) >= _FRAGMENT]
                assert all(any(part in one for one in texts) for part in parts), (parts, text)


def test_every_reason_has_rows_and_they_are_its_own() -> None:
    rows = [row for row in manual.table(PAGE, FENCE) if len(row) == 4]
    told = [(manual.code(row[1]), quotes(row)) for row in rows]
    assert {reason for (reason,), _ in told} == {reason.value for reason in Reason}
    may_be = {"Refusal": {"refused"}, "DriveProblem": {"attached", "quiesce", "restore", "unread"}}
    for one in said():
        here = {reason for (reason,), texts in told if any(quotes_it(text, one) for text in texts)}
        if one.sayer in may_be and one.module.startswith(("fencing/fence", "fencing/session", "inventory/")):
            assert here, one
            assert here <= may_be[one.sayer], one


def test_a_status_is_followed_by_the_programs_advice() -> None:
    rows = {manual.code(row[0])[0]: row[1] for row in manual.table(PAGE, ANSWERED)}
    known = {status.describe(code): meaning.advice for code, meaning in status._MEANINGS.items() if meaning.advice}
    assert known.items() <= rows.items()
    assert rows["no answer"] == status.advice(NO_ANSWER)
    others = {name.partition(" (")[0].partition(":")[0] for name in rows.keys() - known.keys()}
    assert others == {"no answer", "EACCES", "ENODEV", "EINTR"}


def test_the_exit_codes_of_refusals_are_the_programs() -> None:
    rows = manual.table(PAGE, REFUSED)
    told = [(int(row[0]), quotes(row)) for row in rows if row[0].isdigit()]
    for one in said():
        family = getattr(errors, one.sayer, None)
        if family is None or not one.module.startswith(("cli/", "records/", "settings", "site", "watcher/lock")):
            continue
        codes = {code for code, texts in told if any(quotes_it(text, one) for text in texts)}
        assert family.exit_code in codes, one


def test_the_agents_events_and_the_results_are_the_programs() -> None:
    texts = source_texts()
    rows = [row for row in manual.table(PAGE, "The agent that asks the watcher") if row[1]]
    assert {manual.code(row[1])[0] for row in rows} == {"timeout", "failed", "refused", "unrequested", "stopped"}
    assert {manual.code(row[1])[0] for row in rows} <= texts
    results = {manual.code(row[1])[0] for row in manual.table(PAGE, "Requests that are not carried out")}
    done = {"fenced", "not-fenced", "restored"}
    assert results == {result.value for result in Result} - done


def test_a_message_that_is_new_is_noticed() -> None:
    new = Said("fencing/fence.py:1", f"the drive {_HOLE} has caught fire: {_HOLE}")
    assert not any(quotes_it(text, new) for text in quoted())
    assert any(quotes_it("the drive SERIAL has caught fire: ...", one) for one in [new])
    assert not quotes_it("... has caught", Said("", f"{_HOLE} has caught fire, smoke and the attention of all"))

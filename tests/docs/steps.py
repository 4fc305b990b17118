"""Following the documentation: what a command is expected to do, and doing it in a scene made for it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from tests.docs import manual

LIMIT_S = 60.0
ENDED = 124
"""Exit code of a command that would go on for ever and was ended, see timeout(1)."""


class Scene(Protocol):
    """Where commands are run."""

    def shell(self, text: str, limit_s: float) -> subprocess.CompletedProcess[str]:
        """Run a shell's commands; 124 when they took longer."""


S = TypeVar("S", bound=Scene)


@dataclass(frozen=True)
class Step(Generic[S]):
    """A command of the documentation, and what shows that it does what is said of it."""

    command: str
    """In one line, as the documentation has it; several lines are several commands, given to one shell."""
    says: Sequence[str] = ()
    """Patterns that its output has, each in a line."""
    never: Sequence[str] = ()
    """Patterns that its output does not have."""
    exit: int | None = 0
    """Its exit code; None where that depends on the version of the program."""
    before: Callable[[S], object] | None = None
    """What makes the situation that the command is for."""
    after: Callable[[S], object] | None = None
    """What looks whether it did what it was to do."""
    fill: Mapping[str, Callable[[S], str]] = field(default_factory=dict)
    """What stands for a word in capitals that a person replaces."""
    limit_s: float = LIMIT_S
    folder: str = "/"

    @property
    def commands(self) -> list[str]:
        """The commands one by one."""
        return self.command.split("\n")


def follow(scene: S, steps: Sequence[Step[S]]) -> None:
    """Take the steps, one after the other."""
    for step in steps:
        _take(scene, step)


def _take(scene: S, step: Step[S]) -> None:
    if step.before is not None:
        step.before(scene)
    text = "\n".join(written(command) for command in step.commands)
    for word, value in step.fill.items():
        text = re.sub(rf"\b{word}\b", value(scene), text)
    done = scene.shell(f"cd {step.folder}\n{text}", step.limit_s)
    output = done.stdout + done.stderr
    story = f"$ {text}\n{output}-> {done.returncode}"
    print(story)
    assert step.exit in (None, done.returncode), story
    for pattern in step.says:
        assert re.search(pattern, output, re.MULTILINE), f"{story}\nlacks {pattern!r}"
    for pattern in step.never:
        assert not re.search(pattern, output, re.MULTILINE), f"{story}\nhas {pattern!r}"
    if step.after is not None:
        step.after(scene)


def written(command: str) -> str:
    """Return a command as the documentation has it, with its line breaks and its comment."""
    for found in (*manual.commands(), *manual.inline()):
        if found.text == command:
            return found.written
    raise AssertionError(f"no page has the command {command!r}")

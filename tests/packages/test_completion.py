"""Completion in a real bash: commands, options, hosts of the map; no program is started for it."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvmefence.cli.main import make_parser
from nvmefence.nnf import report
from tests.packages.test_manual import COMMANDS, options

LOADER = Path("/usr/share/bash-completion/bash_completion")
BASH = shutil.which("bash") or ""
pytestmark = pytest.mark.skipif(not BASH, reason="bash is not installed")
HOSTS = """\
version = 1
[drives]
count = 18
[hosts.compute-1]
slot = 0
[ hosts . "c2.example.org" ]   # a comment
slot = 1
aliases = ["hosts.not-one"]
[hosts]
compute-3 = { slot = 2 }
'compute-4'.slot = 3
[other.compute-9]
[hosts.compute-5.controllers]
"""
ASK = """\
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
PATH=/nonexistent
[[ $(complete -p "$1") =~ -F\\ ([^ ]+) ]]
"${BASH_REMATCH[1]}" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""What readline does; no program can be started meanwhile."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "hosts.toml").write_text(HOSTS)
    return tmp_path


def offered(made: Path, place: Path, *words: str, **environment: str) -> set[str]:
    """Return what is offered for the last word."""
    script = next(made.rglob(f"completions/{words[0]}"))
    done = subprocess.run(
        [BASH, "--norc", "-c", ASK, "bash", script, *words], capture_output=True,
        text=True, timeout=20, check=True, cwd=place, env={"PATH": "/usr/bin:/bin", **environment},
    )  # fmt: skip
    assert done.stderr == ""
    return {line for line in done.stdout.splitlines() if line}


ALL = {"compute-1", "c2.example.org", "compute-3", "compute-4", "compute-5"}


def test_commands_are_offered(made: Path, place: Path) -> None:
    assert offered(made, place, "nvmefence", "") == {
        command.words[1] for command in COMMANDS if len(command.words) == 2
    }
    assert {"show", "discover"} <= offered(made, place, "nvmefence", "hosts", "")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
def test_options_are_offered(command: object, made: Path, place: Path) -> None:
    known = next(one for one in COMMANDS if one is command)
    wanted = {word for word in options(known.parser) if word.startswith("--")}
    assert offered(made, place, *known.words, "--") == wanted


def test_the_reporters_options_and_files_are_offered(made: Path, place: Path) -> None:
    program = "nvmefence-nnf-report"
    wanted = {word for word in options(report.make_parser()) if word.startswith("--")}
    assert offered(made, place, program, "--") == wanted
    assert offered(made, place, program, "--kubeconfig", "ho") == {"hosts.toml"}
    assert offered(made, place, program, "--kubeconfig", "=", "ho") == {"hosts.toml"}


def test_hosts_are_those_of_the_map(made: Path, place: Path) -> None:
    ours = {"NVMEFENCE_HOSTS": str(place / "hosts.toml")}
    for command in ("detach", "restore", "unfence", "status"):
        assert offered(made, place, "nvmefence", command, "--host", "", **ours) == ALL
    assert offered(made, place, "nvmefence", "history", "--host", "compute-", **ours) == ALL - {"c2.example.org"}
    assert offered(made, place, "fence_nvmefence", "--plug", "=", "c", **ours) == ALL
    assert offered(made, place, "nvmefence", "detach", "--hosts", "hosts.toml", "--host", "") == ALL
    (place / "settings.toml").write_text('hosts = "hosts.toml"\n')
    assert offered(made, place, "nvmefence", "detach", "--config", "settings.toml", "--host", "=", "c2") == {
        "c2.example.org"
    }


def test_a_map_that_is_missing_or_no_file_offers_none_and_holds_nobody_up(made: Path, place: Path) -> None:
    os.mkfifo(place / "pipe")
    for name in ("pipe", "nothing", "."):
        assert offered(made, place, "nvmefence", "detach", "--host", "", NVMEFENCE_HOSTS=str(place / name)) == set()


def test_values_are_offered_where_they_are_known(made: Path, place: Path) -> None:
    assert offered(made, place, "nvmefence", "watch", "--backend", "") == {"auto", "io_uring", "ioctl"}
    assert "dlm" in offered(made, place, "nvmefence", "detach", "--after", "")
    assert offered(made, place, "fence_gfs2_recorder", "--action", "=", "o") == {"on", "off"}
    assert "hosts.toml" in offered(made, place, "nvmefence", "check", "--hosts", "")


def test_words_that_are_taught_belong_to_options() -> None:
    import completion

    known = {action.dest for command in COMMANDS for action in command.parser._actions}
    assert set(completion._WORDS) <= known
    assert make_parser().prog in completion.scripts()


class Terminal:
    """A person at an interactive bash."""

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.chdir(place)
            os.execve(BASH, ["bash", "--norc", "--noprofile", "-i"], environment)

    def types(self, keys: str, until: str) -> str:
        """Type, and return what is shown until a text appears."""
        os.write(self.terminal, keys.encode())
        shown, end = "", time.monotonic() + 20
        while until not in shown:
            left = end - time.monotonic()
            assert left > 0, shown
            if select.select([self.terminal], [], [], left)[0]:
                shown += os.read(self.terminal, 4096).decode("utf-8", "replace")
        return shown

    def leave(self) -> None:
        os.close(self.terminal)
        os.waitpid(self.process, 0)


@pytest.fixture
def terminal(made: Path, place: Path) -> Iterator[Terminal]:
    """A terminal where bash-completion finds ours by itself, as it does after an installation."""
    found = place / "share/bash-completion/completions"
    found.parent.mkdir(parents=True)
    found.symlink_to(made / "completions")
    terminal = Terminal(place, {
        "PATH": "/usr/bin:/bin", "TERM": "dumb", "PS1": "$ ", "HOME": str(place),
        "XDG_DATA_DIRS": str(place / "share"), "NVMEFENCE_HOSTS": str(place / "hosts.toml"),
    })  # fmt: skip
    try:
        terminal.types(f"source {LOADER}\n", "$ ")
        terminal.types(
            'nvmefence() { printf \'given<%s>\\n\' "$*"; }; fence_nvmefence() { nvmefence "$@"; }\n', "$ "
        )
        yield terminal
    finally:
        terminal.leave()


@pytest.mark.skipif(not LOADER.exists(), reason="bash-completion is not installed")
@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("nvmefence det\t--dr\t--host c2\t", "detach --dry-run --host c2.example.org"),
        ("nvmefence detach --host=c2\t", "detach --host=c2.example.org"),
        ("nvmefence allow\t--with\t", "allow-mass-fence --withdraw"),
        ("nvmefence check --hosts ho\t", "check --hosts hosts.toml"),
        ("fence_nvmefence --action=val\t--pl\tc2\t", "--action=validate-all --plug c2.example.org"),
    ],
)
def test_a_person_types_tab(typed: str, given: str, terminal: Terminal) -> None:
    shown = terminal.types(f"{typed}\n", ">\r\n")
    assert f"given<{given}>" in shown.replace(" >", ">")

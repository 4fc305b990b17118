"""How Pacemaker calls a fence agent: options on standard input or the command line, actions, exit codes.

Written after the FenceAgentAPI of ClusterLabs and what Pacemaker 2.1 was seen to do. Imports next to nothing, for
an agent starts when storage is failing and a cluster is waiting.
"""

from __future__ import annotations

import os
import time

from nvmefence.plain import escaped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OK = 0
"""Done; of a fence: confirmed. Of `status`: on."""
FAILED = 1
"""Everything that is not `OK`. Of `status`: it could not be told."""
OFF = 2
"""Of `status` alone: the node is cut off. No other action may exit so."""

_KIND, _PIPE, _TERMINAL = 0o170000, 0o010000, 0o020000
"""Bits of a file's mode, as the module `stat` has them."""
_PATIENCE_S = 0.5
_TRIES = 50
_tries = [_TRIES]
"""How often a line for standard error is tried."""
_INPUT_LIMIT = 64 * 1024
_NAME_LIMIT = 255
_TRUE = ("1", "yes", "on", "true")
_FALSE = ("0", "no", "off", "false")
_TARGET_KEYS = ("port", "plug")


class UsageError(Exception):
    """The agent was called in a way that it refuses; nothing was done."""


class Option:
    """A parameter: a key on standard input, a long option on the command line, an entry in the metadata.

    `kind` is a content type of the metadata schema: boolean, string, second, integer or select. A `flag` takes no
    value on the command line. `environment` names a variable that takes precedence over the option. `aliases` are
    understood and not advertised; `hidden` options neither.
    """

    __slots__ = (
        "aliases", "default", "deprecated", "environment", "flag", "hidden", "kind", "name", "obsoletes", "short",
        "text", "value",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        text: str,
        *,
        kind: str = "string",
        default: str = "",
        short: str = "",
        value: str = "",
        environment: str = "",
        aliases: tuple[str, ...] = (),
        obsoletes: str = "",
        deprecated: bool = False,
        flag: bool = False,
        hidden: bool = False,
    ) -> None:
        self.name = name
        self.text = text
        self.kind = kind
        self.default = default
        self.short = short
        self.value = value or name
        self.environment = environment
        self.aliases = aliases
        self.obsoletes = obsoletes
        self.deprecated = deprecated
        self.flag = flag
        self.hidden = hidden

    @property
    def getopt(self) -> str:
        """The option as one types it: `-n, --plug=[name]`."""
        long = "--" + self.name.replace("_", "-") + ("" if self.flag else f"=[{self.value}]")
        return f"-{self.short}, {long}" if self.short else long

    @property
    def shortdesc(self) -> str:
        """The description with the default in words, for `pcs stonith describe` prints no defaults."""
        return f"{self.text} (default: {self.default})" if self.default else self.text


class Agent:
    """What an agent says of itself. `actions` are name and attributes of the metadata's action elements."""

    __slots__ = ("actions", "longdesc", "name", "options", "shortdesc", "url", "version")

    def __init__(
        self,
        name: str,
        shortdesc: str,
        longdesc: str,
        *,
        url: str,
        version: str,
        options: tuple[Option, ...],
        actions: tuple[tuple[str, str], ...],
    ) -> None:
        self.name = name
        self.shortdesc = shortdesc
        self.longdesc = longdesc
        self.url = url
        self.version = version
        self.options = options
        self.actions = actions


COMMON = (
    Option("action", "Fencing action", short="o"),
    Option("plug", "Name of the node to fence", short="n", value="nodename", obsoletes="port"),
    Option("port", "Name of the node to fence, older word", value="nodename", deprecated=True),
    Option("nodename", "Name of the node to fence, if neither port nor plug is given", hidden=True),
    Option("verbose", "Say on standard error what is done", kind="boolean", short="v", flag=True,
           aliases=("verbose_level",)),
    Option("delay", "Seconds to wait before the action", kind="second", default="0", value="seconds"),
    Option("help", "Show the options and exit", kind="boolean", short="h", flag=True),
    Option("version", "Show the version and exit", kind="boolean", short="V", flag=True),
)  # fmt: skip
"""Options that every agent has."""


def read_options(
    agent: Agent, arguments: Sequence[str], environment: Mapping[str, str], *, stdin: int = 0
) -> dict[str, str]:
    """Return the options by name, from the command line if it has any word, else from standard input.

    The environment takes precedence over both, and both over the defaults. Raises UsageError.
    """
    known = {alias: option for option in agent.options for alias in (option.name, *option.aliases)}
    given = _from_words(known, arguments) if arguments else _from_input(known, stdin)
    values = {}
    for option in agent.options:
        stated = environment.get(option.environment, "") if option.environment else ""
        values[option.name] = stated or given.get(option.name, "") or option.default
    return values


def _from_words(known: dict[str, Option], words: Sequence[str]) -> dict[str, str]:
    shorts = {option.short: option for option in known.values() if option.short}
    given = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            name, has_value, value = word[2:].partition("=")
            option = known.get(plain(name))
        elif word.startswith("-") and len(word) > 1:
            option = shorts.get(word[1])
            value = word[2:]
            has_value = value
        else:
            raise UsageError(f"unexpected word {word!a}")
        if option is None:
            raise UsageError(f"unknown option {word!a}")
        if option.flag:
            value = value if has_value and word.startswith("--") else "1"
        elif not has_value:
            if not rest:
                raise UsageError(f"option {word!a} needs a value")
            value = rest.pop(0)
        given[option.name] = value.strip()
    return given


def _from_input(known: dict[str, Option], stdin: int) -> dict[str, str]:
    if os.isatty(stdin):
        raise UsageError("no options: give some on the command line (--help), or key=value lines on standard input")
    data = b""
    while chunk := os.read(stdin, _INPUT_LIMIT):
        data += chunk
        if len(data) > _INPUT_LIMIT:
            raise UsageError("more than 64 KiB on standard input")
    given = {}
    for line in os.fsdecode(data).split("\n"):
        name, is_pair, value = line.partition("=")
        option = known.get(plain(name))
        if option is not None and is_pair and not name.lstrip().startswith("#"):
            given[option.name] = value.strip()
    return given


def plain(name: str) -> str:
    """Return an option's name with hyphens and case made equal."""
    return name.strip().lower().replace("-", "_")


def action_of(values: dict[str, str]) -> str:
    """Return the action in lower case with hyphens; `meta-data` is `metadata`. Raises UsageError without one."""
    action = values["action"].strip().lower().replace("_", "-")
    if not action:
        raise UsageError("no action given")
    return "metadata" if action == "meta-data" else action


def target_of(values: dict[str, str]) -> str:
    """Return the node's name: `port` or `plug`, and `nodename` only if there is neither.

    Raises UsageError if there is none, if port and plug name different nodes, or if it is no node's name.
    """
    named = {values[key] for key in _TARGET_KEYS if values[key]}
    if len(named) > 1:
        raise UsageError(f"port={values['port']!a} and plug={values['plug']!a} name different nodes")
    target = named.pop() if named else values["nodename"]
    if not target:
        raise UsageError("no node given: port, plug or nodename")
    if (
        len(target) > _NAME_LIMIT
        or not target.isascii()
        or not target.isprintable()
        or set(target) & set(" /\\\"'")
    ):
        raise UsageError(f"{target[:_NAME_LIMIT]!a} is not a node's name")
    return target


def seconds(values: dict[str, str], name: str, *, low: float, high: float) -> float:
    """Return an option as seconds (`90` or `90s`). Raises UsageError outside `low` to `high`."""
    text = values[name]
    try:
        number = float(text.removesuffix("s"))
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise UsageError(f"{name}={text!a} is not a number of seconds from {low:g} to {high:g}")
    return number


def truth(values: dict[str, str], name: str) -> bool:
    """Return an option as yes or no. Raises UsageError if it is neither."""
    text = values[name].lower()
    if text in _TRUE or (name == "verbose" and text.isdecimal() and text.strip("0")):
        return True
    if text in _FALSE or not text:
        return False
    raise UsageError(f"{name}={values[name]!a} is neither 1 nor 0")


def directory(values: dict[str, str], name: str) -> str:
    """Return an option as an absolute path. Raises UsageError if it is none."""
    path = values[name]
    if not path.startswith("/") or "\0" in path:
        raise UsageError(f"{name}={path!a} is not an absolute path")
    return path


def words(values: dict[str, str], name: str) -> list[str]:
    """Return an option that is a list, separated by commas or blanks."""
    return values[name].replace(",", " ").split()


def say(text: str) -> bool:
    """Write `text` and a line's end to standard output; return whether that was possible."""
    return _write(1, text)


def complain(text: str) -> None:
    """Write one escaped line to standard error, where Pacemaker's log takes it from.

    A reader that takes nothing (a stopped terminal, a full pipe) is given up after half a second, and for later
    lines at once: an agent ends in its time whoever listens.
    """
    own = _unblocked(2)
    if not _write(2 if own < 0 else own, escaped(text), _tries[0]):
        _tries[0] = 1
    if own >= 0:
        os.close(own)


def _unblocked(number: int) -> int:
    """Return another way to a pipe or terminal, that does not block and is nobody else's; -1 if there is none."""
    try:
        if os.fstat(number).st_mode & _KIND in (_PIPE, _TERMINAL):
            return os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        pass  # closed, or not to be opened: it is written to as it is
    return -1


def _write(number: int, text: str, tries: int = _TRIES) -> bool:
    rest = (text + "\n").encode("utf-8", "backslashreplace")
    while rest:
        try:
            rest = rest[os.write(number, rest) :]
        except BlockingIOError:
            tries -= 1
            if not tries:
                return False
            time.sleep(_PATIENCE_S / _TRIES)
        except OSError:
            return False
    return True

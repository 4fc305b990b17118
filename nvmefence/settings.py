"""Settings and where they come from: environment before command line before settings file before defaults.

That order is the one of the fence agents' founding document, so that one environment file rules a machine.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from nvmefence import config
from nvmefence.errors import ConfigError, nearest
from nvmefence.fencing import quiesce
from nvmefence.tomlfile import read_toml

SETTINGS_FILE: Final = "/etc/nvmefence/nvmefence.toml"
HOSTS_FILE: Final = "/etc/nvmefence/hosts.toml"
LOG_DIR: Final = "/var/log/gfs2-fencing"
AUDIT_FILE: Final = "/var/lib/nvmefence/audit.jsonl"
RECORDS_DIR: Final = "/var/lib/nvmefence/fenced"
RUN_DIR: Final = "/run/nvmefence"
HOOKS_DIR: Final = "/etc/nvmefence/hooks.d"
COROSYNC_CONF: Final = "/etc/corosync/corosync.conf"
BACKENDS: Final = ("auto", "io_uring", "ioctl")
AFTER: Final = ("dlm", "stonith", "hooks")
"""What can be done after a fence, in the order in which it is done."""
MASS_FENCE_ACTIONS: Final = ("alarm", "hold")
MAX_HOSTS: Final = 100_000
_PREFIX: Final = "NVMEFENCE_"
MAX_DEADLINE: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. Each field is a key of the settings file, `--KEY`, and NVMEFENCE_KEY.

    The directories are also set by the variables that the fence agents read, see `_SHARED_VARIABLES`.
    """

    hosts: str = HOSTS_FILE
    """Path of the host map."""
    deadline: float = 30.0
    """Seconds after which a fence that is not confirmed has failed."""
    backend: str = "auto"
    """How commands reach the kernel: "auto" tries io_uring, then ioctl."""
    quiesce: quiesce.Quiesce = quiesce.DEFAULT
    """What is done about writes under way at the cut, see `fencing.quiesce.Method`."""
    quiesce_models: tuple[tuple[str, float], ...] = ()
    """Waits by model of drive, in place of the usual one where "auto" has to wait. In the settings file only."""
    escalate: bool = False
    """Where a detach fails on a drive, take the host's secondary controllers offline there."""
    simulate: str = ""
    """Path of a fleet file: everything runs on emulated drives, and every result says so. Empty: real drives."""
    request_dir: str = config.REQUEST_DIR
    """Directory where fence agents write their requests."""
    response_dir: str = config.RESPONSE_DIR
    """Directory where the watcher writes its responses."""
    log_dir: str = LOG_DIR
    """Directory of the logs of fence events."""
    audit: str = AUDIT_FILE
    """File that gets a line, durable before the response is visible, for everything that was answered."""
    max_request_age_s: float = 300.0
    """Seconds after which a request is answered "expired" and not executed."""
    agents_may_restore: bool = False
    """Whether an agent's `on` gives a host back what its fences took; else it changes nothing."""
    records: str = RECORDS_DIR
    """Directory of the records of what was taken from each host that is fenced."""
    after: tuple[str, ...] = ()
    """What is done after a fence that succeeded, of `AFTER`. Empty: nothing."""
    after_timeout_s: float = 10.0
    """Seconds for each program that is run after a fence."""
    hooks_dir: str = HOOKS_DIR
    """Directory of executables that are run after a fence, if `after` has "hooks"."""
    corosync_conf: str = COROSYNC_CONF
    """The cluster's configuration, which has the node's number for "dlm" and its name for "stonith"."""
    mass_fence_hosts: int = 4
    """Hosts whose fences may begin within `mass_fence_s` without an alarm. 0: any number."""
    mass_fence_s: float = 60.0
    """Seconds."""
    mass_fence_action: str = "alarm"
    """What the watcher does about more hosts: "alarm" says so, "hold" also lets a person decide."""
    run_dir: str = RUN_DIR
    """Directory, lost when the machine stops, where a person's word for more fences is left for the watcher, and
    where a restore keeps out of the way of fences. On a tmpfs, lest a fence wait for a disk."""
    vigil_s: float = 5.0
    """Seconds between two looks of the watcher whether fenced hosts are attached or online again. 0: none."""
    enforce: bool = False
    """Whether the watcher cuts a fenced host again that is back."""
    metrics: str = ""
    """File for figures about fences, as node_exporter's textfile collector reads it. Empty: none."""


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"must be a number of seconds, is {value!r}")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"must be a number of seconds, is {value!r}") from None
    if not math.isfinite(number) or not 0 < number <= MAX_DEADLINE:
        raise ValueError(f"must be more than 0 and at most {MAX_DEADLINE:g} seconds, is {value!r}")
    return number


def _number_or_none(value: Any) -> float:
    try:
        return 0.0 if not isinstance(value, bool) and float(value) == 0 else _number(value)
    except (TypeError, ValueError):
        raise ValueError(f"must be a number of seconds, at most {MAX_DEADLINE:g}, or 0, is {value!r}") from None


def _backend(value: Any) -> str:
    if value not in BACKENDS:
        raise ValueError(f"must be one of {', '.join(BACKENDS)}, is {value!r}")
    return str(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"must be a path, is {value!r}")
    return value


def _directory(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value or not os.path.isabs(value):
        raise ValueError(f"must be an absolute path, is {value!r}")
    return os.path.normpath(value)


def _file_or_none(value: Any) -> str:
    return "" if value == "" else _directory(value)


def _quiesce(value: Any) -> quiesce.Quiesce:
    if not isinstance(value, str):
        raise ValueError(f"must be text, is {value!r}")
    return quiesce.parse(value)


def _truth(value: Any) -> bool:
    words = {
        "true": True,
        "1": True,
        "yes": True,
        "on": True,
        "false": False,
        "0": False,
        "no": False,
        "off": False,
    }
    found = value if isinstance(value, bool) else words.get(value.lower()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"must be true or false, is {value!r}")
    return found


def _after(value: Any) -> tuple[str, ...]:
    words = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"must be some of {', '.join(AFTER)}, or none, is {value!r}")
    for word in words:
        if word not in AFTER and words != ["none"]:
            raise ValueError(
                f"must be some of {', '.join(AFTER)}, or none, has {word!r}{nearest(word, list(AFTER))}"
            )
    return tuple(word for word in AFTER if word in words)


def _host_count(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_HOSTS:
        raise ValueError(f"must be a number of hosts, 0 for any, is {value!r}")
    return value


def _mass_fence_action(value: Any) -> str:
    if value not in MASS_FENCE_ACTIONS:
        raise ValueError(f"must be one of {', '.join(MASS_FENCE_ACTIONS)}, is {value!r}")
    return str(value)


_PARSERS: Final[dict[str, Callable[[Any], Any]]] = {
    "hosts": _text,
    "deadline": _number,
    "backend": _backend,
    "quiesce": _quiesce,
    "quiesce_models": quiesce.parse_models,
    "escalate": _truth,
    "simulate": _text,
    "request_dir": _directory,
    "response_dir": _directory,
    "log_dir": _directory,
    "audit": _directory,
    "max_request_age_s": _number,
    "agents_may_restore": _truth,
    "records": _directory,
    "after": _after,
    "after_timeout_s": _number,
    "hooks_dir": _directory,
    "corosync_conf": _directory,
    "mass_fence_hosts": _host_count,
    "mass_fence_s": _number,
    "mass_fence_action": _mass_fence_action,
    "run_dir": _directory,
    "vigil_s": _number_or_none,
    "enforce": _truth,
    "metrics": _file_or_none,
}
_SHARED_VARIABLES: Final = {
    "request_dir": "NNF_FENCE_REQUEST_DIR",
    "response_dir": "NNF_FENCE_RESPONSE_DIR",
    "log_dir": "LOG_DIR",
}
"""Variables that fence agents and the NNF node manager know by these names."""
KEYS: Final = tuple(field.name for field in fields(Settings))
FILE_KEYS: Final = ("quiesce_models",)
"""What can be given in the settings file only."""
SPOOL_KEYS: Final = (
    "request_dir", "response_dir", "log_dir", "audit", "max_request_age_s",
    "mass_fence_s", "mass_fence_action", "agents_may_restore", "vigil_s", "enforce", "metrics",
)  # fmt: skip
"""What only the watcher, and who reads its traces, needs."""


def variable(key: str) -> str:
    """Return the environment variable of a setting."""
    return f"{_PREFIX}{key.upper()}"


def option(key: str) -> str:
    """Return the command-line option of a setting."""
    return "--" + key.replace("_", "-")


def load(
    options: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
    warn: Callable[[str], None] = lambda _text: None,
    *,
    spool: bool = False,
) -> Settings:
    """Return the settings in force. `options` holds what the command line gave (None: not given).

    The file is NVMEFENCE_CONFIG, else `options["config"]`, else the default, which may be missing. `warn` hears
    of a command-line option that the environment overrides. Variables for `SPOOL_KEYS` count only with `spool`, so
    that a LOG_DIR meant for others cannot keep an emergency command from its work. Raises ConfigError naming the
    source and the key.
    """
    values: dict[str, Any] = {}
    for key, raw in _from_file(options, environment, warn).items():
        values[key] = raw
    for key in KEYS:
        given = options.get(key)
        name = _variable_in(environment, key) if spool or key not in SPOOL_KEYS else ""
        if given is not None:
            values[key] = _parse(option(key), key, given)
        if name:
            ruled = _parse(name, key, environment[name])
            if given is not None and values[key] != ruled:
                warn(f"{name}={environment[name]} in the environment takes precedence over {option(key)} {given}")
            values[key] = ruled
    _warn_of_strangers(environment, warn)
    rule = values.get("quiesce", quiesce.DEFAULT)
    values["quiesce"] = dataclasses.replace(rule, models=values.get("quiesce_models", ()))
    return Settings(**values)


def _variable_in(environment: Mapping[str, str], key: str) -> str:
    """Return the variable that sets a key, else an empty string. Raises ConfigError for two that differ."""
    names = [name for name in (variable(key), _SHARED_VARIABLES.get(key, "")) if name and name in environment]
    if len({environment[name] for name in names}) > 1:
        raise ConfigError(f"{names[0]} and {names[1]} are both set and differ", "unset one of them")
    return names[0] if names else ""


def _warn_of_strangers(environment: Mapping[str, str], warn: Callable[[str], None]) -> None:
    """Name variables that look like ours and mean nothing: a misspelt setting that is ignored is a trap."""
    known = [variable(key).removeprefix(_PREFIX) for key in (*KEYS, "config")]
    for name in sorted(environment):
        word = name.removeprefix(_PREFIX)
        close = difflib.get_close_matches(word, known, n=1) if word != name and word not in known else []
        if close:
            meant = _PREFIX + close[0]
            warn(f"{name} in the environment is not a setting and is ignored (did you mean {meant}?)")


def check_deadline(settings: Settings) -> None:
    """Raise ConfigError if a fence could never be confirmed, because quiesce alone takes all of its time."""
    if settings.quiesce.least >= settings.deadline:
        raise ConfigError(
            f"quiesce {settings.quiesce.name} leaves nothing of the deadline of {settings.deadline:g} s",
            "give a longer --deadline or a shorter --quiesce",
        )


def _from_file(
    options: Mapping[str, Any], environment: Mapping[str, str], warn: Callable[[str], None]
) -> dict[str, Any]:
    named = environment.get("NVMEFENCE_CONFIG") or options.get("config")
    if options.get("config") not in (None, named):
        warn(f"NVMEFENCE_CONFIG={named} in the environment takes precedence over --config {options['config']}")
    path = named or SETTINGS_FILE
    if not named and not os.path.exists(path):
        return {}
    document = read_toml(path, "settings file", "name another with --config")
    values = {}
    for key, raw in document.items():
        if key not in KEYS:
            raise ConfigError(
                f"{path}: {key}: unknown setting{nearest(key, list(KEYS))}", f"known are {', '.join(KEYS)}"
            )
        values[key] = _parse(f"{path}: {key}", key, raw)
    return values


def _parse(source: str, key: str, raw: Any) -> Any:
    try:
        return _PARSERS[key](raw)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None

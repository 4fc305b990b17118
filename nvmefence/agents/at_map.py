"""What the direct agent takes from its parameters, the settings and the host map; no drive is asked here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from nvmefence.agents import convention
from nvmefence.agents.convention import FAILED, OK, complain, say
from nvmefence.errors import ConfigError, NvmefenceError
from nvmefence.inventory.hostfile import load as load_map
from nvmefence.inventory.hostmap import Host
from nvmefence.settings import Settings, check_deadline, load

NAME: Final = "fence_nvmefence"
_PARAMETERS: Final = {
    "hosts": "hosts_file",
    "deadline": "deadline",
    "quiesce": "quiesce",
    "backend": "backend",
    "config": "settings_file",
    "log_dir": "log_dir",
    "audit": "audit",
    "simulate": "simulate",
}
"""By setting: the parameter that gives it."""
_RECORDS: Final = ("log_dir", "audit")
_UNREAD: Final = re.compile("invalid|variable")
"""Pacemaker leaves out lines of a list that have such a word in them."""


def settings(values: dict[str, str], warn: Callable[[str], None] = lambda _text: None) -> Settings:
    """Return the settings in force. Raises ConfigError.

    Simulated drives must be asked for by the device itself: left over in a settings file or the environment, they
    would have a cluster believe in fences that cut nobody off.
    """
    found = load({key: values[name] or None for key, name in _PARAMETERS.items()}, warn=warn, spool=True)
    if found.simulate and not values["simulate"]:
        raise ConfigError(
            f"the settings say that drives are simulated ({found.simulate}), and the device does not",
            "remove simulate from the settings and NVMEFENCE_SIMULATE from the environment",
        )
    return found


def settings_for_a_fence(values: dict[str, str], warn: Callable[[str], None]) -> Settings:
    """Do as `settings`, and let places for logs and audit that cannot be meant keep no fence from its work."""
    try:
        return settings(values, warn)
    except ConfigError as error:
        found = load({key: None if key in _RECORDS else values[name] or None for key, name in _PARAMETERS.items()})
        if found.simulate and not values["simulate"]:
            raise
        warn(f"logs and audit go where they go by default: {error}")
        return found


def validate(values: dict[str, str]) -> int:
    """Succeed if parameters, settings and host map can be used; the node is one that Pacemaker makes up."""
    convention.seconds(values, "delay", low=0.0, high=86400.0)
    convention.truth(values, "verbose")
    try:
        found = settings(values, lambda text: complain(f"{NAME}: {text}"))
        check_deadline(found)
        load_map(found.hosts)
    except NvmefenceError as error:
        complain(f"{NAME}: {error}")
        return FAILED
    return OK


def list_hosts(values: dict[str, str]) -> int:
    """Print the hosts of the map, a line for each of their names."""
    try:
        hosts = load_map(settings(values).hosts).hosts
    except NvmefenceError as error:
        complain(f"{NAME}: {error}")
        return FAILED
    for host in hosts.values():
        for line in lines(host):
            say(line)
    return OK


def lines(host: Host) -> Iterator[str]:
    """Yield `plug,alias` for each alias of a host, or `plug,` for one without."""
    aliases = [alias for alias in host.aliases if not _UNREAD.search(alias)]
    yield from (f"{host.name},{alias}" for alias in aliases or [""])

"""What makes sure that a write under way at the cut does not land after "success"."""

from __future__ import annotations

import enum
import fnmatch
import math
import re
from dataclasses import dataclass, field
from typing import Final

_TIMED: Final = re.compile(r"(wait|auto):(\d+(?:\.\d+)?)\Z", re.ASCII)
FORMS: Final = '"auto", "auto:SECONDS", "drain", "offline", "wait:SECONDS" or "none"'


class Method(enum.Enum):
    """How. A detach stops new writes at once, not one that the drive is already working on."""

    AUTO = "auto"
    """Drain where that is possible, else wait."""
    DRAIN = "drain"
    """Take the host's secondary controllers offline before the cut, which ends what they have under way, and bring
    them back after the read-back, so that a host that was rebooted finds a working controller and no namespace."""
    OFFLINE = "offline"
    """The same, but they stay offline until the host is restored."""
    WAIT = "wait"
    """After the read-back showed nothing, wait, read back once more, then confirm. For zero seconds: "none"."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is done on one drive."""

    method: Method
    """Never AUTO."""
    seconds: float = 0.0
    """Of the wait."""
    reason: str = ""
    """Why it is not what the rule would rather have."""
    possible: bool = True
    """False: the rule requires a method that this drive cannot do, so nothing can be confirmed on it."""

    @property
    def name(self) -> str:
        """The setting's text for this method."""
        if self.method is not Method.WAIT:
            return str(self.method.value)
        return f"wait:{self.seconds:g}" if self.seconds else "none"

    @property
    def takes_offline(self) -> bool:
        """Whether secondary controllers go offline before the cut."""
        return self.possible and self.method in (Method.DRAIN, Method.OFFLINE)


@dataclass(frozen=True, slots=True)
class Quiesce:
    """The rule for all drives, as the settings have it.

    `none` (a wait of zero seconds) is right only for drives known to finish or fail writes under way before a
    detach completes.
    """

    seconds: float
    """Of the wait, where one is needed."""
    method: Method = Method.WAIT
    models: tuple[tuple[str, float], ...] = field(default=())
    """For AUTO: seconds of the wait by shell pattern of the drive's model, for models that were qualified. The
    first that matches counts."""

    @property
    def name(self) -> str:
        """The setting's text for this rule."""
        if self.method is Method.AUTO:
            return "auto" if self.seconds == DEFAULT_WAIT else f"auto:{self.seconds:g}"
        return Choice(self.method, self.seconds).name

    @property
    def least(self) -> float:
        """Seconds that it waits on every drive, whatever the drive can do."""
        return self.seconds if self.method is Method.WAIT else 0.0

    def late(self, model: str) -> float:
        """Seconds of a wait on a drive where controllers went offline only when nothing was attached to them.

        A drive may have ended what was under way for the namespaces that were attached then, and for no other.
        """
        for pattern, seconds in self.models:
            if fnmatch.fnmatchcase(model, pattern):
                return seconds
        return self.seconds if self.method is Method.AUTO else DEFAULT_WAIT

    def choose(self, model: str, obstacle: str) -> Choice:
        """Return what to do on a drive; `obstacle` is why its secondary controllers cannot be taken offline."""
        if self.method is Method.WAIT:
            return Choice(Method.WAIT, self.seconds)
        if self.method is not Method.AUTO:
            return Choice(self.method, reason=obstacle, possible=not obstacle)
        if not obstacle:
            return Choice(Method.DRAIN)
        for pattern, seconds in self.models:
            if fnmatch.fnmatchcase(model, pattern):
                return Choice(Method.WAIT, seconds, f"{obstacle}; model {pattern} is qualified in the settings")
        return Choice(Method.WAIT, self.seconds, obstacle)


def suffices(met: str, rule: str) -> bool:
    """Whether a host for which a rule was met has nothing under way by another; both by their names."""
    return met in ("auto", "drain", "offline", rule)


DEFAULT_WAIT: Final = 10.0
DEFAULT: Final = Quiesce(DEFAULT_WAIT, Method.AUTO)


def parse(text: str) -> Quiesce:
    """Parse a setting. Raises ValueError with the forms that are known."""
    if text == "none":
        return Quiesce(0.0)
    if text in ("auto", "drain", "offline"):
        return Quiesce(DEFAULT_WAIT if text == "auto" else 0.0, Method(text))
    match = _TIMED.match(text)
    if not match or math.isinf(float(match[2])):
        raise ValueError(f"must be {FORMS}, is {text!r}")
    return Quiesce(float(match[2]), Method(match[1]))


def parse_models(table: object) -> tuple[tuple[str, float], ...]:
    """Parse waits by model: a table of shell patterns to "wait:SECONDS" or "none". Raises ValueError."""
    if not isinstance(table, dict):
        raise ValueError('must be a table of model = "wait:SECONDS" or "none"')
    found = []
    for pattern, text in table.items():
        rule = parse(text) if isinstance(text, str) else None
        if rule is None or rule.method is not Method.WAIT:
            raise ValueError(f'{pattern}: must be "wait:SECONDS" or "none", is {text!r}')
        found.append((pattern, rule.seconds))
    return tuple(found)

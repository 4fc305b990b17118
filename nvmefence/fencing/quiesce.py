"""What makes sure that a write under way at the cut does not land after "success"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_WAIT: Final = re.compile(r"wait:(\d+(?:\.\d+)?)\Z")


@dataclass(frozen=True, slots=True)
class Quiesce:
    """A method. A detach stops new writes at once; one that the drive was already working on may still land.

    `wait`: after the read-back showed nothing, wait `seconds`, read back once more, then confirm.
    `none` (zero seconds): confirm at once; right only for drives known to finish or fail such writes before a
    detach completes.
    """

    seconds: float

    @property
    def name(self) -> str:
        """The setting's text for this method."""
        return f"wait:{self.seconds:g}" if self.seconds else "none"


DEFAULT: Final = Quiesce(10.0)


def parse(text: str) -> Quiesce:
    """Parse "none" or "wait:SECONDS". Raises ValueError with the forms that are known."""
    if text == "none":
        return Quiesce(0.0)
    match = _WAIT.match(text)
    if not match:
        raise ValueError(f'must be "none" or "wait:SECONDS", is {text!r}')
    return Quiesce(float(match[1]))

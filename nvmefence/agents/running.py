"""What agents do alike from their start to their end: pages about themselves, defects, the exit."""

from __future__ import annotations

import os
import sys

from nvmefence import streams
from nvmefence.agents.convention import FAILED, UsageError, complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from nvmefence.agents.convention import Agent


def page(agent: Agent, action: str, values: dict[str, str]) -> str:
    """Return what only needs to be printed, else an empty string."""
    if values["version"]:
        return f"{agent.name} {agent.version}"
    if not values["help"] and action not in ("metadata", "manpage"):
        return ""
    from nvmefence.agents import pages

    if values["help"]:
        return pages.usage(agent)
    return pages.metadata(agent) if action == "metadata" else pages.manpage(agent)


def run(name: str, main: Callable[[list[str]], int]) -> NoReturn:
    """Run an agent on this process's arguments, and end the process: with 1 for everything that went wrong.

    Ends it at once. Nothing is left to be done, and taking the interpreter apart takes as long as a tenth of all.
    """
    os._exit(_exit_code(name, main))


def _exit_code(name: str, main: Callable[[list[str]], int]) -> int:
    streams.ensure_open()
    try:
        return main(sys.argv[1:])
    except UsageError as error:
        complain(f"{name}: {error}")
    except KeyboardInterrupt:
        complain(f"{name}: interrupted")
    except Exception as error:  # whatever it was, nothing is confirmed
        complain(f"{name}: {defect(error)}")
    return FAILED


def defect(error: BaseException) -> str:
    """Return a line about an error that nobody expected."""
    try:
        text = str(error)
    except Exception:
        text = "its text cannot be told"
    return f"defect: {type(error).__name__}: {text}"

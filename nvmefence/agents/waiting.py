"""Waiting for the response to one request, and deciding whether it says, beyond doubt, success.

It looks, and has inotify end its pauses. A look is two system calls, and is the truth: inotify is silent on NFS.
The first looks are half a millisecond apart, the pause then grows to a twentieth of the time waited, so even
without a hint an answer is seen at most 5 % late. Hints come only after `_UNHINTED_S`: the standard library reaches
inotify through ctypes, which would cost a third of the agent's start, and most answers come before it is loaded.
"""

from __future__ import annotations

import time

from nvmefence.agents import reading
from nvmefence.agents.stopping import SIGNALS, pause
from nvmefence.spool.errors import Refused, SpoolError
from nvmefence.spool.names import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_PAUSE_S = 0.0005
_UNHINTED_S = 0.05
SETTLE_S = 2.0
"""A response that cannot be read as JSON and has not changed for so long is given up."""
MESSAGE_LIMIT = 1500
"""Characters of a response's message that are passed on: to the logs, and to Pacemaker, which may not read them."""


class Verdict:
    """How it ended: `status` in one word for the logs, and `details` for a person."""

    __slots__ = ("confirmed", "details", "seen", "status")

    def __init__(self, status: str, details: str, *, confirmed: bool = False) -> None:
        self.status = status
        self.details = details
        self.confirmed = confirmed
        self.seen = 0.0
        """Monotonic time of the look that found the response; 0: none did."""


def judge(answer: dict[str, object], request_id: str, target: str) -> Verdict:
    """Decide on a response: confirmed only if it is for this request and this node and success is exactly true."""
    for key, expected in (("request_id", request_id), ("target_node", target)):
        if answer.get(key) != expected:
            return Verdict("refused", f"the response's {key} is {quoted(answer.get(key))}, not {expected!a}")
    for key in ("message", "action_performed", "timestamp", "status"):
        if not isinstance(answer.get(key, ""), str):
            return Verdict("refused", f"the response's {key} is not a string")
    message = str(answer.get("message", "")) or "no message"
    if len(message) > MESSAGE_LIMIT:
        message = f"{message[:MESSAGE_LIMIT]}..."
    success = answer.get("success")
    if success is False:
        return Verdict("failed", message)
    if success is not True:
        return Verdict("refused", f"the response's success is {quoted(success)}, neither true nor false")
    if answer.get("status", "success") != "success":
        return Verdict(
            "refused", f"the response contradicts itself: success, and status {quoted(answer['status'])}"
        )
    return Verdict("success", message, confirmed=True)


class _Looker:
    """Looks for one response; remembers what it saw of a file that was not finished, and why it saw nothing."""

    def __init__(self, directory: str, name: str) -> None:
        self.directory = directory
        self.name = name
        self.trouble = ""
        self._state: tuple[int, float] | None = None
        self._since = 0.0

    def look(self, now: float) -> dict[str, object] | None:
        """Return the response if it is there; raise Refused if it will never be one."""
        try:
            answer = reading.read_object(self.directory, self.name)
        except reading.Unfinished as error:
            self.trouble = str(error)
            if error.state != self._state:
                self._state, self._since = error.state, now
            elif now - self._since >= SETTLE_S:
                raise Refused(f"the response cannot be read: {error}") from None
            return None
        except Refused:
            raise
        except SpoolError as error:
            self.trouble = error.reason
            return None
        if answer is None:
            self.trouble = ""
        return answer


def listen(directory: str) -> Callable[[float], str]:
    """Return a `pause` that ends with a change in a directory, where that can be had."""
    try:
        from nvmefence.agents.hints import Hints

        return Hints(directory, SIGNALS).pause
    except (OSError, ImportError, MemoryError):  # it waits as before
        return pause


def wait(
    directory: str, name: str, request_id: str, target: str, *, since: float, within_s: float, poll_s: float
) -> Verdict:
    """Wait for the response to a request until `within_s` after the monotonic time `since`.

    `hold_signals` comes first. At the deadline it looks once more.
    """
    until = since + within_s
    looker = _Looker(directory, name)
    start = time.monotonic()
    rest: Callable[[float], str] | None = None
    while True:
        now = time.monotonic()
        try:
            answer = looker.look(now)
        except Refused as error:
            return Verdict("refused", error.reason)
        if answer is not None:
            verdict = judge(answer, request_id, target)
            verdict.seen = now
            return verdict
        if now >= until:
            seen = f" ({looker.trouble})" if looker.trouble else ""
            return Verdict("timeout", f"no response within {within_s:g} s{seen}; is the watcher running?")
        if rest is None and now - start > _UNHINTED_S:
            rest = listen(directory)
            continue  # what came before it listened is there
        if by := (rest or pause)(min(poll_s, max(FIRST_PAUSE_S, (now - start) / 20), until - now)):
            return Verdict("stopped", f"stopped by {by} while waiting")

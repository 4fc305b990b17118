"""The watcher's hands in the two directories: what came in, what goes out. Runs in one thread, not the loop's."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from nvmefence.errors import BusyError
from nvmefence.spool import heartbeat, names
from nvmefence.spool.directory import RequestDirectory, ResponseDirectory
from nvmefence.spool.errors import (
    AlreadyThere,
    DirectoryLost,
    Gone,
    Invalid,
    Malformed,
    ReadFailed,
    Refused,
    SpoolError,
    Unsettled,
)
from nvmefence.spool.names import quoted
from nvmefence.spool.request import Action, Age, InvalidRequest, Known, Request, judge
from nvmefence.spool.response import Response
from nvmefence.watcher import audit
from nvmefence.watcher.lock import Lock

_DRAFT_AGE_S: Final = 300.0
"""Seconds after which the draft of a file belongs to a writer that is dead."""
UNFENCED_FOR_S: Final = 10.0
"""Seconds that a successful response to an `on` stands, for its agent to read. The NNF node manager takes any
successful response for a fence."""


class Incoming(NamedTuple):
    """A request that is well formed."""

    request: Request
    age: Age
    read_at: float
    """Monotonic seconds, when `age` was true."""


class Bad(NamedTuple):
    """A file that is no request."""

    name: str
    reason: str
    known: Known
    """What could be read of it nevertheless."""


class Look(NamedTuple):
    """What one look at the directories showed."""

    incoming: tuple[Incoming, ...] = ()
    bad: tuple[Bad, ...] = ()
    repeats: tuple[str, ...] = ()
    """Requests that were answered before."""
    troubles: dict[str, str] = {}  # noqa: RUF012
    """What is wrong, by what it concerns; empty when all is well."""
    more: bool = False
    """There is more to take than was asked for."""
    young: bool = False
    """Some file is not finished yet; look again soon."""


class Outgoing(NamedTuple):
    """What is to be done about one file in the request directory."""

    name: str
    response: Response | None = None
    reject: str = ""
    """Why the file is to be moved to `rejected/`; empty: it is to be removed."""


class Desk:
    """The two directories, opened and opened again as they come and go. Every method belongs to one thread."""

    def __init__(
        self,
        request_dir: str,
        response_dir: str,
        max_age_s: float,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request_dir = request_dir
        self._response_dir = response_dir
        self._max_age_s = max_age_s
        self._wall = wall
        self._monotonic = monotonic
        self._requests: RequestDirectory | None = None
        self._responses: ResponseDirectory | None = None
        self._lock: Lock | None = None
        self._beaten = float("-inf")
        self.opened = 0
        """Counts how often the request directory was opened."""

    @property
    def descriptor(self) -> int:
        """The open request directory, or -1."""
        return -1 if self._requests is None else self._requests.directory.fd

    def open(self) -> dict[str, str]:
        """Open what is not open; return what is wrong, by path. Raises BusyError if another watcher is there."""
        troubles = {}
        if self._responses is None:
            try:
                self._responses = ResponseDirectory(self._response_dir)
                self._responses.sweep(self._wall() - _DRAFT_AGE_S)
            except SpoolError as error:
                troubles[self._response_dir] = error.reason
            except OSError as error:
                troubles[self._response_dir] = f"cannot be opened: {error.strerror}"
        if self._requests is None:
            try:
                self._open_requests()
            except SpoolError as error:
                troubles[self._request_dir] = error.reason
            except OSError as error:
                troubles[self._request_dir] = f"cannot be locked: {error.strerror or error}"
        if self._requests is not None and self._responses is not None:
            trouble = self._confused(self._requests, self._responses)
            if trouble:
                self.close()
                troubles[self._request_dir] = trouble
        return troubles

    def _confused(self, requests: RequestDirectory, responses: ResponseDirectory) -> str:
        """Return why the two are not two directories, else an empty string."""
        try:
            if not os.path.samestat(os.fstat(requests.directory.fd), os.fstat(responses.directory.fd)):
                return ""
        except OSError as error:
            return f"cannot be told from {quoted(self._response_dir)}: {error.strerror}"
        return f"is the same directory as {quoted(self._response_dir)}"

    def _open_requests(self) -> None:
        requests = RequestDirectory(self._request_dir)
        try:
            self._lock = Lock(requests.directory)
            requests.directory.verify()
            requests.sweep(self._wall() - _DRAFT_AGE_S)
        except BaseException:
            self._unlock()
            requests.close()
            raise
        self._requests = requests
        self._beaten = float("-inf")
        self.opened += 1

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def close(self) -> None:
        """Close both and let go of the lock; again is harmless."""
        self._lose_requests()
        self._lose_responses()

    def _lose_requests(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        self._unlock()

    def _lose_responses(self) -> None:
        if self._responses is not None:
            self._responses.close()
            self._responses = None

    def look(self, handled: Collection[str], most: int) -> Look:
        """Take in what is new: at most `most` files, none that is in `handled`."""
        try:
            troubles = self.open()
        except BusyError as error:
            return Look(troubles={self._request_dir: str(error)})
        requests, responses = self._requests, self._responses
        if requests is None or responses is None:
            return Look(troubles=troubles)
        try:
            listing = requests.scan(self._monotonic())
        except DirectoryLost as error:
            self._lose_requests()
            return Look(troubles={self._request_dir: error.reason}, more=True)
        except SpoolError as error:
            return Look(troubles={self._request_dir: error.reason})
        seen = _Seen(requests, responses, self._judge)
        for name in listing.pending:
            if name in handled:
                continue
            if seen.count >= most:
                seen.more = True
                break
            try:
                seen.take(name, self._wall(), self._monotonic())
            except DirectoryLost as error:
                self._lose_responses()
                seen.troubles[self._response_dir] = error.reason
                seen.more = True
                break
        self._beat(requests, seen.troubles)
        if listing.ignored:
            shown = ", ".join(listing.ignored[:3])
            seen.troubles["names"] = f"{len(listing.ignored)} entries are no requests and stay: {shown}"
        return seen.result()

    def _judge(self, request: Request, seen_for: float) -> Incoming:
        read_at = self._monotonic()
        return Incoming(request, judge(request, self._wall(), self._max_age_s, seen_for), read_at)

    def _beat(self, requests: RequestDirectory, troubles: dict[str, str]) -> None:
        now = self._monotonic()
        if now - self._beaten < heartbeat.EVERY_S:
            return
        try:
            heartbeat.beat(requests.directory, self._wall())
            self._beaten = now
        except OSError as error:
            troubles["heartbeat"] = f"{self._request_dir}/{heartbeat.NAME}: {error.strerror}"

    def deliver(self, batch: Collection[Outgoing]) -> dict[str, str]:
        """Do what is to be done; return, by name, why it was not done. Again, with the same, is harmless.

        A request directory that is away holds up no response; a request that comes back with it is a repeat.
        """
        try:
            troubles = self.open()
            away = "" if self._responses is not None else "; ".join(troubles.values())
        except BusyError as error:
            away = str(error)
        if away:
            return dict.fromkeys((item.name for item in batch), away)
        failed = {}
        for item in batch:
            try:
                self._deliver(item)
            except SpoolError as error:
                failed[item.name] = error.reason
        return failed

    def _deliver(self, item: Outgoing) -> None:
        requests, responses = self._requests, self._responses
        if responses is None:
            raise ReadFailed("a directory was lost")
        if item.response is not None:
            try:
                responses.publish(item.name, item.response)
            except DirectoryLost:
                self._lose_responses()
                raise
            except AlreadyThere:
                pass  # answered before: that answer stands
        if requests is None:
            return
        if not item.reject:
            requests.remove(item.name)
            return
        with contextlib.suppress(Gone):
            requests.reject(item.name, item.reject)

    def append_audit(self, lines: Collection[bytes]) -> None:
        """Append audit lines in the response directory, durably. Raises OSError."""
        if self._responses is not None:
            try:
                self._responses.directory.verify()
            except SpoolError:
                self._lose_responses()  # a line beside responses that nobody sees would be lost with them
        self.open()
        if self._responses is None:
            raise OSError(0, f"{self._response_dir} is not there")
        audit.append(audit.FALLBACK, lines, self._responses.directory.fd)

    def archive_unfenced(self) -> int:
        """Archive successful responses to an `on` that stood long enough; return how many still stand."""
        if self._responses is None:
            return 0
        waiting = 0
        for name in os.listdir(self._responses.directory.fd):
            if not name.endswith(names.SUFFIX) or not names.is_safe(name):
                continue
            try:
                found = os.stat(name, dir_fd=self._responses.directory.fd, follow_symlinks=False)
                answer = self._responses.read(name)
                if answer.action_performed != Action.ON.value or not answer.success:
                    continue
                if 0 <= self._wall() - found.st_mtime < UNFENCED_FOR_S:
                    waiting += 1
                else:
                    self._responses.archive(name)
            except (OSError, SpoolError):
                continue
        return waiting


class _Seen:
    """What a look has come across so far."""

    def __init__(
        self, requests: RequestDirectory, responses: ResponseDirectory, judged: Callable[[Request, float], Incoming]
    ) -> None:
        self._requests = requests
        self._responses = responses
        self._judged = judged
        self.incoming: list[Incoming] = []
        self.bad: list[Bad] = []
        self.repeats: list[str] = []
        self.troubles: dict[str, str] = {}
        self.more = False
        self.young = False

    @property
    def count(self) -> int:
        return len(self.incoming) + len(self.bad) + len(self.repeats)

    def take(self, name: str, wall: float, monotonic: float) -> None:
        """Sort one file in. Raises DirectoryLost for the responses."""
        try:
            if self._responses.exists(name) or self._responses.archived(name):
                self.repeats.append(name)
                return
            request = self._requests.read(name, wall, monotonic)
            self.incoming.append(self._judged(request, self._requests.seen_for(name, monotonic)))
        except Gone:
            pass  # withdrawn
        except Unsettled:
            self.young = True
        except InvalidRequest as error:
            self.bad.append(Bad(name, error.reason, error.known))
        except (Refused, Malformed, Invalid) as error:
            self.bad.append(Bad(name, error.reason, Known()))
        except DirectoryLost:
            raise
        except SpoolError as error:
            self.troubles[name] = error.reason

    def result(self) -> Look:
        return Look(
            tuple(self.incoming), tuple(self.bad), tuple(self.repeats), self.troubles, self.more, self.young
        )

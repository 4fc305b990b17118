"""The watcher's hands in the two directories: what came in, what goes out. Runs in one thread, not the loop's."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple, TypeVar

from nvmefence.errors import BusyError
from nvmefence.spool import heartbeat
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
from nvmefence.spool.request import Age, InvalidRequest, Known, Request, judge
from nvmefence.spool.response import Response
from nvmefence.watcher import audit
from nvmefence.watcher.lock import Lock
from nvmefence.watcher.turns import Turns
from nvmefence.watcher.unfenced import Unfenced

T = TypeVar("T")
_DRAFT_AGE_S: Final = 300.0
"""Seconds after which the draft of a file belongs to a writer that is dead."""
IN_HAND: Final = 512
"""Files that may be dealt with at once. What comes beyond that stays where it is for the time being, lest thousands
of files fill the memory; fences alone are taken in as well, up to some times as many."""
_FENCES_IN_HAND: Final = 4 * IN_HAND
_READ_FOR_ONE: Final = 16
"""Files that a look reads for each one that it may take: to find the fences among them."""
_LOOK_S: Final = 0.2
"""Seconds after which a look takes in no more."""


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
    """Some file is not finished yet, or had to be left for now; look again soon."""
    seconds: float = 0.0
    """How long the look took."""


class Outgoing(NamedTuple):
    """What is to be done about one file in the request directory."""

    name: str
    response: Response | None = None
    reject: str = ""
    """Why the file is to be moved to `rejected/`; empty: it is to be removed."""
    moments: dict[str, float] | None = None
    """Takes the monotonic times at which the response was visible, and durable."""
    until: float = float("inf")
    """Monotonic seconds after which the response must not become visible: what it says may be true no more."""


TOO_LATE: Final = "its time is over"
"""Why a response was not delivered that must not become visible any more."""


class TooLate(SpoolError):
    """A response was not delivered, because its time is over."""


def _fences(request: Request) -> bool:
    return request.action.fences


class Desk:
    """The two directories, opened and opened again as they come and go. Every method belongs to one thread."""

    def __init__(
        self,
        request_dir: str,
        response_dir: str,
        max_age_s: float,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        simulated: bool = False,
    ) -> None:
        """`simulated`: see `ResponseDirectory`."""
        self._request_dir = request_dir
        self._response_dir = response_dir
        self._max_age_s = max_age_s
        self._wall = wall
        self._monotonic = monotonic
        self._simulated = simulated
        self._requests: RequestDirectory | None = None
        self._responses: ResponseDirectory | None = None
        self._lock: Lock | None = None
        self._turns = Turns()
        self._unfenced: Unfenced | None = None
        self._beaten = float("-inf")
        self.beaten_at = 0.0
        """When the last sign of life was given, in seconds since 1970; 0: none was."""
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
                responses = self._responses = self._settled_responses()
                self._unfenced = Unfenced(responses, self._wall)
                responses.sweep(self._wall() - _DRAFT_AGE_S)
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

    def _settled_responses(self) -> ResponseDirectory:
        responses = ResponseDirectory(self._response_dir, simulated=self._simulated)
        try:
            responses.settle()
        except BaseException:
            responses.close()
            raise
        return responses

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
        self._unfenced = None
        if self._responses is not None:
            self._responses.close()
            self._responses = None

    def look(self, handled: Collection[str], most: int, wanted: Callable[[Request], bool] = _fences) -> Look:
        """Take in what is new: at most `most` files, none that is in `handled`.

        `wanted` tells which requests, if they are not too old, are taken in however much is in hand already.
        """
        try:
            troubles = self.open()
        except BusyError as error:
            return Look(troubles={self._request_dir: str(error)})
        requests, responses = self._requests, self._responses
        if requests is None or responses is None:
            return Look(troubles=troubles)
        now = self._monotonic()
        try:
            listing = requests.scan(now)
        except DirectoryLost as error:
            self._lose_requests()
            return Look(troubles={self._request_dir: error.reason}, more=True)
        except SpoolError as error:
            return Look(troubles={self._request_dir: error.reason})
        seen = _Seen(requests, responses, self._judge, wanted, self._turns)
        waiting = [name for name in listing.pending if name not in handled]
        free = IN_HAND - len(handled)
        seen.room = min(most, free)
        left = seen.room if free >= most // 2 else 0
        order = self._turns.order(waiting, lambda name: requests.seen_for(name, now), left)
        self._take(seen, itertools.islice(order, _READ_FOR_ONE * most), min(most, _FENCES_IN_HAND - len(handled)))
        seen.more |= self._turns.unread > 0 or (self._turns.any_left and free - seen.count >= most // 2)
        self._beat(requests, seen.troubles)
        if listing.ignored:
            shown = ", ".join(listing.ignored[:3])
            seen.troubles["names"] = f"{len(listing.ignored)} entries are no requests and stay: {shown}"
        return seen.result()._replace(seconds=self._monotonic() - now)

    def _take(self, seen: _Seen, order: Iterable[str], most: int) -> None:
        """Read one file after another, as far as there is time, and take in at most `most`."""
        until = self._monotonic() + _LOOK_S
        for name in order:
            if seen.count >= most or self._monotonic() > until:
                break
            try:
                seen.take(name, self._wall(), self._monotonic())
            except DirectoryLost as error:
                self._lose_responses()
                seen.troubles[self._response_dir] = error.reason
                seen.more = True
                return
        seen.young |= self._turns.any_left

    def _judge(self, request: Request, seen_for: float) -> Incoming:
        read_at = self._monotonic()
        return Incoming(request, judge(request, self._wall(), self._max_age_s, seen_for), read_at)

    def _beat(self, requests: RequestDirectory, troubles: dict[str, str]) -> None:
        now = self._monotonic()
        if now - self._beaten < heartbeat.EVERY_S:
            return
        try:
            heartbeat.beat(requests.directory, self._wall())
            self._beaten, self.beaten_at = now, self._wall()
        except OSError as error:
            troubles["heartbeat"] = f"{self._request_dir}/{heartbeat.NAME}: {error.strerror}"

    def gone(self, names: Collection[str]) -> frozenset[str]:
        """Return which of these requests are there no longer. Raises SpoolError where that cannot be told."""
        if self._requests is None:
            raise ReadFailed(f"{quoted(self._request_dir)} is not there")
        found = frozenset(name for name in names if not self._requests.exists(name))
        self._requests.directory.verify()  # a directory that was replaced has all of them, or none
        return found

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
                if self._unfenced is not None:
                    self._unfenced.note(item.name, item.response)
                if not responses.exists(item.name):  # else it was visible in time, and is to be made durable
                    self._in_time(item)
                visible = responses.publish(item.name, item.response, lambda: self._in_time(item))
                if visible is not None and item.moments is not None:
                    item.moments.update(visible=visible, durable=self._monotonic())
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

    def _in_time(self, item: Outgoing) -> None:
        if self._monotonic() > item.until:
            raise TooLate(TOO_LATE)

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

    def archive_fences(self, of: Callable[[str], bool]) -> list[str]:
        """Archive what says that a node is fenced, see `ResponseDirectory.archive_fences`. Raises SpoolError."""
        if self._responses is None:
            raise ReadFailed(f"{quoted(self._response_dir)} is not there")
        return self._responses.archive_fences(of)

    def fences(self, of: Callable[[str], bool]) -> list[str]:
        """Return the responses that say so of a node, see `ResponseDirectory.fences`. Raises SpoolError."""
        if self._responses is None:
            raise ReadFailed(f"{quoted(self._response_dir)} is not there")
        return self._responses.fences(of)

    def archive_unfenced(self) -> int:
        """Archive successful responses to an `on` that stood long enough; return how many still stand."""
        return 0 if self._unfenced is None else self._unfenced.archive()


class _Seen:
    """What a look has come across so far."""

    def __init__(
        self,
        requests: RequestDirectory,
        responses: ResponseDirectory,
        judged: Callable[[Request, float], Incoming],
        wanted: Callable[[Request], bool],
        turns: Turns,
    ) -> None:
        self._requests = requests
        self._responses = responses
        self._judged = judged
        self._wanted = wanted
        self._turns = turns
        self.room = 0
        """How many more may be taken in that are no wanted requests."""
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
        self._turns.read(name)
        try:
            if self._responses.exists(name) or self._responses.archived(name):
                self._add(self.repeats, name, name)
                return
            request = self._requests.read(name, wall, monotonic)
            item = self._judged(request, self._requests.seen_for(name, monotonic))
            if not item.age.expired and self._wanted(request):
                self.incoming.append(item)
            else:
                self._add(self.incoming, item, name)
        except Gone:
            pass  # withdrawn
        except Unsettled:
            self._turns.unfinished(name)
            self.young = True
        except InvalidRequest as error:
            self._add(self.bad, Bad(name, error.reason, error.known), name)
        except (Refused, Malformed, Invalid) as error:
            self._add(self.bad, Bad(name, error.reason, Known()), name)
        except DirectoryLost:
            raise
        except SpoolError as error:
            self._turns.unfinished(name)
            self.troubles[name] = error.reason

    def _add(self, taken: list[T], item: T, name: str) -> None:
        """Take something in if there is room for it."""
        if self.room > 0:
            self.room -= 1
            taken.append(item)
        else:
            self._turns.left(name)

    def result(self) -> Look:
        return Look(
            tuple(self.incoming), tuple(self.bad), tuple(self.repeats), self.troubles, self.more, self.young
        )

"""What the real functions do, as events of the model: each of them tells when it is called, and by whom."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import math
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

from nvmefence.agents import exchange, fence_gfs2_recorder, waiting
from nvmefence.fencing.cutting import Cutting
from nvmefence.fencing.fence import _DriveFence
from nvmefence.nvme import commands
from nvmefence.nvme.emulated import EmulatedTransport
from nvmefence.nvme.transport import NO_ANSWER, Command, Completion
from nvmefence.records.beside import Beside
from nvmefence.records.hostlock import RestoreLock
from nvmefence.records.recorder import Recorder
from nvmefence.restoring import Restoring
from nvmefence.spool import files
from nvmefence.spool.directory import ResponseDirectory
from nvmefence.watcher import answers, audit
from nvmefence.watcher.delivery import Delivery
from nvmefence.watcher.desk import Desk
from nvmefence.watcher.passes import Pass, Passes
from nvmefence.watcher.service import Watcher
from tests.model.spin import Event
from tests.property.watcher_world import World


class Seen(NamedTuple):
    """Something that happened."""

    event: str
    request: int = 0


def function(event: Event) -> Any:
    """Return the function that makes an event. Raises AttributeError if it is not there any more."""
    module, name = event.made_by.split(":")
    return functools.reduce(getattr, name.split("."), importlib.import_module(module))


class AgentLife:
    """The real agent in a thread that runs while everything else stands, and stands while everything else runs."""

    def __init__(self, tracer: Tracer, request: int, timeout_s: float, host: str = "c1") -> None:
        self.request = request
        self.code: int | None = None
        self.signal = ""
        self.killed = False
        settings = tracer.world.settings
        self._words = [
            "--action=off", f"--plug={host}", f"--request-dir={settings.request_dir}",
            f"--response-dir={settings.response_dir}", f"--fence-timeout={timeout_s}",
        ]  # fmt: skip
        self._tracer = tracer
        self._mine, self._others = threading.Semaphore(0), threading.Semaphore(0)
        self._pause: float | None = None
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def _live(self) -> None:
        self._mine.acquire()
        self._tracer.here.agent = self
        self.code = fence_gfs2_recorder.main(self._words)
        self._pause = None
        self._others.release()

    def step(self) -> float | None:
        """Let it run until it waits; return for how many seconds it will. None: it has ended."""
        self._mine.release()
        self._others.acquire()
        return self._pause

    def pause(self, seconds: float) -> str:
        """Stand. Takes the place of `stopping.pause`."""
        self._pause = seconds
        self._others.release()
        self._mine.acquire()
        if self.killed:
            self._tracer.see("KILL", self.request)
            self._pause = None
            self._others.release()
            threading.Event().wait()  # SIGKILL lets no `finally` run
        if self.signal:
            self._tracer.see("STOP", self.request)
        return self.signal

    def end(self, *, signal: str = "", killed: bool = False) -> None:
        """Have it told to end, or kill it, where it stands; and let it run to its end."""
        self.signal, self.killed = signal, killed
        while self.step() is not None:
            pass


class Tracer:
    """Sees the events of one world, about its host c1."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: list[Seen] = []
        self.names: dict[str, int] = {}
        self.when: dict[str, Callable[[], None]] = {}
        """What is to be done as soon as an event has been seen for the first time."""
        self.here = threading.local()
        self._expired: set[int] = set()
        self._due: dict[str, str] = {}
        """Responses and requests whose entries are to be made durable, and the event that this is."""
        self._kept = False
        self._restoring = False
        self._denied = False

    def see(self, event: str, request: int = 0) -> None:
        self.seen.append(Seen(event, request))
        if event in self.when:
            self.when.pop(event)()

    def expire(self, request: int) -> None:
        """A request's time is over, which nobody says."""
        if request not in self._expired:
            self._expired.add(request)
            self.see("EXPIRE", request)

    def died(self) -> None:
        """The watcher was killed, with all that it remembered."""
        self._due.clear()
        self._kept = self._restoring = self._denied = False
        events = [seen.event for seen in self.seen if seen.event in ("START", "CRASH")]
        if events[-1:] == ["START"]:  # else it never came to serve
            self.see("CRASH")

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """Have it see everything."""
        with contextlib.ExitStack() as stack:
            for owner, name, made in self._wrappers():
                wrapped = made(getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, wrapped))
            stack.enter_context(mock.patch("time.time", self.world.wall))
            stack.enter_context(mock.patch("nvmefence.agents.stopping.hold_signals"))
            # It would end this process, some time after an agent was killed in a story.
            stack.enter_context(mock.patch("nvmefence.agents.stopping.end_after"))
            # The agent writes its logs in a fork, which would share the locks of the watcher and the restore here.
            stack.enter_context(mock.patch.object(fence_gfs2_recorder.Fence, "_record"))
            stack.enter_context(mock.patch("nvmefence.agents.waiting.pause", self._pause))
            stack.enter_context(mock.patch("nvmefence.agents.waiting._UNHINTED_S", math.inf))
            yield

    def _pause(self, seconds: float) -> str:
        agent: AgentLife = self.here.agent
        return agent.pause(seconds)

    def _wrappers(self) -> Iterator[tuple[Any, str, Callable[[Any], Any]]]:
        yield files, "_write_and_rename", self._written
        yield files, "_settle", self._settled
        yield files, "remove", self._removed
        yield waiting, "judge", self._judged
        yield exchange, "withdraw", self._withdrawn
        yield exchange, "settle", self._withdrawal_settled
        yield Desk, "_open_requests", self._after("START")
        yield Passes, "take", self._taken
        yield Passes, "_begin", self._begun
        yield Passes, "_wanted", self._wanted
        yield Passes, "_fence", self._fenced
        yield Beside, "enter", self._after("LOCK")
        yield Beside, "end", self._unlocked
        yield _DriveFence, "_read", self._after_awaited("READ")
        yield Cutting, "cut", self._cut
        yield Recorder, "finish", self._after_awaited("RECORD")
        yield Watcher, "_sort", self._sorted
        yield Watcher, "_pass_ended", self._pass_ended
        yield Delivery, "dispose", self._disposed
        yield audit, "append", self._audited
        yield RestoreLock, "__init__", self._restore_begun
        yield RestoreLock, "wanted", self._looked
        yield RestoreLock, "end", self._restored
        yield Restoring, "_mark", self._after("MARK")
        yield Restoring, "_note", self._noted
        yield ResponseDirectory, "archive_fences", self._after("ARCHIVE")
        yield EmulatedTransport, "run", self._ran

    # Any function

    def _after(self, event: str) -> Callable[[Any], Any]:
        def made(real: Any) -> Any:
            @functools.wraps(real)
            def wrapped(*arguments: Any, **options: Any) -> Any:
                result = real(*arguments, **options)
                self.see(event)
                return result

            return wrapped

        return made

    def _after_awaited(self, event: str) -> Callable[[Any], Any]:
        def made(real: Any) -> Any:
            @functools.wraps(real)
            async def wrapped(*arguments: Any, **options: Any) -> Any:
                result = await real(*arguments, **options)
                self.see(event)
                return result

            return wrapped

        return made

    # Files

    def _is_request(self, directory: files.Directory, name: str) -> bool:
        return directory.path == self.world.settings.request_dir and name.endswith(".json")

    def _is_response(self, directory: files.Directory, name: str) -> bool:
        return directory.path == self.world.settings.response_dir and name in self.names

    def _written(self, real: Any) -> Any:
        def wrapped(directory: files.Directory, fd: int, temporary: str, name: str, *rest: Any) -> None:
            real(directory, fd, temporary, name, *rest)
            if self._is_request(directory, name):
                os.utime(name, (self.world.wall(),) * 2, dir_fd=directory.fd)
                agent = getattr(self.here, "agent", None)
                self.names[name] = len(self.names) if agent is None else agent.request
                self._due[f"request {name}"] = "ASKED"
                self.see("ASK", self.names[name])
            elif self._is_response(directory, name):
                self._due[f"response {name}"] = "DURABLE"
                self.see("VISIBLE", self.names[name])

        return wrapped

    def _settled(self, real: Any) -> Any:
        def wrapped(directory: files.Directory, name: str) -> None:
            real(directory, name)
            what = "request" if self._is_request(directory, name) else "response"
            event = self._due.pop(f"{what} {name}", "") if name in self.names else ""
            if event:
                self.see(event, self.names[name])

        return wrapped

    def _removed(self, real: Any) -> Any:
        def wrapped(directory: files.Directory, name: str) -> bool:
            if self._is_request(directory, name):
                self.see("REMOVE", self.names[name])
            there: bool = real(directory, name)
            if self._is_request(directory, name):
                self.see("REMOVED", self.names[name])
            return there

        return wrapped

    def _audited(self, real: Any) -> Any:
        def wrapped(path: str, lines: Collection[bytes], directory: int | None = None) -> None:
            real(path, lines, directory)
            for document in map(json.loads, lines):
                if document["event"] == "answer":
                    self.see("AUDIT", self.names[document["file"]])
                    self.see("AUDITED", self.names[document["file"]])

        return wrapped

    # The agent

    def _judged(self, real: Any) -> Any:
        def wrapped(*arguments: Any) -> waiting.Verdict:
            verdict: waiting.Verdict = real(*arguments)
            self.see("SUCCEED" if verdict.confirmed else "FAIL", self.here.agent.request)
            return verdict

        return wrapped

    def _withdrawn(self, real: Any) -> Any:
        def wrapped(directory: str, name: str) -> str:
            trouble: str = real(directory, name)
            agent: AgentLife = self.here.agent
            if not agent.signal and Seen("FAIL", agent.request) not in self.seen:
                self.expire(agent.request)
            self.see("WITHDRAW", agent.request)
            return trouble

        return wrapped

    def _withdrawal_settled(self, real: Any) -> Any:
        def wrapped(directory: str) -> None:
            real(directory)
            self.see("WITHDRAWN", self.here.agent.request)

        return wrapped

    # The watcher

    def _taken(self, real: Any) -> Any:
        def wrapped(passes: Passes, tickets: Sequence[Any], hostmap: Any) -> Any:
            for ticket in tickets:
                event = "JOIN" if passes.fencing(ticket.host) else "TAKE"
                self.see(event, self.names[ticket.request.name])
            return real(passes, tickets, hostmap)

        return wrapped

    def _begun(self, real: Any) -> Any:
        def wrapped(passes: Passes, made: Pass, hostmap: Any) -> Pass:
            result: Pass = real(passes, made, hostmap)
            self.see("BEGIN")
            return result

        return wrapped

    def _wanted(self, real: Any) -> Any:
        async def wrapped(passes: Passes, made: Pass) -> Any:
            hosts = await real(passes, made)
            self.see("WANTED" if hosts else "UNWANTED")
            return hosts

        return wrapped

    def _cut(self, real: Any) -> Any:
        async def wrapped(drive: Any, remaining: Any) -> bool:
            self.see("CUT")
            answered: bool = await real(drive, remaining)
            return answered

        return wrapped

    def _fenced(self, real: Any) -> Any:
        async def wrapped(passes: Passes, made: Pass, hostmap: Any, beside: Beside) -> None:
            await real(passes, made, hostmap, beside)
            if not made.withdrawn and not made.unheard:
                confirmed = made.report is not None and made.report.confirmed("c1")
                self.see("CONFIRMED" if confirmed else "UNCONFIRMED")

        return wrapped

    def _pass_ended(self, real: Any) -> Any:
        def wrapped(watcher: Watcher, made: Pass, again: Any) -> None:
            self._kept = made.report is not None and made.report.confirmed("c1")
            self.see("ANSWER")
            real(watcher, made, again)

        return wrapped

    def _unlocked(self, real: Any) -> Any:
        def wrapped(beside: Beside) -> None:
            real(beside)
            if self._kept:
                self._kept = False
                self.see("UNLOCK")

        return wrapped

    def _sorted(self, real: Any) -> Any:
        def wrapped(watcher: Watcher, item: Any, fenced_now: Any) -> Any:
            made = real(watcher, item, fenced_now)
            if isinstance(made, answers.Answer) and made.result is answers.Result.EXPIRED:
                self.expire(self.names[item.request.name])
                self.see("TOO_LATE", self.names[item.request.name])
            return made

        return wrapped

    def _disposed(self, real: Any) -> Any:
        def wrapped(delivery: Delivery, names: Sequence[str]) -> None:
            for name in names:
                self.see("REPEAT", self.names[name])
            real(delivery, names)

        return wrapped

    # A restore, and the drives

    def _restore_begun(self, real: Any) -> Any:
        def wrapped(lock: RestoreLock, directory: str, host: str, what: str, *rest: Any) -> None:
            real(lock, directory, host, what, *rest)
            self._restoring, self._denied = True, False
            self.see("RESTORE")

        return wrapped

    def _looked(self, real: Any) -> Any:
        def wrapped(lock: RestoreLock) -> str:
            why: str = real(lock)
            if why and self._restoring and not self._denied:
                self._denied = True
                self.see("DENIED")
            return why

        return wrapped

    def _restored(self, real: Any) -> Any:
        def wrapped(lock: RestoreLock) -> None:
            real(lock)
            if self._restoring:
                self._restoring = False
                self.see("RESTORED")

        return wrapped

    def _noted(self, real: Any) -> Any:
        async def wrapped(restoring: Restoring, ended: Any, *, clear: bool) -> None:
            await real(restoring, ended, clear=clear)
            if clear:
                self.see("CLEAR")

        return wrapped

    def _ran(self, real: Any) -> Any:
        async def wrapped(
            transport: Any, device: int, batch: Sequence[Command], until: float | None = None
        ) -> list[Completion]:
            if _attaches(batch):
                self.see("PERMIT")  # by `Permitted.run`, at once before
            done: list[Completion] = await real(transport, device, batch, until)
            if _attaches(batch):
                self.see("ATTACH")
            elif any(one.opcode == commands.NAMESPACE_ATTACHMENT for one in batch):
                ended = {a.status for c, a in zip(batch, done, strict=True) if c.opcode != commands.IDENTIFY}
                if NO_ANSWER not in ended:
                    self.see("DETACH" if ended == {0} else "REFUSE")
            return done

        return wrapped


def _attaches(batch: Sequence[Command]) -> bool:
    return any(one.opcode == commands.NAMESPACE_ATTACHMENT and not one.cdw10 & 0xF for one in batch)

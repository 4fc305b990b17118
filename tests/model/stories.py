"""Stories of the real watcher, the real agent and the real restore, as traces: what happened in them, in order."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nvmefence.errors import UnderWayError
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive
from nvmefence.nvme import commands
from nvmefence.nvme.emulated import Fault, fail, hang
from nvmefence.nvme.transport import Command
from nvmefence.records.places import places
from nvmefence.restoring import PATIENCE_S, Ended, Restoring
from nvmefence.spool.directory import ResponseDirectory
from tests.model.tracing import AgentLife, Seen, Tracer
from tests.property.killed_time import live
from tests.property.virtual_time import Clock, run
from tests.property.watcher_world import Inline, World, build

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
DEATHS: Final = 24
"""Turns, evenly over all from a start to an answer, at which a watcher is killed."""


class Story:
    """One world, and what is done in it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.world: World = build(place, Clock(), drives=1, quiesce=0.0)
        self.tracer = Tracer(self.world)
        self.agents: list[AgentLife] = []

    def agent(self, timeout_s: float = 20.0) -> AgentLife:
        """Return an agent that has not begun."""
        made = AgentLife(self.tracer, len(self.agents), timeout_s)
        self.agents.append(made)
        return made

    async def ask(self, timeout_s: float = 20.0) -> int | None:
        """Run an agent to its end, and return its exit code."""
        agent = self.agent(timeout_s)
        await self.let(agent)
        return agent.code

    @staticmethod
    async def let(agent: AgentLife) -> None:
        """Let an agent run to its end."""
        while (pause := agent.step()) is not None:  # noqa: ASYNC110
            await asyncio.sleep(pause)

    async def restore(self) -> Ended:
        """Give c1 back what is on record, as `nvmefence restore` does."""
        world = self.world
        worker = Inline(world.look_on)
        hostmap = hostfile.load(world.settings.hosts)

        async def find(_within: float) -> list[Drive]:
            return world._seen()

        def archive(of: Callable[[str], bool]) -> list[str]:
            responses = ResponseDirectory(world.settings.response_dir)
            try:
                return responses.archive_fences(of)
            finally:
                responses.close()

        restoring = Restoring(
            world.transport, find, places(world.settings), worker, worker, archive, simulated=False
        )  # fmt: skip
        until = asyncio.get_running_loop().time() + 5.0
        return await restoring.restore(hostmap, hostmap.hosts["c1"], until, patience=PATIENCE_S)

    def play(self, main: Callable[[Story], Awaitable[None]], *, watched: bool = True) -> None:
        """Run a story to its end, with a watcher from its beginning to its end if `watched`."""

        async def whole() -> None:
            if watched:
                self.world.start()
                await asyncio.sleep(0.01)
            await main(self)
            await asyncio.sleep(1.5)
            if self.world.watcher is not None:
                await self.world.stop()

        with self.tracer.tracing():
            run(whole(), self.world.clock)

    def life(self, last: int = 0) -> int:
        """Have a watcher live for a while in a process of its own, or until a turn at which it is killed."""
        world, tracer = self.world, self.tracer

        async def story() -> None:
            world.start()
            await asyncio.sleep(3.0)
            await world.stop()

        def leave() -> object:
            return [drive.snapshot() for drive in world.drives], world.clock.now, tracer.seen

        with tracer.tracing():
            turns, (states, world.clock.now, tracer.seen) = live(story, world.clock, leave, last, self.place)
        for drive, state in zip(world.drives, states, strict=True):
            drive.restore(state)
        if last:
            tracer.died()
        return turns

    def at(self, event: str, what: Callable[[], None]) -> None:
        """Do something as soon as an event has happened."""
        self.tracer.when[event] = what

    def happened(self, event: str, request: int = 0) -> bool:
        return Seen(event, request) in self.tracer.seen


@contextmanager
def told() -> Iterator[Story]:
    """Give a story a place."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        yield Story(Path(place))


# Each of these is a story; its docstring says what happens.


async def fence(story: Story) -> None:
    """A host is fenced."""
    assert await story.ask() == 0


async def twice(story: Story) -> None:
    """A host is fenced, and fenced again, which finds nothing attached."""
    assert await story.ask() == 0
    assert await story.ask() == 0


async def together(story: Story) -> None:
    """A second request joins the fence that the first one began."""
    second: list[asyncio.Task[int | None]] = []
    first = story.agent()

    def begin() -> None:
        second.append(asyncio.ensure_future(story.ask()))

    story.at("LOCK", begin)
    await story.let(first)
    assert first.code == 0
    assert await second[0] == 0


async def nobody(story: Story) -> None:
    """An agent is told to end while nobody serves."""
    agent = story.agent()
    agent.step()
    agent.end(signal="SIGTERM")
    assert agent.code == 1


async def too_late(story: Story) -> None:
    """An agent is killed; a watcher that starts later finds its request expired."""
    agent = story.agent(2.0)
    agent.step()
    agent.end(killed=True)
    await asyncio.sleep(3.0)
    story.world.start()
    await asyncio.sleep(0.5)
    assert story.happened("TOO_LATE")
    assert story.world.attached("c1")


async def timeout(story: Story) -> None:
    """An agent waits in vain: the drive does not answer. What it may do later keeps restores away."""
    story.world.transport.faults["/dev/nvme0"] = _only_detach(hang())
    assert await story.ask(3.0) == 1
    assert story.happened("UNCONFIRMED")


async def refused(story: Story) -> None:
    """The drive refuses to detach."""
    story.world.transport.faults["/dev/nvme0"] = _only_detach(fail(0x002))
    assert await story.ask() == 1
    assert story.happened("REFUSE")
    assert story.happened("FAIL")


async def withdrawn(story: Story) -> None:
    """A request is withdrawn after it was read, and before the cut: nothing is cut."""
    agent = story.agent()
    story.at("BEGIN", lambda: agent.end(signal="SIGTERM"))
    agent.step()
    await asyncio.sleep(1.0)
    assert story.happened("UNWANTED")
    assert story.world.attached("c1")


async def restored(story: Story) -> None:
    """A host is fenced, given everything back, and fenced anew."""
    given: list[asyncio.Task[Ended]] = []
    story.at("VISIBLE", lambda: given.append(asyncio.ensure_future(story.restore())))
    assert await story.ask() == 0
    ended = await given[0]  # whoever reads the response may restore at once
    assert ended.cleared
    assert story.world.attached("c1")
    assert await story.ask() == 0
    assert not story.world.attached("c1")


async def overtaken(story: Story) -> None:
    """A restore gives up, because a fence has begun."""
    assert await story.ask() == 0
    second: list[asyncio.Task[int | None]] = []
    story.at("RESTORE", lambda: second.append(asyncio.ensure_future(story.ask())))
    story.world.transport.latency = 0.02
    ended = await story.restore()
    assert not ended.complete
    story.world.transport.latency = 0.001
    assert await second[0] == 0
    assert not story.world.attached("c1")


async def repeated(story: Story) -> None:
    """The file of an answered request is put there again, before and after the host is restored."""
    kept: list[tuple[Path, bytes]] = []

    def keep() -> None:
        (path,) = story.world.requests.glob("*.json")
        kept.append((path, path.read_bytes()))

    story.at("ASKED", keep)
    assert await story.ask() == 0
    for _time in range(2):
        story.tracer.see("REPLAY", 0)
        story.world.put(*kept[0])
        await asyncio.sleep(1.5)
        assert not list(story.world.requests.glob("*.json"))
        if not story.world.attached("c1"):
            assert (await story.restore()).cleared
    assert story.world.attached("c1")


async def undeliverable(story: Story) -> None:
    """The response cannot be written for a while; a restore is refused until it can, and works then."""
    world = story.world

    def obstruct() -> None:
        world.answers.rename(world.answers.with_name("away"))

    story.at("AUDITED", obstruct)
    agent = story.agent()
    agent.step()
    await asyncio.sleep(0.3)
    assert not world.attached("c1")
    try:
        await story.restore()
    except UnderWayError:
        pass
    else:
        raise AssertionError("a restore while a success is about to be visible")
    world.answers.with_name("away").rename(world.answers)
    await story.let(agent)
    assert agent.code == 0
    await asyncio.sleep(1.0)
    assert (await story.restore()).cleared


def _only_detach(fault: Fault) -> Callable[[str, Command], Fault | None]:
    return lambda _path, command: fault if command.opcode == commands.NAMESPACE_ATTACHMENT else None


WATCHED: Final = (
    fence, twice, together, timeout, refused, withdrawn, restored, overtaken, repeated, undeliverable,
)  # fmt: skip
ALONE: Final = (nobody, too_late)
"""Those that begin without a watcher."""


def killed(last: int) -> tuple[int, list[Seen]]:
    """A watcher is killed at one of its turns, and the next one ends what it began; 0: nobody is killed.

    Returns the turns that the first one had, and what happened.
    """
    with told() as story:
        with story.tracer.tracing():
            agent = story.agent(60.0)
            agent.step()
            agent.end(killed=True)
        turns = story.life(last)
        if last:
            story.life()
        assert not story.world.attached("c1")
        return turns, story.tracer.seen

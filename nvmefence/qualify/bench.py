"""The machine's side of a measurement: whose writes they are, where they are read back, who resets controllers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from nvmefence.qualify.figures import Sample, Trouble, Write
from nvmefence.watcher.worker import Stuck, Thread

T = TypeVar("T")


class Bench(Protocol):
    """A host that writes through the target controller, and a reader of the same medium."""

    simulated: bool

    def start(self) -> None:
        """Begin to write, until a write fails or `stop`. Raises Trouble."""
        ...

    def stop(self) -> None:
        """Begin no more writes; those under way go on."""
        ...

    def writing(self) -> int:
        """Return how many writers have not ended."""
        ...

    def writes(self) -> Sequence[Write]:
        """Return the writes since the last `start`."""
        ...

    async def sample(self) -> Sample:
        """Read the medium back through the controller that is not cut. Raises Trouble."""
        ...

    async def ready(self) -> None:
        """Wait until both controllers are live and show the namespace. Raises Trouble."""
        ...

    async def reset(self, what: str) -> None:
        """Reset a controller: "host" the target, "own" the other one, "subsystem" all. Raises Trouble."""
        ...

    async def reboot(self) -> None:
        """Do to the target what the start of its host does, when it was offline. Raises Trouble."""
        ...

    def close(self) -> None:
        """Let go of everything; never waits."""
        ...


async def beside(call: Callable[[], T], seconds: float, what: str) -> T:
    """Return `call()`, made in a thread that nobody waits for at the end. Raises Trouble when it takes longer.

    What `call` raises is raised here.
    """
    try:
        return await Thread("nvmefence-qualify").do(call, seconds)
    except Stuck:
        raise Trouble(f"{what} did not return in {seconds:g} s") from None

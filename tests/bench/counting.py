"""A transport that counts the commands that go through another one."""

from __future__ import annotations

from collections.abc import Sequence

from nvmefence.nvme.transport import Command, Completion, Transport


class Counting:
    """Implements `Transport`."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.backend = inner.backend
        self.open = inner.open
        self.release = inner.release
        self.close = inner.close
        self.commands = 0

    async def run(self, device: int, commands: Sequence[Command], until: float | None = None) -> list[Completion]:
        """Count and pass on."""
        self.commands += len(commands)
        return await self._inner.run(device, commands, until)

"""What the checks need to know about the drive they run on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nvmefence.nvme import commands, status, structures
from nvmefence.nvme.commands import Cns
from nvmefence.nvme.emulated import Quirks
from nvmefence.nvme.transport import Command, Completion, Transport

SYSFS = Path("/sys/class/nvme")


@dataclass(frozen=True)
class Bench:
    """A drive, seen through one of our controllers. The checks leave its attachments as they found them."""

    transport: Transport
    device: int
    """Our controller's handle."""
    cntlid: int
    serial: str
    nqn: str
    namespaces: tuple[int, ...]
    """Shared namespaces, at least two."""
    targets: tuple[int, ...]
    """Controllers that are not ours, at least two: the checks attach, detach and, when secondary, offline them."""
    quirks: Quirks | None = None
    """How these controllers behave where they may differ; None: unknown, then whatever is allowed passes."""

    async def ask(self, *wanted: Command) -> list[Completion]:
        """Run commands in one batch."""
        return await self.transport.run(self.device, wanted)

    async def status(self, command: Command) -> int:
        """Return the status code of one command, without DNR and the like."""
        (found,) = await self.ask(command)
        return status.code(found.status)

    async def page(self, command: Command) -> bytes:
        """Return the data of one command that must succeed."""
        (found,) = await self.ask(command)
        assert found.status == 0, f"{command}: {status.describe(found.status)}"
        return found.data

    async def attached(self, nsid: int) -> list[int]:
        """Return CNS 12h."""
        return structures.controller_list(await self.page(commands.attached_controllers(nsid)))

    async def everything(self) -> dict[int, list[int]]:
        """Return CNS 12h of all allocated namespaces."""
        allocated = structures.namespace_list(await self.page(commands.allocated_namespaces()))
        return {nsid: await self.attached(nsid) for nsid in allocated}

    async def secondaries(self) -> list[structures.SecondaryController]:
        """Return CNS 15h; empty where the controller has none, or does not know the command."""
        (found,) = await self.ask(commands.secondary_controllers())
        if found.status:
            assert status.code(found.status) == status.INVALID_FIELD
            return []
        return structures.secondary_controller_list(found.data)

    async def put(self, nsid: int, wanted: Sequence[int]) -> None:
        """Attach and detach, one controller at a time, until exactly `wanted` are attached."""
        now = await self.attached(nsid)
        for cntlid in sorted(set(now) ^ set(wanted)):
            change = commands.detach if cntlid in now else commands.attach
            assert await self.status(change(nsid, [cntlid])) == status.SUCCESS

    def expect(self, found: int, exact: int | None, *allowed: int) -> None:
        """Require the status that the quirks foretell, or one of those allowed where they are not known."""
        codes = (exact,) if self.quirks is not None else allowed
        assert found in codes, f"{status.describe(found)}, not one of {[status.describe(c or 0) for c in codes]}"


@contextmanager
def opened(transport: Transport, path: str) -> Iterator[int]:
    """Hold a controller open."""
    device = transport.open(path)
    try:
        yield device
    finally:
        transport.release(device)


async def bench_from_sysfs(
    transport: Transport, device: int, name: str, quirks: Quirks | None = None, sysfs: Path = SYSFS
) -> Bench:
    """Describe a real drive: identity from sysfs, namespaces and controllers from CNS 10h, 11h, 13h and 15h.

    `name` is the kernel's, such as "nvme0", and `device` its handle. Targets are the secondary controllers where
    there are any, else all controllers that this machine does not drive, else all but ours.
    """
    cntlid = int(_attribute(sysfs / name, "cntlid"))
    bare = Bench(transport, device, cntlid, "", "", (), (), quirks)
    allocated = structures.namespace_list(await bare.page(commands.allocated_namespaces()))
    shared = [
        nsid
        for nsid in allocated
        if structures.identify_namespace(await bare.page(commands.allocated_namespace(nsid))).shared
    ]
    everyone = structures.controller_list(await bare.page(commands.subsystem_controllers()))
    targets = [entry.cntlid for entry in await bare.secondaries()] or [c for c in everyone if c != cntlid]
    nqn = _attribute(sysfs / name, "subsysnqn")
    driven = _driven(sysfs, nqn)
    foreign = [target for target in targets if target not in driven]
    return Bench(
        transport=transport,
        device=device,
        cntlid=cntlid,
        serial=_attribute(sysfs / name, "serial"),
        nqn=nqn,
        namespaces=tuple(shared),
        targets=tuple(foreign if len(foreign) > 1 else targets),
        quirks=quirks,
    )


def _driven(sysfs: Path, nqn: str) -> set[int]:
    """Return the controllers of a subsystem that this machine's kernel drives."""
    return {int(_attribute(found, "cntlid")) for found in sysfs.iterdir() if _attribute(found, "subsysnqn") == nqn}


def _attribute(folder: Path, name: str) -> str:
    return (folder / name).read_text("ascii", "replace").strip()


def raw_attachment(nsid: int, select: int, data: bytes) -> Command:
    """Return a Namespace Attachment as `commands` would refuse to build it."""
    return Command(commands.NAMESPACE_ATTACHMENT, nsid=nsid, cdw10=select, data=data)


def raw_identify(cns: int, nsid: int = 0) -> Command:
    """Return Identify with a CNS that need not exist."""
    return Command(commands.IDENTIFY, nsid=nsid, cdw10=cns, read=commands.identify(Cns.CONTROLLER).read)

"""Real NVMe controllers pass the checks that the emulation passes, through both backends."""

from __future__ import annotations

import asyncio

import pytest

from nvmefence.nvme.emulated import QEMU_7_2
from nvmefence.nvme.queue import open_queue
from tests.conformance.bench import bench_from_sysfs
from tests.conformance.checks import CHECKS, Check
from tests.lab import observer
from tests.lab.guest.product import BACKENDS


@pytest.mark.shape("small", "ports")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
def test_a_controller_conforms(drive: observer.Drive, backend: str, check: Check) -> None:
    async def main() -> None:
        queue = open_queue(backend)
        try:
            name = drive.primary.name
            await check(await bench_from_sysfs(queue, queue.open(f"/dev/{name}"), name, QEMU_7_2))
        finally:
            queue.close()

    asyncio.run(main())

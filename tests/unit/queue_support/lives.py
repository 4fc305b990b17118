"""What must hold of queues, handles and processes from beginning to end, one function each: see `__main__.py`."""

from __future__ import annotations

import asyncio
import errno
import os
import signal

import pytest

from nvmefence.nvme.queue import Queue, open_queue
from nvmefence.nvme.transport import NO_ANSWER, PAGE, Command, Completion
from tests.unit.queue_support import device as shim
from tests.unit.queue_support.device import HANG, LATE, command
from tests.unit.queue_support.waiting import soon

UNWRITTEN = b"\xff" * PAGE


async def rounds_leak_nothing(backend: str, rounds: int = 10_000) -> None:
    queue = open_queue(backend)
    commands = [command(fill=1)] * 3

    async def some(count: int) -> None:
        for n in range(count):
            device = queue.open("/dev/null")
            answers = await queue.run(device, commands, until=soon(5))
            assert [answer.status for answer in answers] == [0] * 3
            if n % 50 == 0:
                other = open_queue(backend)
                await other.run(other.open("/dev/null"), commands)
                other.close()
            queue.release(device)

    await some(500)
    start = (shim.descriptors(), shim.threads(), shim.resident_kib())
    await some(rounds)
    assert shim.descriptors() == start[0]
    assert shim.threads() <= max(start[1], 26)
    assert shim.resident_kib() - start[2] < 4096
    assert Queue.in_flight() == 0
    queue.close()


async def ten_thousand_rounds_of_ioctl_leak_nothing() -> None:
    await rounds_leak_nothing("ioctl")


async def ten_thousand_rounds_of_the_ring_leak_nothing() -> None:
    await rounds_leak_nothing("io_uring")


async def a_child_is_refused_its_parents_queue() -> None:
    queue = open_queue("auto")
    device = queue.open("/dev/null")
    await queue.run(device, [command()])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with pytest.raises(RuntimeError, match="fork"):
                queue.open("/dev/null")
            with pytest.raises(RuntimeError):
                await queue.run(device, [command()])
            queue.close()
            code = 0
        finally:
            os._exit(code)
    assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == 0
    late = command(act=HANG, argument=1)
    task = asyncio.create_task(queue.run(device, [late]))
    await asyncio.sleep(0.01)
    shim.open_gate(1)
    assert (await asyncio.wait_for(task, 20))[0].status == 0
    queue.close()


async def signals_are_left_to_the_main_thread() -> None:
    queue = open_queue("ioctl")
    device = queue.open("/dev/null")
    task = asyncio.create_task(queue.run(device, [command(act=HANG, argument=1)] * 4))
    await asyncio.sleep(0.02)
    for thread in os.listdir("/proc/self/task"):
        if int(thread) != os.getpid():
            blocked = shim.blocked_signals(thread)
            assert blocked & 1 << (signal.SIGTERM - 1)
            assert blocked & 1 << (signal.SIGINT - 1)
    shim.open_gate(1)
    await task
    queue.close()


async def the_end_of_the_process_does_not_wait() -> None:
    # Left hanging on purpose, on both backends: this interpreter must end all the same.
    for gate, backend in enumerate(("ioctl", "io_uring"), 1):
        queue = open_queue(backend)
        device = queue.open("/dev/null")
        answers = await queue.run(device, [command(act=HANG, argument=gate)] * 24, until=soon(1))
        assert {answer.status for answer in answers} == {NO_ANSWER}
    assert Queue.in_flight() == 48


async def misuse_is_refused() -> None:
    queue = open_queue("auto")
    device = queue.open("/dev/null")
    assert await queue.run(device, []) == []
    for wrong in (
        Command(6, read=PAGE + 1),
        Command(6, read=-1),
        Command(6, data=b"x" * (PAGE + 1)),
        Command(6, read=1, data=b"x"),
        Command(6, timeout_ms=-1),
        Command(256),
        Command(6, cdw10=1 << 32),
    ):
        with pytest.raises(ValueError, match="command"):
            await queue.run(device, [wrong])
    with pytest.raises(ValueError, match="no such device"):
        await queue.run(device + 1, [command()])
    with pytest.raises(ValueError, match="no such device"):
        await queue.run(-1, [command()])
    with pytest.raises(ValueError, match="unknown backend"):
        open_queue("spdk")
    queue.close()


async def only_character_devices_are_opened() -> None:
    queue = open_queue("auto")
    before = shim.descriptors()
    for path, error in (("/etc/passwd", errno.ENODEV), ("/", errno.ENODEV), ("/dev/nvme-none", errno.ENOENT)):
        with pytest.raises(OSError, match=path) as caught:
            queue.open(path)
        assert caught.value.errno == error
    assert "nvme-none" not in os.listdir("/dev")
    assert shim.descriptors() == before
    queue.close()


def one_queue_serves_one_loop_after_another() -> None:
    queue = open_queue("auto")
    device = queue.open("/dev/zero")

    async def once() -> list[Completion]:
        return await queue.run(device, [command(act=LATE, argument=1)] * 30)

    for _ in range(3):
        assert all(answer.status == 0 for answer in asyncio.run(once()))
    queue.close()

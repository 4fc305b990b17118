"""What must hold of commands in the queue, one function each: see `__main__.py`."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import time
import zlib

import pytest

from nvmefence.nvme.queue import BackendUnavailable, Queue, open_queue, probe_backends
from nvmefence.nvme.transport import NO_ANSWER, PAGE, Command
from tests.unit.queue_support import device as shim
from tests.unit.queue_support.device import HANG, LATE, command
from tests.unit.queue_support.waiting import soon, until_count, until_idle

UNWRITTEN = b"\xff" * PAGE


async def ioctl_answers_reach_their_commands() -> None:
    queue = open_queue("ioctl")
    device = queue.open("/dev/null")
    commands = [
        command(n, act=LATE, argument=(n * 7) % 11, fill=n % 250, result=1000 + n, read=1 + n * 13)
        for n in range(200)
    ]
    before = time.monotonic()
    answers = await queue.run(device, commands)
    assert [answer.result for answer in answers] == [1000 + n for n in range(200)]
    assert [answer.data for answer in answers] == [bytes([n % 250]) * (1 + n * 13) for n in range(200)]
    assert all(before <= answer.started <= answer.finished <= time.monotonic() for answer in answers)
    assert answers[10].finished - answers[10].started >= (10 * 7 % 11) / 1000
    queue.close()


async def ioctl_status_and_errno_come_through() -> None:
    queue = open_queue("ioctl")
    device = queue.open("/dev/null")
    statuses = [0, 0x11A, 0x4002, 0x370, -errno.EINTR, -errno.EACCES]
    answers = await queue.run(device, [command(fill=1, status=status) for status in statuses])
    assert [answer.status for answer in answers] == statuses
    assert [len(answer.data) for answer in answers] == [PAGE, 0, 0, 0, 0, 0]
    real = await queue.run(device, [Command(6, read=PAGE)])
    assert real[0].status == -errno.ENOTTY
    queue.close()


async def unwritten_buffers_are_seen_on_both_backends() -> None:
    for backend in ("ioctl", "io_uring"):
        queue = open_queue(backend)
        device = queue.open("/dev/null")
        if backend == "ioctl":
            await queue.run(device, [command(fill=0)] * 64)
        for _ in range(3):
            answers = await queue.run(device, [command()] * 64)
            assert all(answer.status == 0 and answer.data == UNWRITTEN for answer in answers)
        queue.close()


async def sent_data_arrives_in_full() -> None:
    queue = open_queue("ioctl")
    device = queue.open("/dev/null")
    sent = [os.urandom(1 + n * 45) for n in range(91)] + [os.urandom(PAGE)]
    answers = await queue.run(device, [command(read=0, fill=shim.SUM, data=data) for data in sent])
    assert [answer.result for answer in answers] == [zlib.adler32(data) for data in sent]
    assert all(answer.status == 0 and answer.data == b"" for answer in answers)
    # What was sent is not left over for the next command of that buffer.
    answers = await queue.run(device, [command()] * 24)
    assert all(answer.data == UNWRITTEN for answer in answers)
    queue.close()


async def commands_start_in_order_within_the_cap() -> None:
    queue = open_queue("ioctl")
    device = queue.open("/dev/null")
    again = queue.open("/dev/null")
    one = asyncio.create_task(queue.run(device, [command(n, act=LATE, argument=5) for n in range(60)]))
    await asyncio.sleep(0)
    two = asyncio.create_task(queue.run(again, [command(n, act=LATE, argument=5) for n in range(60, 120)]))
    answers = [*await one, *await two]
    assert all(answer.status == 0 for answer in answers)
    assert shim.peak("/dev/null") == 24
    order = shim.journal()
    assert sorted(order) == list(range(120))
    assert all(abs(place - mark) <= 48 for place, mark in enumerate(order))
    assert shim.threads() <= 1 + 24 + 2
    queue.close()


async def ioctl_hung_commands_end_at_the_deadline() -> None:
    queue = open_queue("ioctl")
    device = queue.open("/dev/null")
    began = time.monotonic()
    commands = [command(1, fill=3), command(2, act=HANG, argument=1, fill=9), command(3, fill=3)]
    answers = await queue.run(device, commands, until=soon(2))
    assert 2 <= time.monotonic() - began < 30
    assert [answer.status for answer in answers] == [0, NO_ANSWER, 0]
    assert answers[1].data == b""
    assert answers[1].started < answers[1].finished
    assert Queue.in_flight() == 1
    # Its slot stays its own: a late answer must not land in somebody else's buffer.
    shim.open_gate(1)
    for _ in range(20):
        later = await queue.run(device, [command(fill=5)] * 24)
        assert all(answer.data == b"\x05" * PAGE for answer in later)
    await until_idle()
    queue.close()


async def what_waits_at_its_deadline_is_never_sent() -> None:
    queue = open_queue("ioctl")
    device = queue.open("/dev/null")
    commands = [command(n, act=HANG, argument=1) for n in range(24)]
    commands += [command(n) for n in range(100, 110)]
    answers = await queue.run(device, commands, until=soon(1))
    assert [answer.status for answer in answers] == [NO_ANSWER] * 34
    assert Queue.in_flight() == 24
    shim.open_gate(1)
    await until_idle()
    # With a deadline in the past, nothing is sent either.
    answers = await queue.run(device, [command(200)], until=time.monotonic() - 1)
    assert answers[0].status == NO_ANSWER
    await until_idle()
    assert sorted(shim.journal()) == list(range(24))
    queue.close()


async def one_hung_device_delays_no_other() -> None:
    queue = open_queue("ioctl")
    hung = queue.open("/dev/null")
    others = [queue.open(path) for path in ("/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")]
    hanging = [command(act=HANG, argument=1)] * 100
    stuck = asyncio.create_task(queue.run(hung, hanging, until=soon(6)))
    await asyncio.sleep(0.02)
    answers = await asyncio.gather(*[queue.run(other, [command(fill=1)] * 100) for other in others])
    assert not stuck.done(), "all this before the hung drive's deadline"
    assert all(answer.status == 0 for batch in answers for answer in batch)
    # Opened again, the hung drive gets no second set of threads.
    again = queue.open("/dev/null")
    more = await queue.run(again, [command(300)] * 5, until=soon())
    assert [answer.status for answer in more] == [NO_ANSWER] * 5
    given_up = await stuck
    assert [answer.status for answer in given_up] == [NO_ANSWER] * 100
    assert shim.peak("/dev/null") == 24
    assert 300 not in shim.journal()
    shim.open_gate(1)
    await until_idle()
    queue.close()


async def cancelled_batches_are_abandoned() -> None:
    for backend in ("ioctl", "io_uring"):
        queue = open_queue(backend)
        device = queue.open("/dev/null")
        gate = 1 if backend == "ioctl" else 2
        task = asyncio.create_task(queue.run(device, [command(act=HANG, argument=gate)] * 30))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert Queue.in_flight() == 24
        shim.open_gate(gate)
        answers = await queue.run(device, [command()] * 30)
        assert [answer.status for answer in answers] == [0] * 30
        await until_idle()
        queue.close()


async def closing_with_commands_in_flight_never_blocks() -> None:
    for gate, backend in enumerate(("ioctl", "io_uring"), 1):
        before = shim.descriptors()
        queue = open_queue(backend)
        device = queue.open("/dev/null")
        task = asyncio.create_task(queue.run(device, [command(act=HANG, argument=gate)] * 30))
        await asyncio.sleep(0.02)
        began = time.monotonic()
        queue.close()
        queue.close()
        assert time.monotonic() - began < 20, "the gate opens later"
        assert [answer.status for answer in await task] == [NO_ANSWER] * 30
        assert Queue.in_flight() == 24
        with pytest.raises(ValueError, match="closed"):
            await queue.run(device, [command()])
        shim.open_gate(gate)
        await until_idle()
        # Only the shim's end of the pipe is left.
        assert shim.descriptors() <= before + 1
    assert shim.faults() == 0


async def a_released_descriptor_outlives_its_commands() -> None:
    queue = open_queue("ioctl")
    device = queue.open("/dev/null")
    task = asyncio.create_task(queue.run(device, [command(act=HANG, argument=1)] * 30))
    await asyncio.sleep(0.02)
    before = shim.descriptors()
    queue.release(device)
    assert [answer.status for answer in await task] == [NO_ANSWER] * 30
    assert shim.descriptors() == before
    with pytest.raises(ValueError, match="no such device"):
        await queue.run(device, [command()])
    with pytest.raises(ValueError, match="no such device"):
        queue.release(device)
    other = queue.open("/dev/zero")
    assert other != device
    shim.open_gate(1)
    await until_idle()
    assert shim.descriptors() == before  # one closed, one opened
    assert shim.faults() == 0
    queue.close()


async def ring_hung_commands_end_at_the_deadline() -> None:
    queue = open_queue("io_uring")
    device = queue.open("/dev/null")
    commands = [command(1), command(2, act=HANG, argument=1), command(3)]
    answers = await queue.run(device, commands, until=soon(2))
    assert [answer.status for answer in answers] == [0, NO_ANSWER, 0]
    assert Queue.in_flight() == 1
    # The kernel now writes to the abandoned buffer; nobody else may have it.
    waiting = asyncio.create_task(queue.run(device, [command(act=HANG, argument=2)] * 10))
    await asyncio.sleep(0.02)
    shim.feed(1, 0, PAGE)
    await until_count(10)
    shim.open_gate(2)
    assert all(answer.data == UNWRITTEN for answer in await waiting)
    await until_idle()
    queue.close()


async def ring_answers_that_come_late_are_awaited() -> None:
    queue = open_queue("io_uring")
    device = queue.open("/dev/null")
    task = asyncio.create_task(queue.run(device, [command(act=HANG, argument=1, read=100)]))
    await asyncio.sleep(0.05)
    assert not task.done()
    fed = time.monotonic()
    shim.feed(1, 7, 100)
    answer = (await asyncio.wait_for(task, 20))[0]
    assert answer.status == 100  # what the read returned stands for an NVMe status
    assert answer.data == b""
    assert answer.started < fed <= answer.finished
    queue.close()


async def ring_keeps_the_cap_and_the_order() -> None:
    queue = open_queue("io_uring")
    device = queue.open("/dev/null")
    commands = [command(n, act=HANG, argument=1) for n in range(24)]
    commands += [command(n) for n in range(24, 600)]
    task = asyncio.create_task(queue.run(device, commands))
    await asyncio.sleep(0.05)
    assert shim.journal() == list(range(24))
    assert Queue.in_flight() == 24
    shim.open_gate(1)
    answers = await asyncio.wait_for(task, 20)
    assert [answer.status for answer in answers] == [0] * 600
    assert shim.journal() == list(range(600))
    queue.close()


async def the_ring_is_entered_once_for_all_devices_of_a_turn() -> None:
    queue = open_queue("io_uring")
    devices = [queue.open("/dev/null") for _ in range(3)] + [queue.open("/dev/zero") for _ in range(3)]
    before = shim.enters()
    runs = [queue.run(device, [command(3 * n), command(3 * n + 1)]) for n, device in enumerate(devices)]
    answers = await asyncio.gather(*runs)
    assert shim.enters() == before + 1
    assert [len(batch) for batch in answers] == [2] * 6
    queue.close()


def what_one_loop_left_is_not_waited_for_by_the_next() -> None:
    queue = open_queue("io_uring")
    device = queue.open("/dev/null")
    first = asyncio.new_event_loop()
    first.set_exception_handler(lambda _loop, _context: None)  # "Task was destroyed": that is the point
    task = first.create_task(queue.run(device, [command(1)]))
    first.call_soon(first.stop)  # in the turn that submits, before the one that hands over
    first.run_forever()
    first.close()
    del task
    gc.collect()
    answers = asyncio.run(queue.run(device, [command(2)]))
    assert ([answer.status for answer in answers], shim.journal()) == ([0], [2])
    queue.close()


async def a_ring_that_cannot_be_entered_fails_its_commands() -> None:
    queue = open_queue("io_uring")
    device = queue.open("/dev/null")
    shim.SHIM.shim_fail_enter(errno.EAGAIN, 3)
    answers = await queue.run(device, [command()] * 5)
    assert [answer.status for answer in answers] == [0] * 5
    shim.SHIM.shim_fail_enter(errno.EPERM, 1)
    answers = await queue.run(device, [command()] * 30)
    assert {answer.status for answer in answers[:24]} == {-errno.EPERM}
    assert [answer.status for answer in answers[24:]] == [0] * 6
    assert Queue.in_flight() == 0
    queue.close()


async def devices_that_refuse_the_ring_are_served_by_ioctl() -> None:
    queue = open_queue("auto")
    refusing = queue.open("/dev/zero")
    taking = queue.open("/dev/null")
    answers = await queue.run(refusing, [command(n, fill=n, result=n) for n in range(100)])
    assert [(answer.status, answer.result) for answer in answers] == [(0, n) for n in range(100)]
    assert all(answer.data == bytes([n]) * PAGE for n, answer in enumerate(answers))
    await queue.run(taking, [command()])
    assert (queue.device_backend(refusing), queue.device_backend(taking)) == ("ioctl", "io_uring")
    assert queue.backend == "io_uring"
    queue.close()
    forced = open_queue("io_uring")
    refusing = forced.open("/dev/zero")
    answers = await forced.run(refusing, [command()])
    assert answers[0].status == -errno.EOPNOTSUPP
    forced.close()


async def an_unavailable_ring_is_explained() -> None:
    assert probe_backends() == {"io_uring": "", "ioctl": ""}
    for error, words in (
        (errno.ENOSYS, "no io_uring"),
        (errno.EPERM, "denied|switched off"),
        (errno.EINVAL, "128-byte"),
        (errno.ENOMEM, "memory"),
        (errno.EIO, "Input/output"),
    ):
        shim.SHIM.shim_fail_setup(error)
        with pytest.raises(BackendUnavailable, match=words):
            open_queue("io_uring")
        assert probe_backends()["io_uring"]
        queue = open_queue("auto")
        assert queue.backend == "ioctl"
        device = queue.open("/dev/null")
        assert (await queue.run(device, [command(fill=1)]))[0].status == 0
        queue.close()


async def no_thread_to_be_had_is_a_status() -> None:
    queue = open_queue("ioctl")
    device = queue.open("/dev/null")
    shim.SHIM.shim_fail_threads(1)
    answers = await queue.run(device, [command()] * 30)
    assert {answer.status for answer in answers} == {-errno.EAGAIN}
    shim.SHIM.shim_fail_threads(0)
    answers = await queue.run(device, [command()])
    assert answers[0].status == 0
    # With a worker alive, commands wait for it.
    shim.SHIM.shim_fail_threads(1)
    answers = await queue.run(device, [command()] * 30)
    assert {answer.status for answer in answers} == {0}
    queue.close()

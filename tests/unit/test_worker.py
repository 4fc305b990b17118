"""The thread that does one thing after another: what becomes of it when nobody needs it any more."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time

from nvmefence.watcher.worker import Thread


def alive(thread: int) -> bool:
    """Whether this process has the thread, by the kernel's number."""
    return os.path.exists(f"/proc/self/task/{thread}")


def test_a_worker_that_nobody_has_ends_its_thread_when_its_work_is_done() -> None:
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(20)
        done.set()

    worker = Thread("test-abandoned")
    thread = asyncio.run(worker.do(threading.get_native_id, 20))
    worker.post(work)
    del worker
    gc.collect()
    assert alive(thread)
    go.set()
    end = time.monotonic() + 20
    while alive(thread):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert done.is_set()


def test_a_worker_that_somebody_has_goes_on() -> None:
    worker = Thread("test-kept")
    threads = set()
    for _ in range(3):
        gc.collect()
        threads.add(asyncio.run(worker.do(threading.get_native_id, 20)))
    assert len(threads) == 1
    assert alive(threads.pop())

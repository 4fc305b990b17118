"""The thread that does one thing after another: what becomes of it when nobody needs it any more."""

from __future__ import annotations

import asyncio
import gc
import threading

from nvmefence.watcher.worker import Thread


def serving(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_a_worker_that_nobody_has_ends_its_thread_when_its_work_is_done() -> None:
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(20)
        done.set()

    worker = Thread("test-abandoned")
    (thread,) = serving("test-abandoned")
    assert asyncio.run(worker.do(lambda: 7, 20)) == 7
    worker.post(work)
    del worker
    gc.collect()
    assert thread.is_alive()
    go.set()
    thread.join(20)
    assert done.is_set()
    assert not thread.is_alive()


def test_a_worker_that_somebody_has_goes_on() -> None:
    worker = Thread("test-kept")
    for _ in range(3):
        gc.collect()
        assert asyncio.run(worker.do(lambda: 7, 20)) == 7
    assert len(serving("test-kept")) == 1

"""Hints of what happens to drives: heard at once, coalesced in a storm, heard again after whatever went wrong."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from nvmefence.inventory.uevents import Uevents
from nvmefence.watcher.hints import PAUSE_S, Hints

Story = Callable[["Bench"], Coroutine[Any, Any, None]]


class Line:
    """A source at whose other end a test says things; "!" is an overflow."""

    def __init__(self) -> None:
        self.refuses = 0
        self.opened = 0
        self.drained: list[int] = []
        self._ends: list[socket.socket] = []

    def open(self) -> int:
        if self.refuses:
            self.refuses -= 1
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        self.opened += 1
        self._ends = list(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
        self._ends[0].setblocking(False)
        return self._ends[0].fileno()

    def say(self, text: str) -> None:
        self._ends[1].send(text.encode())

    def drain(self, most: int) -> bool:
        taken = []
        for _ in range(most):
            try:
                taken.append(self._ends[0].recv(100).decode())
            except BlockingIOError:
                break
            if taken[-1] == "!":
                raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        self.drained.append(len(taken))
        return "nvme" in taken

    def close(self) -> None:
        for end in self._ends:
            end.close()
        self._ends = []


class Bench:
    def __init__(self) -> None:
        self.line = Line()
        self.heard = 0
        self.hints = Hints(self.line, self._hear)

    def _hear(self) -> None:
        self.heard += 1


def play(story: Story) -> None:
    async def whole() -> None:
        bench = Bench()
        bench.hints.open()
        try:
            await story(bench)
        finally:
            bench.hints.close()

    asyncio.run(whole())


def test_a_hint_comes_at_once() -> None:
    async def story(bench: Bench) -> None:
        bench.line.say("nvme")
        await asyncio.sleep(0.02)
        assert bench.heard == 1

    play(story)


def test_what_is_about_other_things_is_no_hint() -> None:
    async def story(bench: Bench) -> None:
        bench.line.say("block")
        await asyncio.sleep(0.02)
        assert (bench.heard, bench.line.drained) == (0, [1])

    play(story)


@pytest.mark.parametrize("text", ["nvme", "block"])
def test_a_storm_wakes_it_twice_a_second(text: str) -> None:
    async def story(bench: Bench) -> None:
        for _ in range(75):
            for _ in range(5):
                bench.line.say(text)
            await asyncio.sleep(0.02)
        assert 2 <= len(bench.line.drained) <= 1.5 / PAUSE_S + 1
        assert bench.heard == (len(bench.line.drained) if text == "nvme" else 0)

    play(story)


def test_after_an_overflow_it_counts_as_a_hint_and_is_opened_anew() -> None:
    async def story(bench: Bench) -> None:
        bench.line.say("!")
        await asyncio.sleep(0.02)
        assert bench.heard == 1
        await asyncio.sleep(PAUSE_S + 0.1)
        assert bench.line.opened == 2
        bench.line.say("nvme")
        await asyncio.sleep(0.02)
        assert bench.heard == 2

    play(story)


def test_a_source_that_cannot_be_had_is_told_and_tried_again() -> None:
    async def story(bench: Bench) -> None:
        bench.hints.close()
        bench.line.refuses = 2
        for trouble in ("Operation not permitted", "Operation not permitted", ""):
            bench.hints.open()
            assert bench.hints.trouble == trouble
        bench.line.say("nvme")
        await asyncio.sleep(0.02)
        assert bench.heard == 1

    play(story)


def test_closed_it_hears_nothing_also_within_a_pause() -> None:
    async def story(bench: Bench) -> None:
        bench.line.say("nvme")
        await asyncio.sleep(0.02)
        bench.hints.close()
        bench.hints.close()
        await asyncio.sleep(PAUSE_S + 0.1)
        assert (bench.line.opened, bench.heard) == (1, 1)

    play(story)


def test_without_a_source_there_is_silence() -> None:
    async def story(_bench: Bench) -> None:
        hints = Hints(None, lambda: None)
        hints.open()
        assert hints.trouble == ""
        hints.close()

    play(story)


def test_the_kernels_events_can_be_listened_to_and_left() -> None:
    """That they come, and into a sandbox as well, is tested where there are drives."""
    events = Uevents()
    for _ in range(2):
        fd = events.open()
        assert os.fstat(fd)
        events.drain(1000)
        events.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    events.close()

"""Text for readers who may stop reading: nobody waits for them, nothing gets out of order, losses are told."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator

import pytest

from nvmefence.lines import LineWriter

AGES = 20.0
"""Seconds that only a test which hangs takes."""


class Pipe:
    """A pipe with a reader that reads when told."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.filled = 0

    def fill(self) -> None:
        """Leave no room at all."""
        os.set_blocking(self.writer, False)
        for size in (4096, 1):
            try:
                while True:
                    self.filled += os.write(self.writer, b"#" * size)
            except BlockingIOError:
                continue
        os.set_blocking(self.writer, True)

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (part := os.read(self.reader, size - len(data))):
            data += part
        return data

    def unfill(self) -> None:
        assert set(self.take(self.filled)) == {ord("#")}

    def rest(self) -> str:
        """Close the writing side, and return all that is left."""
        os.close(self.writer)
        self.writer = -1
        return self.take(1 << 30).decode()

    def close(self) -> None:
        for fd in (self.reader, self.writer):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def until_stuck(writer: LineWriter) -> None:
    """Wait until the thread has taken the only text that was put, so that none is left waiting."""
    deadline = time.monotonic() + AGES
    while writer._waiting:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_texts_come_in_order_and_whole(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer)
    for n in range(500):
        writer.put(f"{n}\n")
    assert writer.close(AGES)
    assert pipe.rest() == "".join(f"{n}\n" for n in range(500))
    assert (writer.lost, writer.dropped) == (False, 0)


def threads_of_ours() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def test_thread_starts_with_the_first_text_and_ends_with_close(pipe: Pipe) -> None:
    before = threads_of_ours()
    writer = LineWriter(pipe.writer)
    assert threads_of_ours() <= before
    assert writer.drain(AGES), "nothing to write is all written"
    writer.put("x")
    (thread,) = threads_of_ours() - before
    assert writer.close(AGES)
    end = time.monotonic() + AGES
    while thread in threads_of_ours():
        assert time.monotonic() < end, "it does not end"
        time.sleep(0.001)
    writer.put("y")
    assert pipe.rest() == "x", "nothing after close"


def test_full_pipe_makes_nobody_wait(pipe: Pipe) -> None:
    pipe.fill()
    writer = LineWriter(pipe.writer, limit=10)
    begin = time.monotonic()
    for n in range(10_000):
        writer.put(f"{n}\n")
    assert not writer.drain(0.05)
    assert not writer.close(0.05)
    assert time.monotonic() - begin < AGES / 2
    assert writer.dropped == 9_999, "all but the text that the thread is stuck with"
    pipe.unfill()
    assert writer.drain(AGES)
    assert pipe.rest() == "0\n"


def test_patient_close_waits_for_a_reader_who_comes_late(pipe: Pipe) -> None:
    pipe.fill()
    writer = LineWriter(pipe.writer)
    for n in range(5):
        writer.put(f"{n}\n")
    late = threading.Timer(0.1, pipe.unfill)
    late.start()
    assert writer.close(AGES)
    late.join()
    assert pipe.rest() == "0\n1\n2\n3\n4\n"


@pytest.mark.parametrize(
    ("tell_lost", "told"), [(True, "(7 lines were lost: the reader did not keep up)\n"), (False, "")]
)
def test_lost_lines_are_told_where_they_are_missing(pipe: Pipe, tell_lost: bool, told: str) -> None:
    pipe.fill()
    writer = LineWriter(pipe.writer, limit=4, tell_lost=tell_lost)
    writer.put("first\n")
    until_stuck(writer)
    for n in range(4 + 7):
        writer.put(f"{n}\n")
    assert writer.dropped == 7
    pipe.unfill()
    assert writer.drain(AGES)
    writer.put("last\n")
    assert writer.close(AGES)
    assert pipe.rest() == f"first\n0\n1\n2\n3\n{told}last\n"
    assert writer.dropped == 7


def test_lost_lines_are_told_once_half_of_the_room_is_free(pipe: Pipe) -> None:
    pipe.fill()
    line = "%" + "x" * 4094 + "\n"  # one page of the pipe, so that reading as much lets one more in
    writer = LineWriter(pipe.writer, limit=4, tell_lost=True)
    writer.put(line)
    until_stuck(writer)
    for _ in range(4 + 2):
        writer.put(line)
    pipe.take(4096)
    deadline = time.monotonic() + AGES
    while len(writer._waiting) > 3:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    writer.put(line)
    assert writer.dropped == 3, "no single text in between"
    pipe.take(4096)
    while len(writer._waiting) > 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    writer.put("again\n")
    pipe.take(pipe.filled - 2 * 4096)
    assert writer.close(AGES)
    assert pipe.rest() == line * 5 + "(3 lines were lost: the reader did not keep up)\nagain\n"


def test_what_a_drain_gives_up_is_told_before_what_comes_later(pipe: Pipe) -> None:
    pipe.fill()
    writer = LineWriter(pipe.writer, tell_lost=True)
    for text in ("stuck\n", "dropped\n", "too\n"):
        writer.put(text)
    assert not writer.drain(0.05)
    writer.put("later\n")
    pipe.unfill()
    assert writer.close(AGES)
    assert pipe.rest() == "stuck\n(2 lines were lost: the reader did not keep up)\nlater\n"


def test_text_larger_than_the_pipe_is_written_in_parts(pipe: Pipe) -> None:
    text = "".join(f"{n}\n" for n in range(100_000))
    writer = LineWriter(pipe.writer)
    writer.put(text)
    until_stuck(writer)
    writer.put("end\n")
    assert not writer.drain(0.0), "part of it is still to be written"
    data = pipe.take(len(text))
    writer.put("more\n")
    assert writer.close(AGES)
    assert data.decode() + pipe.rest() == text + "more\n", "what waited was given up, what was begun was not"


def test_descriptor_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    pipe.fill()
    os.set_blocking(pipe.writer, False)
    text = "".join(f"{n}\n" for n in range(50_000))
    writer = LineWriter(pipe.writer)
    writer.put(text)
    writer.put("end\n")
    time.sleep(0.1)
    pipe.unfill()
    data = pipe.take(len(text) + 4)
    assert writer.close(AGES)
    assert data.decode() == text + "end\n"


def test_reader_that_has_left_silences_for_ever(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, tell_lost=True)
    os.close(pipe.reader)
    pipe.reader = -1
    for n in range(100):
        writer.put(f"{n}\n")
    assert not writer.drain(AGES)
    assert writer.lost
    writer.put("more\n")
    assert not writer.close(AGES)
    assert writer.dropped == 0, "a lost reader is no slow one"


def test_reader_that_leaves_while_the_pipe_is_full_silences(pipe: Pipe) -> None:
    pipe.fill()
    writer = LineWriter(pipe.writer)
    writer.put("x\n")
    until_stuck(writer)
    os.close(pipe.reader)
    pipe.reader = -1
    assert not writer.drain(AGES)
    assert writer.lost


@pytest.mark.parametrize("where", ["/dev/full", "closed"])
def test_full_disk_and_bad_descriptor_silence(where: str) -> None:
    fd = os.open("/dev/full" if where == "/dev/full" else os.devnull, os.O_WRONLY)
    if where == "closed":
        os.close(fd)
    writer = LineWriter(fd)
    writer.put("x\n")
    assert not writer.close(AGES)
    assert writer.lost
    if where != "closed":
        os.close(fd)


def test_stopped_terminal_is_left_alone_and_goes_on_later() -> None:
    ours, theirs = pty.openpty()
    termios.tcflow(theirs, termios.TCOOFF)
    writer = LineWriter(theirs)
    writer.put("one\n")
    assert not writer.drain(0.1)
    termios.tcflow(theirs, termios.TCOON)
    writer.put("two\n")
    assert writer.close(AGES)
    assert os.read(ours, 100).replace(b"\r\n", b"\n") in (b"one\n", b"one\ntwo\n")
    os.close(ours)
    os.close(theirs)


def test_text_that_the_encoding_cannot_express_is_escaped(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, encoding="ascii")
    writer.put("Gerät \udcff\n")
    assert writer.close(AGES)
    assert pipe.rest() == "Ger\\xe4t \\udcff\n"


def test_no_thread_to_be_had_is_silence(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_run: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("nvmefence.threads.start", refuse)
    writer = LineWriter(pipe.writer)
    writer.put("x\n")
    writer.put("y\n")
    assert not writer.close(AGES)
    assert writer.lost


def test_texts_of_many_threads_are_all_written(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer)

    def put_all(mark: str) -> None:
        for n in range(100):
            writer.put(f"{mark}{n}\n")

    putters = [threading.Thread(target=put_all, args=(mark,)) for mark in "abcde"]
    for putter in putters:
        putter.start()
    for putter in putters:
        putter.join()
    assert writer.close(AGES)
    lines = pipe.rest().split()
    for mark in "abcde":
        assert [line for line in lines if line[0] == mark] == [f"{mark}{n}" for n in range(100)]


PROGRAM = """
import os, sys
from nvmefence.lines import LineWriter
writer = LineWriter(2)
{body}
"""


def program(body: str, stderr: int) -> subprocess.CompletedProcess[str]:
    # From Python 3.12 on there is a warning of a fork beside threads, which is what is tried here.
    words = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM.format(body=body)]
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=AGES, check=False)


@pytest.mark.parametrize("leave", ["sys.exit(3)", "os._exit(3)"])
def test_stuck_reader_does_not_hold_up_the_end_of_a_process(pipe: Pipe, leave: str) -> None:
    pipe.fill()
    done = program(f"writer.put('x')\nwriter.put('y')\nwriter.close(0.1)\n{leave}", pipe.writer)
    assert done.returncode == 3
    pipe.unfill()
    assert pipe.rest() == "", "nothing of it can come later"


def test_fork_leaves_the_texts_to_the_parent_and_gives_the_child_a_thread(pipe: Pipe) -> None:
    pipe.fill()
    fork = """
writer.put('parent, stuck\\n')
writer.put('parent, waits\\n')
child = os.fork()
if child == 0:
    print(writer.drain(1), flush=True)
    writer.put('child\\n')
    writer.close(20)
    os._exit(0)
_, state = os.waitpid(child, 0)
sys.exit(0 if writer.close(20) and state == 0 else 1)
"""
    late = threading.Timer(0.5, pipe.unfill)
    late.start()
    done = program(fork, pipe.writer)
    late.join()
    assert (done.returncode, done.stdout) == (0, "True\n"), "the child has nothing to write at first"
    assert sorted(pipe.rest().splitlines()) == ["child", "parent, stuck", "parent, waits"]

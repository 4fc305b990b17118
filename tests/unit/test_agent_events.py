"""The logs of fence events never hold up or fail a fence."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from nvmefence.agents import events, fence_gfs2_recorder
from nvmefence.agents.events import Journal
from nvmefence.eventlog import FILES, Event


def event(details: str = "d", target: str = "n") -> Event:
    return Event("INFO", "off", target, "success", details, request_id="i", recorder="r", filesystems=[])


def test_a_log_that_hangs_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork, children = os.fork, list[int]()

    def forked() -> int:
        if child := fork():
            children.append(child)
        return child

    monkeypatch.setattr(os, "fork", forked)
    monkeypatch.setattr(events, "append", lambda *_: time.sleep(30))
    journal = Journal(str(tmp_path))
    start = time.monotonic()
    try:
        for _ in range(200):  # far more than a pipe holds
            journal.record(event("x" * 1900))
        trouble = journal.close(0.2)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert "did not take the log within 0.2 s" in trouble
    assert time.monotonic() - start < 15


def test_a_child_that_cannot_be_had_costs_only_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process() -> int:
        raise BlockingIOError(11, "try again")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", no_process)
        journal = Journal(str(tmp_path))
        journal.record(event())
        assert journal.close() == ""
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_every_event_is_one_line_in_each_log(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "made"))
    journal.record(event('a\n"b"\x1b', target="n\n1"))
    journal.record(event("y" * 100_000))
    assert journal.close(5) == ""
    for name in FILES:
        lines = (tmp_path / "made" / name).read_text().split("\n")
        assert len(lines) == 3
        assert lines[2] == ""
        assert len(lines[1]) < 4096
    first = json.loads((tmp_path / "made" / FILES[2]).read_text().split("\n")[0])
    assert (first["target_node"], first["details"]) == ("n\n1", 'a\n"b"\x1b')


def test_a_log_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / FILES[0]).symlink_to(tmp_path / "victim")
    journal = Journal(str(tmp_path))
    journal.record(event())
    assert FILES[0] in journal.close(5)
    assert not (tmp_path / "victim").exists()
    assert (tmp_path / FILES[1]).exists()


def test_mounted_gfs2_reads_the_kernels_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mounts"
    table.write_text(
        "/dev/a /a ext4 rw 0 0\n/dev/vg/g1 /m gfs2 rw 0 0\n\n/dev/vg/g1 /n gfs2 rw 0 0\n/dev/g2 /o gfs2 rw\n"
    )
    monkeypatch.setattr(fence_gfs2_recorder, "_MOUNTS", str(table))
    assert fence_gfs2_recorder.mounted_gfs2() == ["/dev/vg/g1", "/dev/g2"]
    table.write_text("".join(f"/dev/{n} /m gfs2 rw 0 0\n" for n in range(200)))
    assert len(fence_gfs2_recorder.mounted_gfs2()) == 64
    monkeypatch.setattr(fence_gfs2_recorder, "_MOUNTS", str(tmp_path / "none"))
    assert fence_gfs2_recorder.mounted_gfs2() == []


def test_ids_are_random_uuids_of_version_4() -> None:
    import uuid

    made = [fence_gfs2_recorder.fresh_id() for _ in range(100)]
    assert len(set(made)) == 100
    assert all(str(uuid.UUID(text)) == text and uuid.UUID(text).version == 4 for text in made)
    assert all(uuid.UUID(text).variant == uuid.RFC_4122 for text in made)

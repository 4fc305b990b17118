"""The request directory gives up what is good and rejects what is bad; a response is published once."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nvmefence.spool.directory import RequestDirectory, ResponseDirectory
from nvmefence.spool.errors import (
    AlreadyThere,
    DirectoryLost,
    Gone,
    Malformed,
    ReadFailed,
    Refused,
    UnsafeName,
    Unsettled,
    WriteFailed,
)
from nvmefence.spool.request import InvalidRequest
from nvmefence.spool.response import Response

NOW = 1_800_000_000.0
GOOD = b'{"request_id": "1", "action": "off", "target_node": "n1"}'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


@pytest.fixture
def requests(place: Path) -> Iterator[RequestDirectory]:
    opened = RequestDirectory(str(place))
    yield opened
    opened.close()


@pytest.fixture
def responses(place: Path) -> Iterator[ResponseDirectory]:
    opened = ResponseDirectory(str(place))
    yield opened
    opened.close()


def put(place: Path, name: str, data: bytes = GOOD, mtime: float = NOW) -> Path:
    path = place / name
    path.write_bytes(data)
    path.chmod(0o640)
    os.utime(path, (mtime, mtime))
    return path


def answer(message: str = "done", target: str = "n1") -> Response:
    return Response(
        request_id="1", success=True, action_performed="off", target_node=target, message=message, timestamp="t"
    )


def break_sync(patch: pytest.MonkeyPatch) -> None:
    def fsync(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    patch.setattr(os, "fsync", fsync)


def test_a_scan_lists_safe_names_and_says_what_it_ignores(requests: RequestDirectory, place: Path) -> None:
    for name in ("b.json", "a.json", ".c.json", ".c.json.tmp", "d.txt", "e\n\x1b.json", "-f.json"):
        put(place, name)
    (place / "g.json").mkdir()
    (place / "rejected").mkdir()
    (place / "h.json").symlink_to("/nonexistent")
    os.mkfifo(place / "i.json")
    os.close(os.open(os.fsencode(place) + b"/\xff.json", os.O_CREAT))
    listing = requests.scan(0.0)
    assert listing.pending == ("a.json", "b.json", "h.json", "i.json")
    assert listing.ignored == ("'-f.json'", "'\\udcff.json'", "'e\\n\\x1b.json'", "'g.json'")


def test_ten_thousand_requests_are_listed(requests: RequestDirectory, place: Path) -> None:
    for number in range(10_000):
        os.close(os.open(place / f"{number}.json", os.O_CREAT))
    assert len(requests.scan(0.0).pending) == 10_000


def test_a_scan_sees_each_time_what_is_there(requests: RequestDirectory, place: Path) -> None:
    put(place, "a.json")
    assert requests.scan(0.0).pending == ("a.json",)
    put(place, "b.json")
    assert requests.scan(1.0).pending == ("a.json", "b.json")
    assert requests.remove("a.json")
    assert not requests.remove("a.json")
    assert requests.scan(2.0).pending == ("b.json",)


def test_how_long_a_file_has_been_seen(requests: RequestDirectory, place: Path) -> None:
    put(place, "a.json")
    assert requests.seen_for("a.json", 5.0) == 0.0
    requests.scan(10.0)
    requests.scan(12.0)
    assert requests.seen_for("a.json", 15.0) == 5.0
    put(place, "other").rename(place / "a.json")
    requests.scan(20.0)
    assert requests.seen_for("a.json", 21.0) == 1.0


def test_a_replaced_directory_is_noticed_and_opened_anew(requests: RequestDirectory, place: Path) -> None:
    put(place, "a.json")
    place.rename(place.parent / "old")
    with pytest.raises(DirectoryLost):
        requests.scan(0.0)
    with pytest.raises(DirectoryLost):
        requests.reopen()
    place.mkdir()
    put(place, "b.json")
    with pytest.raises(DirectoryLost):
        requests.scan(0.0)
    requests.reopen()
    assert requests.scan(0.0).pending == ("b.json",)


def test_a_request_is_read_and_stays(requests: RequestDirectory, place: Path) -> None:
    put(place, "a.json")
    got = requests.read("a.json", NOW, 0.0)
    assert (got.name, got.target_node, got.written) == ("a.json", "n1", NOW)
    assert (place / "a.json").exists()
    with pytest.raises(Gone):
        requests.read("b.json", NOW, 0.0)


@pytest.mark.parametrize("data", [b"", GOOD[:20], b"\xff"])
def test_an_unparsable_file_is_looked_at_again_while_it_is_young(
    requests: RequestDirectory, place: Path, data: bytes
) -> None:
    put(place, "a.json", data)
    with pytest.raises(Unsettled):
        requests.read("a.json", NOW + 1.9, 0.0)
    with pytest.raises(Malformed):
        requests.read("a.json", NOW + 2.1, 0.0)


def test_an_mtime_in_the_future_does_not_keep_a_file_young(requests: RequestDirectory, place: Path) -> None:
    put(place, "a.json", b"{", mtime=NOW + 1000)
    requests.scan(50.0)
    with pytest.raises(Unsettled):
        requests.read("a.json", NOW, 51.9)
    with pytest.raises(Malformed):
        requests.read("a.json", NOW, 52.1)


def test_what_breaks_the_contract_is_not_looked_at_again(requests: RequestDirectory, place: Path) -> None:
    put(place, "a.json", b'{"request_id": "1"}')
    with pytest.raises(InvalidRequest) as caught:
        requests.read("a.json", NOW, 0.0)
    assert caught.value.known.request_id == "1"
    (place / "b.json").symlink_to(place / "a.json")
    with pytest.raises(Refused):
        requests.read("b.json", NOW, 0.0)


def test_a_rejected_file_is_kept_with_its_reason(requests: RequestDirectory, place: Path) -> None:
    put(place, "a.json", b"bad")
    line = requests.reject("a.json", "not JSON\x1b\n\u202e")
    assert line == "a.json is rejected, now rejected/a.json: not JSON\\x1b\\n\\u202e"
    assert (place / "rejected/a.json").read_bytes() == b"bad"
    assert (place / "rejected/a.json.reason").read_text() == line + "\n"
    assert requests.scan(0.0).pending == ()


def test_a_name_that_was_rejected_before_is_rejected_again(requests: RequestDirectory, place: Path) -> None:
    name = "a" * 195 + ".json"
    for data in (b"1", b"2", b"3"):
        put(place, name, data)
        requests.reject(name, "bad")
    kept = sorted(path.read_bytes() for path in (place / "rejected").iterdir() if path.suffix != ".reason")
    assert kept == [b"1", b"2", b"3"]


def test_a_rejected_link_is_moved_and_not_followed(requests: RequestDirectory, place: Path) -> None:
    target = put(place.parent, "target")
    (place / "a.json").symlink_to(target)
    requests.reject("a.json", "a link")
    assert target.exists()
    assert (place / "rejected/a.json").is_symlink()


def test_a_rejection_does_not_leave_the_directory(requests: RequestDirectory, place: Path) -> None:
    elsewhere = place.parent / "elsewhere"
    elsewhere.mkdir()
    (place / "rejected").symlink_to(elsewhere)
    put(place, "a.json")
    with pytest.raises(WriteFailed):
        requests.reject("a.json", "bad")
    with pytest.raises(UnsafeName):
        requests.reject("../elsewhere", "bad")
    assert os.listdir(elsewhere) == []


def test_of_what_was_rejected_the_newest_stay_each_with_its_reason(
    requests: RequestDirectory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvmefence.spool.directory.REJECTED_KEPT", 20)
    monkeypatch.setattr("nvmefence.spool.directory._REJECTED_BEYOND", 5)
    for number in range(100):
        name = f"n-{number:03}.json"
        (place / name).write_text("{}")
        # The kernel's stamps are coarse: what came in one tick is told apart by its name.
        requests.reject(name, "for a test")
        left = {path.name for path in (place / "rejected").iterdir()}
        assert name in left
        assert f"{name}.reason" in left
        assert len(left) <= 2 * 27
    newest = {f"n-{number:03}.json" for number in range(85, 100)}
    assert newest | {f"{name}.reason" for name in newest} <= left


def test_what_lies_among_the_rejected_and_cannot_go_stops_no_rejection(
    requests: RequestDirectory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvmefence.spool.directory.REJECTED_KEPT", 2)
    monkeypatch.setattr("nvmefence.spool.directory._REJECTED_BEYOND", 0)
    (place / "rejected" / "a-folder").mkdir(parents=True)
    (place / "rejected" / "an odd name").write_text("")
    for number in range(10):
        (place / f"n-{number}.json").write_text("{}")
        requests.reject(f"n-{number}.json", "for a test")
    left = {path.name for path in (place / "rejected").iterdir()}
    assert {"a-folder", "an odd name", "n-9.json", "n-8.json"} <= left
    assert len(left) <= 8


def test_the_reason_file_may_fail_and_the_rejection_stands(
    requests: RequestDirectory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(place, "a.json")
    (place / "rejected").mkdir()

    def full(_fd: int, _data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    requests.reject("a.json", "bad")
    assert os.listdir(place / "rejected") == ["a.json"]


def test_a_response_is_published_once(responses: ResponseDirectory, place: Path) -> None:
    assert not responses.exists("a.json")
    responses.publish("a.json", answer())
    assert responses.exists("a.json")
    assert json.loads((place / "a.json").read_bytes())["success"] is True
    with pytest.raises(AlreadyThere):
        responses.publish("a.json", answer("another"))
    assert responses.read("a.json").message == "done"
    assert os.listdir(place) == ["a.json"]


def test_a_failed_publication_may_be_repeated(
    responses: ResponseDirectory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if fd == responses.directory.fd:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    same = answer()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        for _again in range(2):
            with pytest.raises(WriteFailed) as caught:
                responses.publish("a.json", same)
            assert caught.value.visible
    responses.publish("a.json", same)
    assert os.listdir(place) == ["a.json"]


def test_a_full_disk_publishes_nothing(
    responses: ResponseDirectory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_sync(patch)
        with pytest.raises(WriteFailed):
            responses.publish("a.json", answer())
    assert os.listdir(place) == []


def test_what_a_dead_watcher_left_does_not_block_the_response(responses: ResponseDirectory, place: Path) -> None:
    put(place, ".a.json.tmp", b'{"request_id": "1", "succ')
    responses.publish("a.json", answer())
    assert responses.read("a.json").success is True
    put(place, ".b.json.tmp", mtime=NOW)
    assert responses.sweep(NOW + 1) == 1
    assert os.listdir(place) == ["a.json"]


def test_a_response_written_into_a_replaced_directory_is_written_again(
    responses: ResponseDirectory, place: Path
) -> None:
    place.rename(place.parent / "old")
    place.mkdir()
    same = answer()
    with pytest.raises(DirectoryLost):
        responses.exists("a.json")
    with pytest.raises(DirectoryLost):
        responses.publish("a.json", same)
    with pytest.raises(DirectoryLost):
        responses.publish("a.json", same)
    responses.reopen()
    responses.publish("a.json", same)
    assert responses.read("a.json").message == "done"


def test_an_archived_response_stands_no_more(responses: ResponseDirectory, place: Path) -> None:
    responses.publish("a.json", answer())
    assert not responses.archived("a.json")
    assert responses.archive("a.json") == "a.json"
    assert not responses.exists("a.json")
    assert responses.archived("a.json")
    with pytest.raises(Gone):
        responses.archive("a.json")
    responses.publish("a.json", answer("second"))
    second = responses.archive("a.json")
    assert json.loads((place / "archive" / second).read_bytes())["message"] == "second"
    assert json.loads((place / "archive/a.json").read_bytes())["message"] == "done"


def test_responses_are_found_by_target(responses: ResponseDirectory, place: Path) -> None:
    responses.publish("a.json", answer(target="n1"))
    responses.publish("b.json", answer(target="n2"))
    responses.publish("c.json", answer(target="n1"))
    put(place, "d.json", b"no response")
    (place / "e.json").mkdir()
    assert [name for name, _ in responses.for_target("n1")] == ["a.json", "c.json"]
    assert responses.for_target("n3") == ()


def test_an_unreadable_response_is_not_passed_over(
    responses: ResponseDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    responses.publish("a.json", answer())

    def read(_fd: int, _size: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(ReadFailed):
        responses.for_target("n1")


@pytest.mark.parametrize("name", ["archive", "rejected", "x.txt", "x.json.tmp", ".x.json", "../x.json"])
def test_only_json_files_are_handled(
    requests: RequestDirectory, responses: ResponseDirectory, place: Path, name: str
) -> None:
    for use in (
        lambda: requests.read(name, NOW, 0.0),
        lambda: requests.remove(name),
        lambda: requests.reject(name, "bad"),
        lambda: responses.exists(name),
        lambda: responses.archived(name),
        lambda: responses.read(name),
        lambda: responses.publish(name, answer()),
        lambda: responses.archive(name),
    ):
        with pytest.raises(UnsafeName):
            use()
    assert os.listdir(place) == []

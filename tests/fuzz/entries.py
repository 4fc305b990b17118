"""Hostile entries of a request directory: files of every kind, mode, owner and age, under every name."""

from __future__ import annotations

import enum
import os
import random
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tests.fuzz.texts import Fate, Requests, Text

OUTSIDE: Final = "outside"
"""Beside the two directories: what links lead to, and nobody may touch."""
NOBODY: Final = 65534
_ROOT: Final = os.geteuid() == 0


class End(enum.Enum):
    """What must become of an entry. Whatever it is, nothing is cut for it."""

    STAYS = "stays"
    REJECTED = "is moved to rejected/"
    FAILED = "is answered with a failure and removed"
    REPEAT = "is removed, and the response to it stays as it is"
    GONE = "is worked off, one way or the other"


class Entry(NamedTuple):
    """One entry."""

    name: bytes
    kind: str
    data: bytes
    end: End
    age: float = 0.0
    """Seconds since it was written."""
    mode: int = 0o600
    detail: str = ""


_ENDS: Final = {
    Fate.MALFORMED: End.REJECTED,
    Fate.INVALID: End.REJECTED,
    Fate.EXPIRED: End.FAILED,
    Fate.STRANGER: End.FAILED,
    Fate.ANY: End.GONE,
}
LINKS: Final = (
    "/etc/passwd", "../outside/canary", "../outside/good", "../outside", "../responses", "..", ".", "SELF",
    "nowhere",
    "../responses/r.json", "/dev/zero", "/proc/self/mem", "\x1b[2J", "../outside/../outside/good",
)  # fmt: skip
"""Where symbolic links lead; "good" is a request that would be served if it were a file here."""
CHANGES: Final = (
    "gone before", "link before", "pipe before", "large before", "open before", "folder before", "other before",
    "empty after", "larger after", "gone after", "other after", "open after",
)  # fmt: skip
"""What happens to a file before it is opened, after it was looked at, or after it was opened, before it is read."""


class Entries:
    """Makes entries. `answered` are names of requests that were answered before."""

    def __init__(self, rng: random.Random, now: float, answered: tuple[str, ...]) -> None:
        self._rng = rng
        self._now = now
        self._texts = Requests(rng, now)
        self._answered = answered
        ways: list[Callable[[], Entry]] = [self.text] * 12
        ways += [
            self.large, self.heavy, self.sparse, self.open_to_others, self.link, self.link, self.pipe,
            self.socket, self.folder,
            self.hard_link, self.unsafe, self.unsafe, self.no_request, self.stale, self.ahead, self.changing,
            self.changing,
        ]  # fmt: skip
        if _ROOT:
            ways += [self.device, self.foreign]
        if answered:
            ways.append(self.replay)
        self._ways = tuple(ways)

    def any(self) -> Entry:
        """Return a hostile one."""
        return self._rng.choice(self._ways)()

    def text(self) -> Entry:
        """A file that breaks no limit, with a hostile content."""
        text = self._texts.any()
        ages: tuple[float, ...] = (0.0, 0.0, 1.0, 5.0)
        if text.fate is Fate.MALFORMED:
            ages += (1e5, -1e3)
        return self._file(text, _ENDS[text.fate], self._rng.choice(ages))

    def large(self) -> Entry:
        """A request that would be served if it were smaller."""
        return self._file(self._texts.oversized(), End.REJECTED)

    def heavy(self) -> Entry:
        """A request that takes long and much to read."""
        return self._file(self._texts.heavy(), End.FAILED)

    def sparse(self) -> Entry:
        """A file of great size and no content."""
        size = self._rng.choice((65_537, 2**30, 2**40))
        return Entry(self._name(), "sparse", b"", End.REJECTED, detail=str(size))

    def open_to_others(self) -> Entry:
        """A request that would be served if others could not write it."""
        mode = self._rng.choice((0o666, 0o620, 0o602, 0o777, 0o4722))
        return self._file(self._wanted(), End.REJECTED, mode=mode)

    def foreign(self) -> Entry:
        """A request that would be served if it were root's."""
        return self._file(self._wanted(), End.REJECTED)._replace(kind="foreign")

    def link(self) -> Entry:
        """A symbolic link."""
        return Entry(self._name(), "link", b"", End.REJECTED, detail=self._rng.choice(LINKS))

    def pipe(self) -> Entry:
        """A FIFO, to which nobody ever writes."""
        return Entry(self._name(), "pipe", b"", End.REJECTED)

    def socket(self) -> Entry:
        """A socket."""
        return Entry(self._name(), "socket", b"", End.REJECTED)

    def device(self) -> Entry:
        """A device: null, zero, full, a loop device that nobody uses, one that nobody has."""
        number = self._rng.choice(("c 1 3", "c 1 5", "c 1 7", "b 7 200", "c 4095 1"))
        return Entry(self._name(), "device", b"", End.REJECTED, detail=number)

    def folder(self) -> Entry:
        """A directory, empty or not."""
        return Entry(self._name(), "folder", b"", End.STAYS, detail=self._rng.choice(("", "x.json")))

    def hard_link(self) -> Entry:
        """Another name of a file outside, which would be served if it were not old, or open to others."""
        return Entry(self._name(), "hard link", b"", End.REJECTED, detail=self._rng.choice(("canary", "open")))

    def unsafe(self) -> Entry:
        """A request under a name that nobody may use."""
        return self._file(self._wanted(), End.STAYS, name=self._unsafe_name())

    def no_request(self) -> Entry:
        """A request under a name that says that it is none."""
        stem = b"%012x" % self._rng.getrandbits(48)
        name = (
            self._rng.choice((b".%s.json", b".%s.json.tmp", b"%s", b"%s.JSON", b"%s.json~", b"%s.json.new")) % stem
        )
        return self._file(self._wanted(), End.STAYS, name=name)

    def stale(self) -> Entry:
        """A request that would be served if it were not so old, which only its file tells."""
        text = self._wanted()
        data = b", ".join(part for part in text.data.strip()[1:-1].split(b",") if b"timestamp" not in part)
        age = self._rng.choice((301.0, 1e4, self._now, self._now + 1, 3e9))
        return self._file(Text("stale", b"{" + data + b"}", Fate.EXPIRED), End.FAILED, age)

    def ahead(self) -> Entry:
        """A request that would be served if it were not dated ahead, by its timestamp and by its file."""
        ahead = self._rng.choice((3600.0, 1e6, 1e8))
        data = Requests(self._rng, self._now + ahead).good("c2", self._id()).data
        return self._file(Text("ahead", data, Fate.EXPIRED), End.FAILED, -ahead)

    def replay(self) -> Entry:
        """A good request under the name of one that was answered."""
        return self._file(self._wanted(), End.REPEAT, name=self._rng.choice(self._answered).encode())

    def changing(self) -> Entry:
        """A file that is changed while it is read."""
        entry = self._file(self._texts.stranger(), End.GONE)
        return entry._replace(kind="changing", detail=self._rng.choice(CHANGES))

    def _wanted(self) -> Text:
        """Return a request that would be served: only what its file is stands in the way."""
        return self._texts.good("c2", self._id())

    def _id(self) -> str:
        return f"h-{self._rng.randrange(10**9)}"

    def _file(self, text: Text, end: End, age: float = 0.0, *, mode: int = 0o600, name: bytes = b"") -> Entry:
        return Entry(name or self._name(), "file", text.data, end, age, mode, text.label)

    def _name(self) -> bytes:
        """Return a name that a request may have; seldom one twice."""
        rng = self._rng
        unique = f"{rng.getrandbits(48):012x}"
        return rng.choice(
            (
                f"{unique}.json", f"{unique}.json", f"{unique}.json", f"c2-{unique}-0000.json", f"_{unique}...json",
                f"{unique}.reason.json", f"rejected.{unique}.json", f"{unique}.json.json",
                f"{unique}{'n' * rng.choice((170, 176, 183))}.json",
            )
        ).encode()  # fmt: skip

    def _unsafe_name(self) -> bytes:
        rng = self._rng
        unique = f"{rng.getrandbits(48):012x}".encode()
        return rng.choice(
            (
                b"%s\n.json", b"%s\x1b[2J.json", b"-%s.json", b" %s.json", b"%s .json", b"%s\xff\xfe.json",
                b"%s\\..\\x.json",
                "%s\u202e\u043e.json".encode(), b"~%%2f%s.json", b"%s;reboot.json", b"$(%s).json",
                b"%s" + b"n" * 184 + b".json", b"%s" + b"n" * 238 + b".json", b"%s" + b"\xc3\xa4" * 119 + b".json",
                b"%s'\"`.json", b"%s\x7f\x01.json", b"%s\xed\xa0\x80.json", b"%s:*?.json",
            )
        ) % unique  # fmt: skip


def make(entry: Entry, requests: Path, now: float) -> None:
    """Put an entry where it belongs, with its name last, as a writer who renames does."""
    draft = requests / ".draft"
    path = os.path.join(os.fsencode(requests), entry.name)
    if entry.kind == "link":
        target = os.fsdecode(entry.name) if entry.detail == "SELF" else entry.detail
        os.symlink(target, draft)
    elif entry.kind == "pipe":
        os.mkfifo(draft, 0o600)
    elif entry.kind == "socket":
        _bind(requests, draft.name)
    elif entry.kind == "device":
        kind, major, minor = entry.detail.split()
        type_bits = stat.S_IFCHR if kind == "c" else stat.S_IFBLK
        os.mknod(draft, 0o600 | type_bits, os.makedev(int(major), int(minor)))
    elif entry.kind == "folder":
        draft.mkdir()
        if entry.detail:
            (draft / entry.detail).write_bytes(b"{}")
    elif entry.kind == "hard link":
        os.link(requests.parent / OUTSIDE / entry.detail, draft)
    else:
        _write(entry, draft, now)
    os.rename(draft, path)


def _write(entry: Entry, draft: Path, now: float) -> None:
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, entry.data)
        if entry.kind == "sparse":
            os.ftruncate(fd, int(entry.detail))
        if entry.kind == "foreign":
            os.fchown(fd, NOBODY, NOBODY)
        os.fchmod(fd, entry.mode)
    finally:
        os.close(fd)
    os.utime(draft, (now - entry.age, now - entry.age))


def _bind(directory: Path, name: str) -> None:
    """Make a socket; its path must be short, however long the directory's is."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)


class Surroundings:
    """What lies outside the two directories, and must be afterwards as it was."""

    def __init__(self, root: Path, good: bytes, now: float) -> None:
        """`good` is a request that would be served if it lay in the request directory."""
        self.path = root / OUTSIDE
        self.path.mkdir()
        for name, data, mode, age in (
            ("canary", b"outside", 0o600, 1e6), ("good", good, 0o600, 0.0), ("open", good, 0o666, 0.0),
        ):  # fmt: skip
            file = self.path / name
            file.write_bytes(data)
            file.chmod(mode)
            os.utime(file, (now - age, now - age))
        self._before = self._seen()

    def hold(self) -> None:
        """Raise AssertionError if anything was touched."""
        assert self._seen() == self._before, "something outside the directories was touched"

    def _seen(self) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for name in sorted(os.listdir(self.path)):
            status = os.lstat(self.path / name)
            data = (self.path / name).read_bytes()
            found[name] = (data, status.st_ino, status.st_mode, status.st_uid, status.st_mtime_ns)
        passwd = os.lstat("/etc/passwd")
        found["/etc/passwd"] = (passwd.st_ino, passwd.st_size, passwd.st_mtime_ns, passwd.st_mode)
        return found

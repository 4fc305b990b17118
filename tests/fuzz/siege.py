"""A real watcher in virtual time, thrown hostile files at, with good requests among them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any, Final

from nvmefence import eventlog
from tests.fuzz.changing import changed_while_read
from tests.fuzz.entries import End, Entries, Entry, Surroundings, make
from tests.fuzz.reading import one_line, printable
from tests.fuzz.texts import VICTIM, Requests
from tests.property.virtual_time import Clock, run
from tests.property.watcher_world import EPOCH, World, build

MEMORY: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None
HOST: Final = "c1"
"""Who is fenced by the good requests."""
SOON_S: Final = 2.0
"""Virtual seconds within which a good request is answered, whatever lies beside it."""
_ROUND: Final = 64
"""Hostile entries in a round."""
_BURST: Final = 16
_SETTLED_S: Final = 5.0
_ALREADY: Final = ("p-0.json", "p-1.json")


@dataclasses.dataclass(slots=True)
class Besieged(World):
    """A world where files that nobody asked for may be answered, but never with success."""

    seen_at: dict[str, float] = dataclasses.field(default_factory=dict)

    def _judge(self, document: dict[str, Any]) -> None:
        asked = self.asked.get(document["request_id"])
        if asked is not None:
            self.seen_at[asked.request_id] = self.clock.now
            World._judge(self, document)
        elif document["success"] is not False:
            self.wrong.append(f"success for {document['target_node']} that nobody asked for: {document}")

    def _hear(self, line: str) -> None:
        one_line(line.encode())
        World._hear(self, line)


class Round:
    """Some dozens of entries, and what became of them."""

    def __init__(self, seed: int, number: int, size: int = _ROUND) -> None:
        self.rng = random.Random(seed << 40 | number | 1 << 39)
        self.entries: list[Entry] = []
        self.size = size
        self.goods = 0

    def hold(self) -> None:
        """Play it. Raises AssertionError, or whatever the watcher raises."""
        with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
            world = build(Path(directory), Clock(), quiesce=0.0)
            besieged = Besieged(**{f.name: getattr(world, f.name) for f in dataclasses.fields(World)})
            good = Requests(self.rng, EPOCH).good(VICTIM, "outside").data
            around = Surroundings(Path(directory), good, EPOCH)
            entries = Entries(self.rng, EPOCH, _ALREADY)
            self.entries = list({entry.name: entry for entry in (entries.any() for _ in range(self.size))}.values())
            changes = {os.fsdecode(e.name): e.detail for e in self.entries if e.kind == "changing"}
            with changed_while_read(besieged.requests, changes, EPOCH):
                run(self._play(besieged), besieged.clock)
            around.hold()
            self._judge(besieged)

    async def _play(self, world: Besieged) -> None:
        world.start()
        await asyncio.sleep(0.01)
        for name in _ALREADY:
            world.ask(len(world.asked), HOST, "off", None, "ours")
            (world.requests / f"id-{len(world.asked) - 1}.json").rename(world.requests / name)
        await asyncio.sleep(1.5)
        for start in range(0, self.size, _BURST):
            for entry in self.entries[start : start + _BURST]:
                make(entry, world.requests, world.wall())
            world.readmit(HOST)
            world.ask(len(world.asked), HOST, self.rng.choice(("off", "reboot")), 20.0, "ours")
            await asyncio.sleep(self.rng.choice((0.0, 0.0, 0.1, 1.2)))
        await asyncio.sleep(_SETTLED_S)
        assert world.task is not None
        assert not world.task.done(), "the watcher has ended"
        await world.stop()

    def _judge(self, world: Besieged) -> None:
        world.look_on()
        world.judge_cuts()
        assert world.wrong == [], world.wrong[:3]
        assert world.attached(VICTIM), f"{VICTIM} was cut"
        for asked in world.asked.values():
            assert asked.request_id in world.seen_at, f"{asked.name} was not answered"
            assert world.seen_at[asked.request_id] - asked.at <= SOON_S, f"{asked.name} had to wait"
        self.goods = len(world.asked)
        assert [d for d in world.responses.values() if d["request_id"] in world.asked and not d["success"]] == []
        for entry in self.entries:
            _ended(entry, world)
        records_hold(world)


def _ended(entry: Entry, world: World) -> None:
    """Check what became of an entry."""
    path = os.path.join(os.fsencode(world.requests), entry.name)
    there = os.path.lexists(path)
    name = os.fsdecode(entry.name)
    response = world.responses.get(name)
    what = f"{name!a} ({entry.kind}, {entry.detail!a}) must be: {entry.end.value}"
    if entry.end is End.STAYS:
        assert there, what
        assert response is None, what
        return
    assert not there or (entry.end is End.GONE and os.path.isdir(path)), what
    if entry.end is End.REJECTED:
        assert os.path.lexists(world.requests / "rejected" / name), what
        reason = world.requests / "rejected" / f"{name[:193]}.reason"
        one_line(reason.read_bytes())
    elif entry.end is End.FAILED:
        assert response is not None, what
        assert response["success"] is False, what
    elif entry.end is End.REPEAT:
        assert response is not None, what
        assert response["request_id"] in world.asked, what


def records_hold(world: World) -> None:
    """Check every line that the watcher left: audit, logs, responses."""
    for line in Path(world.settings.audit).read_bytes().splitlines(keepends=True):
        one_line(line)
        assert json.loads(line)["event"] in ("answer", "begun")
    for name in eventlog.FILES:
        for text in Path(world.settings.log_dir, name).read_text().split("\n"):
            assert text.isprintable()
            assert name.endswith(".log") or not text or json.loads(text)
    for file in world.answers.glob("*.json"):
        one_line(file.read_bytes())
    for file in (world.requests / "rejected").glob("*.reason"):
        printable(file.read_text().removesuffix("\n"))

"""When the figures are written: soon, never in a fence's way, and to the end whatever goes wrong with the file."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from nvmefence.nvme.emulated import hang
from nvmefence.site import Site
from nvmefence.watcher.metrics import Figures
from nvmefence.watcher.publishing import DRIVES_S, EVERY_S, LATE_S, LEAST_S, Publishing
from nvmefence.watcher.worker import Worker
from tests.monitoring import figures
from tests.monitoring.figures import Told
from tests.property.vigil_world import DEADLINE_S, World, judged
from tests.property.virtual_time import run
from tests.system.place import FLEET, REMOVED
from tests.system.watching import Watching, until

VIGIL_S = 5.0


class Scene:
    """A look-out, and its figures in a file."""

    def __init__(self, world: World, path: Path, worker: Worker | None = None) -> None:
        self.world = world
        self.path = path
        self.troubles = 0
        site = Site(world.transport, world._found, simulated=False)
        lookout = world.lookout
        assert lookout is not None
        self.publishing = Publishing(
            str(path), site, lambda: world.hostmap, lambda: lookout.figures, world.passes, lambda: self.troubles,
            lambda: 900.0, lambda: 1000.0, worker or world.workers.vigil,
        )  # fmt: skip

    @property
    def told(self) -> Told:
        return figures.read(self.path)

    def written(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_ino, found.st_mtime_ns


Story = Callable[[Scene], Coroutine[Any, Any, None]]


def play(place: Path, story: Story, file: str = "nvmefence.prom", **options: Any) -> None:
    with judged(place, **options) as world:

        async def whole() -> None:
            async with world.looking():
                scene = Scene(world, place / file)
                scene.publishing.begin()
                await story(scene)
                await scene.publishing.finish()

        run(whole(), world.clock)


def test_who_is_fenced_and_who_is_back_is_told(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.world.fence("c1")
        await scene.world.fence("c2")
        scene.world.attach("c1")
        await asyncio.sleep(VIGIL_S + EVERY_S + 1)
        values = scene.told.values
        assert values['nvmefence_host_returned{host="c1"}'] == 1
        assert values['nvmefence_host_returned{host="c2"}'] == 0
        assert values["nvmefence_fenced_hosts"] == 2
        assert values["nvmefence_returns_total"] == 1
        assert values["nvmefence_heartbeat_timestamp_seconds"] == 900
        assert values["nvmefence_written_timestamp_seconds"] == 1000

    play(tmp_path, story)


def test_drives_are_counted_once_a_minute_and_no_command_is_sent_for_it(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        world = scene.world
        await asyncio.sleep(1)
        assert scene.told.values["nvmefence_drives_expected"] == scene.told.values["nvmefence_drives_seen"] == 2
        world.gone.add(1)
        await asyncio.sleep(DRIVES_S + EVERY_S + 1)
        assert scene.told.values["nvmefence_drives_seen"] == 1
        assert world.discoveries == 2
        assert world.transport.opened == 0

    play(tmp_path, story)


def test_without_a_look_out_its_figures_are_absent_and_not_0(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await asyncio.sleep(1)
        assert "nvmefence_fenced_hosts" not in scene.told.kinds
        assert "nvmefence_fences_total" in scene.told.kinds

    play(tmp_path, story, vigil_s=0.0)


def test_nothing_is_written_while_a_fence_is_under_way_unless_it_takes_long(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        world, loop = scene.world, asyncio.get_running_loop()
        await asyncio.sleep(EVERY_S + 2)
        before, started = scene.written(), loop.time()
        world.fault(0, hang())
        task = asyncio.create_task(world.fence("c1"))
        await asyncio.sleep(DEADLINE_S - 1)
        scene.publishing.soon()
        assert scene.written() == before
        await task
        scene.publishing.ended(scene.world.ended[-1])
        await asyncio.sleep(LEAST_S + 1)
        assert scene.written() != before
        assert loop.time() - started < LATE_S

    play(tmp_path, story)


def test_a_fence_that_takes_long_hides_the_figures_no_longer_than_said(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await asyncio.sleep(1)
        before = scene.written()
        scene.world.passes._by_host["c1"] = object()  # type: ignore[assignment]
        await asyncio.sleep(LATE_S - 2 * LEAST_S)
        assert scene.written() == before
        await asyncio.sleep(EVERY_S)
        del scene.world.passes._by_host["c1"]
        assert scene.told.values["nvmefence_fences_under_way"] == 1

    play(tmp_path, story)


def test_a_file_that_cannot_be_written_is_a_trouble_until_it_can(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await asyncio.sleep(1)
        assert "No such file" in scene.publishing.troubles["metrics"]
        scene.path.parent.mkdir()
        await asyncio.sleep(EVERY_S + 1)
        assert scene.publishing.troubles == {}
        assert scene.path.exists()

    play(tmp_path, story, "away/nvmefence.prom")


def test_without_a_file_nothing_is_done(tmp_path: Path) -> None:
    with judged(tmp_path) as world:

        async def whole() -> None:
            async with world.looking():
                site = Site(world.transport, world._found, simulated=False)
                threads = threading.active_count()
                idle = Publishing("", site, lambda: world.hostmap, Figures, world.passes, lambda: 0, lambda: 0.0)
                idle.begin()
                await asyncio.sleep(DRIVES_S)
                await idle.finish()
                assert (world.discoveries, threading.active_count()) == (0, threads)

        run(whole(), world.clock)


def test_evidence_is_worked_through_in_the_thread_and_not_before_an_answer(tmp_path: Path) -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} is looked at")

    async def story(scene: Scene) -> None:
        scene.publishing.ended(Untouchable())  # type: ignore[arg-type]
        await asyncio.sleep(EVERY_S)
        assert "is looked at" in scene.publishing.troubles["metrics"]
        await asyncio.sleep(2 * EVERY_S)
        assert scene.publishing.troubles == {}, "it is not met again and again"

    play(tmp_path, story)


def test_a_disk_that_hangs_holds_up_neither_the_loop_nor_the_end(tmp_path: Path) -> None:
    """With a real thread, and a real clock."""
    path = tmp_path / "nvmefence.prom"
    begun, release = threading.Event(), threading.Event()

    class Hung:
        simulated = False

        def discover(self) -> list[Any]:
            begun.set()
            release.wait(60)
            return []

    async def whole(world: World) -> None:
        hung = Publishing(
            str(path), Hung(), lambda: world.hostmap, Figures, world.passes, lambda: 0, lambda: 0.0  # type: ignore[arg-type]
        )  # fmt: skip
        hung.begin()
        assert await asyncio.to_thread(begun.wait, 20)
        started = time.monotonic()
        await hung.finish()
        assert time.monotonic() - started < LEAST_S + 5
        assert "not finished" in hung.troubles["metrics"]
        release.set()

    with judged(tmp_path) as world:

        async def with_passes() -> None:
            world.start()
            try:
                await whole(world)
            finally:
                await world.stop()

        asyncio.run(with_passes())

    def drafts() -> list[str]:
        return [name for name in os.listdir(tmp_path) if name.startswith(".")]

    until(lambda: not drafts(), "the thread, which has gone on by now, leaves nothing")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("", ""), (REMOVED, "missing")],
    ids=["well", "removed"],
)
def test_a_watcher_writes_what_came_of_its_requests(tmp_path: Path, fault: str, reason: str) -> None:
    place = Watching(tmp_path)
    place.write(FLEET + fault)
    path = tmp_path / "nvmefence.prom"
    with place.watcher("--metrics", str(path), "--deadline", "1") as running:
        place.answered(place.ask("a.json"))
        place.answered(place.ask("b.json", target_node="nobody"))
        place.put("c.json", "not a request")
        running.hears("is rejected")
        assert running.stop() == 0
    values = figures.read(path).values
    failed = {key for key, value in values.items() if key.startswith("nvmefence_fence_failures_total") and value}
    assert failed == ({f'nvmefence_fence_failures_total{{reason="{reason}"}}'} if reason else set())
    word = "not_confirmed" if reason else "confirmed"
    assert values[f'nvmefence_fences_total{{result="{word}"}}'] == 1
    answers = {key.split('"')[1]: value for key, value in values.items() if "answers_total" in key and value}
    assert answers == {("not_fenced" if reason else "fenced"): 1, "unknown_host": 1, "rejected": 1}
    assert values['nvmefence_fence_step_seconds_count{step="total"}'] == 1
    assert values["nvmefence_drives_expected"] == 3
    assert values["nvmefence_drives_seen"] == (2 if reason == "missing" else 3)
    assert abs(values["nvmefence_heartbeat_timestamp_seconds"] - time.time()) < 30


def test_figures_are_written_by_a_watcher_that_runs_and_no_later_than_said(tmp_path: Path) -> None:
    place = Watching(tmp_path)
    path = tmp_path / "nvmefence.prom"
    with place.watcher("--metrics", str(path)):
        place.answered(place.ask("a.json"))
        until(
            lambda: path.exists() and figures.read(path).values['nvmefence_fences_total{result="confirmed"}'] == 1,
            "the fence is among the figures",
            within=2 * LEAST_S + 2,
        )

"""The matrix in a terminal's size: nothing is wider or longer, and what is wrong is seen first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nvmefence.cli.board import ASCII, UNICODE, View, draw
from nvmefence.cli.live import LONGEST_S, PATIENCE_S, Board
from nvmefence.cli.status import OnRecord
from nvmefence.fencing.survey import DriveSurvey, HostOnDrive, State, Survey
from nvmefence.nvme.commands import IDENTIFY
from nvmefence.nvme.emulated import hang
from nvmefence.records.record import Record
from nvmefence.site import Site
from nvmefence.watcher.returned import OnDrive, Returned
from tests.property.vigil_world import World, judged
from tests.property.virtual_time import run

SILENT = "no answer for 3 s"


def drive(number: int, states: dict[str, State]) -> DriveSurvey:
    hosts = {
        name: HostOnDrive(
            state,
            attached={1: (2,)} if state in (State.ATTACHED, State.PARTLY) else {},
            reason=SILENT if state is State.UNKNOWN else "",
        )
        for name, state in states.items()
    }
    problem = SILENT if State.UNKNOWN in states.values() else ""
    return DriveSurvey(f"S{number:05}", "nqn", "M", namespaces=[1, 2], hosts=hosts, problem=problem)


def view(drives: int, hosts: int, odd: dict[int, State] | None = None, back: tuple[int, ...] = ()) -> View:
    """All hosts attached everywhere, but those that are odd; some are fenced and back."""
    names = [f"c{n}" for n in range(hosts)]
    states = {name: (odd or {}).get(n, State.ATTACHED) for n, name in enumerate(names)}
    fenced = []
    for n in back:
        on = {("nqn", "S"): OnDrive("S", "nqn", {1: (2,)}, ())}
        fenced.append(OnRecord(record(names[n]), Returned(names[n], "2026", on)))
    made = Survey([drive(n, states) for n in range(drives)], [], "ioctl")
    return View("2026-11-25 22:00:00", 2.0, False, made, names, fenced)


def record(host: str) -> Record:
    when = "2026-11-25T22:00:00Z"
    return Record(host, simulated=False, since=when, fenced_at=when, confirmed=True)


def text(shown: View, width: int, height: int, marks: dict[str, str] = ASCII) -> list[str]:
    return ["".join(piece for piece, _ in line) for line in draw(shown, width, height, marks)]


@given(
    st.integers(0, 40), st.integers(0, 60), st.integers(1, 250), st.integers(1, 80),
    st.dictionaries(st.integers(0, 59), st.sampled_from(State), max_size=5),
)  # fmt: skip
def test_no_picture_is_larger_than_the_terminal(
    drives: int, hosts: int, width: int, height: int, odd: dict[int, State]
) -> None:
    shown = text(view(drives, hosts, odd), width, height)
    assert len(shown) <= height
    assert all(len(line) <= width for line in shown)


def test_in_words_where_there_is_room() -> None:
    shown = text(view(2, 3, {1: State.NONE, 2: State.UNKNOWN}), 80, 24)
    assert shown[2:5] == [
        "drive   namespaces  c0        c1    c2         ",
        "S00000  2           attached  none  no answer  ",
        "S00001  2           attached  none  no answer  ",
    ]
    assert f"S00000: {SILENT}" in shown


def test_in_marks_where_there_is_less() -> None:
    shown = text(view(18, 16, {1: State.NONE, 2: State.UNKNOWN}), 80, 24)
    assert shown[2] == "each drive: # attached + partly . none x no answer ? unknown ! RETURNED"
    assert shown[3:6] == [
        f"c0   18 attached   {'#' * 18}",
        f"c1   18 none       {'.' * 18}",
        f"c2   18 no answer  {'x' * 18}",
    ]


def test_in_numbers_where_there_is_hardly_any() -> None:
    shown = text(view(18, 4, {1: State.NONE}), 24, 24)
    assert shown[2:6] == ["c0  18 attached", "c1  18 none", "c2  18 attached", "c3  18 attached"]


def test_of_many_hosts_those_are_shown_that_a_person_should_see() -> None:
    shown = text(view(4, 500, {7: State.NONE, 300: State.UNKNOWN, 411: State.PARTLY}, back=(499,)), 100, 12)
    hosts = [line.split()[0] for line in shown if line.startswith("c")]
    assert hosts[:4] == ["c499", "c300", "c411", "c7"]
    assert any(line.startswith("and 4") and "hosts more" in line for line in shown)
    assert any(line.startswith("RETURNED: c499 is attached again") for line in shown)


def test_what_has_no_room_is_counted() -> None:
    shown = text(view(30, 2, {0: State.UNKNOWN}), 80, 10)
    assert shown[-1].startswith("and ")
    assert "more lines" in shown[-1]


def test_nothing_that_a_drive_says_steers_the_terminal() -> None:
    made = view(1, 1)
    made.survey.drives[0].serial = "\x1b[2J\x9b"
    assert all(line.isprintable() for line in text(made, 80, 24))


def test_marks_differ_without_colour() -> None:
    for marks in (ASCII, UNICODE):
        assert len(set(marks.values())) == len(marks)
        assert all(len(mark) == 1 for mark in marks.values())
    assert "".join(ASCII.values()).isascii()


# Reading


def board_of(world: World) -> Board:
    site = Site(world.transport, world._found, simulated=False)
    hosts = list(world.hostmap.hosts.values())
    return Board(site, world.hostmap, hosts, world.there, world.workers.vigil, every_host=True)


def states(shown: View, host: str = "c1") -> list[str]:
    return [one.hosts[host].state.value for one in shown.survey.drives]


def test_only_identify_is_sent_and_each_look_reads_anew(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        shown = board_of(world)
        world.attach("c1")
        before = len(world.transport.log)
        assert states((await shown.look(2))[0]) == ["attached", "attached"]
        world.detach("c1", 0, 1)
        assert states((await shown.look(2))[0]) == ["partly", "attached"]
        sent = world.transport.log[before:]
        assert sent
        assert {one.command.opcode for one in sent} == {IDENTIFY}

    played(tmp_path, story)


def test_a_host_that_is_back_is_seen(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        shown = board_of(world)
        await world.fence("c1")
        seen, _ = await shown.look(2)
        assert ([one.words()[:17] for one in seen.fenced], seen.back) == (["c1: fenced since "], set())
        world.attach("c1", 1, 2)
        seen, _ = await shown.look(2)
        assert seen.back == {"c1"}

    played(tmp_path, story)


def test_a_drive_that_hangs_is_told_apart_and_left_alone_for_longer_each_time(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        shown, loop = board_of(world), asyncio.get_running_loop()
        await shown.look(2)
        world.fault(0, hang())
        looks, begun = [], loop.time()
        log = len(world.transport.log)
        while loop.time() < begun + 300:
            started = loop.time()
            seen, _ = await shown.look(2)
            assert loop.time() - started <= PATIENCE_S + 0.2
            looks.append(seen.survey.drives[0].problem)
            assert states(seen) == ["unknown", "attached"]
            await asyncio.sleep(1)
        assert all("no answer" in one for one in looks)
        assert any("it is asked again in" in one for one in looks)
        asked = [one.command.cdw10 & 0xFF for one in world.transport.log[log:] if one.path == "/dev/nvme0"]
        assert 4 < asked.count(0x01) < 12, "Identify Controller, with which a look at a drive begins"
        world.fault(0, None)
        await asyncio.sleep(LONGEST_S)
        assert states((await shown.look(2))[0]) == ["attached", "attached"]

    played(tmp_path, story)


def played(place: Path, story: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    with judged(place) as world:

        async def whole() -> None:
            world.start()
            try:
                for host in ("c1", "c2", "c3"):
                    for number in (0, 1):
                        for nsid in (1, 2):
                            world.attach(host, number, nsid)
                await story(world)
            finally:
                await world.stop()

        run(whole(), world.clock)

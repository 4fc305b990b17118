"""The short form of `make chaos`, for every run of the tests: each fault for a few rounds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.chaos import __main__ as program
from tests.chaos.catalogue import FAULTS
from tests.chaos.frame import Campaign, Fault, GaveWay, Rounds, try_fault
from tests.chaos.site import Broken, Site

SEED: Final = int(os.environ.get("CHAOS_SEED", "1"))
SHORT: Final = [fault for fault in FAULTS if fault.short]


@pytest.mark.parametrize("fault", SHORT, ids=[fault.name for fault in SHORT])
def test_nvmefence_does_not_give_way(fault: Fault) -> None:
    if why_not := fault.missing():
        pytest.skip(why_not)
    assert try_fault(fault, SEED, fault.short).rounds == fault.short


def made_up(play: Callable[[Campaign], Rounds]) -> Fault:
    return Fault("made-up", "something is done", "something holds", play, 1)


def test_a_failure_says_how_to_have_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    drawn: list[float] = []
    closed = []

    def play(given: Campaign) -> Rounds:
        try:
            while True:
                drawn.append(given.rng.random())
                assert drawn[-1] < 0.9, "it broke"
                yield
        finally:
            closed.append(given.path)

    with pytest.raises(GaveWay) as first:
        try_fault(made_up(play), 5, 10_000)
    rounds = len(drawn)
    assert f"python -m tests.chaos --seed 5 --only made-up --rounds {rounds}\n" in f"{first.value}\n"
    before, drawn[:] = drawn[:], []
    with pytest.raises(GaveWay):
        try_fault(made_up(play), 5, rounds)
    assert drawn == before
    assert len(closed) == 2
    assert not Path(closed[0]).exists()


def test_the_exit_code_says_whether_something_gave_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def good(_given: Campaign) -> Rounds:
        while True:
            yield

    def bad(_given: Campaign) -> Rounds:
        raise Broken("a lie")
        yield

    away = made_up(good)._replace(name="away", missing=lambda: "no such thing here")
    monkeypatch.setattr(program, "FAULTS", (made_up(good), away))
    assert program.main(["--seed", "3", "--rounds", "4"]) == 0
    told = capsys.readouterr().out
    assert "seed 3\n" in told
    assert "4 rounds" in told
    assert "left out here: no such thing here" in told
    monkeypatch.setattr(program, "FAULTS", (made_up(bad)._replace(name="bad"), made_up(good)))
    assert program.main(["--seed", "3", "--budget", "0.1"]) == 1
    told = capsys.readouterr().out
    assert "GAVE WAY: bad; again: python -m tests.chaos --seed 3 --only bad\n" in told
    assert "a lie" in told
    assert "something holds" in told, "the others are tried nevertheless"


def test_a_lie_is_noticed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    answer = '{"success": true, "action_performed": "off", "target_node": "c1"}'
    (site.answers / "r-1.json").write_text(answer)
    with pytest.raises(Broken, match="success, and c1 is attached"):
        site.look()
    (tmp_path / "other").mkdir()
    site = Site(tmp_path / "other")
    (site.answers / "r-1.json").write_text(answer.replace("true", "false"))
    with pytest.raises(Broken, match="before its audit line"):
        site.look()
    (site.answers / "r-2.json").write_text(answer[:20])
    with pytest.raises(Broken, match=r"a part of r-2.json|before its audit line"):
        site.look()

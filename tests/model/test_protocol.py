"""All states of the protocol, within bounds: the invariants hold in each, every run ends, each mutant is found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from tests.model import spin

pytestmark = pytest.mark.skipif(bool(spin.missing()), reason=spin.missing())
ALL: Final = ("CRASHES", "CUTS", "RESTORES", "KILLS", "STOPS", "REPLAYS", "FAULTS", "EXPIRES")


def bounds(requests: int, watchers: int, **faults: int) -> dict[str, int]:
    return {"REQUESTS": requests, "WATCHERS": watchers, **dict.fromkeys(ALL, 0), **faults}


SMALL: Final = {
    "one request, all faults": bounds(1, 1, **dict.fromkeys(ALL, 1)),
    "one request, two watchers": bounds(1, 2, CRASHES=1, RESTORES=1, STOPS=1, EXPIRES=1, FAULTS=1),
    "two requests, a restore": bounds(2, 1, RESTORES=1, STOPS=1),
    "two requests, a crash": bounds(2, 1, CRASHES=1, STOPS=1),
    "two requests, a power cut": bounds(2, 1, CUTS=1),
    "two requests, expiry and a bad drive": bounds(2, 1, EXPIRES=1, FAULTS=1),
}
BIG: Final = {
    "one request, all faults but one twice": bounds(1, 1, **dict.fromkeys(ALL, 2) | {"KILLS": 1}),
    "two requests, a restore, an agent killed, a bad drive": bounds(2, 1, RESTORES=1, STOPS=1, KILLS=1, FAULTS=1),
    "two requests, a crash and expiry": bounds(2, 1, CRASHES=1, STOPS=1, EXPIRES=1),
    "two requests, a power cut and a replay": bounds(2, 1, CUTS=1, REPLAYS=1),
    "two requests, a crash and a restore": bounds(2, 1, CRASHES=1, RESTORES=1, STOPS=1, FAULTS=1),
    "two requests, two watchers": bounds(2, 2, CRASHES=1),
    "three requests": bounds(3, 1),
}
BIG_WANTED: Final = os.environ.get("NVMEFENCE_MODEL") == "big"
NEEDED: Final = {
    "ANSWER_BEFORE_AUDIT": {},
    "ARCHIVE_NOT_LOOKED_FOR": {"RESTORES": 1, "REPLAYS": 1},
    "AUDIT_NOT_DURABLE": {},
    "EXPIRY_NOT_LOOKED_AT": {"CRASHES": 1, "RESTORES": 1, "EXPIRES": 1},
    "NOT_SETTLED_AT_START": {"CRASHES": 1, "CUTS": 1},
    "NO_HOST_LOCK": {"RESTORES": 1},
    "NO_READ_BACK": {"FAULTS": 1},
    "RECORD_AFTER_ANSWER": {},
    "REQUEST_REMOVED_FIRST": {"CRASHES": 1},
    "RESPONSES_ARCHIVED_LAST": {"RESTORES": 1, "KILLS": 1},
    "RESPONSE_NOT_DURABLE": {"CUTS": 1},
    "RESPONSE_NOT_LOOKED_FOR": {"RESTORES": 1, "REPLAYS": 1},
    "RESTORE_DOES_NOT_LOOK": {"CRASHES": 1, "RESTORES": 1, "STOPS": 1},
    "RESTORE_NOT_WAITED_FOR": {"CRASHES": 1, "RESTORES": 1},
    "TWO_WATCHERS": {"WATCHERS": 2},
    "UNANSWERED_NOT_WAITED_FOR": {"RESTORES": 1, "FAULTS": 1, "STOPS": 1},
    "UNLOCKED_BEFORE_THE_ANSWER": {"RESTORES": 1},
    "WITHDRAWAL_NOT_DURABLE": {"CUTS": 1, "RESTORES": 1, "STOPS": 1},
    "WITHDRAWAL_NOT_LOOKED_AT": {"CRASHES": 1, "RESTORES": 1, "STOPS": 1},
}
"""What must happen for a mutant to be found."""
EVERY: Final = SMALL | (BIG if BIG_WANTED else {})


@pytest.mark.parametrize("size", EVERY.values(), ids=EVERY.keys())
def test_the_invariants_hold_in_every_state(size: dict[str, int], tmp_path: Path) -> None:
    verdict = spin.check(tmp_path, size)
    print(f"{verdict.states} states, depth {verdict.depth}")
    assert verdict.errors == 0, verdict.words
    assert verdict.states > 1000


def test_every_run_ends(tmp_path: Path) -> None:
    """No cycle: so whatever is asked for is answered at the end, where the model looks for it."""
    verdict = spin.check(tmp_path, bounds(1, 1, CRASHES=1, RESTORES=1, FAULTS=1, STOPS=1), cycles=True)
    assert verdict.errors == 0, verdict.words
    assert verdict.states > 1000


@pytest.mark.parametrize("mutant", spin.mutants())
def test_a_mutant_is_found(mutant: str, tmp_path: Path) -> None:
    verdict = spin.check(tmp_path, bounds(1, 1) | NEEDED[mutant], mutant=mutant)
    print(verdict.words)
    assert verdict.errors == 1
    assert "assertion violated" in verdict.words

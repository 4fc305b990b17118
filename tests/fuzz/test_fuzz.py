"""The short form of the fuzzer, for every run of the tests. The long one: `python -m tests.fuzz`."""

from __future__ import annotations

import os
from typing import Final

import pytest

from tests.fuzz import runs
from tests.fuzz.storm import Storm

SEED: Final = int(os.environ.get("FUZZ_SEED", "1"))
FACTOR: Final = float(os.environ.get("FUZZ_FACTOR", "1"))
"""How much more is to be done than usual."""
NUMBERS: Final = {
    "requests": 80_000,
    "responses": 50_000,
    "host-maps": 4000,
    "settings": 2500,
    "fleets": 2000,
    "request-files": 60,
    "response-files": 60,
    "audit-files": 40,
}
"""Texts, or directories of some dozens each: some 25 seconds."""
_WRITTEN: Final = {
    "plain: valid", "plain: refused", "value: refused", "key: refused", "dropped: valid", "dropped: refused",
    "doubled: refused", "broken: refused", "whole: refused", "half: refused", "mutant: refused",
}  # fmt: skip
"""Of what people write: host maps and the like."""
TOML: Final = ("host-maps", "settings", "fleets")
EXPECTED: Final = {
    "requests": {
        "broken: malformed", "half: malformed", "junk: malformed", "twice: malformed", "tail: malformed",
        "not an object: malformed", "refused: invalid", "missing: invalid", "late: expired", "stranger: taken",
        "mutant: malformed", "mutant: invalid", "mutant: taken",
    },
    "responses": {
        "broken: no success", "half: no success", "twice: no success", "unbelieved: no success",
        "missing: no success",
        "failure: no success", "success: success", "mutant: no success", "mutant: success",
    },
    "host-maps": _WRITTEN,
    "settings": _WRITTEN - {"plain: refused", "dropped: refused"},
    "fleets": _WRITTEN,
}  # fmt: skip
"""What must have been among the inputs, lest the fuzzer became blunt."""


@pytest.mark.parametrize("kind", [kind for kind in NUMBERS if kind not in TOML])
def test_whatever_a_file_holds_it_is_no_success_and_breaks_nothing(kind: str) -> None:
    _holds(kind)


def _holds(kind: str) -> None:
    done = runs.KINDS[kind](SEED, range(int(NUMBERS[kind] * FACTOR)), runs.quiet)
    assert done.inputs >= NUMBERS[kind] * FACTOR
    assert EXPECTED.get(kind, set()) <= set(done.ends)
    assert all(done.ends[end] > (20 if kind in TOML else 100) for end in EXPECTED.get(kind, ()))


@pytest.mark.parametrize("kind", list(TOML))
def test_whatever_a_map_or_settings_hold_they_are_valid_or_refused_in_a_line(kind: str) -> None:
    _holds(kind)


def test_a_watcher_serves_good_requests_in_a_storm_of_hostile_files() -> None:
    report = Storm(SEED, int(2000 * FACTOR)).hold()
    assert report.files > 1900 * FACTOR
    assert len(report.waits) >= 5

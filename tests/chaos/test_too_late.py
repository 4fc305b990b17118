"""A host that was cut is not called fenced once nobody waits for that any more: it may have been readmitted.

The disk under the audit, or under the responses, takes its time between the cut and the word that it was made.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import shim
from tests.chaos.site import FALLBACK
from tests.chaos.spool import Apart

pytestmark = pytest.mark.skipif(bool(shim.missing()), reason=shim.missing())


@pytest.mark.parametrize("where", ["audit", "answers"])
def test_success_is_not_said_after_the_time_of_its_request(tmp_path: Path, where: str) -> None:
    site = Apart(tmp_path)
    control = site.shimmed()
    control.within(getattr(site, where))
    with site.watcher() as running:
        site.served("c2")
        for timeout in (0.8, 3.0, 12.0):  # a busy machine may not come to the cut within the first
            control.hang(timeout + 0.2, kinds=shim.SYNC)
            response = site.ask(name := site.fresh(), timeout_s=timeout)
            answer = site.answer(response)
            site.removed(name)
            if "Nothing was done" not in answer["message"]:
                break
        assert (answer["success"], answer["status"]) == (False, "error")
        assert answer["message"].startswith("SIMULATED: NOT fenced c1: it was cut, but the request's time was over")
        assert answer["evidence"] == {}
        running.hears("the request's time was over")
    assert site.holders("c1") == 0
    results = [line["result"] for line in site.audited() if line.get("file") == name]
    assert results == ["fenced", "expired"]
    assert not (site.answers / FALLBACK).exists()

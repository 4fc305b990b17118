"""Whatever a response and the logs hold: bars stay within the whole, the way has no gaps, the picture is XML."""

from __future__ import annotations

import io
import json
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nvmefence.cli import timeline
from nvmefence.cli.text import Screen
from nvmefence.spool import response as responses
from nvmefence.spool.errors import SpoolError
from nvmefence.timeline import made, parts, svg
from nvmefence.timeline.bars import PHASES
from tests.unit.test_timeline import AFTER, AGENT, BEFORE, document, event, holds

TEXTS = st.text(max_size=20)
TIMES = (
    st.floats(0, 101)
    | st.floats(99.99, 100.1)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.integers(-(10**30), 10**30)
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | TIMES | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PHASE = st.sampled_from([*PHASES, "done", "more"]) | TEXTS
SECONDS = st.floats(0, 0.04) | TIMES
DRIVES = st.fixed_dictionaries(
    {"serial": TEXTS | ANYTHING},
    optional={
        "steps": st.lists(st.tuples(PHASE, SECONDS), max_size=8)
        | st.lists(SECONDS, max_size=8).map(lambda found: [["cut", one] for one in sorted(found, key=str)])
        | ANYTHING,
        "seconds": st.dictionaries(PHASE, SECONDS | ANYTHING, max_size=6) | ANYTHING,
    },
)


def changed(told: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Times as they are told, some of them other ones, or missing, or something else in their place."""
    changes = st.dictionaries(st.sampled_from(sorted(told)), TIMES | ANYTHING, max_size=6)
    missing = st.sets(st.sampled_from(sorted(told)), max_size=4)
    some = st.tuples(changes, missing).map(
        lambda both: {key: value for key, value in (told | both[0]).items() if key not in both[1]}
    )
    return some | ANYTHING


@settings(max_examples=100, deadline=None)
@example(before=None, after=AFTER, agent=AGENT, drives=[], took=5e-324, statement="")
@given(
    before=st.just(BEFORE) | changed(BEFORE),
    after=changed(AFTER),
    agent=changed(AGENT),
    drives=st.lists(DRIVES, max_size=5) | ANYTHING,
    took=SECONDS,
    statement=TEXTS,
)
def test_bars_stay_within_the_whole_and_the_picture_is_xml(
    before: Any, after: Any, agent: Any, drives: Any, took: Any, statement: str
) -> None:
    found = document(before, evidence={"drives": drives, "seconds": took})
    try:
        answer = responses.parse(json.dumps(found).encode())
    except SpoolError:  # NaN and the like are no JSON: explain refuses the file
        answer = responses.Response(
            request_id="id-1", success=True, action_performed="off", target_node="c1", message="", timestamp="",
            evidence=found["evidence"], timeline=before,
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / parts.LOG).write_text(event(after) + event(agent))
        one = made.make(answer, parts.of(answer, folder))
    holds(one)
    json.dumps(one.to_json(), allow_nan=False)
    out = io.StringIO()
    timeline.show(one, statement, Screen(out, io.StringIO()), every=True)
    assert all(c.isprintable() for c in out.getvalue().replace("\n", ""))
    ET.fromstring(svg.draw(one, statement, statement).encode())

"""JSON from outside is one strict object, or Malformed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvmefence.spool import json_strict
from nvmefence.spool.errors import Malformed
from nvmefence.spool.names import quoted

BAD: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "half": b'{"request_id": "550e84',
    "list": b"[]",
    "text": b'"x"',
    "number": b"1",
    "null": b"null",
    "two objects": b"{}{}",
    "trailing": b"{} x",
    "duplicate": b'{"success": false, "success": true}',
    "duplicate by escape": b'{"success": false, "\\u0073uccess": true}',
    "duplicate inside": b'{"a": [{"b": 1, "b": 1}]}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "-Infinity": b'{"a": -Infinity}',
    "overflow": b'{"a": 1e999}',
    "many digits": b'{"a": ' + b"9" * 5000 + b"}",
    "deep lists": b'{"a":' + b"[" * 30000 + b"]" * 30000 + b"}",
    "deep objects": b'{"a":' * 9000 + b"1" + b"}" * 9000,
    "open lists": b"[" * 65536,
    "depth 33": b'{"a":' + b"[" * 32 + b"]" * 32 + b"}",
    "NUL": b'{"a": "\0"}',
    "NUL after": b"{}\0",
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "bad UTF-8": b'{"a": "\xff"}',
    "overlong": b'{"a": "\xc0\xaf"}',
    "surrogate": b'{"a": "\\ud800"}',
    "surrogate key": b'{"\\ud800": 1}',
    "single quotes": b"{'a': 1}",
    "comment": b"{} // x",
    "odd escape": b'{"a": "\\x1b"}',
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_one_strict_object_is_malformed(name: str) -> None:
    with pytest.raises(Malformed) as caught:
        json_strict.parse(BAD[name])
    assert caught.value.reason.isascii()
    assert caught.value.reason.isprintable()


@pytest.mark.parametrize(
    "document",
    [{}, {"a": {"b": [1, 2.5, None, True, "é\u2028"]}}, {"a": "\U0001f600"}, {"": ""}, {"a": "\0\x1b[31m"}],
)  # fmt: skip
def test_a_good_object_is_returned(document: dict[str, object]) -> None:
    assert json_strict.parse(json.dumps(document).encode()) == document
    assert json_strict.parse(json.dumps(document, ensure_ascii=False).encode()) == document
    assert json_strict.parse(json_strict.encode(document)) == document


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text("abc\n"), inner), max_leaves=9
)


@given(st.dictionaries(st.text("abc\n"), VALUES), st.text(" \t\n\r"), st.sampled_from([None, 1]), st.booleans())
def test_objects_are_read_as_json_itself_reads_them(
    document: dict[str, object], blank: str, indent: int | None, plain: bool
) -> None:
    text = blank + json.dumps(document, indent=indent, ensure_ascii=plain) + blank
    assert json_strict.parse(text.encode()) == json.loads(text)


WITHOUT_JSON = """
import sys
sys.path.append(sys.argv[1])
from nvmefence.spool import json_strict
from nvmefence.spool.errors import Malformed

assert json_strict.parse(b' {"a": [1, 2.5, null, true, "\\u00e9"]}\\r\\n') == {"a": [1, 2.5, None, True, "\\xe9"]}
print("json" in sys.modules)
for line in sys.stdin:
    try:
        json_strict.parse(bytes.fromhex(line))
    except Malformed as error:
        print(error.reason)
"""


def test_nothing_changes_where_json_is_not_imported() -> None:
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", WITHOUT_JSON, str(Path(__file__).parents[2])],
        input="\n".join(data.hex() for data in BAD.values()),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    reasons = []
    for data in BAD.values():
        with pytest.raises(Malformed) as caught:
            json_strict.parse(data)
        reasons.append(caught.value.reason)
    assert run.stdout.splitlines() == ["False", *reasons]


def test_another_scanner_than_expected_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_strict, "_scanner", None)
    assert json_strict.parse(b'{"a": 1}') == {"a": 1}
    with pytest.raises(Malformed):
        json_strict.parse(b'{"a": 1')


def test_the_depth_limit_is_not_one_too_low() -> None:
    text = b'{"a":' + b"[" * (json_strict.MAX_DEPTH - 1) + b"]" * (json_strict.MAX_DEPTH - 1) + b"}"
    assert "a" in json_strict.parse(text)


def test_a_stack_that_is_nearly_full_does_not_matter() -> None:
    def parse_at(depth: int) -> None:
        if depth:
            parse_at(depth - 1)
        else:
            with pytest.raises(Malformed):
                json_strict.parse(b'{"a":' + b"[" * 600 + b"]" * 600 + b"}")

    parse_at(sys.getrecursionlimit() - 400)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_json_is_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_strict.encode({"a": number})


def test_what_is_written_is_one_line_of_ascii() -> None:
    data = json_strict.encode({"a": "\n\x1b\u202eé"})
    assert data.isascii()
    assert data.count(b"\n") == 1
    assert b"\x1b" not in data


def test_anything_is_quoted_in_short_and_printable() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    for value in ("\x1b[31m\n\0\u202e\ud800", "x" * 70_000, nested, 10**5000, None, True, {"a": "\n"}):
        shown = quoted(value)
        assert shown.isascii()
        assert shown.isprintable()
        assert len(shown) < 1100

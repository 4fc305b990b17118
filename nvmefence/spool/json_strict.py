"""JSON without its traps: one object, UTF-8, no key twice, no NaN, no depth that hurts.

A text that is well formed is read by the C scanner under the module `json`, set up as `json` does it, but without
importing `json`: that brings in regular expressions and costs an agent almost as much as the interpreter's start.
What the scanner alone does not read is for `json` itself, which can also say what is wrong.
"""

from __future__ import annotations

from nvmefence.spool.errors import Malformed
from nvmefence.spool.names import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

MAX_DEPTH: Final = 32
_BLANK: Final = " \t\n\r"
"""What JSON allows around a value."""


def parse(data: bytes) -> dict[str, Any]:
    """Return the one object in a text. The caller bounds its size. Raises Malformed, and nothing else."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8 at byte {error.start}") from None
    try:
        document = _scanned(text)
    except _Unscanned:
        document = _loaded(text)
    if not isinstance(document, dict):
        raise Malformed(f"a JSON object is needed, not {quoted(document, 20)}")
    _check_inside(document)
    return document


def encode(document: Mapping[str, Any]) -> bytes:
    """Return an object as one line of ASCII. Raises ValueError for NaN and infinity."""
    import json

    return json.dumps(document, allow_nan=False, separators=(", ", ": ")).encode("ascii") + b"\n"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen = set()
        for key, _value in pairs:
            if key in seen:
                raise Malformed(f"the key {quoted(key)} is there twice")
            seen.add(key)
    return made


def _no_constant(word: str) -> Any:
    raise Malformed(f"{word} is not a JSON value")


def _finite_number(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise Malformed("a number is too large")
    return number


class _Unscanned(Exception):
    """The scanner alone does not get the document out of the text."""


class _Rules:
    """What the scanner looks up in a `json.JSONDecoder`."""

    strict = True
    object_hook = None
    parse_int = int
    object_pairs_hook = staticmethod(_object)
    parse_constant = staticmethod(_no_constant)
    parse_float = staticmethod(_finite_number)


def _make_scanner() -> Any:
    """Return the scanner, or None on an interpreter that has another."""
    try:
        import _json

        make: Any = _json.make_scanner
        return make(_Rules)
    except (ImportError, AttributeError, TypeError):
        return None


_scanner: Final = _make_scanner()


def _scanned(text: str) -> Any:
    """Return the value that is all of the text. Raises _Unscanned, and Malformed for what the rules forbid."""
    begin = len(text) - len(text.lstrip(_BLANK))
    try:
        document, end = _scanner(text, begin)
    except Malformed:
        raise
    except Exception:
        # StopIteration or JSONDecodeError, in whose place CPython 3.11 raises SystemError unless json.decoder is
        # imported; TypeError where there is no scanner.
        raise _Unscanned from None
    if text[end:].strip(_BLANK):
        raise _Unscanned
    return document


def _loaded(text: str) -> Any:
    """Return the value that is all of the text. Raises Malformed."""
    import json

    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite_number)
    except json.JSONDecodeError as error:
        raise Malformed(f"not JSON: {ascii(error.msg)[1:-1]} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise Malformed("nested too deeply") from None
    except ValueError:
        raise Malformed("a number has too many digits") from None


def _check_inside(document: dict[str, Any]) -> None:
    """Raise Malformed for depth, and for halves of surrogate pairs, which no encoder would write again."""
    level: list[Any] = [document]
    for _depth in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, str) and not value.isascii():
                _check_text(value)
        if not below:
            return
        level = below
    raise Malformed(f"nested more than {MAX_DEPTH} levels deep")


def _check_text(value: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise Malformed("a text holds half a surrogate pair") from None

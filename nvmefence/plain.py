"""Text from outside, made harmless: for a line, and as JSON."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Value = str | int | float | Sequence[str]


def escaped(text: str) -> str:
    """Return `text` with everything that a terminal or a log could take for more than text written as escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def json_fields(fields: Mapping[str, Value | Mapping[str, Value]]) -> list[str]:
    """Return each field of a JSON object as `"name": value` in ASCII: texts, finite numbers, lists of texts, and
    objects of such.

    For an agent, which has no time to import `json`. What is no character (a byte of a name that was not UTF-8)
    becomes a question mark, for no strict reader would believe the rest of the object otherwise.
    """
    return [f"{_quoted(name)}: {_value(value)}" for name, value in fields.items()]


def _value(value: Value | Mapping[str, Value]) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        return f"{{{', '.join(json_fields(value))}}}"
    return repr(value) if isinstance(value, int | float) else f"[{', '.join(map(_quoted, value))}]"


def _quoted(text: str) -> str:
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else _units(c) for c in text) + '"'


def _units(character: str) -> str:
    digits = character.encode("utf-16-be", "replace").hex()
    return "".join(f"\\u{digits[n : n + 4]}" for n in range(0, len(digits), 4))


def counted(number: int, noun: str) -> str:
    """Return a number with what it counts: 1 drive, 2 drives."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

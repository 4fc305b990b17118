"""Text from outside, made harmless."""

from __future__ import annotations


def escaped(text: str) -> str:
    """Return `text` with everything that a terminal or a log could take for more than text written as escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )

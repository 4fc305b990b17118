"""Requests and responses broken on purpose, each with the fate that it must meet. Cheap: some 10 us for one."""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from tests.fuzz.tokens import BROKEN, EARLY, LATE, OTHERS, REFUSED, TEXTS, UNBELIEVED

VICTIM: Final = "c2"
"""A host that is in the map and that no request may ever cut: what names it is broken for certain."""
ID: Final = "550e8400"
NODE: Final = "n1"
"""What the responses are for."""
Pairs = list[tuple[bytes, bytes]]
"""The members of an object, as they stand in the text."""

_SPACE: Final = (b"", b" ", b"\n", b"\t", b"\r\n  ")
_TOKENS: Final = (
    b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\0", b"\x1b", b"\xff", b"\xc2", b"\xe2\x80\xae", b"\\u0000",
    b"\\ud800", b"null", b"true", b"false", b"1e999", b"NaN", b"-", b"9", b"\n", b"\xef\xbb\xbf",
    b'"success": true, ',
    b'"action": "off", ', b'"status": "success", ',
)  # fmt: skip
_VALUES: Final = TEXTS + OTHERS
_LONG: Final = b'"' + b"\\udb40\\udc01" * 5000 + b'"'


class Fate(enum.Enum):
    """What must become of a text."""

    GOOD = "good"
    MALFORMED = "malformed"
    """No JSON, or one that nobody may believe."""
    INVALID = "invalid"
    """JSON that breaks the contract: of a response, whatever is not this fence's success."""
    EXPIRED = "expired"
    STRANGER = "stranger"
    """A good request, for a host that nobody has."""
    ANY = "any"
    """Bytes were changed at random."""


class Text(NamedTuple):
    """One text."""

    label: str
    data: bytes
    fate: Fate


class Requests:
    """Makes requests. `now` is the time that they are dated, in seconds since 1970."""

    def __init__(self, rng: random.Random, now: float) -> None:
        self._rng = rng
        self._now = now
        self._ways: tuple[Callable[[], Text], ...] = (
            self.half, self.broken, self.broken, self.twice, self.junk, self.not_an_object, self.tail, self.refused,
            self.refused, self.refused, self.missing, self.late, self.late,
            self.stranger, self.stranger, self.mutant, self.mutant, self.mutant, self.mutant,
        )  # fmt: skip

    def any(self) -> Text:
        """Return a hostile one."""
        return self._rng.choice(self._ways)()

    def good(self, node: str, request_id: str, timeout_s: float = 60) -> Text:
        """Return one that is to be served."""
        return Text("good", self._render(self._pairs(node, request_id, timeout_s)), Fate.GOOD)

    def half(self) -> Text:
        """As a reader sees one that is not written to its end."""
        data = self._render(self._pairs()).rstrip()
        return Text("half", data[: self._rng.randrange(len(data))], Fate.MALFORMED)

    def broken(self) -> Text:
        """With a trap somewhere."""
        rng = self._rng
        pairs = self._pairs()
        token = rng.choice(BROKEN)
        if rng.random() < 0.5:
            pairs.insert(rng.randint(0, len(pairs)), (b'"x"', token))
        else:
            at = rng.randrange(len(pairs))
            pairs[at] = (pairs[at][0], token)
        return Text("broken", self._render(pairs), Fate.MALFORMED)

    def twice(self) -> Text:
        """With a key twice, the second time with the same value, a worse or a better one."""
        rng = self._rng
        pairs = self._pairs()
        key, value = rng.choice(pairs)
        new = rng.choice((value, rng.choice(TEXTS), rng.choice(OTHERS)))
        pairs.insert(rng.randint(0, len(pairs)), (_spelled(rng, key), new))
        return Text("twice", self._render(pairs), Fate.MALFORMED)

    def junk(self) -> Text:
        """Bytes."""
        rng = self._rng
        kind = rng.randrange(4)
        if kind == 0:
            data = rng.randbytes(rng.randint(0, 300))
        elif kind == 1:
            data = b"\0" * rng.randint(0, 5000)
        elif kind == 2:
            data = b"\xff\xfe" + self._render(self._pairs()).decode().encode("utf-16-le")
        else:
            data = rng.choice((b"\xef\xbb\xbf", b"\0", b"\x1b[2J", b"<")) + self._render(self._pairs())
        return Text("junk", data, Fate.MALFORMED)

    def not_an_object(self) -> Text:
        """JSON, and not one object."""
        rng = self._rng
        whole = self._render(self._pairs())
        token = rng.choice(TEXTS + tuple(value for value in OTHERS if not value.startswith(b"{")))
        data = rng.choice((token, b"[" + whole + b"]", whole + whole, whole + b"x", whole + b"\0", whole + b","))
        return Text("not an object", data, Fate.MALFORMED)

    def tail(self) -> Text:
        """Without its beginning."""
        data = self._render(self._pairs()).strip()
        at = self._rng.randint(1, len(data) - 1)
        return Text("tail", data[at:], Fate.MALFORMED)

    def oversized(self) -> Text:
        """A good one of more bytes than a request may have; as a text alone it is only long."""
        pad = b'"' + b"x" * (65_537 + self._rng.choice((0, 1, 4096))) + b'"'
        return Text("oversized", self._render([*self._pairs(), (b'"pad"', pad)]), Fate.GOOD)

    def heavy(self) -> Text:
        """Almost as large as may be, and much larger when read: for nobody, or too late."""
        rng = self._rng
        key = rng.choice((b'"pad"', b'"gfs2_filesystems"'))
        item = rng.choice((b'"x"', b'"\\u001b"', b'"' + b"y" * 999 + b'"'))
        value = b"[" + b",".join([item] * (60_000 // (len(item) + 1))) + b"]"
        pairs = [pair for pair in self._strange() if pair[0] != key]
        return Text("heavy", self._render([*pairs, (key, value)]), Fate.STRANGER)

    def refused(self) -> Text:
        """With a value that its field must not have."""
        rng = self._rng
        key = rng.choice(tuple(REFUSED))
        return self._invalid("refused", _with(self._pairs(), key, rng.choice(REFUSED[key])))

    def missing(self) -> Text:
        """Without what is required."""
        key = self._rng.choice((b'"request_id"', b'"action"', b'"target_node"'))
        return self._invalid("missing", [pair for pair in self._pairs() if pair[0] != key])

    def _invalid(self, label: str, pairs: Pairs) -> Text:
        self._decorate(pairs)
        return Text(label, self._render(pairs), Fate.INVALID)

    def late(self) -> Text:
        """Good once."""
        rng = self._rng
        ago = rng.choice((301.0, 400.0, 3e4, 3e8)) + rng.random() * 10
        stamp = rng.choice(LATE) if rng.random() < 0.4 else rfc3339(self._now - ago)
        pairs = _with(self._pairs(), b"timestamp", stamp)
        self._decorate(pairs)
        return Text("late", self._render(pairs), Fate.EXPIRED)

    def stranger(self) -> Text:
        """A good one with every text hostile that is free to be so, for a host that is not in the map."""
        pairs = self._strange()
        if self._rng.random() < 0.2:
            pairs = _with(pairs, b"timestamp", self._rng.choice(EARLY))
        self._decorate(pairs)
        return Text("stranger", self._render(pairs), Fate.STRANGER)

    def mutant(self) -> Text:
        """A good one for nobody, its bytes changed at random."""
        return Text("mutant", mutated(self._rng, self._render(self._strange())), Fate.ANY)

    def _strange(self) -> Pairs:
        rng = self._rng
        node = rng.choice(("stranger", "s-9", "x" * 253, "_", "other.example.org", "0"))
        return self._pairs(node, f"s-{rng.randrange(10**9)}", rng.choice((60, 0.5, 86400, 1e-9)))

    def _decorate(self, pairs: Pairs) -> None:
        """Put hostile texts where the contract allows any."""
        rng = self._rng
        for _ in range(rng.randint(0, 3)):
            token = rng.choice(TEXTS)
            kind = rng.randrange(4)
            keys = [pair[0] for pair in pairs]
            if kind == 0 and (b'"recorder_node"', b'"r1"') in pairs:
                pairs[:] = _with(pairs, b"recorder_node", token)
            elif kind == 1 and (b'"gfs2_filesystems"', b'["a", "b"]') in pairs:
                pairs[:] = _with(pairs, b"gfs2_filesystems", b"[" + token + b", " + rng.choice(TEXTS) + b"]")
            elif kind == 2 and token not in keys:
                pairs.append((token, rng.choice(OTHERS)))
            elif b'"unknown"' not in keys:
                depth = rng.randint(1, 29)
                pairs.append((b'"unknown"', b"[" * depth + token + b"]" * depth))
        rng.shuffle(pairs)

    def _pairs(self, node: str = VICTIM, request_id: str = "", timeout_s: float = 60) -> Pairs:
        rng = self._rng
        return [
            (b'"request_id"', f'"{request_id or f"h-{rng.randrange(10**9)}"}"'.encode()),
            (b'"timestamp"', rfc3339(self._now)),
            (b'"action"', rng.choice((b'"off"', b'"reboot"'))),
            (b'"target_node"', f'"{node}"'.encode()),
            (b'"gfs2_filesystems"', b'["a", "b"]'),
            (b'"recorder_node"', b'"r1"'),
            (b'"timeout_s"', f"{timeout_s:g}".encode()),
        ]

    def _render(self, pairs: Pairs) -> bytes:
        return rendered(self._rng, pairs)


class Responses:
    """Makes responses, for the request `ID` to fence `NODE`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ways: tuple[Callable[[], Text], ...] = (
            self.half, self.broken, self.broken, self.twice, self.unbelieved, self.unbelieved, self.unbelieved,
            self.missing, self.failure, self.success, self.mutant, self.mutant, self.mutant, self.mutant,
        )  # fmt: skip

    def any(self) -> Text:
        """Return one, hostile but for those with the fate GOOD."""
        return self._rng.choice(self._ways)()

    def success(self) -> Text:
        """A true one, its texts and its evidence hostile."""
        pairs = self._pairs()
        self._decorate(pairs)
        return Text("success", self._render(pairs), Fate.GOOD)

    def half(self) -> Text:
        """As a reader sees one that is not written to its end."""
        data = self._render(self._pairs()).rstrip()
        return Text("half", data[: self._rng.randrange(len(data))], Fate.MALFORMED)

    def broken(self) -> Text:
        """With a trap somewhere."""
        rng = self._rng
        pairs = self._pairs()
        pairs.insert(rng.randint(0, len(pairs)), (b'"x"', rng.choice(BROKEN)))
        return Text("broken", self._render(pairs), Fate.MALFORMED)

    def twice(self) -> Text:
        """With a key twice: the true value first, or last."""
        rng = self._rng
        pairs = self._pairs()
        key, value = rng.choice(pairs)
        name = key.strip(b'"')
        worse = rng.choice(UNBELIEVED[name]) if name in UNBELIEVED else rng.choice(TEXTS)
        pairs.insert(rng.randint(0, len(pairs)), (_spelled(rng, key), rng.choice((value, worse))))
        return Text("twice", self._render(pairs), Fate.MALFORMED)

    def unbelieved(self) -> Text:
        """With a value that is no success of this fence."""
        rng = self._rng
        key = rng.choice(tuple(UNBELIEVED))
        pairs = _with(self._pairs(), key, rng.choice(UNBELIEVED[key]))
        self._decorate(pairs)
        return Text("unbelieved", self._render(pairs), Fate.INVALID)

    def missing(self) -> Text:
        """Without what makes it a success of this fence."""
        key = self._rng.choice((b'"request_id"', b'"success"', b'"target_node"'))
        return Text("missing", self._render([p for p in self._pairs() if p[0] != key]), Fate.INVALID)

    def failure(self) -> Text:
        """A true failure, its texts hostile."""
        pairs = _with(_with(self._pairs(), b"success", b"false"), b"status", b'"error"')
        self._decorate(pairs)
        if self._rng.random() < 0.02:
            pairs = _with(pairs, self._rng.choice((b"message", b"request_id")), _LONG)
        return Text("failure", self._render(pairs), Fate.INVALID)

    def mutant(self) -> Text:
        """A success, its bytes changed at random."""
        return Text("mutant", mutated(self._rng, self._render(self._pairs())), Fate.ANY)

    def _decorate(self, pairs: Pairs) -> None:
        rng = self._rng
        for key in (b"message", b"timestamp", b"recorder_node", b"action_performed", b"action"):
            if rng.random() < 0.3 and (b'"%s"' % key, _TRUE[key]) in pairs:
                pairs[:] = _with(pairs, key, rng.choice(TEXTS))
        if rng.random() < 0.5:
            pairs[:] = _with(pairs, b"evidence", self._evidence())
        rng.shuffle(pairs)

    def _evidence(self) -> bytes:
        """Evidence in the product's form, with whatever values."""
        rng = self._rng

        def value(good: bytes) -> bytes:
            return rng.choice((good, good, good, rng.choice(TEXTS), rng.choice(OTHERS)))

        host = rng.choice((b'"n1"', b'"n1"', rng.choice(TEXTS)))
        mine = b'{"outcome": %s, "controllers": %s, "detached": %s, "quiesced": %s, "reason": %s}' % (
            value(b'"cut"'), value(b"[2, 3]"), value(b'{"1": [2]}'), value(b"true"), value(b'""'),
        )  # fmt: skip
        sent = b'[{"nsid": %s, "status": %s, "status_text": %s, "controllers": %s}]' % (
            value(b"1"), value(b"0"), value(b'"ok"'), value(b"[2]"),
        )  # fmt: skip
        drive = (
            b'{"serial": %s, "model": %s, "device": %s, "own_controller": %s, "namespaces": %s, "found": %s, '
            b'"read_back": %s, "quiesce": %s, "advice": %s, "seconds": {"cut": %s}, "hosts": {%s: %s}, "sent": %s}'
        ) % (
            value(b'"S1"'), value(b'"M"'), value(b'"/dev/nvme0"'), value(b"1"), value(b"4"), value(b'{"1": [2]}'),
            value(b"{}"), value(b'"none"'), value(b'""'), value(b"0.1"), host, value(mine), value(sent),
        )  # fmt: skip
        whole = b'{"host": %s, "confirmed": %s, "simulated": %s, "missing": %s, "started_at": %s, "drives": [%s]}'
        return whole % (host, value(b"true"), value(b"false"), value(b"[]"), value(b'"t"'), value(drive))

    def _pairs(self) -> Pairs:
        return [(b'"%s"' % key, value) for key, value in _TRUE.items()]

    def _render(self, pairs: Pairs) -> bytes:
        return rendered(self._rng, pairs)


_TRUE: Final[dict[bytes, bytes]] = {
    b"request_id": b'"550e8400"',
    b"success": b"true",
    b"action_performed": b'"off"',
    b"target_node": b'"n1"',
    b"message": b'"Fenced n1"',
    b"timestamp": b'"2027-01-15T08:00:00Z"',
    b"action": b'"off"',
    b"recorder_node": b'"r1"',
    b"status": b'"success"',
    b"evidence": b"{}",
}


def rfc3339(moment: float) -> bytes:
    """Return a JSON text: seconds since 1970 in UTC."""
    return time.strftime('"%Y-%m-%dT%H:%M:%SZ"', time.gmtime(moment)).encode()


def rendered(rng: random.Random, pairs: Pairs) -> bytes:
    """Return an object's text, spaced as some writer would."""
    between, after = b"," + rng.choice(_SPACE), b":" + rng.choice(_SPACE)
    return b"{" + between.join([key + after + value for key, value in pairs]) + b"}" + rng.choice(_SPACE)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return bytes after one to four changes."""
    text = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(text))
        end = min(len(text), at + rng.choice((1, 1, 2, 5, 40)))
        kind = rng.randrange(7)
        if kind == 0 and at < len(text):
            text[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(text):
            text[at] = rng.randrange(256)
        elif kind == 2:
            text[at:at] = rng.choice(_TOKENS)
        elif kind == 3:
            del text[at:end]
        elif kind == 4:
            text[at:at] = text[at:end]
        elif kind == 5:
            text[at:end] = rng.choice(_VALUES)
        else:
            del text[at:]
    return bytes(text)


def _with(pairs: Pairs, key: bytes, value: bytes) -> Pairs:
    name = b'"%s"' % key
    return [(name, value) if pair[0] == name else pair for pair in pairs]


def _spelled(rng: random.Random, key: bytes) -> bytes:
    """Return a key, spelled as before or with an escape for its first letter."""
    return key if rng.random() < 0.7 else b'"\\u%04x%s' % (key[1], key[2:])

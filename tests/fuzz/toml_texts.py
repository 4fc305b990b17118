"""Host maps, settings files and fleet files, most of them broken on purpose. Some 40 us for one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from tests.fuzz.texts import Fate, Text, mutated

OTHERS: Final[tuple[bytes, ...]] = (
    b"true", b"false", b"0", b"-0", b"+1", b"2", b"-1", b"1_000", b"0x7fff", b"0o17", b"0b1", b"65535", b"65536",
    b"4294967296", b"9223372036854775807", b"-9223372036854775808", b"1.5", b"-0.0", b"1e308", b"5e-324", b"nan",
    b"-nan", b"inf", b"-inf", b"1e999", b"''", b'""', b"' '", b"'''\nx'''", b"[]", b"{}", b"[[]]", b"[{}]",
    b"[nan]",
    b"[true]", b"[1, 'a', 1.5]", b"{a = 1}", b"{'' = ''}", b"1979-05-27T07:32:00Z", b"1979-05-27", b"07:32:00",
    b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59-23:59", b"[1979-05-27]", b'"/"', b'"/a/../b"',
    b'"relative"',
    b'"\\u0000"', b'"/a\\u0000"', b'"\\u001b[2J\\u001b[31m"', b'"a\\nforged = 1"', b'"\\u202e\\u2066\\u200b"',
    b'"\\u2028\\u0085"', '"\x9b31m"'.encode(), '"\U000e0001\U0001f4a9"'.encode(), '"\u0661"'.encode(),
    b'"%s%n {0} $(reboot)"', b'"[z-a"', b'"*"', b"['*', '[', '?']", b'"' + b"A" * 5000 + b'"',
    b"'" + b"*" * 300 + b"'",
    b"[" + b"1, " * 2000 + b"]", b'"wait:' + b"9" * 400 + b'"', b'"auto:' + b"9" * 400 + b'"', b'"wait:1e9"',
    '"wait:\u0661"'.encode(), b'"nan"', b'"inf"', b'"1e999"', b'"0x10"', b'"' + b"9" * 5000 + b'"',
)  # fmt: skip
"""Values, each good TOML."""

BROKEN: Final[tuple[bytes, ...]] = (
    b"9" * 10_000, b"-" + b"9" * 5000, b"0x" + b"f" * 10_000, b"[0x" + b"f" * 300 + b"]", b"9223372036854775808",
    b"0o" + b"7" * 6000, b"1e", b"_1", b"01", b"0x", b"1__0", b".5", b"1.", b"1979-13-01", b"1979-02-30",
    b"99:99:99", b"1979-05-27T00:00:00+99:99", b'"\\ud800"', b'"\\U00110000"', b'"\\q"', b'"\\u12"', b"'a\nb'",
    b"'\0'", b"'\x1b'", b"'\x7f'", b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xe2\x82"', b"nul", b"null",
    b"True",
    b"NaN", b"None", b"Infinity", b"", b"'", b'"', b'"""', b"[", b"]", b"{", b"[1,,2]", b"[1 2]", b"{a=1, a=2}",
    b"{a={b=1}, a.b=2}", b"1 1", b"1\r1", b"[" * 3000, b"[" * 3000 + b"]" * 3000, b"{a=" * 3000,
    b"{a=" * 3000 + b"1" + b"}" * 3000, b"[" * 20 + b"]" * 20, b"{a=[" * 9 + b"1" + b"]}" * 9, b"[" * 100_000,
)  # fmt: skip
"""What is no TOML, or TOML with a trap: not one of them may get through anywhere in a file."""

WHOLE: Final[tuple[bytes, ...]] = (
    b"x=" + b"[" * 3000, b"version = " + b"9" * 10_000, b"version = 0x" + b"f" * 10_000,
    b"[" + b"a." * 3000 + b"a]",
    b"a." * 3000 + b"a = 1", b"[[" + b"a." * 300 + b"a]]", b"\xef\xbb\xbf", b"\0", b"\xff\xfe", b"<html>", b"{}",
    b"[]", b"PK\x03\x04", b"\x7fELF", b"a" * 20_000, b"[[[[", b"a.b = 1\na = 1", b"[a]\n[a]", b"a = 1\n[a.b]",
    b"[[a]]\n[a]", b"'" + b"\\" * 9000, b'"' * 9000, b"#" * 9000 + b"\xff", b"version = 1\n" * 5000,
    b"a = [\n" * 2000, b"= 1", b"[]\n=", b"'' = 1", b"\xc2\x85 = 1", b"# \r[hosts.c1]",
)  # fmt: skip
"""Beginnings that nothing behind them makes good."""

_KEYS: Final[tuple[bytes, ...]] = (
    b"''", b'"\\u001b[2J"', b'"a\\nb"', b"'*'", b'"\\u202e"', '"\u00e4"'.encode(), b"x", b"versio", b"a.b.c",
    b"slot.x",
    b'"' + b"k" * 4000 + b'"', b"'" + b"c" * 254 + b"'", b"'.c'", b"'c1 '", b"-", b"__proto__",
)  # fmt: skip
_TOKENS: Final = (
    b"[",
    b"]",
    b"{",
    b"}",
    b"=",
    b".",
    b"'",
    b'"',
    b"#",
    b"\n",
    b"\0",
    b"\xff",
    b"0x",
    b"e9",
    b"_",
    b"-",
)
Lines = list[tuple[bytes, bytes]]
"""Keys and values of a table."""
Tables = list[tuple[bytes, Lines]]
"""Headings, with their brackets, and what is below them; the first has none."""


class Hostile:
    """Makes texts of one kind out of good ones."""

    def __init__(self, rng: random.Random, good: Callable[[random.Random], Tables]) -> None:
        self._rng = rng
        self._good = good
        self._ways: tuple[Callable[[], Text], ...] = (
            self.plain, self.plain, self.plain, self.value, self.value, self.value, self.key, self.dropped,
            self.doubled, self.broken, self.broken, self.whole, self.half, self.mutant, self.mutant,
        )  # fmt: skip

    def any(self) -> Text:
        """Return one."""
        return self._rng.choice(self._ways)()

    def plain(self) -> Text:
        """Well-formed, of values that are good one by one: it may contradict itself."""
        return Text("plain", self._rendered(self._good(self._rng)), Fate.ANY)

    def value(self) -> Text:
        """With one to three values of other types, or beyond all bounds."""
        tables = self._good(self._rng)
        for _ in range(self._rng.choice((1, 1, 1, 2, 3))):
            lines, at = self._place(tables)
            lines[at] = (lines[at][0], self._rng.choice(OTHERS))
        return Text("value", self._rendered(tables), Fate.ANY)

    def key(self) -> Text:
        """With a key that nobody knows, or another heading."""
        tables = self._good(self._rng)
        name = self._rng.choice(_KEYS)
        if self._rng.random() < 0.5:
            lines, at = self._place(tables)
            lines.insert(at, (name, self._rng.choice((b"1", *OTHERS))))
        else:
            at = self._rng.randrange(1, len(tables))
            tables[at] = (b"[hosts." + name + b"]", tables[at][1])
        return Text("key", self._rendered(tables), Fate.ANY)

    def dropped(self) -> Text:
        """Without one of its lines, or its tables."""
        tables = self._good(self._rng)
        if self._rng.random() < 0.5:
            lines, at = self._place(tables)
            del lines[at]
        else:
            del tables[self._rng.randrange(len(tables))]
        return Text("dropped", self._rendered(tables), Fate.ANY)

    def doubled(self) -> Text:
        """With a key or a table there twice."""
        tables = self._good(self._rng)
        plain = [at for at, (heading, _) in enumerate(tables) if heading and not heading.startswith(b"[[")]
        if self._rng.random() < 0.5 and plain:
            tables.append(tables[self._rng.choice(plain)])
        else:
            lines, at = self._place(tables)
            lines.insert(self._rng.randint(0, len(lines)), (lines[at][0], self._rng.choice((lines[at][1], b"1"))))
        return Text("doubled", self._rendered(tables), Fate.MALFORMED)

    def broken(self) -> Text:
        """With a trap somewhere."""
        tables = self._good(self._rng)
        lines, at = self._place(tables)
        lines[at] = (lines[at][0], self._rng.choice(BROKEN))
        return Text("broken", self._rendered(tables), Fate.MALFORMED)

    def whole(self) -> Text:
        """Something else altogether, perhaps with a good one behind it."""
        behind = self._rng.choice((b"", b"\n" + self._rendered(self._good(self._rng))))
        return Text("whole", self._rng.choice(WHOLE) + behind, Fate.MALFORMED)

    def half(self) -> Text:
        """As a reader sees one that is not written to its end, or that lost its beginning."""
        data = self._rendered(self._good(self._rng))
        at = self._rng.randrange(len(data))
        return Text("half", self._rng.choice((data[:at], data[at:])), Fate.ANY)

    def mutant(self) -> Text:
        """Bytes changed at random."""
        data = mutated(self._rng, self._rendered(self._good(self._rng)))
        at = self._rng.randint(0, len(data))
        return Text("mutant", data[:at] + self._rng.choice((b"", *_TOKENS)) + data[at:], Fate.ANY)

    def _place(self, tables: Tables) -> tuple[Lines, int]:
        lines = self._rng.choice([lines for _, lines in tables if lines])
        return lines, self._rng.randrange(len(lines))

    def _rendered(self, tables: Tables) -> bytes:
        end = self._rng.choice((b"\n", b"\n", b"\r\n", b" # \xc3\xa4\n"))
        text = bytearray()
        for heading, lines in tables:
            text += heading + end if heading else b""
            for key, value in lines:
                text += key + b" = " + value + end
        return bytes(text)


def host_map(rng: random.Random) -> Tables:
    """Return a host map of few controllers, so that hosts often want the same."""
    drives = [rng.choice(((b"count", b"2"), (b"serials", b'["S1", "S2"]'), (b"nqns", b'["nqn.S1"]')))]
    if rng.random() < 0.3:
        drives.append((b"own", rng.choice((b'"visible"', b'"physical"', b"[0]", b"[0, 3]"))))
    if rng.random() < 0.3:
        drives.append((b"allow_controller_zero", rng.choice((b"true", b"false"))))
    if rng.random() < 0.2:
        drives.append((b"ignore", rng.choice((b'["Boot*"]', b'["S2"]', b'["?[1-2]"]'))))
    tables: Tables = [(b"", [(b"version", b"1")]), (b"[drives]", drives)]
    for number in range(rng.randint(1, 4)):
        name = rng.choice((b"c%d", b"'c%d.example.org'", b"C%d")) % (number if rng.random() < 0.95 else 0)
        lines = [_selector(rng)]
        if rng.random() < 0.3:
            lines.append(
                (b"aliases", rng.choice((b'["c%d-ib"]', b'["x"]', b'["c%d", "y.z"]')).replace(b"%d", b"7"))
            )
        tables.append((b"[hosts.%s]" % name, lines))
    return tables


def _selector(rng: random.Random) -> tuple[bytes, bytes]:
    ids = b"%d" % rng.randint(0, 8), b"[%d, %d]" % tuple(rng.sample(range(8), 2)), b"[%d]" % rng.randint(1, 8)
    one, other = rng.choice(ids), rng.choice(ids)
    ways = (
        (b"slot", b"%d" % rng.randint(0, 4)), (b"vf", rng.choice(ids)), (b"controllers", one),
        (b"controllers", b'{"*" = %s, S1 = %s}' % (one, other)), (b"controllers", b'{"S2" = %s}' % one),
        (b"controllers", b'{"nqn.S1" = %s, "S2" = %s}' % (one, other)),
    )  # fmt: skip
    return rng.choice(ways)


def settings_file(rng: random.Random) -> Tables:
    """Return some of the settings, each with a value that it may have."""
    lines = [(key.encode(), rng.choice(values)) for key, values in SETTINGS.items() if rng.random() < 0.5]
    tables: Tables = [(b"", lines or [(b"deadline", b"30")])]
    return [*tables, (b"[quiesce_models]", [(b'"M*"', rng.choice((b'"wait:1"', b'"none"')))])]


def fleet_file(rng: random.Random) -> Tables:
    """Return a description of simulated drives."""
    fleet = [(b"drives", b"%d" % rng.randint(1, 4)), (b"secondary_controllers", b"5"), (b"namespaces", b"2")]
    fleet += [
        (b"attached", b'"none"'),
        (b"latency_ms", b"0.5"),
        (b"state", b'"s.json"'),
        (b"quirks", b'"qemu-7.2"'),
    ]
    drive = [(b"number", b"%d" % rng.randint(0, 3)), (b"serial", b'"BROKEN"'), (b"answers", b'"late:2.5"')]
    drive += [(b"controllers", b"[0]"), (b"namespaces", b"[{ nsid = 7, size = 1073741824, private = true }]")]
    return [
        (b"[fleet]", rng.sample(fleet, rng.randint(1, 7))),
        (b"[[drive]]", rng.sample(drive, rng.randint(1, 5))),
    ]


_PATHS: Final = (b'"/a/b"', b'"/"', b'"/a/../b"')
_TRUTHS: Final = (b"true", b"false", b'"yes"', b'"0"')
_SECONDS: Final = (b"30", b"0.5", b'"7"', b"3600")
SETTINGS: Final[dict[str, tuple[bytes, ...]]] = {
    "hosts": _PATHS, "deadline": _SECONDS, "backend": (b'"auto"', b'"ioctl"'),
    "quiesce": (b'"auto"', b'"wait:3"', b'"drain"', b'"none"'), "escalate": _TRUTHS, "simulate": (b'"f.toml"',
    b'""'),
    "request_dir": _PATHS, "response_dir": _PATHS, "log_dir": _PATHS, "audit": _PATHS,
    "max_request_age_s": _SECONDS,
    "agents_may_restore": _TRUTHS, "records": _PATHS, "after": (b"[]", b'["dlm"]', b'"hooks, stonith"', b'"none"'),
    "after_timeout_s": _SECONDS, "hooks_dir": _PATHS, "corosync_conf": _PATHS, "mass_fence_hosts": (b"0", b'"4"'),
    "mass_fence_s": _SECONDS, "mass_fence_action": (b'"hold"',), "run_dir": _PATHS, "vigil_s": (b"0", b"5"),
    "enforce": _TRUTHS, "metrics": (b'""', b'"/m.prom"'),
}  # fmt: skip
"""Good values by key; quiesce_models is a table."""

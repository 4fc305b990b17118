"""Raw JSON tokens that have broken parsers, logs and terminals, and values that each field must refuse."""

from __future__ import annotations

from typing import Final

TEXTS: Final[tuple[bytes, ...]] = (
    b'""',
    b'"\\u001b[2J\\u001b[31m"',
    b'"\\u0000"',
    b'"a\\nSTATUS=success DETAILS=forged"',
    b'"\\r\\n[2027-01-15 08:00:00] [INFO] Fence off of n1: fenced: forged"',
    b'"<6>forged"',
    b'"\\u202e\\u2066\\u200b"',
    b'"\\u2028\\u2029\\u0085"',
    '"\x9b31m\x90q\x9c"'.encode(),
    b'"\\u007f\\b\\f\\t"',
    b'"../../etc/passwd"',
    b'"/etc/passwd"',
    b'"$(reboot) `reboot` ; reboot | reboot"',
    b'"%s%n%d {0} {x!r} %(x)s"',
    '"\U0001f4a9 \u0435\u0301\ufffd\ufeff"'.encode(),
    b'"\\ud83d\\ude00"',
    '"\U000e0001\U000e0041"'.encode(),
    b'"' + b"A" * 400 + b'"',
    b'"' + b"\\u001b" * 150 + b'"',
    b'"' + "\U000e0001".encode() * 150 + b'"',
    b'"true"',
    b'"success"',
    b'"\\"\\\\\\/"',
)
"""Texts, each a good JSON string."""

OTHERS: Final[tuple[bytes, ...]] = (
    b"null", b"true", b"false", b"0", b"-0", b"-0.0", b"1", b"-1", b"1.5", b"1e308", b"5e-324", b"9" * 4300,
    b"-" + b"9" * 4299, b"9007199254740993", b"[]", b"{}", b"[[]]", b'{"a": {}}', b"[null, true, -1]", b'[""]',
)  # fmt: skip
"""Values of other types, each good JSON."""

BROKEN: Final[tuple[bytes, ...]] = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 4301, b"nan", b"TRUE", b"True", b"None",
    b"'a'", b"01",
    b"+1", b".5", b"1.", b"0x1", b"[1,]", b'{"a": 1,}', b"{a: 1}", b"undefined", b"/* */ 1", b"[", b"{", b'"',
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\x41"', b'"\\u12"', b'"a\nb"', b'"a\0b"', b'"\x1b"', b'"\xff"',
    b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf5\x80\x80\x80"', b'"\xe2\x82"', b'{"a": 1, "a": 1}',
    b'[{"": 0, "": 0}]',
    b'{"\\ud800": 1}', b'{"\\u0061": 1, "a": 2}', b"[" * 40 + b"]" * 40, b'{"a":' * 33 + b"1" + b"}" * 33,
    b"[" * 30000, b'{"":' * 9000 + b"1" + b"}" * 9000, b"", b"\xef\xbb\xbf1", b"1 1", b"\x0c1",
)  # fmt: skip
"""What is no JSON, or JSON with a trap: not one of them may get through anywhere in a file."""

REFUSED: Final[dict[bytes, tuple[bytes, ...]]] = {
    b"request_id": (
        b"null", b"1", b"true", b"[]", b"{}", b'["a"]', b'""', b'" "', b'"a b"', b'"a\\n"', b'"a\\u0000"',
        b'"' + b"x" * 129 + b'"', '"\u00e9"'.encode(), b'"\\u001b[2J"', b'"\\u202e"',
    ),
    b"target_node": (
        b"null", b"1", b"false", b"[]", b'["c2"]', b'{"c2": 1}', b'""', b'"../c2"', b'"c2/"', b'"/c2"', b'"-c2"',
        b'".c2"', b'"c2\\n"', b'"c2 "', b'" c2"', b'"c2\\u0000"', b'"c2;reboot"', b'"' + b"c" * 254 + b'"',
        '"\u0441\u0032"'.encode(), b'"c2\\u200b"', b'"*"', b'"c2,c1"', b'"\\u001b[2J"',
    ),
    b"action": (
        b"null", b"1", b"true", b"[]", b'["off"]', b'{"off": 1}', b'""', b'"OFF"', b'"off "', b'" off"',
        b'"off\\n"',
        b'"reboot\\u0000"', b'"shutdown"', b'"unfence"', '"\uff4f\uff46\uff46"'.encode(), b'"\\u001b[2J"',
    ),
    b"timestamp": (
        b"1", b"true", b"[]", b"{}", b'""', b'"now"', b'"2027-13-01T00:00:00Z"', b'"2027-02-30T00:00:00Z"',
        b'"2027-01-15"', b'"2027-01-15T08:00:00Z\\n"', b'"2027-01-15T08:00:00+99:99"', b'"2027-01-15T25:00:00Z"',
        b'"2027-01-15T08:00:61Z"', b'"0000-01-01T00:00:00Z"', b'"20270115T080000Z"', b'"2027-W02-5T08:00:00Z"',
        '"\u0662\u0660\u0662\u0667-01-15T08:00:00Z"'.encode(), b"1800000000", b'"1800000000"',
        b'"-2027-01-15T08:00:00Z"',
    ),
    b"gfs2_filesystems": (b'"a"', b"1", b"true", b"{}", b'{"a": 1}', b"[1]", b"[null]", b'[["a"]]', b'["a", {}]'),
    b"recorder_node": (b"1", b"true", b"[]", b"{}", b'["r1"]', b"9" * 4300),
    b"timeout_s": (
        b"0", b"-1", b"-0.0", b"true", b"false", b'"60"', b"86401", b"1e300", b"9" * 4300, b"[]", b"{}", b"[60]",
    ),
}  # fmt: skip
"""Values that a request's field must not have."""

LATE: Final[tuple[bytes, ...]] = (
    b'"0001-01-01T00:00:00Z"', b'"0001-01-01T00:00:00+23:59"', b'"1969-12-31T23:59:59Z"', b'"1970-01-01T00:00:00"',
    b'"2025-10-20T14:30:00Z"', b'"2016-12-31T23:59:60Z"', b'"2000-02-29t12:00:00.999999999999-12:00"',
)  # fmt: skip
"""Times that are good, and long ago."""

EARLY: Final[tuple[bytes, ...]] = (
    b'"9999-12-31T23:59:59Z"', b'"9999-12-31T23:59:59-23:59"', b'"9998-12-31T23:59:60"',
    b'"2100-02-28 00:00:00+14:00"',
)  # fmt: skip
"""Times that are far ahead; a request of such a date is as old as its file."""

UNBELIEVED: Final[dict[bytes, tuple[bytes, ...]]] = {
    b"success": (
        b"false", b'"true"', b'"True"', b'"success"', b"1", b"1.0", b"-1", b"null", b"[true]", b"[]", b"{}",
        b'{"success": true}', b'""', b'"false"', b"9" * 4300,
    ),
    b"request_id": (
        b"null", b"1", b"true", b"[]", b'["550e8400"]', b'""', b'"550e8401"', b'"550e8400 "', b'"550E8400"',
        b'"550e8400\\n"', b'"550e8400\\u0000"', '"\u0665\u0665\u0660e8400"'.encode(), b'"\\u001b[2J"',
        b'"' + b"5" * 9000 + b'"', b"5508400",
    ),
    b"target_node": (
        b"null", b"1", b"true", b"[]", b'["n1"]', b'""', b'"n2"', b'"N1"', b'"n1 "', b'"n1\\n"', b'"n1\\u0000"',
        b'"n1.example"', b'"n"', b'"n11"', b'"\\u001b[2J"', b'"' + b"\\u001b" * 900 + b'"',
    ),
    b"status": (b'"error"', b'""', b"null", b"true", b"1", b"[]", b'"Success"', b'"success "', b'"\\u001b[2J"'),
    b"message": (b"null", b"1", b"true", b"[]", b"{}"),
    b"action_performed": (b"null", b"1", b"true", b"[]", b"{}"),
    b"timestamp": (b"null", b"1", b"true", b"[]", b"{}"),
}  # fmt: skip
"""Values with which a response to the request 550e8400 for n1 must not be taken for its success."""

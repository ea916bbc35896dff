"""Ways in which a file goes wrong: by accident (bits, cuts) and on purpose (lengths, depth, paths)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Mutation = Callable[[bytearray, random.Random], bytes]
NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"null", b"[]", b"{}", b'"x"', b"4294967296", b"9223372036854775807", b"9" * 40)
PATHS = (b"../../x", b"/etc/passwd", b"", b"..", b"a/../../b", b"\\u0000", b"a" * 5000)
EDGES = (
    b"\0" * 8,
    b"\xff" * 8,
    b"\x7f" + b"\xff" * 7,
    b"\xff\xff\xff\x7f",
    b"\xdf\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
)


def _at(raw: bytearray, dice: random.Random) -> int:
    """A place, more often near the two ends, where headers and indices lie."""
    span = dice.choice((len(raw), min(len(raw), 64), min(len(raw), 600)))
    return dice.choice((dice.randrange(span), len(raw) - 1 - dice.randrange(span)))


def flip(raw: bytearray, dice: random.Random) -> bytes:
    """One bit."""
    raw[_at(raw, dice)] ^= 1 << dice.randrange(8)
    return bytes(raw)


def write(raw: bytearray, dice: random.Random) -> bytes:
    """A few bytes of any value."""
    for _ in range(dice.randint(1, 6)):
        raw[_at(raw, dice)] = dice.randrange(256)
    return bytes(raw)


def truncate(raw: bytearray, dice: random.Random) -> bytes:
    """The beginning alone."""
    return bytes(raw[: _at(raw, dice)])


def splice(raw: bytearray, dice: random.Random) -> bytes:
    """A stretch moved, doubled or dropped."""
    first, last = sorted((_at(raw, dice), _at(raw, dice)))
    to = _at(raw, dice)
    return bytes(dice.choice((raw[:to] + raw[first:last] + raw[to:], raw[:first] + raw[last:])))


def edge(raw: bytearray, dice: random.Random) -> bytes:
    """A huge or odd length in binary."""
    to, put = _at(raw, dice), dice.choice(EDGES)
    return bytes(raw[:to] + put + raw[to + dice.choice((0, len(put))) :])


def deepen(raw: bytearray, dice: random.Random) -> bytes:
    """Deep nesting, of JSON or msgpack."""
    to, times = _at(raw, dice), dice.choice((70, 2000, 100_000))
    return bytes(raw[:to] + dice.choice((b"[", b'{"a":', b"\x81\xa1a", b"\x91")) * times + raw[to:])


def _replaced(raw: bytearray, dice: random.Random, pattern: bytes, choices: tuple[bytes, ...]) -> bytes:
    found = list(re.finditer(pattern, raw))
    if not found:
        return write(raw, dice)
    hit = dice.choice(found)
    return bytes(raw[: hit.start()] + dice.choice(choices) + raw[hit.end() :])


def number(raw: bytearray, dice: random.Random) -> bytes:
    """A number of a JSON text replaced by another, or by none."""
    return _replaced(raw, dice, rb"(?<=[\[,: ])\d+(?=[\],} ])", NUMBERS)


def path(raw: bytearray, dice: random.Random) -> bytes:
    """A string of a JSON text replaced by a path that leads elsewhere."""
    return _replaced(raw, dice, rb'(?<=")[^"\\]+(?=")', PATHS)


def retype(raw: bytearray, dice: random.Random) -> bytes:
    """A string value or an empty container of a JSON text replaced by a value of another type."""
    return _replaced(raw, dice, rb'(?<=[:\[, ])("[^"\\]*"|\[\]|\{\}|true|false|null)(?=[,\]}])', (*NUMBERS, b"9" * 5000))


MUTATIONS: tuple[Mutation, ...] = (flip, write, truncate, splice, edge, deepen, number, path, retype)

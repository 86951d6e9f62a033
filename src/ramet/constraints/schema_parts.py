"""The texts of JSON's values as trees: digits, strings, dates, names.

Knows how values are spelled, refuses to know schemas. A character of a string is one code point, spelled
as itself or as an escape; escapes of half a surrogate pair are not among them, since they are no text.

Numbers are bounded in length, so that no number runs on to the end of a generation's budget: at most 20
digits before the point, 24 behind it, and exponents below 280 (more would not fit into a double).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from collections.abc import Sequence as Items

from ramet.constraints.nodes import EMPTY, NOTHING, Chars, Choice, Node, Repeat, Sequence, Text

__all__ = [
    "CHARACTER",
    "FORMATS",
    "NUMBER",
    "escaped",
    "integers",
    "name_but",
    "numerals",
    "optional",
    "spelled",
]

_FAR = 10**19 - 1  # of an integer without a bound; more digits than any 64-bit number has
_SHORT = {8: "b", 9: "t", 10: "n", 12: "f", 13: "r", 34: '"', 92: "\\"}
_DIGIT = Chars(((48, 57),))
_HEX = Chars(((48, 57), (65, 70), (97, 102)))
_BASE_16 = "0123456789abcdef"


def optional(node: Node) -> Node:
    return Repeat(node, 0, 1)


def _one(first: int, last: int, base: int) -> Node:
    """One digit of a range, in base 16 in both cases."""
    if (first, last) == (0, base - 1):
        return _DIGIT if base == 10 else _HEX
    low = [(48 + first, 48 + min(last, 9))] if first < 10 else []
    if last < 10:
        return Chars(tuple(low))
    letters = (max(first, 10) - 10, last - 10)
    upper, lower = ((start + letters[0], start + letters[1]) for start in (65, 97))
    return Chars((*low, upper, lower))


def numerals(low: Items[int], high: Items[int], base: int = 10) -> Node:
    """The numerals between two of the same length, given as digits: those with the first digit of `low`,
    those between, those with the first digit of `high`."""
    if not low:
        return EMPTY
    rest = len(low) - 1
    zeros, nines = [0] * rest, [base - 1] * rest
    if list(low[1:]) == zeros and list(high[1:]) == nines:
        whole = _one(0, base - 1, base)
        return Sequence((_one(low[0], high[0], base), Repeat(whole, rest, rest)))
    if low[0] == high[0]:
        return Sequence((_one(low[0], low[0], base), numerals(low[1:], high[1:], base)))
    options: list[Node] = [
        Sequence((_one(low[0], low[0], base), numerals(low[1:], nines, base))),
        Sequence((_one(high[0], high[0], base), numerals(zeros, high[1:], base))),
    ]
    if low[0] + 1 < high[0]:
        between = numerals([low[0] + 1, *zeros], [high[0] - 1, *nines], base)
        options.insert(1, between)
    return Choice(tuple(options))


def integers(low: int | None, high: int | None) -> Node:
    """The integers from `low` to `high` in decimal, without -0; a missing bound is 19 digits away from 0,
    or three digits beyond the other one."""
    if low is None:
        low = -_FAR if high is None or high > -_FAR else high * 1000
    if high is None:
        high = _FAR if low < _FAR else low * 1000
    if low > high:
        return NOTHING
    options: list[Node] = []
    if low < 0:
        options.append(Sequence((Text("-"), _naturals(max(1, -high), -low))))
    if high >= 0:
        options.append(_naturals(max(0, low), high))
    return options[0] if len(options) == 1 else Choice(tuple(options))


def _naturals(low: int, high: int) -> Node:
    options: list[Node] = []
    while low <= high:
        end = min(high, 10 ** len(str(low)) - 1)  # of the same length
        options.append(numerals([int(d) for d in str(low)], [int(d) for d in str(end)]))
        low = end + 1
    return Choice(tuple(options))


NUMBER: Node = Sequence(
    (
        optional(Text("-")),
        Choice((Text("0"), Sequence((Chars(((49, 57),)), Repeat(_DIGIT, 0, 19))))),
        optional(Sequence((Text("."), Repeat(_DIGIT, 1, 24)))),
        optional(
            Sequence(
                (
                    Chars(((69, 69), (101, 101))),
                    optional(Chars(((43, 43), (45, 45)))),
                    Choice(
                        (
                            Repeat(_DIGIT, 1, 2),
                            Sequence((Text("1"), Repeat(_DIGIT, 2, 2))),
                            Sequence((Text("2"), Chars(((48, 55),)), _DIGIT)),
                        )
                    ),
                )
            )
        ),
    )
)


def _hex(first: int, last: int) -> Node:
    """The escapes of code points of the basic plane, which are no surrogates."""
    low, high = ([_BASE_16.index(d) for d in f"{code:04x}"] for code in (first, last))
    return Sequence((Text("\\u"), numerals(low, high, 16)))


_PAIR = Sequence((_hex(0xD800, 0xDBFF), _hex(0xDC00, 0xDFFF)))
_RAW = Chars(((32, 33), (35, 91), (93, 0xD7FF), (0xE000, 0x10FFFF)))
_LETTER_ESCAPE = Sequence((Text("\\"), Chars(tuple((ord(c), ord(c)) for c in sorted('"/\\bfnrt')))))

# Any character of a string, however it may be spelled.
CHARACTER: Node = Choice((_RAW, _LETTER_ESCAPE, _hex(0, 0xD7FF), _hex(0xE000, 0xFFFF), _PAIR))


def _pieces(first: int, last: int) -> Iterable[Node]:
    """The spellings of a range of characters: ASCII in the shortest way only, others as escapes too."""
    for code in range(first, min(last, 127) + 1):
        if code in _SHORT:
            yield Text("\\" + _SHORT[code])
        elif code < 32:
            yield _hex(code, code)
    raw = [(max(first, a), min(last, b)) for a, b in _RAW.ranges]
    kept = tuple((a, b) for a, b in raw if a <= b)
    if kept:
        yield Chars(kept)
    low, high = max(first, 127), min(last, 0xFFFF)
    for a, b in ((low, min(high, 0xD7FF)), (max(low, 0xE000), high)):
        if a <= b:
            yield _hex(a, b)
    if first <= 0x10000 and last == 0x10FFFF:
        yield _PAIR
    elif first == last > 0xFFFF:
        yield Text(json.dumps(chr(first))[1:-1])


def escaped(node: Node) -> Node:
    """The same texts as parts of a JSON string. ASCII has one spelling; characters above it are spelled
    raw or as \\uXXXX (those above the basic plane as escapes where all of them or exactly one may come).
    """
    match node:
        case Chars(ranges):
            pieces = [piece for low, high in ranges for piece in _pieces(low, high)]
            return pieces[0] if len(pieces) == 1 else Choice(tuple(pieces)) if pieces else NOTHING
        case Text(text):
            return spelled(text)
        case Sequence(parts):
            return Sequence(tuple(escaped(part) for part in parts))
        case Choice(options):
            return Choice(tuple(escaped(option) for option in options))
        case Repeat(body, least, most):
            return Repeat(escaped(body), least, most)


def spelled(text: str) -> Node:
    """A text as part of a JSON string."""
    parts: list[Node] = []
    for char in text:
        pieces = list(_pieces(ord(char), ord(char)))
        literal = pieces[0] if len(pieces) == 1 else Choice(tuple(pieces))
        if isinstance(literal, Chars):
            literal = Text(char)
        last = parts[-1] if parts else None
        if isinstance(last, Text) and isinstance(literal, Text):
            parts[-1] = Text(last.text + literal.text)
        else:
            parts.append(literal)
    return parts[0] if len(parts) == 1 else Sequence(tuple(parts))


def name_but(taken: Iterable[str]) -> Node:
    """The inside of any string that is none of `taken` (ASCII). A character has one spelling here, or
    none that could be one of `taken`."""
    return _but(sorted(set(taken)))


def _but(taken: list[str]) -> Node:
    """Follow the taken names letter by letter; leave them by another letter, or end inside one."""
    anything: Node = Repeat(escaped(Chars(((0, 0xD7FF), (0xE000, 0x10FFFF)))), 0, None)
    if not taken:
        return anything
    firsts = sorted({name[0] for name in taken if name})
    ranges, start = [], 0
    for first in firsts:
        if start < ord(first):
            ranges.append((start, ord(first) - 1))
        start = ord(first) + 1
    ranges += [(start, 0xD7FF), (0xE000, 0x10FFFF)]
    options: list[Node] = [Sequence((escaped(Chars(tuple(ranges))), anything))]
    for first in firsts:
        rest = [name[1:] for name in taken if name[:1] == first]
        options.append(Sequence((spelled(first), _but(rest))))
    if "" not in taken:
        options.append(EMPTY)
    return Choice(tuple(options))


def _digits(low: str, high: str) -> Node:
    return numerals([int(d) for d in low], [int(d) for d in high])


def _date() -> Node:
    """RFC 3339 full-date, with the days that each month has, and leap years."""
    fours = Choice(
        (
            Sequence((Text("0"), Chars(((52, 52), (56, 56))))),
            Sequence((Chars(((50, 50), (52, 52), (54, 54), (56, 56))), _of("048"))),
            Sequence((Chars(((49, 49), (51, 51), (53, 53), (55, 55), (57, 57))), _of("26"))),
        )
    )
    hundreds = Choice((Text("00"), fours))
    leap = Choice((Sequence((_digits("00", "99"), fours)), Sequence((hundreds, Text("00")))))
    year = _digits("0000", "9999")
    days = (
        ("01 03 05 07 08 10 12", "31"),
        ("04 06 09 11", "30"),
        ("02", "28"),
    )
    months = [
        Sequence((Choice(tuple(Text(m) for m in names.split())), Text("-"), _digits("01", last)))
        for names, last in days
    ]
    return Choice(
        (
            Sequence((year, Text("-"), Choice(tuple(months)))),
            Sequence((leap, Text("-02-29"))),
        )
    )


def _of(letters: str) -> Node:
    return Chars(tuple((ord(c), ord(c)) for c in letters))


def _time() -> Node:
    """RFC 3339 full-time without leap seconds, at most nine digits of a second."""
    clock = Sequence((_digits("00", "23"), Text(":"), _digits("00", "59")))
    return Sequence(
        (
            clock,
            Text(":"),
            _digits("00", "59"),
            optional(Sequence((Text("."), Repeat(_DIGIT, 1, 9)))),
            Choice((Text("Z"), Sequence((_of("+-"), clock)))),
        )
    )


def _uuid() -> Node:
    groups = [Repeat(_HEX, count, count) for count in (8, 4, 4, 4, 12)]
    return Sequence(tuple(part for group in groups for part in (Text("-"), group))[1:])


def _ipv4() -> Node:
    byte = _naturals(0, 255)
    return Sequence((byte, Repeat(Sequence((Text("."), byte)), 3, 3)))


FORMATS: dict[str, Node] = {
    "date": _date(),
    "time": _time(),
    "date-time": Sequence((_date(), Text("T"), _time())),
    "uuid": _uuid(),
    "ipv4": _ipv4(),
}

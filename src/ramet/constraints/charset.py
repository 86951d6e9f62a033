"""Sets of characters as Python's `re` understands them, as ranges of code points.

Knows \\d \\w \\s, negation and what IGNORECASE adds to a set. Refuses to know patterns. Everything about
Unicode is read off the running Python, so that it agrees with the `re` of that Python.

Ranges are inclusive, rising and apart from each other; they may hold surrogates until `finished`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

import numpy as np

from ramet.constraints.sre import EXTRA_CASES, UNLOWERED_LITERALS

__all__ = ["Ranges", "category", "complement", "finished", "fold", "merged"]

Ranges = tuple[tuple[int, int], ...]

_LAST = 0x10FFFF
_BASIC = 0xFFFF  # end of the Basic Multilingual Plane
_CASED_END = 0x20000  # letters with cases end far before it


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Any ranges, in the form that this file speaks of."""
    found: list[tuple[int, int]] = []
    last = -2
    for low, high in sorted(ranges):
        if low > last + 1:
            found.append((low, high))
            last = high
        elif high > last:
            found[-1] = (found[-1][0], high)
            last = high
    return tuple(found)


def complement(ranges: Ranges) -> Ranges:
    found = []
    start = 0
    for low, high in ranges:
        if low > start:
            found.append((start, low - 1))
        start = high + 1
    if start <= _LAST:
        found.append((start, _LAST))
    return tuple(found)


def finished(ranges: Ranges) -> Ranges:
    """Without surrogates."""
    if not any(low <= 0xDFFF and high >= 0xD800 for low, high in ranges):
        return ranges
    return complement(merged((*complement(ranges), (0xD800, 0xDFFF))))


@cache
def category(name: str, ascii_only: bool) -> Ranges:
    """`name`: one of d, w, s, D, W, S."""
    if name.isupper():
        return complement(category(name.lower(), ascii_only))
    flag = re.ASCII if ascii_only else re.NOFLAG
    every = np.arange(128 if ascii_only else _LAST + 1, dtype="<u4").tobytes()
    text = every.decode("utf-32-le", "surrogatepass")
    return tuple((m.start(), m.end() - 1) for m in re.finditer(f"\\{name}+", text, flag))


def fold(
    literals: Iterable[int],
    ranges: Iterable[tuple[int, int]],
    ascii_only: bool,
    alone: bool = False,
) -> list[tuple[int, int]]:
    """What IGNORECASE makes of the literals and ranges of a set. `alone`: the one literal stands outside
    brackets and alternations."""
    related, pairs, by_capital = (
        _relatives(ascii_only),
        _related(ascii_only),
        _by_capital(ascii_only),
    )
    found: list[tuple[int, int]] = []
    for code in literals:
        if code in related:
            if code > _BASIC and UNLOWERED_LITERALS and not alone and _lower(code) != code:
                continue
            found += [(c, c) for c in related[code]]
        else:
            found.append((code, code))
    ranges = list(ranges)
    basic = merged(one for one in ranges if one[1] <= _BASIC)
    for low, high in (*basic, *merged(one for one in ranges if one[1] > _BASIC)):
        found.append((low, high))
        found += pairs.of(low, high)
        if (
            high > _BASIC
        ):  # `re` compares such a range with the capital of the text's small letter too
            found += by_capital.of(low, high)
    return found


class _Pairs:
    """`of(low, high)`: the second elements, outside the range, of all pairs whose first is inside."""

    def __init__(self, pairs: Iterable[tuple[int, int]]) -> None:
        table = np.array(sorted(pairs), np.int64).reshape(-1, 2)
        self._first, self._second = table[:, 0].copy(), table[:, 1].copy()

    def of(self, low: int, high: int) -> list[tuple[int, int]]:
        start, end = np.searchsorted(self._first, (low, high + 1))
        second = self._second[start:end]
        return [(c, c) for c in second[(second < low) | (second > high)].tolist()]


def _lower(code: int) -> int:
    """One character for one: the first where lower case has several."""
    return ord(chr(code).lower()[0])


def _upper(code: int) -> int:
    return ord(chr(code).upper()[0])


@cache
def _cased(ascii_only: bool) -> list[int]:
    every = range(128 if ascii_only else _CASED_END)
    return [c for c in every if (s := chr(c)).lower() != s or s.upper() != s]


@cache
def _relatives(ascii_only: bool) -> dict[int, tuple[int, ...]]:
    """Letter -> all letters that equal it under IGNORECASE, itself included."""
    groups: dict[int, list[int]] = {}
    for code in _cased(ascii_only):
        small = _lower(code)
        others = () if ascii_only else EXTRA_CASES.get(small, ())
        groups.setdefault(min(small, *others) if others else small, []).append(code)
    return {code: tuple(group) for group in groups.values() for code in group}


@cache
def _related(ascii_only: bool) -> _Pairs:
    found = _relatives(ascii_only)
    return _Pairs((a, b) for a, group in found.items() for b in group if a != b)


@cache
def _by_capital(ascii_only: bool) -> _Pairs:
    """(capital of the small form, letter). Small forms are those of the flags; capitals never are."""
    letters = _cased(False)
    small = [c if ascii_only and c > 127 else _lower(c) for c in letters]
    return _Pairs((_upper(s), c) for s, c in zip(small, letters, strict=True))

"""Ranges of code points as sequences of byte ranges, the way UTF-8 writes them.

Knows UTF-8 only. The method is the one of RE2's compiler (Russ Cox, "Regular Expression Matching in the
Wild", 2010): split until all encodings in a part have one length and differ like a product of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["ByteRange", "byte_sequences"]

ByteRange = tuple[int, int]

_LAST = 0x10FFFF
_LENGTH_ENDS = (0x7F, 0x7FF, 0xFFFF)  # last code points with 1, 2 and 3 bytes
_SURROGATES = (0xD800, 0xDFFF)


def byte_sequences(ranges: Iterable[tuple[int, int]]) -> list[tuple[ByteRange, ...]]:
    """Inclusive ranges of code points, in any order -> sequences of inclusive byte ranges that cover the
    encodings of exactly these code points, each once, in rising order.

    Surrogates have no encoding and are left out; no sequence is overlong. Two sequences that begin with
    the same ranges are equal up to the place where their ranges have no byte in common, so they can be
    read as a deterministic automaton.
    """
    found: list[tuple[ByteRange, ...]] = []
    for low, high in _merged(ranges):
        if high <= 0x7F:
            found.append(((low, high),))
            continue
        if low < _SURROGATES[0] and high > _SURROGATES[1]:
            _split(low, _SURROGATES[0] - 1, found)
            _split(_SURROGATES[1] + 1, high, found)
        else:
            low = _SURROGATES[1] + 1 if _SURROGATES[0] <= low <= _SURROGATES[1] else low
            high = _SURROGATES[0] - 1 if _SURROGATES[0] <= high <= _SURROGATES[1] else high
            _split(low, high, found)
    return found


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        low, high = max(low, 0), min(high, _LAST)
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        elif low <= high:
            merged.append((low, high))
    return merged


def _split(low: int, high: int, found: list[tuple[ByteRange, ...]]) -> None:
    """Append the sequences of one range without surrogates."""
    for end in _LENGTH_ENDS:
        if low <= end < high:
            _split(low, end, found)
            low = end + 1
    if low > high:
        return None
    for tail in (1, 2, 3):  # bytes at the end that are free when the range covers all of them
        mask = (1 << (6 * tail)) - 1
        if high <= 0x7F or low & ~mask == high & ~mask:
            continue
        if low & mask:
            _split(low, low | mask, found)
            return _split((low | mask) + 1, high, found)
        if high & mask != mask:
            _split(low, (high & ~mask) - 1, found)
            return _split(high & ~mask, high, found)
    found.append(tuple(zip(chr(low).encode(), chr(high).encode(), strict=True)))
    return None

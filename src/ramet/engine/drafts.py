"""Guessing the next tokens from what was computed before: earlier branches, earlier turns, the prompt.

Knows token sequences: after the same last few tokens, what followed the last time? A guess costs rows of
a step and changes no answer, since the model's own token decides (the loop keeps a guess only where it
equals that). Lookup instead of a second model: arXiv 2304.04487, arXiv 2311.08252.

Sequences are appended to one ring of tokens; a table of n-gram hashes points behind the last occurrence
of each n-gram. Both have a fixed size, appending costs time in the number of new tokens, and a guess is
one probe. A wrong hash match is found by comparing the tokens.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["DraftIndex"]

Ids = npt.NDArray[np.int64]

_MULTIPLIERS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64
)  # odd numbers with well-spread bits, one per place of the n-gram
_END = -1  # stands after each sequence: a guess never runs into the next one


class DraftIndex:
    """`add` sequences, `guess` what follows a sequence. `size`: tokens remembered, a power of two."""

    LENGTH = 3  # of an n-gram: shorter ones are too often wrong, longer ones too rarely there

    def __init__(self, size: int = 1 << 18) -> None:
        if size < 16 or size & (size - 1):
            raise ValueError(f"size: {size} is not a power of two of at least 16")
        self._ring = np.full(size, _END, np.int64)
        self._table = np.full(2 * size, -1, np.int64)  # place in the ring behind an n-gram
        self._shift = np.uint64(64 - (2 * size).bit_length() + 1)
        self._next = 0  # where the ring goes on

    def add(self, ids: Ids) -> None:
        """Remember a sequence: its first LENGTH tokens as context, the rest as what followed."""
        size = len(self._ring)
        ids = ids[-(size - 1) :]
        count = len(ids)
        if count <= self.LENGTH:
            return
        if self._next + count + 1 > size:  # whole sequences only: what is overwritten is forgotten
            self._next = 0
        start = self._next
        self._ring[start : start + count] = ids
        self._ring[start + count] = _END
        self._next = start + count + 1
        grams = np.lib.stride_tricks.sliding_window_view(ids[:-1], self.LENGTH)
        self._table[self._places(grams)] = np.arange(start + self.LENGTH, start + count)

    def guess(self, ids: Ids, count: int) -> Ids:
        """Up to `count` tokens that followed the last tokens of `ids` the last time; maybe none."""
        last = ids[-self.LENGTH :]
        if len(last) < self.LENGTH or count < 1:
            return last[:0]
        at = int(self._table[self._places(last[None])[0]])
        if at < 0 or not np.array_equal(self._ring[at - self.LENGTH : at], last):
            return last[:0]
        found = self._ring[at : at + count]
        ends = np.flatnonzero(found == _END)
        return (found[: ends[0]] if len(ends) else found).copy()

    def _places(self, grams: Ids) -> Ids:
        """[n, LENGTH] -> where in the table each n-gram belongs."""
        mixed = (grams.astype(np.uint64) + np.uint64(1)) * _MULTIPLIERS
        total = np.bitwise_xor.reduce(mixed ^ (mixed >> np.uint64(29)), axis=1)
        total *= _MULTIPLIERS[0]
        return (total >> self._shift).astype(np.int64)

"""Guessing the next tokens from what was computed before: earlier branches, earlier turns, the prompt.

Knows token sequences: after the same last few tokens, what followed the last time? A guess costs rows of
a step and changes no answer, since the model's own token decides: the loop keeps a guess only where it
equals that. Lookup instead of a second model: arXiv 2304.04487, arXiv 2311.08252.

`DraftIndex` appends sequences to one ring of tokens; a table of n-gram hashes points behind the last
occurrence of each n-gram. Both have a fixed size, appending costs time in the number of new tokens, and a
guess is one probe. A wrong hash match is found by comparing the tokens. `Drafts` decides how much is
guessed: only in steps of few rows, where reading the weights takes longer than computing with them, and
for each request as much as its last guesses were worth.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramet.engine.request import Request

__all__ = ["DraftIndex", "Drafts", "Guessing"]

Ids = npt.NDArray[np.int64]

_MULTIPLIERS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64
)  # odd numbers with well-spread bits, one per place of the n-gram
_FACTORS: list[int] = _MULTIPLIERS.tolist()
_MASK = (1 << 64) - 1
_END = -1  # stands after each sequence: a guess never runs into the next one


class DraftIndex:
    """`add` sequences, `guess` what follows a sequence. `size`: tokens remembered, a power of two."""

    LENGTH = 3  # of an n-gram: shorter ones are too often wrong, longer ones too rarely there

    def __init__(self, size: int = 1 << 18) -> None:
        if size < 16 or size & (size - 1):
            raise ValueError(f"size: {size} is not a power of two of at least 16")
        self._ring = np.full(size, _END, np.int64)
        self._table = np.full(2 * size, -1, np.int64)  # place in the ring behind an n-gram
        self._shift = 64 - (2 * size).bit_length() + 1
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
        if last.size < self.LENGTH or count < 1:
            return last[:0]
        gram: list[int] = last.tolist()
        at = int(self._table[self._place(gram)])
        if at < 0 or self._ring[at - self.LENGTH : at].tolist() != gram:
            return last[:0]
        found: list[int] = self._ring[at : at + count].tolist()
        return np.array(found[: found.index(_END)] if _END in found else found, np.int64)

    def _places(self, grams: Ids) -> Ids:
        """[n, LENGTH] -> where in the table each n-gram belongs."""
        mixed = (grams.astype(np.uint64) + np.uint64(1)) * _MULTIPLIERS
        total = np.bitwise_xor.reduce(mixed ^ (mixed >> np.uint64(29)), axis=1)
        total *= _MULTIPLIERS[0]
        places: Ids = (total >> np.uint64(self._shift)).astype(np.int64)
        return places

    def _place(self, gram: list[int]) -> int:
        """`_places` of one n-gram: a step asks for few, and arrays cost more than they save."""
        total = 0
        for token, multiplier in zip(gram, _FACTORS, strict=True):
            mixed = (token + 1) * multiplier & _MASK
            total ^= mixed ^ (mixed >> 29)
        return (total * _FACTORS[0] & _MASK) >> self._shift


@dataclass(slots=True)
class Guessing:
    """What the guesses of one request were worth."""

    length: int = 4  # of the next guess, at most
    pause: int = 0  # steps without a guess
    misses: int = 0  # guesses in a row of which no token was right
    learned: int = 0  # its leading tokens that are in the index


class Drafts:
    """One index per salt, so that nobody's timing tells of another's tokens.

    max_rows: of a step with guesses. On two AVX-512 cores a step of one row takes as long as reading the
    weights, and one of 16 rows about a third longer.
    """

    MOST = 15  # tokens of one guess
    CHUNK = 32  # generated tokens that are learned at a time

    def __init__(self, max_rows: int = 16, max_salts: int = 8, size: int = 1 << 17) -> None:
        self.max_rows, self._max_salts, self._size = max_rows, max_salts, size
        self._indices: OrderedDict[str | None, DraftIndex] = OrderedDict()

    def room(self, num_decoding: int) -> int:
        """Tokens that may be guessed for each of so many requests."""
        return max(0, self.max_rows - num_decoding) // num_decoding if num_decoding else 0

    def propose(self, request: Request, limit: int) -> Ids | None:
        """Up to `limit` tokens that may follow what is known of `request`; None: no guess."""
        state = request.guessing
        if not isinstance(state, Guessing):
            return None
        if state.pause:
            state.pause -= 1
            return None
        index = self._indices.get(request.salt)
        left = request.params.max_new_tokens - len(request.output_ids) - 1
        count = min(limit, state.length, left)
        if index is None or count < 1:
            return None
        guess = index.guess(request.known, count)
        if request.constrained is not None:
            allowed = request.constrained.guess(guess.tolist(), min(limit, left))
            guess = np.array(allowed, np.int64)
        return guess if guess.size else None

    def verified(self, request: Request, proposed: int, accepted: int) -> None:
        """`accepted` of the `proposed` tokens were what the model said."""
        state = request.guessing
        if not isinstance(state, Guessing):
            return
        if accepted:
            state.misses = 0
            longer = 2 * proposed if accepted == proposed else accepted + 1
            state.length = max(2, min(self.MOST, longer))
        else:
            state.misses += 1
            state.length = 2
            state.pause = min(32, 1 << state.misses)

    def prompt_computed(self, request: Request) -> None:
        """The prompt is in the cache; what was there before is known already."""
        new = max(0, request.num_prompt - request.num_prompt_rows - DraftIndex.LENGTH)
        request.guessing = Guessing(learned=request.num_prompt)
        self._index(request.salt).add(request.known[new : request.num_prompt])

    def generated(self, request: Request) -> None:
        """Learn what `request` generated since the last time, once it is enough or at the end."""
        state = request.guessing
        if not isinstance(state, Guessing):
            return
        if request.num_known - state.learned >= self.CHUNK or request.finished:
            start = max(0, state.learned - DraftIndex.LENGTH)
            state.learned = request.num_known
            self._index(request.salt).add(request.known[start:])

    def forget(self) -> None:
        """Everything that was learned."""
        self._indices.clear()

    def _index(self, salt: str | None) -> DraftIndex:
        index = self._indices.get(salt)
        if index is None:
            if len(self._indices) >= self._max_salts:
                self._indices.popitem(last=False)
            index = self._indices[salt] = DraftIndex(self._size)
        self._indices.move_to_end(salt)
        return index

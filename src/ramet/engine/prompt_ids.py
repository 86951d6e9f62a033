"""The token ids of prompts that continue each other, each id kept once.

A prompt's ids are the first so many of a trunk that it shares, and a few short pieces behind them. Who
continues the trunk's very end grows it in place, as a chat does turn by turn; who continues a place that
somebody else has continued already, a fork, adds pieces, and starts a trunk of its own when there are
many. So an append costs time in its own length. Knows arrays; refuses to know texts and requests.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ramet.cache.buffer import IntBuffer, common_prefix
from ramet.kernels.plan import IntArray

__all__ = ["GrowingIds", "PromptIds"]

_MANY_PIECES = 32
_growing = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class PromptIds:
    """All ids of one prompt, in pieces. `largest` is the largest id as an unsigned number, so that a
    negative one is larger than any vocabulary (-1: there are no ids)."""

    pieces: tuple[IntArray, ...]
    largest: int

    @classmethod
    def of(cls, ids: IntArray) -> PromptIds:
        return cls((ids,), _largest(ids))

    def __len__(self) -> int:
        return sum(piece.size for piece in self.pieces)

    def __iter__(self) -> Iterator[int]:
        return (token for piece in self.pieces for token in piece.tolist())

    def buffer(self, room: int = 0) -> IntBuffer:
        """A copy in one piece, with memory for `room` more: the only place where all ids are copied."""
        return IntBuffer.joined(self.pieces, room)

    def since(self, start: int) -> IntArray:
        """The ids from `start` on. Costs time in their number (and that of the pieces)."""
        found: list[IntArray] = []
        for piece in self.pieces:
            found.append(piece[start:] if start > 0 else piece)
            start -= piece.size
        return np.concatenate(found)

    def without_last(self) -> PromptIds:
        """All ids but the last."""
        kept = list(self.pieces)
        while kept and not kept[-1].size:
            kept.pop()
        if kept:
            kept[-1] = kept[-1][:-1]
        return PromptIds(tuple(kept), self.largest)

    def common_prefix(self, other: PromptIds, start: int) -> int:
        """How many leading ids agree, where the first `start` are known to."""
        return start + common_prefix(self.since(start), other.since(start))


@dataclass(frozen=True, slots=True, eq=False)
class GrowingIds:
    """Ids that others continue: the first `length` of `trunk`, then `pieces`."""

    trunk: IntBuffer
    length: int = 0
    pieces: tuple[IntArray, ...] = ()
    largest: int = -1

    @classmethod
    def empty(cls) -> GrowingIds:
        return cls(IntBuffer(np.empty(0, np.int64)))

    def __len__(self) -> int:
        return self.length + sum(piece.size for piece in self.pieces)

    def append(self, ids: IntArray) -> GrowingIds:
        if not ids.size:
            return self
        largest = max(self.largest, _largest(ids))
        if not self.pieces:
            with _growing:
                if self.trunk.view.size == self.length:
                    self.trunk.append(ids)
                    return GrowingIds(self.trunk, self.trunk.view.size, (), largest)
        pieces = (*self.pieces, ids)
        if len(pieces) < _MANY_PIECES:
            return GrowingIds(self.trunk, self.length, pieces, largest)
        trunk = IntBuffer.joined([self.trunk.view[: self.length], *pieces])
        return GrowingIds(trunk, trunk.view.size, (), largest)

    def ended(self, first: Sequence[int], last: IntArray) -> PromptIds:
        """The prompt that these ids and `last` are, behind `first` unless it begins with them."""
        pieces = [self.trunk.view[: self.length], *self.pieces, last]
        if first and not _begins(pieces, first):
            pieces.insert(0, np.array(first, np.int64))
        return PromptIds(tuple(pieces), max(self.largest, _largest(last), *first, -1))


def _begins(pieces: Sequence[IntArray], first: Sequence[int]) -> bool:
    found: list[int] = []
    for piece in pieces:
        found += piece[: len(first) - len(found)].tolist()
    return found == list(first)


def _largest(ids: IntArray) -> int:
    return int(ids.view(np.uint64).max()) if ids.size else -1

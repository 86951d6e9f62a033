"""Guesses are what really followed, never more, and never from the neighbour's sequence."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ramet.engine.drafts import DraftIndex


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int64)


def test_what_followed_the_last_time() -> None:
    index = DraftIndex(64)
    index.add(ids(1, 2, 3, 4, 5, 6))
    assert index.guess(ids(9, 9, 1, 2, 3), 2).tolist() == [4, 5]
    assert index.guess(ids(2, 3, 4), 9).tolist() == [5, 6]
    index.add(ids(7, 2, 3, 4, 8))
    assert index.guess(ids(2, 3, 4), 9).tolist() == [8]
    assert index.guess(ids(4, 5, 6), 9).tolist() == []


def test_nothing_to_go_by() -> None:
    index = DraftIndex(64)
    assert index.guess(ids(1, 2, 3), 4).tolist() == []
    index.add(ids(1, 2, 3))
    assert index.guess(ids(1, 2, 3), 4).tolist() == []
    assert index.guess(ids(2, 3), 4).tolist() == []
    index.add(ids(1, 2, 3, 4))
    assert index.guess(ids(1, 2, 3), 0).tolist() == []


def test_sizes() -> None:
    with pytest.raises(ValueError, match="power of two"):
        DraftIndex(100)
    index = DraftIndex(16)
    index.add(np.arange(100, dtype=np.int64))
    assert index.guess(ids(96, 97, 98), 5).tolist() == [99]


def test_a_ring_that_overflows_forgets_and_never_mixes() -> None:
    rng = random.Random(1)
    index, added = DraftIndex(64), []
    for _ in range(300):
        sequence = [rng.randrange(6) for _ in range(rng.randint(1, 20))]
        index.add(np.array(sequence, np.int64))
        added.append(sequence)
        probe = [rng.randrange(6) for _ in range(3)]
        found = index.guess(np.array(probe, np.int64), 4).tolist()
        if found:
            runs = [s[i : i + 3 + len(found)] for s in added[-64:] for i in range(len(s))]
            assert probe + found in runs

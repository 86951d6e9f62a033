"""Byte ranges against `str.encode`."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from ramet.constraints.utf8 import byte_sequences

LAST = 0x10FFFF
EDGES = (0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0xFFFFF, LAST)


def expand(sequence: tuple[tuple[int, int], ...]) -> list[bytes]:
    texts = [b""]
    for low, high in sequence:
        texts = [text + bytes([byte]) for text in texts for byte in range(low, high + 1)]
    return texts


def encodings(low: int, high: int) -> list[bytes]:
    return [chr(c).encode() for c in range(low, high + 1) if not 0xD800 <= c <= 0xDFFF]


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 0x7F),
        (0x41, 0x41),
        (0x70, 0x90),
        (0x7FE, 0x801),
        (0xD000, 0xE100),
        (0xD900, 0xDA00),
        (0xD7FF, 0xD800),
        (0xDFFF, 0xE000),
        (0xFF00, 0x10100),
        (0x10FF00, LAST),
        (0x80, 0x2FFF),
    ],
)
def test_a_range_gives_its_encodings_in_order(low: int, high: int) -> None:
    found = [text for sequence in byte_sequences([(low, high)]) for text in expand(sequence)]
    assert found == encodings(low, high)


@pytest.mark.parametrize("seed", range(20))
def test_random_ranges_give_their_encodings(seed: int) -> None:
    chance = random.Random(seed)
    ranges, expected = [], set()
    for _ in range(5):
        low = max(0, min(LAST, chance.choice(EDGES) + chance.randint(-70, 70)))
        high = min(LAST, low + chance.choice((0, 1, 63, 64, 200, 3000)))
        ranges.append((low, high))
        expected |= set(encodings(low, high))
    found = [text for sequence in byte_sequences(ranges) for text in expand(sequence)]
    assert len(found) == len(set(found))
    assert found == sorted(expected)


def test_all_characters_are_few_sequences() -> None:
    found = byte_sequences([(0, LAST)])
    assert [len(sequence) for sequence in found] == [1, 2, 3, 3, 3, 3, 4, 4, 4]
    assert sum(len(expand(sequence)) for sequence in found[:6]) == 0x10000 - 0x800
    assert found[-1] == ((0xF4, 0xF4), (0x80, 0x8F), (0x80, 0xBF), (0x80, 0xBF))


def test_nothing_gives_nothing() -> None:
    assert byte_sequences([]) == []
    assert byte_sequences([(0xD800, 0xDFFF)]) == []


@pytest.mark.parametrize("seed", range(10))
def test_sequences_read_as_a_deterministic_automaton(seed: int) -> None:
    chance = random.Random(100 + seed)
    points = sorted(chance.sample(range(0x300), 100) + chance.sample(range(LAST), 100))
    sequences = byte_sequences(zip(points[::2], points[1::2], strict=True))
    for one, two in pairwise(sequences):
        place = next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
        assert one[place][1] < two[place][0]

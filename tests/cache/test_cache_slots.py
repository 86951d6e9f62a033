"""The free list, and the growable arrays."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ramet.cache import CacheMisuse, OutOfSlots, SlotPool
from ramet.cache.buffer import IntBuffer, as_tokens, common_prefix
from ramet.errors import InvalidRequest


def ints(*values: int) -> np.typing.NDArray[np.int64]:
    return np.array(values, np.int64)


def test_alloc_gives_each_slot_once_and_free_takes_it_back() -> None:
    pool = SlotPool(5)
    first, second = pool.alloc(3), pool.alloc(2)
    assert sorted([*first.tolist(), *second.tolist()]) == [0, 1, 2, 3, 4]
    assert pool.num_free == 0
    pool.free(first)
    assert pool.num_free == 3
    assert sorted(pool.free_slots.tolist()) == sorted(first.tolist())


def test_neighbours_stay_neighbours() -> None:
    pool = SlotPool(8)
    assert pool.alloc(3).tolist() == [0, 1, 2]
    slots = pool.alloc(4)
    pool.free(slots)
    assert pool.alloc(4).tolist() == slots.tolist()


def test_too_many_slots_change_nothing() -> None:
    pool = SlotPool(4)
    pool.alloc(1)
    with pytest.raises(OutOfSlots, match="4 KV slots needed, 3 can be had") as caught:
        pool.alloc(4)
    assert (caught.value.needed, caught.value.free) == (4, 3)
    assert pool.num_free == 3
    assert pool.alloc(3).size == 3


@pytest.mark.parametrize(
    ("slots", "word"),
    [([0, 5], "freed twice"), ([1, 0, 1], "twice in one call"), ([8], "has 8"), ([-1], "has 8")],
)
def test_what_is_not_owned_cannot_be_freed(slots: list[int], word: str) -> None:
    pool = SlotPool(8)
    pool.alloc(4)  # 0 .. 3
    with pytest.raises(CacheMisuse, match=word):
        pool.free(ints(*slots))
    assert pool.num_free == 4
    pool.free(ints(0, 1, 2, 3))
    with pytest.raises(CacheMisuse, match="freed twice"):
        pool.free(ints(2))
    assert sorted(pool.alloc(8).tolist()) == list(range(8))


def test_the_free_list_cannot_be_written_from_outside() -> None:
    with pytest.raises(ValueError, match="read-only"):
        SlotPool(4).free_slots[0] = 3


@pytest.mark.parametrize("num_slots", [0, -1])
def test_a_pool_has_slots(num_slots: int) -> None:
    with pytest.raises(InvalidRequest, match="num_slots"):
        SlotPool(num_slots)


def test_negative_numbers_of_slots_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="n: -1 is negative"):
        SlotPool(4).alloc(-1)


@given(st.lists(st.integers(0, 6)))
def test_a_pool_is_a_set(sizes: list[int]) -> None:
    pool, owned = SlotPool(12), list[list[int]]()
    for size in sizes:
        if size <= pool.num_free:
            owned.append(pool.alloc(size).tolist())
        elif owned:
            pool.free(ints(*owned.pop(len(owned) // 2)))
        flat = [slot for slots in owned for slot in slots]
        assert sorted(flat + pool.free_slots.tolist()) == list(range(12))


@given(
    st.lists(
        st.tuples(st.sampled_from(["append", "write", "cut"]), st.integers(0, 40), st.floats(0, 1))
    )
)
def test_a_buffer_is_a_list(operations: list[tuple[str, int, float]]) -> None:
    buffer, model, number = IntBuffer(ints()), list[int](), 0
    for name, size, place in operations:
        at = round(place * len(model))
        values = list(range(number, number + size))
        number += size
        if name == "append":
            buffer.append(ints(*values))
            model += values
        elif name == "write":
            buffer.write(at, ints(*values))
            model[at : at + size] = values
        else:
            buffer.cut(at)
            del model[at:]
        assert buffer.view.tolist() == model


def test_a_buffer_copies_what_it_is_given_and_shows_it_read_only() -> None:
    values = ints(1, 2, 3)
    buffer = IntBuffer(values)
    values[0] = 9
    assert buffer.view.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        buffer.view[0] = 9


def test_a_buffer_rarely_moves() -> None:
    buffer = IntBuffer(ints())
    places = set()
    for number in range(1000):
        buffer.append(ints(number))
        places.add(buffer.view.ctypes.data)
    assert len(places) <= 9  # 8, 16, ... 1024


def test_a_cut_buffer_gives_its_memory_back() -> None:
    buffer = IntBuffer(np.arange(1000))
    buffer.cut(10)
    base = buffer.view.base
    assert isinstance(base, np.ndarray)
    assert base.size == 10


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    expected = 0
    while expected < min(len(a), len(b)) and a[expected] == b[expected]:
        expected += 1
    assert common_prefix(ints(*a), ints(*b)) == expected


def test_tokens_are_whole_numbers_in_one_row() -> None:
    array = ints(1, 2)
    assert as_tokens(array) is array
    assert as_tokens([]).dtype == np.int64
    assert as_tokens(np.array([7], np.int32)).tolist() == [7]
    with pytest.raises(InvalidRequest, match="not whole numbers"):
        as_tokens([1.5])  # type: ignore[list-item]
    with pytest.raises(InvalidRequest, match="not one sequence"):
        as_tokens([[1, 2]])  # type: ignore[list-item]

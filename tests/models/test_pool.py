"""The KV pool: shapes, the scratch slot, sizes and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ramet.cache.pool import KVPool
from ramet.errors import InvalidRequest


def test_layout() -> None:
    pool = KVPool(3, 10, 2, 4)
    assert pool.keys(0).shape == pool.values(2).shape == (11, 2, 4)
    assert pool.scratch_slot == 10
    assert pool.bytes_per_slot == 3 * 2 * 2 * 4 * 4
    assert KVPool(3, 10, 2, 4, torch.bfloat16).bytes_per_slot == 3 * 2 * 2 * 4 * 2


def test_every_layer_has_its_own_memory() -> None:
    pool = KVPool(2, 5, 1, 2)
    for number in range(2):
        pool.keys(number).fill_(number + 1)
        pool.values(number).fill_(number + 10)
    assert [pool.keys(i).unique().item() for i in range(2)] == [1, 2]
    assert [pool.values(i).unique().item() for i in range(2)] == [10, 11]
    assert pool.keys(0).is_contiguous()


@pytest.mark.parametrize("field", ["num_layers", "num_slots", "num_kv_heads", "head_dim"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_sizes_must_be_positive(field: str, value: Any) -> None:
    sizes: dict[str, Any] = {"num_layers": 1, "num_slots": 4, "num_kv_heads": 1, "head_dim": 2}
    with pytest.raises(InvalidRequest, match=rf"KVPool\.{field}: {value}"):
        KVPool(**sizes | {field: value})


def test_more_than_the_memory() -> None:
    with pytest.raises(InvalidRequest, match=r"needs \d+\.\d GiB on cpu, more than there is"):
        KVPool(64, 2**40, 64, 128)

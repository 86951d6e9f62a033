"""Triton's attention under its interpreter: the definition on random trees, and equal bits however rows
come to be computed. `test_triton_attention.py` runs this file in a process of its own, because
TRITON_INTERPRET=1 must be set before Triton is imported and holds for a whole process.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ramet.errors import InvalidRequest
from ramet.kernels import reference
from ramet.kernels.plan import AttentionPlan
from ramet.kernels.triton import attention as kernel

NUM_SLOTS = 900
TOLERANCE = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def plan_of(*segments: tuple[np.ndarray, int]) -> AttentionPlan:
    """Segments as (path, how many of its last positions are rows)."""
    starts = np.cumsum([0, *(num_rows for _, num_rows in segments)])
    firsts = np.array([len(path) - num_rows for path, num_rows in segments])
    return AttentionPlan(starts, firsts, tuple(path for path, _ in segments))


def random_plan(rng: np.random.Generator) -> AttentionPlan:
    """A small tree in depth-first order: chunks, decodes and forks, mostly inside a block."""
    free = rng.permutation(NUM_SLOTS)
    segments: list[tuple[np.ndarray, int]] = []
    for _ in range(rng.integers(1, 6)):
        kept = segments[-1][0][: rng.integers(0, 400)] if segments else free[:0]
        fresh, free = np.split(free, [int(rng.choice([1, 7, 70, 200]))])
        path = np.concatenate((kept, fresh))
        segments.append((path, min(len(fresh), int(rng.choice([1, 1, 2, 5, 20])))))
    return plan_of(*segments)


def tensors(
    plan: AttentionPlan,
    kv_heads: int = 1,
    group: int = 2,
    d: int = 16,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, keys, values; slots that no path names hold NaN, as does the scratch slot."""
    generator = torch.Generator().manual_seed(plan.num_rows)
    q = torch.randn(plan.num_rows, kv_heads * group, d, generator=generator).to(dtype)
    keys, values = torch.randn(2, NUM_SLOTS + 1, kv_heads, d, generator=generator).to(dtype)
    unused = np.setdiff1d(np.arange(NUM_SLOTS + 1), np.concatenate(plan.paths))
    keys[unused], values[unused] = torch.nan, torch.nan
    return q, keys, values


def run(
    plan: AttentionPlan, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    return kernel.attention(q, keys, values, kernel.prepare(plan))


def check(plan: AttentionPlan, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
    got = run(plan, q, keys, values)
    expected = reference.attention_by_definition(q, keys, values, plan)
    assert got.dtype == q.dtype
    tolerance = max(TOLERANCE[t.dtype] for t in (q, keys))
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("seed", range(9))
def test_random_trees(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dtype meets every number of programs, so whole paths, spans and single blocks."""
    rng = np.random.default_rng(seed)
    wanted = (1, 30, 10**6)[seed // 3 % 3]
    monkeypatch.setattr(kernel, "_wanted_programs", lambda _: wanted)
    dtype = (torch.float32, torch.float16, torch.bfloat16)[seed % 3]
    group, d = int(rng.choice([1, 2, 3, 4])), int(rng.choice([16, 24, 64]))
    plan = random_plan(rng)
    check(plan, *tensors(plan, int(rng.integers(1, 3)), group, d, dtype))


def test_more_query_heads_than_a_program_usually_takes() -> None:
    plan = plan_of((np.arange(70), 1), (np.arange(3, 90), 1))
    check(plan, *tensors(plan, group=71))


@pytest.mark.parametrize("d", [2, 256])
def test_the_ends_of_the_head_dimension(d: int) -> None:
    plan = plan_of((np.arange(70), 1))
    check(plan, *tensors(plan, d=d))


def test_queries_may_be_wider_than_the_cache_and_need_not_be_contiguous() -> None:
    plan = plan_of((np.arange(100), 3), (np.arange(90), 1))
    q, keys, values = tensors(plan, kv_heads=2)
    wide = torch.full((plan.num_rows, 7, 40), torch.nan)
    wide[:, 1:5, ::2][..., :16] = q
    check(plan, wide[:, 1:5, ::2][..., :16], keys.half(), values.half())
    packed = torch.full((plan.num_rows, 7, 16), torch.nan)
    packed[:, 1:5] = q
    check(plan, packed[:, 1:5], keys.bfloat16(), values.bfloat16())


def test_one_preparation_serves_every_layer() -> None:
    plan = plan_of((np.arange(300), 1), (np.concatenate((np.arange(200), np.arange(400, 420))), 1))
    q, keys, values = tensors(plan)
    prepared = kernel.prepare(plan)
    first = kernel.attention(q, keys, values, prepared)
    second = kernel.attention(-q, keys, values, prepared)
    assert torch.equal(first, run(plan, q, keys, values))
    assert torch.equal(second, run(plan, -q, keys, values))
    assert not torch.equal(first, second)


# ---- equal bits -------------------------------------------------------------------------------------

LENGTH, ROWS = 390, 5  # six blocks and six positions: the path ends inside its second span


def ways(path: np.ndarray, other: np.ndarray) -> dict[str, AttentionPlan]:
    """Plans whose last ROWS rows of the first segment are those of `path`. Whoever shares 330 positions
    leaves the path inside block 5, so inside a span too."""
    fork = np.concatenate((path[:330], other[:40]))
    early = np.concatenate((path[:64], other[40:50]))
    return {
        "in one chunk": plan_of((path, 40)),
        "beside decoding forks": plan_of((path, ROWS), (fork, 1), (fork[:-7], 1), (early, 1)),
        "beside a long one": plan_of((path, ROWS), (fork, 40)),
        "beside its own copy": plan_of((path, ROWS), (path, ROWS)),
    }


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.float32, 10**6), (torch.float16, 1)])
def test_bits_do_not_depend_on_the_batch(
    dtype: torch.dtype, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holds as far as numpy's matrix product computes a row alike wherever it lies in a block."""
    order = np.random.default_rng(1).permutation(NUM_SLOTS)
    path, other = order[:LENGTH], order[LENGTH:]
    q, keys, values = tensors(plan_of((order, 40)), dtype=dtype)
    last = q[-ROWS:]
    alone = run(plan_of((path, ROWS)), last, keys, values)
    monkeypatch.setattr(kernel, "_wanted_programs", lambda _: wanted)
    for name, plan in ways(path, other).items():
        stop = int(plan.row_starts[1])
        queries = q.repeat(3, 1, 1)[: plan.num_rows].clone()
        queries[stop - ROWS : stop] = last
        got = run(plan, queries, keys, values)[stop - ROWS : stop]
        assert torch.equal(got, alone), name


def test_bits_do_not_depend_on_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    path = np.random.default_rng(2).permutation(NUM_SLOTS)
    plan = plan_of(*((np.concatenate((path[:330], path[400 + i : 500])), 2) for i in range(3)))
    monkeypatch.setattr(kernel, "_wanted_programs", lambda _: 10**6)
    q, keys, values = tensors(plan)
    roomy = run(plan, q, keys, values)
    monkeypatch.setattr(kernel, "_MAX_PARTIAL_BYTES", 0)
    assert torch.equal(run(plan, q, keys, values), roomy)


# ---- refusals ---------------------------------------------------------------------------------------


def test_no_rows() -> None:
    plan = AttentionPlan(np.array([0]), np.empty(0, np.int64), ())
    keys = torch.zeros(3, 1, 16)
    assert run(plan, torch.zeros(0, 2, 16), keys, keys).shape == (0, 2, 16)


@pytest.mark.parametrize(
    ("q", "keys", "values", "field"),
    [
        (torch.zeros(1, 2, 16).double(), (5, 1, 16), (5, 1, 16), "attention.q.dtype"),
        (torch.zeros(1, 2, 16), (5, 1, 16), (5, 2, 16), "attention.values"),
        (torch.zeros(1, 3, 16), (5, 2, 16), (5, 2, 16), "attention.q.shape"),
        (torch.zeros(1, 2, 16), (5, 1, 32), (5, 1, 32), "attention.q.shape"),
        (torch.zeros(1, 2, 257), (5, 1, 257), (5, 1, 257), "attention.q.shape"),
    ],
)
def test_what_does_not_fit_is_refused(
    q: torch.Tensor, keys: tuple[int, ...], values: tuple[int, ...], field: str
) -> None:
    with pytest.raises(InvalidRequest) as error:
        run(plan_of((np.arange(3), 1)), q, torch.zeros(keys), torch.zeros(values))
    assert error.value.field == field

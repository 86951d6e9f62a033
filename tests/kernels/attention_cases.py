"""Plans and tensors for tests of an attention kernel, whichever it is and wherever it runs."""

from __future__ import annotations

import numpy as np
import torch

from ramet.kernels import reference
from ramet.kernels.attention import Attention
from ramet.kernels.plan import AttentionPlan

NUM_SLOTS = 900
TOLERANCE = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
LENGTH, ROWS = 390, 5  # six blocks and six positions: the path ends inside its second span

Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


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


def tensors(
    plan: AttentionPlan,
    kv_heads: int = 1,
    group: int = 2,
    d: int = 16,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Three:
    """q, keys, values; slots that no path names hold NaN, as does the scratch slot."""
    generator = torch.Generator().manual_seed(plan.num_rows)
    q = torch.randn(plan.num_rows, kv_heads * group, d, generator=generator)
    keys, values = torch.randn(2, NUM_SLOTS + 1, kv_heads, d, generator=generator)
    unused = np.setdiff1d(np.arange(NUM_SLOTS + 1), np.concatenate(plan.paths))
    keys[unused], values[unused] = torch.nan, torch.nan
    return q.to(device, dtype), keys.to(device, dtype), values.to(device, dtype)


def run(
    kernel: Attention,
    plan: AttentionPlan,
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    return kernel.attention(q, keys, values, kernel.prepare(plan, q.device))


def check(
    kernel: Attention,
    plan: AttentionPlan,
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> None:
    """Equal to the definition, up to what the dtypes hold."""
    got = run(kernel, plan, q, keys, values)
    expected = reference.attention_by_definition(q.cpu(), keys.cpu(), values.cpu(), plan)
    assert got.dtype == q.dtype
    tolerance = max(TOLERANCE[t.dtype] for t in (q, keys))
    torch.testing.assert_close(got.double().cpu(), expected, rtol=tolerance, atol=tolerance)


def check_ways(kernel: Attention, dtype: torch.dtype, device: str = "cpu") -> None:
    """The last rows of one path have equal bits alone and in each of `ways`."""
    order = np.random.default_rng(1).permutation(NUM_SLOTS)
    path, other = order[:LENGTH], order[LENGTH:]
    q, keys, values = tensors(plan_of((order, 40)), dtype=dtype, device=device)
    last = q[-ROWS:]
    alone = run(kernel, plan_of((path, ROWS)), last, keys, values)
    for name, plan in ways(path, other).items():
        stop = int(plan.row_starts[1])
        queries = q.repeat(3, 1, 1)[: plan.num_rows].clone()
        queries[stop - ROWS : stop] = last
        got = run(kernel, plan, queries, keys, values)[stop - ROWS : stop]
        assert torch.equal(got, alone), name

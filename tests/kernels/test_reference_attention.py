"""The grouped, chunked attention equals its definition over random plans."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ramet.kernels import reference
from ramet.kernels.plan import AttentionPlan

NUM_SLOTS = 96


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@st.composite
def plans(draw: st.DrawFn) -> AttentionPlan:
    """Segments at random depths whose paths share slots: prefixes of earlier paths, then free ones.
    Rows computed again are segments whose whole path is shared."""
    order = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).permutation(NUM_SLOTS)
    paths: list[np.ndarray] = []
    firsts, starts = [], [0]
    for _ in range(draw(st.integers(1, 7))):
        prefix = order[:0]
        if paths and draw(st.booleans()):
            base = paths[draw(st.integers(0, len(paths) - 1))]
            prefix = base[: draw(st.integers(0, len(base)))]
        fresh = draw(st.integers(0 if len(prefix) else 1, 40))
        path = np.concatenate([prefix, np.setdiff1d(order, prefix, assume_unique=True)[:fresh]])
        num_rows = draw(st.sampled_from([1, 1, 1, 2, 5, len(path)]))
        num_rows = min(num_rows, len(path))
        paths.append(path)
        firsts.append(len(path) - num_rows)
        starts.append(starts[-1] + num_rows)
    return AttentionPlan(np.array(starts), np.array(firsts), tuple(paths))


def tensors(
    plan: AttentionPlan, kv_heads: int, group: int, d: int, num_slots: int = NUM_SLOTS
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, keys, values; slots that no path names hold NaN, as does the scratch slot."""
    generator = torch.Generator().manual_seed(plan.num_rows * 1000 + kv_heads * 100 + group)
    q = torch.randn(plan.num_rows, kv_heads * group, d, generator=generator)
    keys = torch.randn(num_slots + 1, kv_heads, d, generator=generator)
    values = torch.randn(num_slots + 1, kv_heads, d, generator=generator)
    unused = np.setdiff1d(np.arange(num_slots + 1), np.concatenate(plan.paths))
    keys[unused], values[unused] = torch.nan, torch.nan
    return q, keys, values


def check(plan: AttentionPlan, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
    got = reference.attention(q, keys, values, reference.prepare(plan))
    expected = reference.attention_by_definition(q, keys, values, plan)
    assert got.dtype == q.dtype
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=60)
@given(plan=plans(), kv_heads=st.integers(1, 3), group=st.integers(1, 4), d=st.sampled_from([2, 8]))
def test_random_plans(plan: AttentionPlan, kv_heads: int, group: int, d: int) -> None:
    check(plan, *tensors(plan, kv_heads, group, d))


def test_long_segments_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_MAX_PIECE", 16)
    monkeypatch.setattr(reference, "_MAX_SCORES", 300)  # 300 / (2 heads * 70) = 2 rows at once
    plan = AttentionPlan(
        np.array([0, 50, 52, 92]),
        np.array([20, 3, 0]),
        (np.arange(70), np.arange(5), np.arange(40, 80)),
    )
    check(plan, *tensors(plan, 1, 2, 4))


def test_groups_bound_padding_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_MAX_GROUP_SLOTS", 200)
    lengths = [3, 90, 4, 4, 91, 18, 92, 19, 40, 1]
    plan = AttentionPlan(
        np.arange(len(lengths) + 1), np.array(lengths) - 1, tuple(np.arange(n) for n in lengths)
    )
    groups = reference.prepare(plan).groups
    assert sorted(r for g in groups for r in g.rows.tolist()) == list(range(len(lengths)))
    assert [g.slots.shape for g in groups] == [(4, 4), (2, 19), (1, 40), (2, 91), (1, 92)]
    check(plan, *tensors(plan, 2, 2, 4))


def test_one_long_path_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_MAX_GROUP_SLOTS", 10)
    plan = AttentionPlan(np.array([0, 1]), np.array([59]), (np.arange(60),))
    check(plan, *tensors(plan, 2, 1, 4))


def test_a_plan_without_rows() -> None:
    plan = AttentionPlan(np.array([0]), np.empty(0, np.int64), ())
    keys = torch.zeros(3, 1, 4)
    out = reference.attention(torch.zeros(0, 2, 4), keys, keys, reference.prepare(plan))
    assert out.shape == (0, 2, 4)


def test_half_precision_is_rounded_once() -> None:
    plan = AttentionPlan(np.array([0, 1, 9]), np.array([30, 20]), (np.arange(31), np.arange(28)))
    q, keys, values = (t.bfloat16() for t in tensors(plan, 2, 2, 8))
    got = reference.attention(q, keys, values, reference.prepare(plan))
    expected = reference.attention_by_definition(q, keys, values, plan).bfloat16()
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=2**-7, atol=1e-6)

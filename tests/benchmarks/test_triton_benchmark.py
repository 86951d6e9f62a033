"""What the GPU benchmark counts and says. Its measurements run on a CPU in
tests/kernels/triton_interpreted.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.attention_plans import (
    CASES,
    Card,
    Heads,
    context_sum,
    floor_seconds,
    num_bytes,
    num_keys,
    operations,
    tree,
)
from benchmarks.triton_attention import main, measure_engine, why_not

from ramet import Engine
from ramet.kernels.cpu import library

HEADS = Heads("some", 4, 2, 10, "float16")


def test_without_a_gpu_it_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert why_not() is not None
    assert main([]) == 0
    said = capsys.readouterr().out
    assert said.startswith("nothing to measure: torch ")
    assert said.count("\n") == 1


def test_counts_of_a_small_tree() -> None:
    """Three paths of 6 + 4 positions, the last two of each computed: contexts 9 and 10."""
    plan = tree(1.0, count=3, shared=6, own=4, rows=2)
    assert (plan.num_rows, num_keys(plan)) == (6, 6 + 3 * 4)
    assert context_sum(plan) == 3 * (9 + 10)
    assert operations(plan, HEADS) == 4 * 4 * 10 * 57
    assert num_bytes(plan, HEADS) == 2 * 10 * (2 * 18 * 2 + 2 * 6 * 4)
    by_bytes = Card("slow memory", 1.0, {"float16": 1e30})
    by_operations = Card("slow", 1e30, {"float16": 1.0})
    assert floor_seconds(plan, HEADS, by_bytes) == num_bytes(plan, HEADS)
    assert floor_seconds(plan, HEADS, by_operations) == operations(plan, HEADS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_plans_fit_together(case: object) -> None:
    plan = case.plan(1 / 16)  # type: ignore[attr-defined]
    lengths = [len(path) for path in plan.paths]
    assert (np.diff(plan.row_starts) + plan.first_positions).tolist() == lengths
    assert plan.row_starts[-1] == plan.num_rows > 0
    assert len(set(plan.paths[0].tolist())) == lengths[0]


def test_the_engines_bits_are_compared() -> None:
    with Engine("pocket", max_cache_tokens=4096) as engine:
        found = measure_engine(engine, scale=1 / 16)
    assert found["new_tokens"] == 64 * 2
    assert found["cold_seconds"] > 0
    assert found["warm_seconds"] > 0
    if library.why_not() is None:  # only the native kernels promise it
        assert [found[name] for name in found if "other" in name] == [0] * 4

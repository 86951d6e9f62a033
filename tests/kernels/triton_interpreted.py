"""Triton's attention under its interpreter: the definition on random trees, and equal bits however rows
come to be computed; alone, in a model and in an engine. `test_triton_attention.py` runs this file in a
process of its own, because TRITON_INTERPRET=1 must be set before Triton is imported and holds for a whole
process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.attention_plans import CASES, Case, Heads, tree
from benchmarks.triton_attention import measure, measure_card
from tests.engine.exactness import ExactWorld
from tests.kernels.attention_cases import (
    NUM_SLOTS,
    check,
    check_ways,
    plan_of,
    random_plan,
    run,
    tensors,
)
from tests.models.checkpoints import make_checkpoint
from tests.models.oracle import Run

from ramet.errors import InvalidRequest
from ramet.kernels import reference
from ramet.kernels.plan import AttentionPlan
from ramet.kernels.triton import attention as kernel
from ramet.models import decoder, load_model
from ramet.models.decoder import Decoder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("seed", range(9))
def test_random_trees(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dtype meets every number of programs, so whole paths, spans and single blocks."""
    rng = np.random.default_rng(seed)
    wanted = (1, 30, 10**6)[seed // 3 % 3]
    monkeypatch.setattr(kernel, "_wanted_programs", lambda _: wanted)
    dtype = (torch.float32, torch.float16, torch.bfloat16)[seed % 3]
    group, d = int(rng.choice([1, 2, 3, 4])), int(rng.choice([16, 24, 64]))
    plan = random_plan(rng)
    check(kernel, plan, *tensors(plan, int(rng.integers(1, 3)), group, d, dtype))


def test_more_query_heads_than_a_program_usually_takes() -> None:
    plan = plan_of((np.arange(70), 1), (np.arange(3, 90), 1))
    check(kernel, plan, *tensors(plan, group=71))


@pytest.mark.parametrize("d", [2, 256])
def test_the_ends_of_the_head_dimension(d: int) -> None:
    plan = plan_of((np.arange(70), 1))
    check(kernel, plan, *tensors(plan, d=d))


def test_queries_may_be_wider_than_the_cache_and_need_not_be_contiguous() -> None:
    plan = plan_of((np.arange(100), 3), (np.arange(90), 1))
    q, keys, values = tensors(plan, kv_heads=2)
    wide = torch.full((plan.num_rows, 7, 40), torch.nan)
    wide[:, 1:5, ::2][..., :16] = q
    check(kernel, plan, wide[:, 1:5, ::2][..., :16], keys.half(), values.half())
    packed = torch.full((plan.num_rows, 7, 16), torch.nan)
    packed[:, 1:5] = q
    check(kernel, plan, packed[:, 1:5], keys.bfloat16(), values.bfloat16())


def test_one_preparation_serves_every_layer() -> None:
    plan = plan_of((np.arange(300), 1), (np.concatenate((np.arange(200), np.arange(400, 420))), 1))
    q, keys, values = tensors(plan)
    prepared = kernel.prepare(plan)
    first = kernel.attention(q, keys, values, prepared)
    second = kernel.attention(-q, keys, values, prepared)
    assert torch.equal(first, run(kernel, plan, q, keys, values))
    assert torch.equal(second, run(kernel, plan, -q, keys, values))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_indices_are_aligned_whatever_the_plan(count: int) -> None:
    """Triton compiles a program again when an argument is no longer aligned to 16 bytes."""
    plan = plan_of(*[(np.arange(200 + i), count) for i in range(count)])
    work = kernel._work(kernel.prepare(plan), 2, 1, 16, 16)
    parts = (work.items, work.slots, work.positions, work.entry_starts, work.entries)
    assert [(part.data_ptr() - work.items.data_ptr()) % 16 for part in parts] == [0] * 5


# ---- equal bits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.float32, 10**6), (torch.float16, 1)])
def test_bits_do_not_depend_on_the_batch(
    dtype: torch.dtype, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holds as far as numpy's matrix product computes a row alike wherever it lies in a block."""
    monkeypatch.setattr(kernel, "_wanted_programs", lambda _: wanted)
    check_ways(kernel, dtype)


def test_bits_do_not_depend_on_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    path = np.random.default_rng(2).permutation(NUM_SLOTS)
    plan = plan_of(*((np.concatenate((path[:330], path[400 + i : 500])), 2) for i in range(3)))
    monkeypatch.setattr(kernel, "_wanted_programs", lambda _: 10**6)
    q, keys, values = tensors(plan)
    roomy = run(kernel, plan, q, keys, values)
    monkeypatch.setattr(kernel, "_MAX_PARTIAL_BYTES", 0)
    assert torch.equal(run(kernel, plan, q, keys, values), roomy)


# ---- in a model -------------------------------------------------------------------------------------


def model_with(attention: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Decoder:
    monkeypatch.setattr(decoder, "attention_for", lambda *_: attention)
    return load_model(folder, native=False)


def test_a_models_forward_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt in two chunks, then three forks and a row computed again, as with the reference."""
    folder = make_checkpoint("qwen3", tmp_path)
    runs = [Run(model_with(a, folder, monkeypatch)) for a in (kernel, reference)]
    ids, path = list(range(4, 154)), list(range(150))
    forks = [([7 + i], 150, [*path, 150 + i]) for i in range(3)]
    for segments in ([(ids[:100], 0, path[:100])], [(ids[100:], 100, path)], forks):
        got, expected = (run(*segments) for run in runs)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    again = ([ids[80]], 80, path[:81])
    got, expected = (run(again, forks[0], recompute=True) for run in runs)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_an_engine_gives_the_same_bits_whatever_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the linears keep a row's bits, as PyTorch's packed ones do on a CPU. With the reference in
    the kernel's place this fails."""
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    folder = make_checkpoint("llama", tmp_path, head_dim=16, **small)
    world = ExactWorld(model_with(kernel, folder, monkeypatch), seed=18)
    world.run()
    assert world.num_tokens > 300


def test_the_benchmark_measures() -> None:
    """On a CPU, where the figures mean nothing but that its code runs."""
    cpu = torch.device("cpu")
    card = measure_card(cpu, budget=1e-3, scale=1e-3)
    heads = Heads("tiny", 2, 1, 16, "float32")
    forks = Case("forks", lambda scale: tree(scale, count=3, shared=70, own=3, rows=1))
    for case in (forks, CASES[0]):
        found = measure(case, heads, card, cpu, scale=1 / 512, budget=1e-3, cold_bytes=1 << 16)
        assert found.error < 1e-5
        assert found.same_bits
        assert min(found.seconds, found.reference, found.host, found.floor) > 0


# ---- refusals ---------------------------------------------------------------------------------------


def test_no_rows() -> None:
    plan = AttentionPlan(np.array([0]), np.empty(0, np.int64), ())
    keys = torch.zeros(3, 1, 16)
    assert run(kernel, plan, torch.zeros(0, 2, 16), keys, keys).shape == (0, 2, 16)


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
        run(kernel, plan_of((np.arange(3), 1)), q, torch.zeros(keys), torch.zeros(values))
    assert error.value.field == field

"""Triton's attention on a real GPU: its definition, equal bits, and a model that uses it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.kernels.attention_cases import check, check_ways, plan_of, random_plan, run, tensors
from tests.models.checkpoints import make_checkpoint
from tests.models.oracle import Run

from ramet import Engine
from ramet.kernels import reference
from ramet.models import decoder, load_model

if not torch.cuda.is_available():
    pytest.skip("torch sees no CUDA GPU", allow_module_level=True)
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from ramet.kernels.triton import attention as kernel

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
PROGRAMS = (1, 30, 10**6)  # wanted: whole paths, spans, and what the device has


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(6))
def test_random_trees(seed: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(kernel, "_wanted_programs", lambda _: PROGRAMS[seed % 3])
    group, d = int(rng.choice([1, 3, 4, 8])), int(rng.choice([16, 24, 64, 128]))
    plan = random_plan(rng)
    check(kernel, plan, *tensors(plan, 2, group, d, dtype, "cuda"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [2, 256])
def test_the_ends_of_the_head_dimension(d: int, dtype: torch.dtype) -> None:
    plan = plan_of((np.arange(70), 3), (np.arange(3, 90), 1))
    check(kernel, plan, *tensors(plan, d=d, dtype=dtype, device="cuda"))


def test_queries_wider_than_the_cache() -> None:
    plan = plan_of((np.arange(100), 3), (np.arange(90), 1))
    q, keys, values = tensors(plan, kv_heads=2, device="cuda")
    for narrow in (torch.float16, torch.bfloat16):
        check(kernel, plan, q, keys.to(narrow), values.to(narrow))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wanted", PROGRAMS)
def test_bits_do_not_depend_on_the_batch(
    wanted: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_wanted_programs", lambda _: wanted)
    check_ways(kernel, dtype, "cuda")


def test_nothing_is_compiled_again_for_another_plan() -> None:
    """Triton compiles for the alignment of its arguments too."""
    before = None
    for rows in (1, 2, 3, 5):
        plan = plan_of((np.arange(300 + rows), rows), (np.arange(200), 1))
        run(kernel, plan, *tensors(plan, d=64, dtype=torch.float16, device="cuda"))
        compiled = [len(_kernels(program)) for program in ("walk", "merge")]
        before = before or compiled
        assert compiled == before


def _kernels(program: str) -> dict[object, object]:
    caches = getattr(kernel.programs, program).device_caches
    return dict(caches[torch.cuda.current_device()][0])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_model(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_checkpoint("qwen3", tmp_path)
    model = load_model(folder, device="cuda", dtype=dtype)
    assert model._attention is kernel
    monkeypatch.setattr(decoder, "attention_for", lambda *_: reference)
    runs = [Run(m) for m in (model, load_model(folder, device="cuda", dtype=dtype))]
    ids, path = list(range(4, 154)), list(range(150))
    forks = [([7 + i], 150, [*path, 150 + i]) for i in range(3)]
    for segments in ([(ids[:100], 0, path[:100])], [(ids[100:], 100, path)], forks):
        got, expected = (run(*segments) for run in runs)
        difference = (got - expected).abs().max()
        assert difference < {"float32": 1e-4, "float16": 0.03, "bfloat16": 0.3}[dtype]


def test_the_engine() -> None:
    """The embedded model in float32 gives the tokens that the CPU gives."""
    prompts = [f"Question: what is {i} plus 2?\nAnswer:" for i in range(8)]
    how = {"max_new_tokens": 16, "temperature": 0}
    answers = []
    for device in ("cpu", "cuda"):
        with Engine("pocket", device=device, dtype="float32", max_cache_tokens=4096) as engine:
            answers.append([a["output_ids"] for a in engine.generate(prompts, how)])
            assert [a["output_ids"] for a in engine.generate(prompts, how)] == answers[-1]
    assert answers[0] == answers[1]

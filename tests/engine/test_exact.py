"""The same bits cold, warm, alone, in any batch, in chunks, forked, preempted, on one thread or two.

Long runs: tests/soak/test_exact_soak.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from ramet.kernels import threads
from ramet.kernels.cpu.library import why_not
from ramet.models import load_model
from tests.engine.exactness import ExactWorld, pocket_folder
from tests.models.checkpoints import make_checkpoint

if why_not() is not None:
    pytest.skip(f"no native kernels: {why_not()}", allow_module_level=True)

VARIANTS = {
    "fp32": {"dtype": "float32"},
    "fp16": {},
    "int8": {"quantization": "int8"},
    "fp16 with 16-bit KV": {"kv_dtype": "float16"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_random_schedules(family: str, variant: str, tmp_path: Path) -> None:
    model = load_model(make_checkpoint(family, tmp_path), native=True, **VARIANTS[variant])
    num_preemptions = num_accepted = num_wrong = 0
    for seed in range(3):
        world = ExactWorld(model, seed)
        world.run()
        num_preemptions += world.num_preemptions
        num_accepted += world.num_accepted_tokens
        num_wrong += world.num_draft_tokens - world.num_accepted_tokens
    counts = num_preemptions, num_accepted, num_wrong
    assert min(counts) > 0, f"the worlds are too easy: {counts}"


@pytest.mark.parametrize("variant", ["fp16", "int8"])
def test_random_schedules_on_the_embedded_model(variant: str) -> None:
    model = load_model(pocket_folder(), native=True, **VARIANTS[variant])
    for seed in range(2):
        ExactWorld(model, 100 + seed).run()


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_the_number_of_threads(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(make_checkpoint("qwen2", tmp_path), native=True, **VARIANTS[variant])
    world = ExactWorld(model, 3)
    monkeypatch.setattr(threads, "_asked", 2)
    world.run()
    monkeypatch.setattr(threads, "_asked", 1)
    for request in world.requests:
        world.compare(request)

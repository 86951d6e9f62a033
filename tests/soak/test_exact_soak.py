"""A million tokens through the real engine and model, every request against itself alone on an
empty cache.

SOAK_TOKENS=100000 make soak ARGS=tests/soak/test_exact_soak.py is a shorter run. Worlds are those
of tests/engine/exactness.py, small and large, on tiny random models in every form of weights and
cache. What shares a batch runs on one thread and its twin alone on two, or the other way round.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from ramet.engine.request import Request
from ramet.kernels import threads
from ramet.kernels.cpu.library import why_not
from ramet.models import load_model
from ramet.models.decoder import Decoder
from tests.engine.exactness import ExactWorld
from tests.models.checkpoints import make_checkpoint

if why_not() is not None:
    pytest.skip(f"no native kernels: {why_not()}", allow_module_level=True)

TOKENS = int(os.environ.get("SOAK_TOKENS") or 1_000_000)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "int8": ("llama", {"quantization": "int8"}),
    "fp16": ("qwen2", {}),
    "int8, fp16 KV": ("qwen3", {"quantization": "int8", "kv_dtype": "float16"}),
    "int8, fp32 KV": ("llama", {"quantization": "int8", "kv_dtype": "float32"}),
    "fp16, bf16 KV": ("qwen2", {"kv_dtype": "bfloat16"}),
    "fp32": ("llama-biased", {"dtype": "float32"}),
}
SCALES = (1, 2, 4, 4)  # of a world's prompts and cache; most tokens come from the large ones


class SoakWorld(ExactWorld):
    """The batch on `1 + seed % 2` threads, what it is compared with on the other number; in every
    third world the cache is small.
    """

    def __init__(self, model: Decoder, seed: int, scale: int) -> None:
        super().__init__(model, seed, scale)
        self.num_threads = 1 + seed % 2
        if seed % 3 == 0:
            self.slots //= scale  # long prompts in a small cache: requests are preempted
        self.num_scores = 0

    def run(self) -> None:
        threads.set_num_threads(self.num_threads)
        super().run()

    def alone(self, request: Request) -> Request:
        threads.set_num_threads(3 - self.num_threads)
        return super().alone(request)

    def compare(self, request: Request) -> None:
        super().compare(request)
        self.num_scores += len(request.output_scores) + len(request.prompt_scores)


def test_a_million_tokens(soak_seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_asked", None)  # put back at the end
    models = {
        name: load_model(
            make_checkpoint(family, tmp_path / name, max_position_embeddings=4096),
            native=True,
            **options,
        )
        for name, (family, options) in KINDS.items()
    }
    start = time.monotonic()
    tokens = scores = preemptions = worlds = 0
    while tokens < TOKENS:
        seed = soak_seed + worlds
        kind = random.Random(seed).choice(sorted(models))
        world = SoakWorld(models[kind], seed, SCALES[seed % len(SCALES)])
        try:
            world.run()
        except BaseException:
            print(f"\nworld {seed} ({kind}) failed; repeat with SOAK_SEED={seed}")
            raise
        worlds += 1
        tokens += world.num_tokens
        scores += world.num_scores
        preemptions += world.num_preemptions
    minutes = (time.monotonic() - start) / 60
    print(
        f"\n{tokens:,} tokens in {worlds} worlds, {preemptions} preemptions, {minutes:.1f} min: "
        f"0 differing bits in {scores:,} log-probabilities, first seed {soak_seed}"
    )
    assert scores
    assert preemptions or worlds < 20, "the worlds are too easy"

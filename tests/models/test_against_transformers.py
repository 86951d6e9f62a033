"""Log-probabilities of the decoder equal those of transformers for every family and way of saving."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.checkpoints import FAMILIES, make_checkpoint
from tests.models.oracle import Run, transformers_logprobs

from ramet.kernels.plan import AttentionPlan
from ramet.models import load_model
from ramet.models.decoder import Decoder

TOLERANCE = 1e-4
IDS = random.Random(7).choices(range(640), k=150)
SLOTS = random.Random(8).sample(range(256), 256)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def load(path: Path) -> Decoder:
    return load_model(path, dtype="float32")


def check(folder: Path, ids: list[int] = IDS) -> None:
    expected = transformers_logprobs(folder, ids)
    got = Run(load(folder))((ids, 0, SLOTS[: len(ids)]))
    assert expected.max() > -1.5, "a flat distribution would hide errors"
    assert (got - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("style", [5, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, style: int, tmp_path: Path) -> None:
    check(make_checkpoint(family, tmp_path, style=style))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 4, "num_attention_heads": 4, "head_dim": 48},
        {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": None, "hidden_size": 96},
        {"rms_norm_eps": 0.1, "num_hidden_layers": 3},
    ],
    ids=str,
)
def test_sizes(changes: dict[str, Any], tmp_path: Path) -> None:
    check(make_checkpoint("llama", tmp_path, **changes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shards", [1, 3])
def test_saved_in_half_precision_and_in_shards(
    dtype: torch.dtype, shards: int, tmp_path: Path
) -> None:
    check(make_checkpoint("llama3", tmp_path, dtype=dtype, shards=shards))


@pytest.mark.parametrize(
    "rope",
    [
        {"factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False},
        {"factor": 4.0, "mscale": 0.8, "mscale_all_dim": 0.5},
        {"factor": 4.0, "attention_factor": 1.5},
        {"factor": None},
    ],
    ids=str,
)
def test_yarn_options(rope: dict[str, Any], tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "original_max_position_embeddings": 64} | rope
    check(make_checkpoint("llama", tmp_path, rope_parameters=rope))


def test_llama3_has_long_medium_and_short_waves(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 8.0, "original_max_position_embeddings": 256}
    check(make_checkpoint("llama", tmp_path, rope_parameters=rope, head_dim=64))


def test_dynamic_scaling_within_its_context(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    folder = make_checkpoint("llama", tmp_path, rope_parameters=rope, max_position_embeddings=150)
    assert load(folder).max_context == 150
    check(folder)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_context_ends_where_the_window_would_matter(family: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"sliding_window": 40, "max_window_layers": 1}
    if family != "mistral":
        changes |= {
            "use_sliding_window": True,
            "layer_types": ["full_attention", "sliding_attention"],
        }
    folder = make_checkpoint(family, tmp_path / "window", **changes)
    decoder = load(folder)
    assert decoder.max_context == 40
    expected = transformers_logprobs(folder, IDS)
    got = Run(decoder)((IDS[:40], 0, SLOTS[:40]))
    assert (got - expected[:40]).abs().max() <= TOLERANCE
    everything = transformers_logprobs(make_checkpoint(family, tmp_path / "all"), IDS)
    window_matters = (everything - expected).abs().amax(-1) > TOLERANCE
    assert window_matters.nonzero()[0].item() == 40  # the bound gives nothing away


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen3", tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="module")
def expected(folder: Path) -> torch.Tensor:
    return transformers_logprobs(folder, IDS)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_in_chunks(folder: Path, expected: torch.Tensor, chunk: int) -> None:
    run = Run(load(folder))
    parts = []
    for start in range(0, len(IDS), chunk):
        piece = IDS[start : start + chunk]
        parts.append(run((piece, start, SLOTS[: start + len(piece)])))
    assert (torch.cat(parts) - expected).abs().max() <= TOLERANCE


def test_two_segments_share_a_cached_prefix(folder: Path, expected: torch.Tensor) -> None:
    run = Run(load(folder))
    run((IDS[:60], 0, SLOTS[:60]))
    other = [*IDS[:60], *IDS[100:130]]
    got = run(
        (IDS[60:90], 60, SLOTS[:90]),
        (other[60:], 60, SLOTS[:60] + SLOTS[200:230]),
    )
    assert (got[:30] - expected[60:90]).abs().max() <= TOLERANCE
    assert (got[30:] - transformers_logprobs(folder, other)[60:]).abs().max() <= TOLERANCE


def test_rows_attend_to_what_the_same_batch_computes(folder: Path, expected: torch.Tensor) -> None:
    """The prefix is the first segment of the batch in which two others extend it."""
    other = [*IDS[:60], *IDS[100:101]]
    got = Run(load(folder))(
        (IDS[:60], 0, SLOTS[:60]),
        (IDS[60:90], 60, SLOTS[:90]),
        (other[60:], 60, [*SLOTS[:60], SLOTS[200]]),
    )
    assert (got[:90] - expected[:90]).abs().max() <= TOLERANCE
    assert (got[90:] - transformers_logprobs(folder, other)[60:]).abs().max() <= TOLERANCE


def test_rows_computed_again_for_their_logits(folder: Path, expected: torch.Tensor) -> None:
    run = Run(load(folder))
    run((IDS[:80], 0, SLOTS[:80]))
    before = [run.kv.keys(layer)[: run.kv.num_slots].clone() for layer in range(2)]
    got = run((IDS[50:80], 50, SLOTS[:80]), ([IDS[40]], 40, SLOTS[:41]), recompute=True)
    assert (got[:30] - expected[50:80]).abs().max() <= TOLERANCE
    assert (got[30] - expected[40]).abs().max() <= TOLERANCE
    for layer in range(2):
        assert torch.equal(run.kv.keys(layer)[: run.kv.num_slots], before[layer])


def test_logits_of_chosen_rows_only(folder: Path) -> None:
    decoder = load(folder)
    plan = AttentionPlan(np.array([0, 20]), np.array([0]), (np.arange(20),))
    rows, ids = np.arange(20), torch.tensor(IDS[:20])
    every = decoder.forward(ids, rows, rows, plan, rows, decoder.make_kv_pool(20))
    some = decoder.forward(ids, rows, rows, plan, np.array([19, 3]), decoder.make_kv_pool(20))
    assert torch.equal(some, every[[19, 3]])
    none = decoder.forward(ids, rows, rows, plan, rows[:0], decoder.make_kv_pool(20))
    assert none.shape == (0, 640)

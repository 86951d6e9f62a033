"""What transformers computes for a checkpoint, and how the tests run Ramet's decoder by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ramet.cache.pool import KVPool
from ramet.kernels.plan import AttentionPlan
from ramet.models.decoder import Decoder


def transformers_logprobs(folder: Path, token_ids: list[int]) -> torch.Tensor:
    """float32 [tokens, vocab], in fp32 and with plain attention."""
    transformers = pytest.importorskip(
        "transformers", reason="transformers, the oracle, is not installed"
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        logits = model(torch.tensor([token_ids])).logits[0]
    return logits.log_softmax(-1)


class Run:
    """Feeds segments to a decoder: each is (token ids, first position, path of slots)."""

    def __init__(self, decoder: Decoder, num_slots: int = 256) -> None:
        self.decoder = decoder
        self.kv: KVPool = decoder.make_kv_pool(num_slots)

    def __call__(
        self, *segments: tuple[list[int], int, list[int]], recompute: bool = False
    ) -> torch.Tensor:
        """Log-probabilities of all rows. With `recompute`, keys and values go to the scratch slot."""
        ids, positions, out_slots, starts = [], [], [], [0]
        for tokens, first, path in segments:
            assert len(path) == first + len(tokens)
            ids += tokens
            positions += range(first, first + len(tokens))
            out_slots += [self.kv.scratch_slot] * len(tokens) if recompute else path[first:]
            starts.append(starts[-1] + len(tokens))
        plan = AttentionPlan(
            row_starts=np.array(starts, dtype=np.int64),
            first_positions=np.array([first for _, first, _ in segments], dtype=np.int64),
            paths=tuple(np.array(path, dtype=np.int64) for _, _, path in segments),
        )
        logits = self.decoder.forward(
            np.array(ids),
            np.array(positions),
            np.array(out_slots),
            plan,
            np.arange(len(ids)),
            self.kv,
        )
        assert logits.dtype == torch.float32
        return logits.log_softmax(-1)

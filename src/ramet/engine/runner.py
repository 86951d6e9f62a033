"""A batch through the model: forward pass, then a token for each query.

Knows the model, its KV pool and the sampler; refuses to know how the batch came about and what becomes
of the tokens.
"""

from __future__ import annotations

import torch

from ramet.cache.pool import KVPool
from ramet.engine.batch import Batch
from ramet.engine.loop import Outcome
from ramet.engine.request import Request, ScoredToken
from ramet.engine.sampler import Sampled, SampleSpec, prompt_logprobs, sample
from ramet.models.decoder import Decoder

__all__ = ["ModelRunner"]


class ModelRunner:
    """`run` gives float32 logits [len(batch.logit_rows), vocab] on the model's device."""

    def __init__(self, model: Decoder, kv: KVPool) -> None:
        self.model, self.kv = model, kv

    def run(self, batch: Batch) -> torch.Tensor:
        return self.model.forward(
            batch.token_ids, batch.positions, batch.out_slots, batch.plan, batch.logit_rows, self.kv
        )

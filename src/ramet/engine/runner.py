"""A batch through the model: forward pass, then a token for each query.

Knows the model, its KV pool and the sampler; refuses to know how the batch came about and what becomes
of the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ramet.cache.pool import KVPool
from ramet.engine.batch import Batch, SampleQuery, ScoreQuery
from ramet.engine.loop import Outcome
from ramet.engine.request import Request, ScoredToken
from ramet.engine.sampler import Mask, Plain, Sampled, SampleSpec, draw, prompt_logprobs, sample
from ramet.errors import RametError
from ramet.models.decoder import Decoder

__all__ = ["ModelRunner"]

_NOT_ASKED = float("nan")


class ModelRunner:
    """`run` gives float32 logits [len(batch.logit_rows), vocab] on the model's device."""

    def __init__(self, model: Decoder, kv: KVPool) -> None:
        self.model, self.kv = model, kv

    def run(self, batch: Batch) -> torch.Tensor:
        return self.model.forward(
            batch.token_ids, batch.positions, batch.out_slots, batch.plan, batch.logit_rows, self.kv
        )

    def sample(self, batch: Batch, logits: torch.Tensor) -> Outcome:
        plain = [query for query in batch.samples if query.request.is_plain]
        tokens = _draw(plain, logits)
        if len(plain) < len(batch.samples):
            others = [query for query in batch.samples if not query.request.is_plain]
            rows = [query.logits_index for query in others]
            sampled = iter(sample(logits, rows, [_spec(query) for query in others]))
            drawn = iter(tokens)
            tokens = [
                next(drawn) if query.request.is_plain else _drawn(next(sampled))
                for query in batch.samples
            ]
        return Outcome(tokens, [self._score(query, logits) for query in batch.scores])

    def _score(self, query: ScoreQuery, logits: torch.Tensor) -> list[ScoredToken]:
        request, count = query.request, len(query.logits_indices)
        rows = logits[torch.from_numpy(query.logits_indices)]
        ids = request.prompt_ids[query.start : query.start + count]
        options = request.logprobs
        return [_scored(s) for s in prompt_logprobs(rows, ids, options.top, options.token_ids)]


def _spec(query: SampleQuery) -> SampleSpec:
    request = query.request
    params, options = request.params, request.logprobs
    before = [*request.output_ids, *query.draft] if query.draft else request.output_ids
    too_early = len(before) < params.min_new_tokens and request.constrained is None
    return SampleSpec(
        params,
        allowed=_mask(query),
        seed=request.seed,
        step=len(before),
        output_ids=before,
        prompt_ids=request.prompt_ids,
        banned_ids=sorted(request.stop_token_ids) if too_early else (),
        top_logprobs_num=options.top if options.output else 0,
        token_ids_logprob=options.token_ids if options.output else (),
        need_logprob=options.output,
    )


def _mask(query: SampleQuery) -> Mask | None:
    constrained = query.request.constrained
    return None if constrained is None else constrained.masks[len(query.draft)]


def _draw(queries: Sequence[SampleQuery], logits: torch.Tensor) -> list[ScoredToken | RametError]:
    free = all(query.request.constrained is None for query in queries)
    masks = None if free else [_mask(query) for query in queries]
    tokens = draw(
        logits,
        [query.logits_index for query in queries],
        [_how(query.request) for query in queries],
        [query.num_before for query in queries],
        masks,
    )
    return [ScoredToken(t, _NOT_ASKED) if isinstance(t, int) else t for t in tokens]


def _how(request: Request) -> Plain:
    how = request.drawing
    if not isinstance(how, Plain):
        how = request.drawing = Plain(request.params, request.seed)
    return how


def _drawn(sampled: Sampled) -> ScoredToken | RametError:
    return sampled.error or _scored(sampled)


def _scored(sampled: Sampled) -> ScoredToken:
    if sampled.error is not None:
        raise sampled.error
    return ScoredToken(sampled.token_id, sampled.logprob, sampled.top, sampled.ids)

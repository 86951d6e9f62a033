"""A request as the native protocol's response object.

Pure functions from a request to plain data (`text`, `output_ids`, `meta_info`). Knows the protocol's
field names and nothing of transports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ramet.backend import TokenLogprob
from ramet.engine.request import Request, ScoredToken

__all__ = ["TokenText", "build_meta_info", "build_response", "triples"]

TokenText = Callable[[int], str | None]
"""Text of one token for the third member of a log-probability triple, or None if it was not asked for."""


def build_response(
    request: Request, text: str, token_text: TokenText, now: float
) -> dict[str, Any]:
    """The response for a request that runs (finish_reason None) or has ended. `now` in the engine
    clock's seconds."""
    return {
        "text": text,
        "output_ids": list(request.output_ids),
        "meta_info": build_meta_info(request, token_text, now),
    }


def build_meta_info(
    request: Request, token_text: TokenText, now: float, output_from: int = 0
) -> dict[str, Any]:
    """`output_from` leaves out the lists' entries for earlier output tokens (for increments)."""
    scores = request.output_scores[output_from:]
    meta: dict[str, Any] = {
        "id": request.rid,
        "finish_reason": request.finish_reason,
        "prompt_tokens": request.num_prompt,
        "completion_tokens": len(request.output_ids),
        "cached_tokens": request.num_cached,
        "num_preemptions": request.num_preemptions,
        "weight_version": "default",
        "seed": request.seed,
        "e2e_latency": (request.finish_time or now) - request.arrival_time,
    }
    if request.first_token_time is not None:
        meta["first_token_latency"] = request.first_token_time - request.arrival_time
    if request.constrained is not None:
        meta["forced_tokens"] = request.constrained.num_forced
    options = request.logprobs
    if options.output or options.prompt_start is not None:
        meta["input_token_logprobs"] = triples(request.prompt_scores, token_text)
        meta["output_token_logprobs"] = triples(scores, token_text)
        meta["output_token_logprobs_length"] = len(request.output_scores)
        if options.top:
            meta["input_top_logprobs"] = _lists(request.prompt_scores, "top", token_text)
            meta["output_top_logprobs"] = _lists(scores, "top", token_text)
        if options.token_ids:
            meta["input_token_ids_logprobs"] = _lists(request.prompt_scores, "asked", token_text)
            meta["output_token_ids_logprobs"] = _lists(scores, "asked", token_text)
    return meta


def triples(scores: Sequence[ScoredToken], token_text: TokenText) -> list[TokenLogprob]:
    return [(s.logprob, s.token_id, token_text(s.token_id)) for s in scores]


def _lists(
    scores: Sequence[ScoredToken], which: str, token_text: TokenText
) -> list[list[TokenLogprob] | None]:
    """Per position the asked-for tokens; None where there is no distribution (a prompt's first token)."""
    return [
        None if s.logprob is None else [(lp, t, token_text(t)) for lp, t in getattr(s, which)]
        for s in scores
    ]

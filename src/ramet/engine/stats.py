"""Counters of one engine, as a record. Knows numbers only."""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["EngineStats"]


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot. `num_computed_tokens` counts rows that went through the model (prompt and generated,
    recomputed ones too), `num_cached_tokens` prompt tokens that nobody had to compute for the request
    that asked (held by the tree, or computed once in the same batch for somebody else).
    `num_draft_tokens` were guessed, `num_accepted_tokens` of them rightly; the rows of the others are not
    among the computed tokens. `num_forced_tokens` came from constraints, without asking the model; they
    are not among the generated ones.

    The prompt tokens that were not cached, by cause (`ramet.engine.misses`): `num_missed_never_seen`,
    `num_missed_evicted` (this prefix was here and was forgotten), `num_missed_salt` (only another salt's),
    `num_missed_boundary` (the cached text goes on alike, in other tokens), `num_missed_logits` (cached, but
    the logits after them were wanted). Their sum is num_prompt_tokens - num_cached_tokens.
    `num_evicted_tokens` were forgotten to make room, or by a flush."""

    num_steps: int
    num_computed_tokens: int
    num_cached_tokens: int
    num_generated_tokens: int
    num_prompt_tokens: int
    num_missed_never_seen: int
    num_missed_evicted: int
    num_missed_salt: int
    num_missed_boundary: int
    num_missed_logits: int
    num_draft_tokens: int
    num_accepted_tokens: int
    num_forced_tokens: int
    num_preemptions: int
    num_finished: int
    num_aborted: int
    num_failed: int
    num_failed_steps: int
    num_repairs: int
    num_running: int
    num_waiting: int
    num_slots: int
    num_free_slots: int
    num_tree_tokens: int
    num_pinned_tokens: int
    num_evicted_tokens: int

    @property
    def hit_rate(self) -> float:
        """Share of the prompt tokens of finished prompts that came from the cache."""
        return self.num_cached_tokens / self.num_prompt_tokens if self.num_prompt_tokens else 0.0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

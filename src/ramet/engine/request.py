"""One request: known tokens, and a lease on the KV of those that are computed.

Prefill, a chunk of it, decoding, resumption after preemption and the scoring of a given text are one
case here: some tokens are known and not computed yet, and the logits of some positions are wanted.
Knows nothing of how steps are planned or run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any, NamedTuple, Protocol

from ramet.cache.buffer import IntBuffer
from ramet.cache.lease import Lease
from ramet.cache.scope import Scope
from ramet.engine.constrained import Constrained
from ramet.errors import InvalidRequest
from ramet.kernels.plan import IntArray
from ramet.params import SamplingParams

__all__ = ["LogprobOptions", "OutputText", "Request", "ScoredToken", "room_for_output"]


class OutputText(Protocol):
    """What a request tells of its output while it runs (`ramet.engine.text.GenerationText`, or a fake
    in simulations)."""

    @property
    def finished(self) -> str | None:
        """The stop string that ended the text, if any."""
        ...

    def push(self, token_id: int) -> None: ...

    def finish(self, reason: dict[str, Any]) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LogprobOptions:
    """Which log-probabilities are wanted. `prompt_start` is the first prompt position to score, or None
    for none; `top` and `token_ids` ask for more tokens at each scored position."""

    output: bool = False
    prompt_start: int | None = None
    top: int = 0
    token_ids: tuple[int, ...] = ()


class ScoredToken(NamedTuple):
    """A token with its raw log-probability (None for the first token of a prompt), the `top` most
    likely ones at its position and the asked-for ones, as (logprob, id)."""

    token_id: int
    logprob: float | None
    top: Sequence[tuple[float, int]] = ()
    asked: Sequence[tuple[float, int]] = ()


@dataclass(slots=True, eq=False)
class Request:
    """`on_update(request)` is called on the stepping thread after each step that changed the request,
    the last time with `finish_reason` set. `arrival` is a serial number: smaller is older. `buffer` holds
    the prompt's tokens, too, and is the request's from now on, to grow in; without one they are copied.

    Requests of different salts share nothing, so that nobody's timing tells of another's tokens; only the
    first `num_public` prompt tokens are shared with everybody. The salt "" is everybody's. Raises
    InvalidRequest where more tokens are to be public than the prompt has."""

    rid: str
    prompt_ids: IntArray
    params: SamplingParams
    text: OutputText
    seed: int = 0
    salt: str = ""
    num_public: int = 0
    logprobs: LogprobOptions = field(default_factory=LogprobOptions)
    on_update: Callable[[Request], None] = lambda _request: None
    stop_token_ids: frozenset[int] = frozenset()
    background: bool = False  # advice (a prefetch), not somebody's call
    constrained: Constrained | None = None

    arrival: int = -1
    arrival_time: float = 0.0
    first_token_time: float | None = None
    finish_time: float | None = None

    lease: Lease | None = None
    output_ids: list[int] = field(default_factory=list)
    output_scores: list[ScoredToken] = field(default_factory=list)
    prompt_scores: list[ScoredToken] = field(default_factory=list)
    finish_reason: dict[str, Any] | None = None
    error: BaseException | None = None

    num_prompt_rows: int = 0  # rows of the prompt that were computed for this very request
    num_preemptions: int = 0
    num_overtaken: int = 0  # later arrivals that were admitted while this one waited
    max_overtaken: int = 0  # how many of them there may be
    match_length: int = 0  # leading tokens that the tree held when it was last asked
    match_cuts: int = -1  # how often the tree had forgotten something by then
    alone: bool = False  # was in a batch that failed: its next step has no neighbours
    parked: bool = False  # takes no part in steps until its mask is found
    prompt_done: bool = False  # all of the prompt has been computed

    buffer: InitVar[IntBuffer | None] = None
    scope: Scope = field(init=False)  # which tokens are public and whose the others are
    wants_sample: bool = field(init=False)
    # Tokens are drawn of the model's own logits, and nobody asks how likely they are.
    is_plain: bool = field(init=False)
    drawing: object = None  # the runner's form of the sampling parameters
    guessing: object = None  # what the drafts of this request were worth
    missing: object = None  # why tokens of the prompt had to be computed
    _known: IntBuffer = field(init=False)

    def __post_init__(self, buffer: IntBuffer | None) -> None:
        self._known = buffer or IntBuffer(self.prompt_ids, room_for_output(self.params))
        if not 0 <= self.num_public <= self.num_prompt:
            raise InvalidRequest(
                "num_public",
                self.num_public,
                f"is not between 0 and the {self.num_prompt} tokens of the prompt",
            )
        self.scope = Scope.of(self.salt, self.num_public)
        p = self.params
        self.wants_sample = p.max_new_tokens > 0
        self.is_plain = not (
            self.logprobs.output
            or p.min_new_tokens
            or p.logit_bias
            or p.frequency_penalty
            or p.presence_penalty
            or p.repetition_penalty != 1
        )
        if self.logprobs.prompt_start == 0:
            self.prompt_scores.append(ScoredToken(int(self.prompt_ids[0]), None))

    @property
    def known(self) -> IntArray:
        """All tokens that are known, prompt and generated: a view, valid until the next append."""
        return self._known.view

    @property
    def num_known(self) -> int:
        return self._known.view.size

    @property
    def may_sample(self) -> bool:
        """A token is to be drawn, and it is known which ones may be."""
        return self.wants_sample and (self.constrained is None or bool(self.constrained.masks))

    @property
    def num_prompt(self) -> int:
        return len(self.prompt_ids)

    @property
    def num_computed(self) -> int:
        return 0 if self.lease is None else len(self.lease)

    @property
    def num_todo(self) -> int:
        return self.num_known - self.num_computed

    @property
    def is_decoding(self) -> bool:
        """Whether the last token alone is to be computed, behind tokens of the request's own that are not
        in the tree, so that there is nothing to match."""
        lease = self.lease
        if lease is None or not self.output_ids:
            return False
        held = lease.slots.size
        return self._known.view.size == held + 1 and held > lease.node.end

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def next_scored(self) -> int:
        """The first prompt position without the score that was asked for (num_prompt: none)."""
        if self.logprobs.prompt_start is None:
            return self.num_prompt
        return self.logprobs.prompt_start + len(self.prompt_scores)

    @property
    def num_cached(self) -> int:
        """Prompt tokens that nobody had to compute for this request."""
        return max(0, self.num_prompt - self.num_prompt_rows)

    def append(self, token_id: int) -> None:
        self._known.push(token_id)
        self.output_ids.append(token_id)


def room_for_output(params: SamplingParams) -> int:
    """Tokens that a request's buffer should have room for behind the prompt."""
    return min(params.max_new_tokens, 256)

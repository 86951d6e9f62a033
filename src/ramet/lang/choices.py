"""How a selection picks among choices whose log-probabilities are known.

Knows lists of numbers only. A method is a callable with keyword-only arguments `choices,
normalized_prompt_logprobs, input_token_logprobs, output_token_logprobs,
unconditional_token_logprobs=None` that returns a `ChoicesDecision`; programs may bring their own. A method
with a true attribute `requires_unconditional_logprobs` also gets each choice's log-probabilities without
the prompt. Token lists hold (log-probability, token id, text) and cover exactly the choice's own tokens.

The three methods are those of SGLang's frontend (arXiv 2312.07104).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ramet.backend import ChoiceScore, TokenLogprob
from ramet.errors import BackendError, InvalidRequest

__all__ = [
    "ChoicesDecision",
    "ChoicesMethod",
    "ChoicesSamplingMethod",
    "GreedyTokenSelection",
    "TokenLengthNormalized",
    "UnconditionalLikelihoodNormalized",
    "decide",
    "greedy_token_selection",
    "token_length_normalized",
    "unconditional_likelihood_normalized",
]

TokenLogprobs = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class ChoicesDecision:
    """`decision` is one of the choices; `meta_info` is what `get_meta_info` gives for the variable."""

    decision: str
    meta_info: dict[str, Any]


class ChoicesMethod(Protocol):
    def __call__(
        self,
        *,
        choices: list[str],
        normalized_prompt_logprobs: list[float],
        input_token_logprobs: list[list[Any]],
        output_token_logprobs: list[list[Any]],
        unconditional_token_logprobs: list[list[Any]] | None = None,
    ) -> ChoicesDecision: ...


class ChoicesSamplingMethod:
    """A base for own methods."""

    @property
    def requires_unconditional_logprobs(self) -> bool:
        return False

    def __call__(
        self,
        *,
        choices: list[str],
        normalized_prompt_logprobs: list[float],
        input_token_logprobs: list[list[Any]],
        output_token_logprobs: list[list[Any]],
        unconditional_token_logprobs: list[list[Any]] | None = None,
    ) -> ChoicesDecision:
        raise NotImplementedError

    def __repr__(self) -> str:
        return type(self).__name__


class TokenLengthNormalized(ChoicesSamplingMethod):
    """The highest mean log-probability per token wins."""

    def __call__(
        self,
        *,
        choices: list[str],
        normalized_prompt_logprobs: list[float],
        input_token_logprobs: list[list[Any]],
        output_token_logprobs: list[list[Any]],
        unconditional_token_logprobs: list[list[Any]] | None = None,  # noqa: ARG002
    ) -> ChoicesDecision:
        meta_info = _meta(normalized_prompt_logprobs, input_token_logprobs, output_token_logprobs)
        return ChoicesDecision(choices[_first_best(normalized_prompt_logprobs)], meta_info)


class GreedyTokenSelection(ChoicesSamplingMethod):
    """Follows the most likely token at each place. A choice that has ended goes on with its own mean, so
    one that is the beginning of another competes by its average."""

    def __call__(
        self,
        *,
        choices: list[str],
        normalized_prompt_logprobs: list[float],
        input_token_logprobs: list[list[Any]],
        output_token_logprobs: list[list[Any]],
        unconditional_token_logprobs: list[list[Any]] | None = None,  # noqa: ARG002
    ) -> ChoicesDecision:
        rows = [_numbers(tokens) for tokens in input_token_logprobs]
        width = max(len(row) for row in rows)
        matrix = [row + [_mean(row)] * (width - len(row)) for row in rows]
        alive = list(range(len(rows)))
        for column in range(width):
            if len(alive) == 1:
                break
            best = max(matrix[row][column] for row in alive)
            alive = [row for row in alive if matrix[row][column] == best]
        meta_info = _meta(normalized_prompt_logprobs, input_token_logprobs, output_token_logprobs)
        meta_info["greedy_logprob_matrix"] = matrix
        return ChoicesDecision(choices[alive[0]], meta_info)


class UnconditionalLikelihoodNormalized(ChoicesSamplingMethod):
    """Subtracts what each token costs without the prompt, so that common texts have no advantage."""

    @property
    def requires_unconditional_logprobs(self) -> bool:
        return True

    def __call__(
        self,
        *,
        choices: list[str],
        normalized_prompt_logprobs: list[float],
        input_token_logprobs: list[list[Any]],
        output_token_logprobs: list[list[Any]],
        unconditional_token_logprobs: list[list[Any]] | None = None,
    ) -> ChoicesDecision:
        if unconditional_token_logprobs is None:
            raise BackendError("the choice method needs unconditional log-probabilities, none came")
        scores = []
        for given, alone in zip(input_token_logprobs, unconditional_token_logprobs):
            pairs = zip(_numbers(given), _numbers(alone))
            scores.append(_mean([with_prompt - without for with_prompt, without in pairs]))
        meta_info = _meta(normalized_prompt_logprobs, input_token_logprobs, output_token_logprobs)
        meta_info["unconditional_token_logprobs"] = unconditional_token_logprobs
        meta_info["normalized_unconditional_prompt_logprobs"] = scores
        return ChoicesDecision(choices[_first_best(scores)], meta_info)


token_length_normalized = TokenLengthNormalized()
greedy_token_selection = GreedyTokenSelection()
unconditional_likelihood_normalized = UnconditionalLikelihoodNormalized()


def decide(
    method: Callable[..., Any], choices: Sequence[str], scores: Sequence[ChoiceScore]
) -> ChoicesDecision:
    """Let `method` pick. Raises `BackendError` if the scores are not usable, `InvalidRequest` if the
    method gives something that is not a decision among `choices`."""
    _check_scores(choices, scores)
    lists = [_triples(score.tokens) for score in scores]
    alone = None
    if getattr(method, "requires_unconditional_logprobs", False):
        alone = [_triples(score.unconditional or ()) for score in scores]
    decision = method(
        choices=list(choices),
        normalized_prompt_logprobs=[_mean(_numbers(tokens)) for tokens in lists],
        input_token_logprobs=lists,
        output_token_logprobs=[[] for _ in lists],
        unconditional_token_logprobs=alone,
    )
    picked = getattr(decision, "decision", None)
    if picked not in choices:
        raise InvalidRequest(
            "choices_method", decision, "is not a ChoicesDecision for one of the choices"
        )
    return ChoicesDecision(str(picked), dict(decision.meta_info))


def _check_scores(choices: Sequence[str], scores: Sequence[ChoiceScore]) -> None:
    if len(scores) != len(choices):
        raise BackendError(f"the backend scored {len(scores)} of {len(choices)} choices")
    for choice, score in zip(choices, scores):
        if not score.tokens:
            raise BackendError(f"the backend gave no log-probability for the choice {choice!r}")


def _triples(tokens: Sequence[TokenLogprob]) -> list[list[Any]]:
    return [list(token) for token in tokens]


def _numbers(tokens: TokenLogprobs) -> list[float]:
    """The first token of all has no log-probability; it counts as certain."""
    return [0.0 if token[0] is None else float(token[0]) for token in tokens]


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0


def _first_best(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=lambda index: (scores[index], -index))


def _meta(normalized: Any, inputs: Any, outputs: Any) -> dict[str, Any]:
    return {
        "normalized_prompt_logprobs": normalized,
        "input_token_logprobs": inputs,
        "output_token_logprobs": outputs,
    }

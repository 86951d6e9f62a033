"""Which tokens of prompt + choice belong to the choice, found out through a server of the native protocol.

Pure: token ids and lists of log-probabilities in, scores out. The rule is that of the frontend: the ids
of the prompt and of prompt + choice are compared, all choices compete from the first position where any of
them differs from the prompt.

Positions are counted from the end of a list, never from its beginning: servers differ in whether the list
begins at `logprob_start_len` or behind it, and some give no number for its first entry. So the start that
is asked for lies before the first token that is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ramet.backend import ChoiceScore, TokenLogprob
from ramet.backends.remote_protocol import Answer, common_length, token_logprobs
from ramet.errors import BackendError, InvalidRequest

__all__ = ["Tail", "check_choices", "choice_start", "score_of", "start_in_tails"]


@dataclass(frozen=True, slots=True)
class Tail:
    """The last tokens of a prompt, from position `start`, with their log-probabilities."""

    start: int
    tokens: tuple[TokenLogprob, ...]

    @staticmethod
    def of(answer: Answer) -> Tail:
        tokens = token_logprobs(answer.meta_info.get("input_token_logprobs"))
        length = answer.meta_info.get("prompt_tokens")
        if not isinstance(length, int) or length < len(tokens):
            raise BackendError("the server does not say how many tokens the prompt has")
        return Tail(length - len(tokens), tuple(tokens))

    @property
    def length(self) -> int:
        """Of the whole prompt, in tokens."""
        return self.start + len(self.tokens)

    def since(self, position: int) -> tuple[TokenLogprob, ...]:
        """Raises `BackendError` if they are not all there."""
        if position < self.start:
            raise BackendError(
                f"the server gave log-probabilities from token {self.start}, not from {position}"
            )
        tokens = self.tokens[position - self.start :]
        for at, token in enumerate(tokens, position):
            if at and token[0] is None:
                raise BackendError(f"the server gave no log-probability for token {at}")
        return tokens


def check_choices(choices: Sequence[str]) -> None:
    if not choices:
        raise InvalidRequest("choices", choices, "is empty", "give at least one choice")
    if "" in choices:
        raise InvalidRequest("choices", choices, "holds an empty text")
    if len(set(choices)) < len(choices):
        raise InvalidRequest("choices", choices, "holds the same text twice")


def choice_start(prompt: Sequence[int], full: Sequence[Sequence[int]]) -> int:
    """The first position that the choices compete at; each has a token there."""
    return min(min(common_length(prompt, ids), len(ids) - 1) for ids in full)


def start_in_tails(prompt: Tail, full: Sequence[Tail]) -> int | None:
    """`choice_start`, if the tails reach back far enough to show it: at least one token before it is the
    same in all. None if they do not."""
    lowest = max(tail.start for tail in (prompt, *full))
    own = [token[1] for token in prompt.tokens[lowest - prompt.start :]]
    theirs = [[token[1] for token in tail.tokens[lowest - tail.start :]] for tail in full]
    if any(not ids for ids in theirs):
        return None
    shared = choice_start(own, theirs)
    return lowest + shared if shared or lowest == 0 else None


def score_of(given: Tail, alone: Tail | None, start: int, meta_info: dict[str, Any]) -> ChoiceScore:
    return ChoiceScore(
        tokens=given.since(start),
        unconditional=None if alone is None else alone.since(0),
        meta_info=meta_info,
    )

"""From a request's `regex`, `json_schema`, `ebnf` or `structural_tag` to its place in a constraint.

Knows the tokenizer and the sampling parameters. The compiling is done by `ramet.constraints.compiler`,
never on the thread that steps the engine.
"""

from __future__ import annotations

import functools

from ramet.build import cache_folder
from ramet.constraints.bits import mask_of
from ramet.constraints.compiler import Compiler
from ramet.constraints.matcher import Mask
from ramet.constraints.vocabulary import Vocabulary
from ramet.engine.constrained import Constrained
from ramet.engine.tokenizer import Tokenizer
from ramet.params import SamplingParams

__all__ = ["Constraining", "vocabulary_of"]


def vocabulary_of(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """`size`: of the model's logits. Special tokens are no text."""
    data = tokenizer.token_bytes
    tokens = [
        b"" if token in data.hidden else data.of(token)
        for token in range(min(size, tokenizer.vocab_size))
    ]
    return Vocabulary(
        tokens=tokens,
        size=size,
        encode=tokenizer.encode_continuation,
        encode_forced=tokenizer.encode_forced,
        special={text: i for i, text in tokenizer.special_texts_by_id.items() if i < size},
    )


class Constraining:
    """One per engine. `jump_forward`: take what a constraint forces without asking the model.
    `steer`: keep constrained texts short enough to end within their `max_new_tokens`."""

    def __init__(self, tokenizer: Tokenizer, size: int, *, jump_forward: bool, steer: bool) -> None:
        self._tokenizer, self._size = tokenizer, size
        self._jump_forward, self._steer = jump_forward, steer
        self.compiler = Compiler(
            functools.partial(vocabulary_of, tokenizer, size),
            folder=cache_folder() / "constraints",
        )

    def place(
        self, params: SamplingParams, end_ids: frozenset[int], *, begun: bool, logprobs: bool
    ) -> Constrained | None:
        """None for a request without a constraint. `begun`: the prompt has text, so that the output
        continues it. Compiles if need be. Raises `InvalidRequest`."""
        if params.constraint is None:
            return None
        constraint = self.compiler.compile(params.constraint, getattr(params, params.constraint))
        return Constrained(
            constraint.start(),
            vocab_size=self._size,
            end_ids=end_ids,
            budget=params.max_new_tokens,
            least=params.min_new_tokens,
            jump=self._jump_forward and not logprobs,
            steer=self._steer,
            not_first=None if begun else self._not_first,
            ends_are_text=any(map(self._is_text, end_ids)),
        )

    async def compiled(self, params: SamplingParams) -> None:
        """Have the constraint compiled without waiting in the event loop. Raises `InvalidRequest`."""
        if params.constraint is not None:
            await self.compiler.acompile(params.constraint, getattr(params, params.constraint))

    def close(self) -> None:
        self.compiler.close()

    def _is_text(self, token_id: int) -> bool:
        tokens = self.compiler.vocabulary.tokens
        return token_id < len(tokens) and bool(tokens[token_id])

    @functools.cached_property
    def _not_first(self) -> Mask | None:
        """Tokens that lose their beginning as the first of a text."""
        data = self._tokenizer.token_bytes
        changed = [
            token
            for token in range(min(self._size, self._tokenizer.vocab_size))
            if data.first(token) != data.of(token)
        ]
        if not changed:
            return None
        return mask_of(changed, self.compiler.vocabulary.num_words)

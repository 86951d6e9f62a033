"""The tokens of a model as constraints see them: bytes, and how texts are divided into them.

Knows bytes and two functions of the tokenizer; refuses to know which tokenizer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["Vocabulary"]

# (text, bytes that may follow it) -> tokens of the longest beginning of the text whose division into
# tokens is the same whatever follows that begins with one of the bytes.
EncodeForced = Callable[[str, frozenset[int]], Sequence[int]]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """`tokens[id]` is what the token adds to a text; b"" for special tokens and unused ids, which no
    constraint ever allows. `size` is the number of logits, at least len(tokens). `encode` divides a text
    that follows other text into tokens."""

    tokens: Sequence[bytes]
    size: int
    encode: Callable[[str], Sequence[int]]
    encode_forced: EncodeForced
    special: dict[str, int] = field(default_factory=dict)  # texts of special tokens, for grammars

    @functools.cached_property
    def byte_tokens(self) -> tuple[int, ...] | None:
        """A token for each byte; None if one has none."""
        found: dict[int, int] = {}
        for token_id, token in enumerate(self.tokens):
            if len(token) == 1:
                found.setdefault(token[0], token_id)
        return tuple(found[byte] for byte in range(256)) if len(found) == 256 else None

    @functools.cached_property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(map(len, self.tokens), default=1)

    def divide_forced(self, data: bytes, following: frozenset[int]) -> Sequence[int]:
        """`encode_forced` of the text that `data` begins with: none inside a character. `following`: what
        may come behind all of `data`."""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            text, following = data[: error.start].decode(), frozenset({data[error.start]})
        return self.encode_forced(text, following) if text else ()

    @property
    def num_words(self) -> int:
        """Of a mask."""
        return (self.size + 31) // 32

"""Texts of exactly as many tokens as asked for, in the vocabulary of the tokenizer at hand.

Knows a tokenizer by `encode_continuation` and `decode`: collects the words that are one token behind a
space. Such words are split from each other before any token is formed, so a text of n of them is n
tokens wherever it stands, up to one more or less at its very beginning with some tokenizers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Protocol

__all__ = ["Words"]

_WORD = re.compile(r"[a-z]{3,}")
FEWEST = 64


class _Tokenizer(Protocol):
    def encode_continuation(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str: ...


class Words:
    """Words of `tokenizer` among its first `vocab_size` ids. Raises `ValueError` if it has too few."""

    def __init__(self, tokenizer: _Tokenizer, vocab_size: int) -> None:
        found = dict.fromkeys(tokenizer.decode([token]).strip() for token in range(vocab_size))
        self.words = [
            word
            for word in found
            if _WORD.fullmatch(word) and len(tokenizer.encode_continuation(" " + word)) == 1
        ]
        if len(self.words) < FEWEST:
            raise ValueError(
                f"the tokenizer has {len(self.words)} whole words, {FEWEST} are needed"
            )

    def text(self, rng: random.Random, count: int) -> str:
        """`count` words, each behind a space."""
        return "".join(f" {word}" for word in rng.choices(self.words, k=count))

    def own(self, rng: random.Random, number: int, count: int) -> str:
        """`text` that begins with two words that only `number` has, so that nothing is shared by
        accident (as far as `count` leaves room for them)."""
        size = len(self.words)
        name = [self.words[number % size], self.words[number // size % size]][:count]
        return "".join(f" {word}" for word in name) + self.text(rng, count - len(name))

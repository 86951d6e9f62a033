"""Prompts that all tenants share: how many leading tokens of a prompt are one of them.

Knows token ids; refuses to know tenants.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ramet.cache.buffer import common_prefix
from ramet.engine.tokenizer import Tokenizer
from ramet.kernels.plan import IntArray

__all__ = ["PublicPrompts"]


class PublicPrompts:
    """`texts`, each as a prompt begins: a text, or the text of a rendered conversation's first part. The
    last token of each may merge with what follows and is not counted."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        self._prompts: list[IntArray] = []
        for text in texts:
            for special in (True, False):
                ids = np.array(tokenizer.encode(text, special)[:-1], np.int64)
                if ids.size:
                    self._prompts.append(ids)

    def length(self, ids: IntArray) -> int:
        """Leading tokens of `ids` that are leading tokens of a public prompt."""
        return max((common_prefix(ids, prompt) for prompt in self._prompts), default=0)

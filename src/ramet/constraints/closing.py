"""A short way to the end of a grammar's text.

Knows a matcher of the library and which characters tend to close things. A way that it finds is legal;
that it finds none says nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ramet.constraints.vocabulary import Vocabulary

__all__ = ["Closing"]

# Ends first, then the shortest values, then what may have to come between them.
_PREFERRED = (b'"}', b'"]', b"}", b"]", b'"', b")", b">", b";", b"\n", b"0", b"1", b"null", b"true")
_NEXT = (b"n", b"t", b"f", b",", b":", b"-", b"{", b"[", b"(", b" ", b"a", b"A", b"_", b".", b"<")


class Closing:
    """Over one vocabulary, for all matchers."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        first: dict[bytes, int] = {}
        for token_id, token in enumerate(vocabulary.tokens):
            first.setdefault(token, token_id)
        self._preferred = [first[t] for t in (*_PREFERRED, *_NEXT) if t in first]
        self._encode = vocabulary.encode

    def find(self, matcher: Any, budget: int) -> tuple[int, ...] | None:
        """Tokens to a legal end, at most `budget`; uses the matcher up."""
        way: list[int] = []
        while not matcher.is_accepting():
            if len(way) >= budget or matcher.is_error():
                return None
            for token_id in self._forced(matcher) or self._next(matcher):
                if len(way) >= budget or matcher.try_consume_tokens([token_id]) != 1:
                    break
                way.append(token_id)
            else:
                continue
            return None
        return tuple(way)

    def _forced(self, matcher: Any) -> list[int]:
        data: bytes = matcher.compute_ff_bytes()
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return []
        tokens = list(self._encode(text)) if text else []
        return tokens[: matcher.validate_tokens(tokens)]

    def _next(self, matcher: Any) -> list[int]:
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        for token_id in self._preferred:
            if bits[token_id // 8] >> (token_id % 8) & 1:
                return [token_id]
        places = np.flatnonzero(bits)
        if not len(places):
            return []
        byte = int(places[0])
        low = int(bits[byte])
        return [byte * 8 + (low & -low).bit_length() - 1]

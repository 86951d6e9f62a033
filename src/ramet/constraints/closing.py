"""Short ways to the end of a grammar's text, and which tokens surely leave one open.

Knows a matcher of the library and which characters tend to close things. A way that is found is legal; that
none is found says nothing. Everything here depends on the matcher's place alone, never on time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ramet.constraints.bits import packed, unpacked
from ramet.constraints.matcher import Mask
from ramet.constraints.vocabulary import Vocabulary

__all__ = ["Closing"]

# Ends first, then the shortest values, then what may have to come between them.
_PREFERRED = (b"}", b"]", b'"', b")", b">", b";", b":", b"0", b"1", b"null", b"true", b"false")
_NEXT = (b",", b"\n", b"n", b"t", b"f", b"-", b"{", b"[", b"(", b" ", b"a", b"A", b"_", b".", b"<")
_MOST_TRIED = 24  # tokens at one place, each with a way to the end of its own
_MOST_WORK = 400  # tokens of all these ways, about
_FARTHEST = 2048  # tokens of a way
_MOST_FORCED = 4096  # bytes at a time

# Letters, digits and bytes beyond ASCII behave alike nearly everywhere; other bytes each for itself.
_EXAMPLES: dict[int, bytes] = {0: "é".encode(), 1: b"e", 2: b"1", 3: b"\n", 4: b"\t"}
_EXAMPLES |= {5 + i: c.encode() for i, c in enumerate(" !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")}
_OTHER = 62


def _class_of(byte: int) -> int:
    if byte >= 128:
        return 0
    if chr(byte).isalnum():
        return 2 if chr(byte).isdigit() else 1
    example = bytes((byte,))
    return next((number for number, one in _EXAMPLES.items() if one == example), _OTHER)


_CLASSES = [_class_of(byte) for byte in range(256)]


class Closing:
    """Over one vocabulary, for all matchers."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        first: dict[bytes, int] = {}
        for token_id, token in enumerate(vocabulary.tokens):
            first.setdefault(token, token_id)
        self._preferred = [first[t] for t in (*_PREFERRED, *_NEXT) if t in first]
        self._encode = vocabulary.encode
        self._bytes = {
            byte: first[bytes((byte,))] for byte in range(256) if bytes((byte,)) in first
        }
        self._classes = np.zeros(vocabulary.num_words * 32, np.uint64)  # of the bytes of each token
        for token_id, token in enumerate(vocabulary.tokens):
            found = 0
            for byte in token:
                found |= 1 << _CLASSES[byte]
            self._classes[token_id] = found or 1 << 63

    def find(self, matcher: Any, budget: int) -> tuple[int, ...] | None:
        """Tokens to a legal end, at most `budget` (and 2,048) of them. The matcher is left as it was, in
        the same place: going back is much cheaper than a copy."""
        way: list[int] = []
        most = min(budget, _FARTHEST)
        while not matcher.is_accepting():
            tokens = self._forced(matcher)[: most - len(way)]
            if tokens:
                tokens = tokens[: matcher.try_consume_tokens(tokens)]
            elif len(way) < most:
                tokens = self._next(matcher)
            way += tokens
            if not tokens or matcher.is_error():
                break
        ends = matcher.is_accepting()
        if not matcher.is_error():
            matcher.rollback(len(way))
        return tuple(way) if ends else None

    def leaving(self, matcher: Any, mask: Mask, budget: int, ending: Sequence[int]) -> Mask:
        """The tokens of `mask` after which an end with `budget` tokens, this one included, is known: those
        that leave everything as it is (as letters do in a string), the first of `ending`, and of the rest
        as many as may be tried. The matcher is left in its place."""
        allowed = unpacked(mask)
        found = allowed & ((self._classes & ~np.uint64(self._loops(matcher, mask))) == 0)
        found[ending[0]] = True
        rest = np.flatnonzero(allowed & ~found)
        ranked = [t for t in self._preferred if t in set(rest.tolist())]
        ranked += [int(t) for t in rest[:_MOST_TRIED] if int(t) not in ranked]
        for token_id in ranked[: max(4, min(_MOST_TRIED, _MOST_WORK // len(ending)))]:
            if matcher.try_consume_tokens([token_id]) == 1:
                found[token_id] = self.find(matcher, budget - 1) is not None
                matcher.rollback(1)
        return packed(found)

    def _loops(self, matcher: Any, mask: Mask) -> int:
        """Classes of bytes after which the same tokens may come as before."""
        found = 0
        for number, example in _EXAMPLES.items():
            tokens = [self._bytes[byte] for byte in example if byte in self._bytes]
            if matcher.validate_tokens(tokens) < len(example):
                continue
            matcher.try_consume_tokens(tokens)
            bits = np.frombuffer(matcher.compute_bitmask(), np.uint32)[: len(mask)]
            if np.array_equal(bits & mask, mask) and not matcher.is_accepting():
                found |= 1 << number
            matcher.rollback(len(tokens))
        return found

    def _forced(self, matcher: Any) -> list[int]:
        data: bytes = matcher.compute_ff_bytes()[:_MOST_FORCED]
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            text = data[: error.start].decode()
        tokens = list(self._encode(text)) if text else []
        return tokens[: matcher.validate_tokens(tokens)]

    def _next(self, matcher: Any) -> list[int]:
        """One token, taken: the first in our order that does not leave everything as it is (as } does in
        a string)."""
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        allowed = [t for t in self._preferred if bits[t // 8] >> (t % 8) & 1]
        for token_id in allowed:
            matcher.try_consume_tokens([token_id])
            if matcher.is_accepting():
                return [token_id]
            if not np.array_equal(bits, np.frombuffer(matcher.compute_bitmask(), np.uint8)):
                return [token_id]
            matcher.rollback(1)
        places = np.flatnonzero(bits)
        if not allowed and len(places):
            byte = int(places[0])
            low = int(bits[byte])
            allowed = [byte * 8 + (low & -low).bit_length() - 1]
        return allowed[: matcher.try_consume_tokens(allowed[:1])]

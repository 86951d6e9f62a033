"""Grammars beyond regular languages: llguidance behind the protocols of constraints.

Knows llguidance's matchers and the limits that keep one mask within a step. Refuses to know what a grammar
says: schemas, grammars and tags bring its text. The library never raises, it falls silent in a state of
error; here every such state becomes an `InvalidRequest` that names the field.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import llguidance
import numpy as np

from ramet.constraints.closing import Closing
from ramet.constraints.limits import ConstraintLimits
from ramet.constraints.matcher import Mask
from ramet.constraints.vocabulary import Vocabulary
from ramet.errors import InvalidRequest

__all__ = ["GuidanceConstraint", "GuidanceMatcher", "compile"]

_LEAST_OPENS, _MOST_OPENS = 24, 512  # tokens that one token may come to need behind it
_END = b"\xff<|end of a constrained text|>"  # no token of the model: how the library says "may end"
_ANY_BYTE = frozenset(range(256))
_LIMITS: dict[str, Any] = {
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 50_000,
    "max_lexer_states": 30_000,  # about 2 kB each
    "max_grammar_size": 100_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,  # messages go to the client
}


class _Tokens:
    """A vocabulary as the library wants it, with an end of text of its own behind the last id."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._encode = vocabulary.encode
        self.tokens: list[bytes] = [b""] * vocabulary.size + [_END]
        self.tokens[: len(vocabulary.tokens)] = list(vocabulary.tokens)
        for text, token_id in vocabulary.special.items():
            self.tokens[token_id] = b"\xff" + text.encode()
        self.eos_token_id = vocabulary.size
        self.bos_token_id = None
        self.special_token_ids = [*vocabulary.special.values(), vocabulary.size]

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("texts only")
        return list(self._encode(text))


class _Prepared:
    """What all constraints over one vocabulary share. `hidden`: bits that no mask has."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens = _Tokens(vocabulary)
        self.tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(tokens),
            n_vocab=vocabulary.size + 1,
            eos_token=vocabulary.size,
        )
        hidden = np.zeros(vocabulary.num_words * 32, bool)
        hidden[vocabulary.size :] = True
        hidden[: len(vocabulary.tokens)] |= np.array(
            [not token for token in vocabulary.tokens], bool
        )
        hidden[len(vocabulary.tokens) :] = True
        self.hidden = hidden
        self.closing = Closing(vocabulary)


_prepared: WeakKeyDictionary[Vocabulary, _Prepared] = WeakKeyDictionary()
_preparing = threading.Lock()


def _prepare(vocabulary: Vocabulary) -> _Prepared:
    with _preparing:
        found = _prepared.get(vocabulary)
        if found is None:
            found = _prepared[vocabulary] = _Prepared(vocabulary)
        return found


def compile(
    grammar: str, vocabulary: Vocabulary, limits: ConstraintLimits, field: str, source: object
) -> GuidanceConstraint:
    """A grammar in the library's Lark over a vocabulary. `field` and `source` are what the user gave.

    The work is bounded by the library's own counts (fuel and sizes), not by a clock; callers bound depth
    and numbers of rules before, since the library follows both by recursion. Raises `InvalidRequest`.
    """
    if len(grammar.encode("utf-8", "surrogatepass")) > 2 * limits.schema_bytes:
        raise InvalidRequest(
            field, source, f"makes a grammar of over {2 * limits.schema_bytes} bytes"
        )
    prepared = _prepare(vocabulary)
    matcher = llguidance.LLMatcher(
        prepared.tokenizer, grammar, log_level=0, limits=llguidance.LLParserLimits(**_LIMITS)
    )
    if matcher.is_error():
        raise InvalidRequest(field, source, f"cannot be enforced: {_message(matcher)}")
    constraint = GuidanceConstraint(matcher, grammar, vocabulary, prepared, field, source)
    first = constraint.start()
    if not first.may_end and not first.mask().any():
        raise InvalidRequest(field, source, "allows nothing: no text matches it")
    return constraint


def _message(matcher: Any) -> str:
    text = " ".join(matcher.get_error().split("<backtrace>")[0].split())
    return text if len(text) <= 300 else text[:297] + "..."


class GuidanceConstraint:
    """A compiled grammar. `opens`: tokens that the shortest text needs that was found. Nothing in it changes; matchers are copies of the one it holds, taken under a
    lock because a copy reads what the library computes on first use."""

    def __init__(
        self,
        matcher: Any,
        grammar: str,
        vocabulary: Vocabulary,
        prepared: _Prepared,
        field: str,
        source: object,
    ) -> None:
        self._matcher, self._lock = matcher, threading.Lock()
        self.vocabulary, self.field, self.source = vocabulary, field, source
        hidden = prepared.hidden.copy()
        for text, token_id in vocabulary.special.items():
            if text in grammar:
                hidden[token_id] = False
        self.shown: Mask = np.packbits(~hidden, bitorder="little").view(np.uint32)
        self.closing = prepared.closing
        whole = self.closing.find(matcher.deep_copy(), _MOST_OPENS)
        self.opens = max(_LEAST_OPENS, len(whole) if whole is not None else _MOST_OPENS)

    def start(self) -> GuidanceMatcher:
        with self._lock:
            return GuidanceMatcher(self, self._matcher.deep_copy())


class GuidanceMatcher:
    """One generation's place in a grammar. A mask takes some ten microseconds mostly and is bounded by
    the limits above, so `mask` is never None."""

    def __init__(self, constraint: GuidanceConstraint, matcher: Any) -> None:
        self._constraint, self._matcher = constraint, matcher
        self._mask: Mask | None = None
        self._ending: tuple[int, ...] | None = (
            None  # a legal end from here, as far as it was looked for
        )
        self._rest = 0  # tokens until an end is looked for again

    @property
    def may_end(self) -> bool:
        return bool(self._matcher.is_accepting())

    @property
    def done(self) -> bool:
        return self.may_end and (bool(self._matcher.is_stopped()) or not self.mask().any())

    def mask(self) -> Mask:
        """uint32 [words], not to be written to. Raises `InvalidRequest` where a step needs too much."""
        if self._mask is None:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
            self._check()
            found = bits[: len(self._constraint.shown)] & self._constraint.shown
            found.flags.writeable = False
            self._mask = found
        return self._mask

    def prepare(self) -> None:
        self.mask()

    def accept(self, token_id: int) -> bool:
        shown = self._constraint.shown
        if not 0 <= token_id < self._constraint.vocabulary.size:
            return False
        if not int(shown[token_id // 32]) >> (token_id % 32) & 1:
            return False
        taken = self._matcher.try_consume_tokens([token_id])
        self._check()
        if taken != 1:
            return False
        self._mask = None
        ending = self._ending
        self._ending = ending[1:] if ending and ending[0] == token_id else None
        self._rest -= 1
        return True

    def rollback(self, count: int) -> None:
        if count:
            self._matcher.rollback(count)
            self._check()
            self._mask = self._ending = None
            self._rest = 0

    def forced(self) -> Sequence[int]:
        text = _whole_text(self._matcher.compute_ff_bytes())
        if not text:
            return ()
        return self._constraint.vocabulary.encode_forced(text, _ANY_BYTE)

    def steer(self, budget: int) -> Mask | None:
        """The tokens after which an end was found that fits, as soon as one token could open more than is
        left; the end itself when hardly more tokens are left than it needs.

        One token is taken to open no more than a whole text needs at the least. Where it opens more, the
        end may come to lie out of reach: then None. So it is when no short end is found at all.
        """
        if self._rest > 0 or budget > _FARTHEST_BUDGET:
            return None
        if self._ending is None:
            self._ending = self._constraint.closing.find(self._matcher.deep_copy(), budget)
        if not self._ending:
            return None
        spare, opens = budget - len(self._ending), self._constraint.opens
        if spare > opens:
            self._rest = (spare - opens) // (opens + 1)
            return None
        if spare < 0:
            return None
        if spare > _SPARE:
            return self._constraint.closing.leaving(
                self._matcher, self.mask(), budget, self._ending
            )
        found = np.zeros_like(self._constraint.shown)
        found[self._ending[0] // 32] = np.uint32(1 << (self._ending[0] % 32))
        return found

    def fork(self) -> GuidanceMatcher:
        other = GuidanceMatcher(self._constraint, self._matcher.deep_copy())
        other._mask, other._ending, other._rest = self._mask, self._ending, self._rest
        return other

    def _check(self) -> None:
        if self._matcher.is_error():
            field, source = self._constraint.field, self._constraint.source
            raise InvalidRequest(field, source, f"needs too much: {_message(self._matcher)}")


_SPARE = 2  # tokens; at so few or fewer the end that was found is written
_FARTHEST_BUDGET = 4096  # longer ones are not looked at yet


def _whole_text(data: bytes) -> str:
    """The longest beginning that is a text; none in the middle of a character."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return data[: error.start].decode()

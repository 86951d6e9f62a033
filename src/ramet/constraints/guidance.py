"""Grammars beyond regular languages: llguidance behind the protocols of constraints.

Knows llguidance's matchers and the limits that keep one mask within a step. Refuses to know what a grammar
says: schemas, grammars and tags bring its text. The library never raises, it falls silent in a state of
error; here every such state becomes an `InvalidRequest` that names the field.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import llguidance
import numpy as np

from ramet.constraints.bits import holds, mask_of, packed
from ramet.constraints.closing import Closing
from ramet.constraints.limits import ConstraintLimits
from ramet.constraints.matcher import Mask
from ramet.constraints.vocabulary import Vocabulary
from ramet.errors import InvalidRequest

__all__ = ["GuidanceConstraint", "GuidanceMatcher", "compile"]

_LEAST_OPENS, _MOST_OPENS = 24, 128  # tokens that one token may come to need behind it
_END = b"\xff<|end of a constrained text|>"  # no token of the model: how the library says "may end"
_ANY_BYTE = frozenset(range(256))
_LIMITS: dict[str, Any] = {
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
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
    if len(matcher.deep_copy().compute_ff_bytes()) > _MOST_FORCED:
        raise InvalidRequest(
            field, source, f"begins with more than {_MOST_FORCED} bytes without choice"
        )
    constraint = GuidanceConstraint(matcher, grammar, vocabulary, prepared, field, source)
    first = constraint.start()
    first.prepare()
    mask = first.mask()
    if not first.may_end and (mask is None or not mask.any()):
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
        self.shown = packed(~hidden)
        self.closing = prepared.closing
        self.finding = (
            0.0  # seconds that the last end took to find: says only where to look for one
        )
        whole = self.closing.find(matcher.deep_copy(), _MOST_OPENS)
        self.opens = max(_LEAST_OPENS, len(whole) if whole is not None else _MOST_OPENS)

    def start(self) -> GuidanceMatcher:
        with self._lock:
            return GuidanceMatcher(self, self._matcher.deep_copy())


class GuidanceMatcher:
    """One generation's place in a grammar. A mask mostly takes some ten microseconds. In ambiguous grammars
    it takes the longer the longer the text is, which the library's own limits do not bound: after a mask
    that took over 10 ms the next ones are left to `prepare`, after 0.3 s the grammar is refused."""

    def __init__(self, constraint: GuidanceConstraint, matcher: Any) -> None:
        self._constraint, self._matcher = constraint, matcher
        self._mask: Mask | None = None
        # A budget, and what it leaves of the mask.
        self._narrow: tuple[int, Mask | None] | None = None
        self._slow = False  # the last mask that was looked for

    @property
    def may_end(self) -> bool:
        return bool(self._matcher.is_accepting())

    @property
    def done(self) -> bool:
        return self.may_end and (bool(self._matcher.is_stopped()) or not self._found().any())

    def mask(self, budget: int | None = None) -> Mask | None:
        """uint32 [words], not to be written to. Raises `InvalidRequest` where a step needs too much.

        With a budget: the tokens after which an end was found that fits, as soon as one token could open
        more than is left; the end itself when hardly more tokens are left than it needs. One token is
        taken to open no more than a whole text needs at the least. Where it opens more, the end may come
        to lie out of reach; then, and where no short end is found at all, the budget changes nothing. Nor
        does it while it is three times what a whole text needs. All that depends on the place and the
        budget alone.
        """
        if self._slow and self._mask is None:
            return None
        whole = self._found()
        if budget is None or budget > _FAR * self._constraint.opens:
            return whole
        if self._narrow is None or self._narrow[0] != budget:
            if self._constraint.finding > _SLOW / 4:
                return None
            ending = self._ending(budget)
            if ending is not None and len(ending) + self._constraint.opens >= budget:
                return None
            self._narrow = budget, None
        return whole if self._narrow[1] is None else self._narrow[1]

    def prepare(self, budget: int | None = None) -> None:
        self._found()
        if budget is not None and budget <= _FAR * self._constraint.opens:
            self._narrow = budget, self._narrowed(budget)

    def _found(self) -> Mask:
        if self._mask is None:
            start = time.thread_time()
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
            seconds = time.thread_time() - start
            self._slow = seconds > _SLOW
            self._check()
            if seconds > _TOO_SLOW:
                problem = f"needs too much: {seconds:.1f} s to find what may come next"
                raise InvalidRequest(
                    self._constraint.field,
                    self._constraint.source,
                    problem,
                    "make it less ambiguous",
                )
            found = bits[: len(self._constraint.shown)] & self._constraint.shown
            found.flags.writeable = False
            self._mask = found
        return self._mask

    def accept(self, token_id: int) -> bool:
        shown = self._constraint.shown
        if not 0 <= token_id < self._constraint.vocabulary.size:
            return False
        if not holds(shown, token_id):
            return False
        taken = self._matcher.try_consume_tokens([token_id])
        self._check()
        if taken != 1:
            return False
        self._mask = self._narrow = None
        return True

    def rollback(self, count: int) -> None:
        if count:
            self._matcher.rollback(count)
            self._check()
            self._mask = self._narrow = None

    def forced(self) -> Sequence[int]:
        data = self._matcher.compute_ff_bytes()[:_MOST_FORCED_NOW]
        return self._constraint.vocabulary.divide_forced(data, _ANY_BYTE)

    def _ending(self, budget: int) -> tuple[int, ...] | None:
        """Tokens to a legal end, None if they are more than the budget or not found."""
        start = time.thread_time()
        found = self._constraint.closing.find(self._matcher.deep_copy(), budget)
        self._constraint.finding = time.thread_time() - start
        return found

    def _narrowed(self, budget: int) -> Mask | None:
        """None: no restriction."""
        ending = self._ending(budget)
        if not ending or budget - len(ending) > self._constraint.opens:
            return None
        if budget - len(ending) > _SPARE:
            return self._constraint.closing.leaving(
                self._matcher.deep_copy(), self._found(), budget, ending
            )
        return mask_of(ending[:1], len(self._constraint.shown))

    def fork(self) -> GuidanceMatcher:
        other = GuidanceMatcher(self._constraint, self._matcher.deep_copy())
        other._mask, other._narrow, other._slow = self._mask, self._narrow, self._slow
        return other

    def _check(self) -> None:
        if self._matcher.is_error():
            field, source = self._constraint.field, self._constraint.source
            raise InvalidRequest(field, source, f"needs too much: {_message(self._matcher)}")


_MOST_FORCED, _MOST_FORCED_NOW = 100_000, 4096  # bytes
_SLOW, _TOO_SLOW = 0.01, 0.3  # seconds of this thread
_SPARE = 2  # tokens; at so few or fewer the end that was found is written
_FAR = 3  # times what a whole text needs: larger budgets change nothing yet

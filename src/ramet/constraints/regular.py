"""Regular languages as constraints: an automaton over bytes, a vocabulary, and what follows from both.

Knows how to ask an automaton for masks, which text it forces, and how short a legal end can be. Everything
is found once per state and shared by all requests of the constraint. Refuses to know where the automaton
came from.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ramet.constraints.automaton import Automaton
from ramet.constraints.bits import mask_of
from ramet.constraints.compressed import forced_bytes
from ramet.constraints.matcher import Mask
from ramet.constraints.trie import TokenTrie
from ramet.constraints.vocabulary import Vocabulary

__all__ = ["RegularConstraint", "RegularMatcher"]

Kept = TypeVar("Kept")

STEP_WORK = 2_000  # about microseconds: what one question may take of a step
MOST_FORCED = 512  # bytes that are looked ahead: longer runs are taken in several
MOST_STEERED = 8_192  # bytes: an end farther away is not steered to
KEPT_WALKS = 64  # states of which all tokens' next states are kept (4 bytes per token)
KEPT = 100_000  # states of which is kept what was found


class _TooLong(Exception):
    """It takes more work than was allowed."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What a question that consists of many may take: until `end`, a time of `perf_counter`."""

    end: float | None

    @classmethod
    def of(cls, microseconds: int | None) -> _Work:
        return cls(None if microseconds is None else time.perf_counter() + microseconds / 1e6)

    def rest(self) -> int | None:
        """Microseconds. Raises `_TooLong` if there are none."""
        if self.end is None:
            return None
        left = int((self.end - time.perf_counter()) * 1e6)
        if left <= 0:
            raise _TooLong
        return left


class RegularConstraint:
    """`Constraint` over an automaton. `trie` is the vocabulary's. What is asked about a state with a limit
    of work is None where it takes more."""

    def __init__(self, automaton: Automaton, trie: TokenTrie, vocabulary: Vocabulary) -> None:
        self.automaton, self.trie, self.vocabulary = automaton, trie, vocabulary
        self._facts: dict[int, tuple[bool, bool, bool]] = {}
        self._forced: dict[int, tuple[int, ...]] = {}
        self._completion: dict[int, tuple[int, ...]] = {}
        self._enough: dict[int, int] = {}
        self._walks: dict[int, npt.NDArray[np.int32]] = {}
        self._byte_tokens, self._longest = vocabulary.byte_tokens, vocabulary.longest

    @property
    def num_bytes(self) -> int:
        """Of memory, about."""
        walks = len(self._walks) * 4 * self.vocabulary.size
        return self.automaton.num_bytes + self.automaton.masks.num_bytes + walks

    def start(self) -> RegularMatcher:
        return RegularMatcher(self, [self.automaton.start])

    def facts(self, state: int) -> tuple[bool, bool, bool]:
        """(the text may end here, and nothing may follow; it may not, and one byte must follow)"""
        found = self._facts.get(state)
        if found is None:
            accepting, following = self.automaton.ends(state)
            count = len(following)
            found = accepting, accepting and not count, not accepting and count == 1
            _keep(self._facts, state, found)
        return found

    # -- forced text -------------------------------------------------------------------------------

    def forced(self, state: int, limit: int | None) -> tuple[int, ...] | None:
        """See `Matcher.forced`."""
        if not self.facts(state)[2]:
            return ()
        found = self._forced.get(state)
        if found is None:
            run = forced_bytes(self.automaton, state, MOST_FORCED, limit)
            if run is None:
                return None
            found = self._divided_run(state, *run)
            _keep(self._forced, state, found)
        return found

    def _divided_run(self, state: int, data: bytes, after: int) -> tuple[int, ...]:
        """Tokens of the forced `data` between two states, as far as they are certain."""
        following = self.automaton.next_bytes(after)
        return self._allowed(state, self.vocabulary.divide_forced(data, following))

    def _allowed(self, state: int, tokens: Sequence[int]) -> tuple[int, ...]:
        """As many of `tokens` as lead on. All of them do, unless the tokenizer rewrites texts."""
        for count, token in enumerate(tokens):
            data = self.vocabulary.tokens[token]
            state = self.automaton.step(state, data) if data else -1
            if state < 0:
                return tuple(tokens[:count])
        return tuple(tokens)

    # -- masks, and the shortest end -------------------------------------------------------------------

    def mask(self, state: int, budget: int | None, limit: int | None) -> Mask | None:
        """See `Matcher.mask`."""
        whole = self.automaton.mask(state, self.trie, limit)
        if whole is None or budget is None or not self._may_be_short(state, budget):
            return whole
        try:
            return self._short_ones(state, budget, whole, _Work.of(limit))
        except _TooLong:
            return None

    def _may_be_short(self, state: int, budget: int) -> bool:
        """Could the budget be too short for some tokens, and long enough for others?"""
        if budget - 1 >= self.automaton.max_distance or self._byte_tokens is None:
            return False  # byte by byte it is long enough from anywhere
        return self.automaton.distance(state) <= min(budget * self._longest, MOST_STEERED)

    def _short_ones(self, state: int, budget: int, whole: Mask, work: _Work) -> Mask:
        left = budget - 1
        if left >= self._most_needed(state, work) or budget < self._needed(state, work):
            return whole
        following = self._following(state, work)
        short = np.zeros(int(following.max()) + 2, np.bool_)
        for target in _different(following):
            short[target] = self._needed(target, work) <= left
        # Tokens that may not come have state -1: the last entry, which stays false.
        return mask_of(np.flatnonzero(short[following]), self.vocabulary.num_words)

    def _most_needed(self, state: int, work: _Work) -> int:
        """Tokens that suffice for a legal end behind whatever token comes next."""
        found = self._enough.get(state)
        if found is None:
            self._needed(state, work)  # first: it shortens what is known of the states on its way
            found = 0
            for target in _different(self._following(state, work)):
                found = max(found, self._needed(target, work))
            _keep(self._enough, state, found)
        return found

    def _needed(self, state: int, work: _Work) -> int:
        """Tokens that suffice for a legal end from here."""
        found = self._completion.get(state)
        return len(self._complete(state, work) if found is None else found)

    def _complete(self, state: int, work: _Work) -> tuple[int, ...]:
        """Find and note a short way to a legal end, for every state on it: from each there is then a token that
        leaves one token less to go. Where it meets a way that is known it goes on there: at that place the
        text may be divided less well than it could be, but few bytes are looked at."""
        way = self.automaton.shortest(state, work.rest())
        if way is None:
            raise _TooLong
        data, states = way
        meets: int = len(states)
        known: tuple[int, ...] = ()
        for i, behind in enumerate(states):
            if (found := self._completion.get(behind)) is not None:
                meets, known = i, found
                break
        tokens = (*self._divided(data[: meets + 1]), *known)
        for count, token in enumerate(tokens):
            self._note(state, tokens[count:])
            state = self.automaton.step(state, self.vocabulary.tokens[token])
        self._note(state, ())
        return tokens

    def _note(self, state: int, tokens: tuple[int, ...]) -> None:
        before = self._completion.get(state)
        if before is None or len(tokens) < len(before):
            _keep(self._completion, state, tokens)

    def _divided(self, data: bytes) -> tuple[int, ...]:
        """Tokens with these bytes: the tokenizer's, or one for each byte where they are no text of their
        own."""
        singles: Sequence[int] = self._byte_tokens or ()
        inside = next((i for i, byte in enumerate(data) if not _continues(byte)), len(data))
        head = [singles[byte] for byte in data[:inside]]
        try:
            tokens = list(self.vocabulary.encode(data[inside:].decode()))
        except UnicodeDecodeError:  # the way goes on inside a character
            tokens = []
        if b"".join(self.vocabulary.tokens[t] for t in tokens) != data[inside:]:
            tokens = [singles[byte] for byte in data[inside:]]
        return (*head, *tokens)

    def _following(self, state: int, work: _Work) -> npt.NDArray[np.int32]:
        found = self._walks.get(state)
        if found is None:
            found = self.automaton.next_states(state, self.trie, work.rest())
            if found is None:
                raise _TooLong
            if len(self._walks) >= KEPT_WALKS:
                self._walks.clear()
            self._walks[state] = found
        return found


class RegularMatcher:
    """`Matcher` over an automaton: the states after each token."""

    __slots__ = ("_constraint", "_states")

    def __init__(self, constraint: RegularConstraint, states: list[int]) -> None:
        self._constraint, self._states = constraint, states

    @property
    def may_end(self) -> bool:
        return self._constraint.facts(self._states[-1])[0]

    @property
    def done(self) -> bool:
        return self._constraint.facts(self._states[-1])[1]

    def mask(self, budget: int | None = None) -> Mask | None:
        return self._constraint.mask(self._states[-1], budget, STEP_WORK)

    def prepare(self, budget: int | None = None) -> None:
        self._constraint.forced(self._states[-1], None)
        self._constraint.mask(self._states[-1], budget, None)

    def accept(self, token_id: int) -> bool:
        tokens = self._constraint.vocabulary.tokens
        data = tokens[token_id] if 0 <= token_id < len(tokens) else b""
        if not data:
            return False
        state = self._constraint.automaton.step(self._states[-1], data)
        if state < 0:
            return False
        self._states.append(state)
        return True

    def rollback(self, count: int) -> None:
        if count:
            del self._states[-count:]

    def forced(self) -> Sequence[int] | None:
        return self._constraint.forced(self._states[-1], STEP_WORK)

    def fork(self) -> RegularMatcher:
        return RegularMatcher(self._constraint, list(self._states))


def _keep(found: dict[int, Kept], state: int, value: Kept) -> None:
    """A dictionary that begins anew when it is full: what it knows is found again."""
    if len(found) >= KEPT:
        found.clear()
    found[state] = value


def _different(states: npt.NDArray[np.int32]) -> list[int]:
    """The states among these, -1 left out."""
    live = states[states >= 0]
    return np.flatnonzero(np.bincount(live)).tolist() if len(live) else []


def _continues(byte: int) -> bool:
    """Is the byte inside a character of UTF-8?"""
    return 0x80 <= byte < 0xC0

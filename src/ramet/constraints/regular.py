"""Regular languages as constraints: an automaton over bytes, a vocabulary, and what follows from both.

Knows how to ask an automaton for masks, which text it forces, and how short a legal end can be. Everything
is found once per state and shared by all requests of the constraint. Refuses to know where the automaton
came from.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ramet.constraints.automaton import Automaton
from ramet.constraints.compressed import forced_bytes
from ramet.constraints.matcher import Mask
from ramet.constraints.trie import TokenTrie
from ramet.constraints.vocabulary import Vocabulary

__all__ = ["RegularConstraint", "RegularMatcher"]

STEP_WORK = 3_000  # about microseconds: what one mask may take of a step
MOST_FORCED = 4_096  # bytes that are looked ahead
KEPT_WALKS = 64  # states of which all tokens' next states are kept (4 bytes per token)


class RegularConstraint:
    """`Constraint` over an automaton. `trie` is the vocabulary's."""

    def __init__(self, automaton: Automaton, trie: TokenTrie, vocabulary: Vocabulary) -> None:
        self.automaton, self.trie, self.vocabulary = automaton, trie, vocabulary
        self._ends: dict[int, tuple[bool, bool]] = {}
        self._forced: dict[int, tuple[int, ...]] = {}
        self._completion: dict[int, tuple[int, ...]] = {}
        self._enough: dict[int, int] = {}
        self._walks: dict[int, npt.NDArray[np.int32]] = {}
        self._byte_tokens = _byte_tokens(vocabulary)

    @property
    def num_bytes(self) -> int:
        """Of memory, about."""
        walks = len(self._walks) * 4 * self.vocabulary.size
        return self.automaton.num_bytes + self.automaton.masks.num_bytes + walks

    def start(self) -> RegularMatcher:
        return RegularMatcher(self, [self.automaton.start])

    def ends(self, state: int) -> tuple[bool, bool]:
        """(the text may end here, and nothing may follow)"""
        found = self._ends.get(state)
        if found is None:
            accepting = self.automaton.accepting(state)
            found = accepting, accepting and not self.automaton.next_bytes(state)
            self._ends[state] = found
        return found

    # -- forced text -------------------------------------------------------------------------------

    def forced(self, state: int) -> tuple[int, ...]:
        """See `Matcher.forced`."""
        found = self._forced.get(state)
        if found is None:
            found = self._forced[state] = self._find_forced(state)
        return found

    def _find_forced(self, state: int) -> tuple[int, ...]:
        data, after = forced_bytes(self.automaton, state, MOST_FORCED)
        if not data or _continues(data[0]):  # inside a character there is no text to divide
            return ()
        text = codecs.getincrementaldecoder("utf-8")().decode(data)
        size = len(text.encode())
        following = self.automaton.next_bytes(after) if size == len(data) else {data[size]}
        tokens = self.vocabulary.encode_forced(text, frozenset(following))
        return self._allowed(state, tokens)

    def _allowed(self, state: int, tokens: Sequence[int]) -> tuple[int, ...]:
        """As many of `tokens` as lead on. All of them do, unless the tokenizer rewrites texts."""
        for count, token in enumerate(tokens):
            data = self.vocabulary.tokens[token]
            state = self.automaton.step(state, data) if data else -1
            if state < 0:
                return tuple(tokens[:count])
        return tuple(tokens)

    # -- the shortest end ------------------------------------------------------------------------------

    def steer(self, state: int, budget: int) -> Mask | None:
        """See `Matcher.steer`."""
        left = budget - 1
        if left >= self.automaton.max_distance or self._byte_tokens is None:
            return None  # byte by byte it is short enough from anywhere
        if left >= self._most_needed(state) or budget < self._needed(state):
            return None
        following = self._following(state)
        short = np.zeros(
            int(following.max()) + 2, np.bool_
        )  # the last one: of tokens that may not come
        for target in _different(following):
            short[target] = self._needed(target) <= left
        return _packed(short[following], self.vocabulary.num_words)

    def _most_needed(self, state: int) -> int:
        """Tokens that suffice for a legal end behind whatever token comes next."""
        found = self._enough.get(state)
        if found is None:
            self._needed(state)  # first: it shortens what is known of the states on its way
            found = max(map(self._needed, _different(self._following(state))), default=0)
            self._enough[state] = found
        return found

    def _needed(self, state: int) -> int:
        """Tokens that suffice for a legal end from here."""
        if state not in self._completion:
            self._complete(state)
        return len(self._completion[state])

    def _complete(self, state: int) -> None:
        """Note a short way to a legal end, for every state on it: from each there is then a token that
        leaves one token less to go. Where it meets a way that is known it goes on there: at that place the
        text may be divided less well than it could be, but few bytes are looked at."""
        data, meets = self._shortest(state)
        tokens = (*self._divided(data), *self._completion.get(meets, ()))
        at = state
        for count, token in enumerate(tokens):
            self._note(at, tokens[count:])
            at = self.automaton.step(at, self.vocabulary.tokens[token])
        self._note(at, ())

    def _note(self, state: int, tokens: tuple[int, ...]) -> None:
        before = self._completion.get(state)
        if before is None or len(tokens) < len(before):
            self._completion[state] = tokens

    def _shortest(self, state: int) -> tuple[bytes, int]:
        """The shortest text, in bytes, that leads from `state` to a legal end, or its beginning as far as
        a state with a known way; and that state."""
        automaton, found = self.automaton, bytearray()
        while (left := automaton.distance(state)) and state not in self._completion:
            for byte in sorted(automaton.next_bytes(state)):
                target = automaton.step(state, bytes([byte]))
                if automaton.distance(target) < left:
                    found.append(byte)
                    state = target
                    break
        return bytes(found), state

    def _divided(self, data: bytes) -> tuple[int, ...]:
        """Tokens with these bytes: the tokenizer's, or bytes where they are no text of their own."""
        singles: Sequence[int] = self._byte_tokens or ()
        inside = next((i for i, byte in enumerate(data) if not _continues(byte)), len(data))
        head = [singles[byte] for byte in data[:inside]]
        tokens = list(self.vocabulary.encode(data[inside:].decode())) if data[inside:] else []
        if b"".join(self.vocabulary.tokens[t] for t in tokens) != data[inside:]:
            tokens = [singles[byte] for byte in data[inside:]]
        return (*head, *tokens)

    def _following(self, state: int) -> npt.NDArray[np.int32]:
        found = self._walks.pop(state, None)
        if found is None:
            found = self.automaton.next_states(state, self.trie)
            if len(self._walks) >= KEPT_WALKS:
                self._walks.pop(next(iter(self._walks)), None)
        self._walks[state] = found
        return found


class RegularMatcher:
    """`Matcher` over an automaton: the states after each token."""

    __slots__ = ("_constraint", "_states")

    def __init__(self, constraint: RegularConstraint, states: list[int]) -> None:
        self._constraint, self._states = constraint, states

    @property
    def may_end(self) -> bool:
        return self._constraint.ends(self._states[-1])[0]

    @property
    def done(self) -> bool:
        return self._constraint.ends(self._states[-1])[1]

    def mask(self) -> Mask | None:
        return self._constraint.automaton.mask(self._states[-1], self._constraint.trie, STEP_WORK)

    def prepare(self) -> None:
        self._constraint.automaton.mask(self._states[-1], self._constraint.trie, None)

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

    def forced(self) -> Sequence[int]:
        return self._constraint.forced(self._states[-1])

    def steer(self, budget: int) -> Mask | None:
        return self._constraint.steer(self._states[-1], budget)

    def fork(self) -> RegularMatcher:
        return RegularMatcher(self._constraint, list(self._states))


def _different(states: npt.NDArray[np.int32]) -> list[int]:
    """The states among these, -1 left out."""
    live = states[states >= 0]
    return np.flatnonzero(np.bincount(live)).tolist() if len(live) else []


def _continues(byte: int) -> bool:
    """Is the byte inside a character of UTF-8?"""
    return 0x80 <= byte < 0xC0


def _byte_tokens(vocabulary: Vocabulary) -> tuple[int, ...] | None:
    """A token for each byte; None if one has none."""
    found = {
        token[0]: i for i, token in reversed(list(enumerate(vocabulary.tokens))) if len(token) == 1
    }
    return tuple(found[byte] for byte in range(256)) if len(found) == 256 else None


def _packed(allowed: npt.NDArray[np.bool_], words: int) -> Mask:
    bits = np.packbits(allowed, bitorder="little")
    found = np.zeros(words * 4, np.uint8)
    found[: len(bits)] = bits
    return found.view(np.uint32)

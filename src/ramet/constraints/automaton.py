"""A deterministic automaton over bytes, built while it is used: what regular constraints ask.

Knows states as numbers, the budget and the masks that were found; refuses to know how a state is found
(`compiled.py` in C++, `slow.py` where there is no compiler: the same `Core`). A state is a set of states of
the Nfa; as every state of that reaches its end, every state here is alive.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ramet.constraints import compiled
from ramet.constraints.budget import Budget
from ramet.constraints.limits import DEFAULT, ConstraintLimits
from ramet.constraints.masks import MaskCache
from ramet.constraints.matcher import Mask
from ramet.constraints.slow import SlowCore
from ramet.constraints.table import NEVER, Table
from ramet.constraints.trie import TokenTrie

if TYPE_CHECKING:
    from ramet.constraints.nfa import Nfa

__all__ = ["NEVER", "Automaton", "Core"]

Ints = npt.NDArray[np.int32]


class Core(Protocol):
    """What determinizes. For any threads; every method may raise what `Automaton` says."""

    start: int
    max_distance: int

    def numbers(self) -> tuple[int, int, int, int]: ...
    def cancel(self) -> None: ...
    def step(self, state: int, data: bytes) -> int: ...
    def facts(self, state: int) -> tuple[bool, int, bytes]: ...
    def distances(self, states: Ints) -> Ints: ...
    def mask(self, state: int, trie: TokenTrie, microseconds: int | None) -> Mask | None: ...
    def next_states(self, state: int, trie: TokenTrie, microseconds: int | None) -> Ints | None: ...
    def path(
        self, state: int, nearest: bool, most: int, microseconds: int | None
    ) -> tuple[bytes, list[int]] | None: ...
    def complete(self, most: int, most_bytes: int | None, microseconds: int | None) -> bool: ...
    def export(self) -> Table: ...


class Automaton:
    """States are numbers from 0; -1 is dead. `start` is the first one, `max_distance` no state's distance
    exceeds. For any threads at the same time; a call leaves the interpreter to others.

    Whatever needs a new state raises InvalidRequest(`field`, `value`, ...) where that exceeds
    `limits.dfa_states`, the memory or the work that `budget.py` states, and Aborted after `cancel`. What
    is known already stays available.
    """

    def __init__(
        self,
        source: Nfa | Table,
        limits: ConstraintLimits = DEFAULT,
        *,
        field: str = "constraint",
        value: object = "",
        native: bool | None = None,
    ) -> None:
        """`native`: whether the core is the one in C++; None: where it can be built."""
        if native is None:
            native = compiled.why_not() is None
        budget = Budget.of(limits, field, value)
        make = compiled.NativeCore if native else SlowCore
        self.core: Core = make(source, budget)
        self.native = native
        self.limits, self.field, self.value = limits, field, value
        self.start, self.max_distance = self.core.start, self.core.max_distance
        self.masks = MaskCache(limits.mask_bytes)

    @property
    def num_states(self) -> int:
        """So far."""
        return self.core.numbers()[1]

    @property
    def num_bytes(self) -> int:
        """Of memory for states, without masks."""
        return self.core.numbers()[3]

    def cancel(self) -> None:
        """For another thread: what is looking for new states stops soon, for good."""
        self.core.cancel()

    def step(self, state: int, data: bytes) -> int:
        """The state behind `data`, -1 if no legal text begins so."""
        return self.core.step(state, data)

    def accepting(self, state: int) -> bool:
        return self.core.facts(state)[0]

    def distance(self, state: int) -> int:
        """Fewest bytes to an accepting state."""
        return self.core.facts(state)[1]

    def distances(self, states: Ints) -> Ints:
        """Of each state; NEVER of -1."""
        return self.core.distances(states)

    def ends(self, state: int) -> tuple[bool, frozenset[int]]:
        """`accepting` and `next_bytes` at once."""
        accepting, _, bits = self.core.facts(state)
        return accepting, _bytes_of(bits)

    def next_bytes(self, state: int) -> frozenset[int]:
        """Bytes that do not die."""
        return _bytes_of(self.core.facts(state)[2])

    def mask(self, state: int, trie: TokenTrie, max_work: int | None = None) -> Mask | None:
        """Every token whose bytes lead to a live state. None: that takes more than about `max_work`
        microseconds; what was found on the way is kept, so the next try has less to do."""
        key = (trie, state)
        found = self.masks.get(key)
        if found is None:
            found = self.core.mask(state, trie, max_work)
            if found is not None:
                found = self.masks.put(key, found)
        return found

    def next_states(self, state: int, trie: TokenTrie, max_work: int | None = None) -> Ints | None:
        """int32 [vocabulary size]: the state behind each token, -1 where it may not come. None: as
        `mask`'s."""
        return self.core.next_states(state, trie, max_work)

    def forced(
        self, state: int, most: int, max_work: int | None = None
    ) -> tuple[bytes, list[int]] | None:
        """The bytes that every legal text goes on with, at most `most`, and the state behind each. A state
        where the text may end forces nothing. None: as `mask`'s."""
        return self.core.path(state, False, most, max_work)

    def shortest(self, state: int, max_work: int | None = None) -> tuple[bytes, list[int]] | None:
        """The bytes of a shortest way to an accepting state (of several the one with the smallest bytes),
        and the state behind each. None: as `mask`'s."""
        return self.core.path(state, True, self.distance(state), max_work)

    def complete(
        self, most: int, max_work: int | None = None, most_bytes: int | None = None
    ) -> bool:
        """Find every state. False: there are more than `most`, or it takes more than about `max_work`
        microseconds or `most_bytes` of memory."""
        return self.core.complete(most, most_bytes, max_work)


@functools.lru_cache(maxsize=4096)
def _bytes_of(bits: bytes) -> frozenset[int]:
    """One set for all states that have it."""
    return frozenset(
        np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")).tolist()
    )

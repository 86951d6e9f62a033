"""The automaton that defines what the native one must do, in Python and NumPy: for machines without a
compiler.

Knows subset construction and one walk of a trie, a level at a time; refuses to know how to be fast. Numbers
of states may differ from the native ones; languages, masks and distances do not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ramet.constraints.bits import mask_of
from ramet.constraints.budget import Budget
from ramet.constraints.matcher import Mask
from ramet.constraints.table import DEAD, NEVER, UNKNOWN, Table
from ramet.constraints.trie import TokenTrie

if TYPE_CHECKING:
    from ramet.constraints.nfa import Nfa

__all__ = ["SlowCore", "partition"]

_MEMBER_BYTES, _ROW_BYTES = (
    36,
    1200,
)  # of a tuple of numbers and its place in a dictionary; of a row


class _TooLong(Exception):
    pass


class SlowCore:
    """`Core` in Python. Rows hold all 256 bytes: classes would save memory, not time."""

    def __init__(self, source: Nfa | Table, budget: Budget) -> None:
        self._budget = budget
        self._cancelled = False
        self._spent = 0.0  # seconds of determinizing
        self._lock = threading.RLock()
        self.max_distance = int(source.distance.max(initial=0))
        if isinstance(source, Table):
            self._to = source.to[:, source.class_of.astype(np.int64)]
            self._accepting = source.accepting.astype(bool).tolist()
            self._distance = source.distance.tolist()
            self.start, self._members = 0, 0
        else:
            self._nfa = _Lists(source)
            self._to = np.empty((16, 256), np.int32)
            self._sets: dict[tuple[int, ...], int] = {}
            self._states: list[tuple[int, ...]] = []
            self._accepting, self._distance, self._members = [], [], 0
            self.start = self._intern(self._nfa.closure([source.start]))

    def numbers(self) -> tuple[int, int, int, int]:
        """(start, states so far, classes of bytes, bytes of memory)"""
        return self.start, len(self._distance), 256, self._num_bytes()

    def _num_bytes(self) -> int:
        return self._members * _MEMBER_BYTES + len(self._distance) * _ROW_BYTES

    def cancel(self) -> None:
        self._cancelled = True

    # -- subset construction ---------------------------------------------------------------------

    def _intern(self, members: tuple[int, ...]) -> int:
        if not members:
            return DEAD
        found = self._sets.get(members)
        if found is not None:
            return found
        state = len(self._states)
        if state >= self._budget.states:
            self._budget.refuse_states()
        if self._num_bytes() + len(members) * _MEMBER_BYTES + _ROW_BYTES > self._budget.num_bytes:
            self._budget.refuse_bytes()
        if state == len(self._to):
            self._to = np.concatenate([self._to, np.empty_like(self._to)])
        self._to[state] = np.where(self._nfa.live(members), UNKNOWN, DEAD)
        self._accepting.append(self._nfa.final in members)
        self._distance.append(min(self._nfa.distance[s] for s in members))
        self._members += len(members)
        self._states.append(members)
        self._sets[members] = state
        return state

    def _go(self, state: int, byte: int) -> int:
        with self._lock:
            to = int(self._to[state, byte])
            if to != UNKNOWN:
                return to
            if self._cancelled:
                self._budget.refuse_cancelled()
            if self._spent * 1e6 > self._budget.microseconds:
                self._budget.refuse_work()
            begin = time.perf_counter()
            targets, low, high = self._nfa.targets(self._states[state], byte)
            to = self._intern(self._nfa.closure(targets))
            self._to[state, low : high + 1] = to
            self._spent += time.perf_counter() - begin
            return to

    def _check(self, state: int) -> None:
        if not 0 <= state < len(self._distance):
            self._budget.refuse_state(state)

    # -- one state -------------------------------------------------------------------------------

    def step(self, state: int, data: bytes) -> int:
        self._check(state)
        for byte in data:
            state = self._go(state, byte)
            if state < 0:
                break
        return state

    def facts(self, state: int) -> tuple[bool, int, bytes]:
        """(accepting, distance, 256 bits: bytes that do not die)"""
        self._check(state)
        bits = np.packbits(self._to[state] != DEAD, bitorder="little").tobytes()
        return self._accepting[state], self._distance[state], bits

    def distances(self, states: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        for state in (states.min(initial=DEAD), states.max(initial=DEAD)):
            if state != DEAD:
                self._check(int(state))
        return np.asarray([*self._distance, NEVER], np.int32)[states]

    def path(
        self, state: int, nearest: bool, most: int, microseconds: int | None
    ) -> tuple[bytes, list[int]] | None:
        self._check(state)
        stop = None if microseconds is None else time.perf_counter() + microseconds / 1e6
        data, states = bytearray(), list[int]()
        while len(data) < most:
            if stop is not None and time.perf_counter() > stop:
                return None
            byte = self._nearest_byte(state) if nearest else self._forced_byte(state)
            if byte is None:
                break
            state = self._go(state, byte)
            data.append(byte)
            states.append(state)
        return bytes(data), states

    def _forced_byte(self, state: int) -> int | None:
        following = np.flatnonzero(self._to[state] != DEAD)
        return None if self._accepting[state] or len(following) != 1 else int(following[0])

    def _nearest_byte(self, state: int) -> int | None:
        left = self._distance[state]
        for byte in np.flatnonzero(self._to[state] != DEAD).tolist() if left else ():
            if self._distance[self._go(state, byte)] < left:
                return int(byte)
        return None

    # -- all tokens ------------------------------------------------------------------------------

    def mask(self, state: int, trie: TokenTrie, microseconds: int | None) -> Mask | None:
        try:
            behind = self._walk(state, trie, microseconds, leaves=False)
        except _TooLong:
            return None
        return mask_of(trie.order[behind != DEAD], trie.num_words)

    def next_states(
        self, state: int, trie: TokenTrie, microseconds: int | None
    ) -> npt.NDArray[np.int32] | None:
        found = np.full(trie.size, DEAD, np.int32)
        try:
            found[trie.order] = self._walk(state, trie, microseconds, leaves=True)
        except _TooLong:
            return None
        return found

    def _walk(
        self, state: int, trie: TokenTrie, microseconds: int | None, *, leaves: bool
    ) -> npt.NDArray[np.int32]:
        """[tokens]: the state behind each, in the trie's order; UNKNOWN for a live one that nobody asked
        for, which only happens without `leaves` and where nothing lies below. Raises _TooLong."""
        self._check(state)
        stop = None if microseconds is None else time.perf_counter() + microseconds / 1e6
        at = np.full(trie.nodes + 1, DEAD, np.int32)
        at[-1] = state  # the root, as the parent -1
        inner = trie.end > np.arange(trie.nodes) + 1
        for level in trie.levels:
            level = level[at[trie.parent[level]] >= 0]
            if not len(level):
                break
            source, byte = at[trie.parent[level]], trie.byte[level]
            to = self._to[source, byte]
            ask = (to == UNKNOWN) & (leaves | inner[level])
            for pair in np.unique(source[ask].astype(np.int64) * 256 + byte[ask]).tolist():
                self._go(pair >> 8, pair & 255)
                if stop is not None and time.perf_counter() > stop:
                    raise _TooLong
            at[level] = np.where(ask, self._to[source, byte], to)
        return np.repeat(at[:-1], np.diff(trie.first))

    # -- the whole -------------------------------------------------------------------------------

    def complete(self, most: int, most_bytes: int | None, microseconds: int | None) -> bool:
        stop = None if microseconds is None else time.perf_counter() + microseconds / 1e6
        state = 0
        while state < len(self._distance):
            for byte in np.flatnonzero(self._to[state] == UNKNOWN).tolist():
                self._go(state, byte)
                if len(self._distance) > most:
                    return False
                if most_bytes is not None and self._num_bytes() > most_bytes:
                    return False
            if stop is not None and time.perf_counter() > stop:
                return False
            state += 1
        return len(self._distance) <= most

    def export(self) -> Table:
        states = len(self._distance)
        return Table(
            np.ascontiguousarray(self._to[:states]),
            np.arange(256, dtype=np.uint8),
            np.asarray(self._accepting, np.uint8),
            np.asarray(self._distance, np.int32),
        )


class _Lists:
    """An Nfa as lists: NumPy is slow for one number at a time."""

    def __init__(self, nfa: Nfa) -> None:
        self.final, self.distance = nfa.final, nfa.distance.tolist()
        self._first, self._eps_first = nfa.first.tolist(), nfa.eps_first.tolist()
        self._edges = list(zip(nfa.low.tolist(), nfa.high.tolist(), nfa.target.tolist()))
        self._eps = nfa.eps_target.tolist()

    def _edges_of(self, state: int) -> list[tuple[int, int, int]]:
        return self._edges[self._first[state] : self._first[state + 1]]

    def closure(self, states: Iterable[int]) -> tuple[int, ...]:
        """What can be reached without a byte and matters: states with transitions, and the final one."""
        stack = list(states)
        seen = set(stack)
        while stack:
            state = stack.pop()
            for target in self._eps[self._eps_first[state] : self._eps_first[state + 1]]:
                if target not in seen:
                    seen.add(target)
                    stack.append(target)
        first = self._first
        return tuple(sorted(s for s in seen if s == self.final or first[s] < first[s + 1]))

    def live(self, members: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """[256]: bytes for which a member has a transition."""
        found = np.zeros(256, np.bool_)
        for low, high in {(low, high) for s in members for low, high, _ in self._edges_of(s)}:
            found[low : high + 1] = True
        return found

    def targets(self, members: tuple[int, ...], byte: int) -> tuple[set[int], int, int]:
        """Where `byte` leads, and the range around it of bytes that lead to the same."""
        found, least, most = set(), 0, 255
        for state in members:
            for low, high, target in self._edges_of(state):
                if byte < low:
                    most = min(most, low - 1)
                elif byte > high:
                    least = max(least, high + 1)
                else:
                    found.add(target)
                    least, most = max(least, low), min(most, high)
        return found, least, most


def partition(table: Table) -> npt.NDArray[np.int32]:
    """[states]: the number of each state's class of states that accept the same texts. Hopcroft's
    algorithm (1971) for a partial transition function, where in the beginning every block has to be used
    as a splitter (Valmari and Lehtinen 2008)."""
    sources: dict[tuple[int, int], list[int]] = {}  # (state, class) -> states that go there by it
    for state, row in enumerate(table.to.tolist()):
        for c, target in enumerate(row):
            if target >= 0:
                sources.setdefault((target, c), []).append(state)
    accepting = set(np.flatnonzero(table.accepting).tolist())
    blocks = [b for b in (accepting, set(range(table.states)) - accepting) if b]
    block = np.zeros(table.states, np.int32)
    for number, members in enumerate(blocks):
        block[list(members)] = number
    todo = {(b, c) for b in range(len(blocks)) for c in range(table.classes)}
    while todo:
        splitter, by = todo.pop()
        touched: dict[int, set[int]] = {}
        for target in blocks[splitter]:
            for state in sources.get((target, by), ()):
                touched.setdefault(int(block[state]), set()).add(state)
        for old, some in touched.items():
            if len(some) == len(blocks[old]):
                continue
            fresh = len(blocks)
            blocks[old] -= some
            blocks.append(some)
            block[list(some)] = fresh
            for c in range(table.classes):
                both = (old, c) in todo or len(some) <= len(blocks[old])
                todo.add((fresh if both else old, c))
    return block

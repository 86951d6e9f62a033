"""Small automata and vocabularies, by hand and by hypothesis, and what they mean by plain simulation.

Nothing here is shared with what is tested: sets of states, one byte after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from ramet.constraints.nfa import Nfa
from ramet.constraints.vocabulary import Vocabulary

Tree = tuple  # ("byte", low, high) | ("then", *trees) | ("or", *trees) | ("times", tree, least, most or None)


@dataclass
class Edges:
    """An automaton while it is written down."""

    states: int = 2  # 0 begins, 1 ends
    edges: list[tuple[int, int, int, int]] = field(
        default_factory=list
    )  # source, low, high, target
    empty: list[tuple[int, int]] = field(default_factory=list)

    def state(self) -> int:
        self.states += 1
        return self.states - 1

    def write(self, tree: Tree, source: int, target: int) -> None:
        kind, *rest = tree
        if kind == "byte":
            self.edges.append((source, rest[0], rest[1], target))
        elif kind == "then":
            for part in rest:
                after = self.state()
                self.write(part, source, after)
                source = after
            self.empty.append((source, target))
        elif kind == "or":
            for option in rest:
                begin, end = self.state(), self.state()
                self.empty += [(source, begin), (end, target)]
                self.write(option, begin, end)
        else:
            self._times(*rest, source, target)

    def _times(self, body: Tree, least: int, most: int | None, source: int, target: int) -> None:
        for count in range(least if most is None else most):
            if count >= least:
                self.empty.append((source, target))
            after = self.state()
            self.write(body, source, after)
            source = after
        if most is None:
            loop, again = self.state(), self.state()
            self.empty += [(source, loop), (again, loop)]
            self.write(body, loop, again)
            source = loop
        self.empty.append((source, target))

    def nfa(self) -> Nfa | None:
        """Trimmed. None: no text is accepted."""
        distance = self._distances()
        forward: dict[int, set[int]] = {}
        for source, _, _, target in self.edges:
            forward.setdefault(source, set()).add(target)
        for source, target in self.empty:
            forward.setdefault(source, set()).add(target)
        seen, todo = {0}, [0]
        while todo:
            for target in forward.get(todo.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        kept = sorted(seen & distance.keys())
        if 0 not in kept:
            return None
        number = {state: k for k, state in enumerate(kept)}
        edges = sorted(
            (number[a], low, high, number[b])
            for a, low, high, b in self.edges
            if a in number and b in number
        )
        empty = sorted((number[a], number[b]) for a, b in self.empty if {a, b} <= number.keys())
        return Nfa(
            start=number[0],
            final=number[1],
            first=_first([e[0] for e in edges], len(kept)),
            low=np.array([e[1] for e in edges], np.uint8),
            high=np.array([e[2] for e in edges], np.uint8),
            target=np.array([e[3] for e in edges], np.int32),
            eps_first=_first([e[0] for e in empty], len(kept)),
            eps_target=np.array([e[1] for e in empty], np.int32),
            distance=np.array([distance[s] for s in kept], np.int32),
        )

    def _distances(self) -> dict[int, int]:
        """Bellman and Ford: by rounds until nothing changes."""
        distance = {1: 0}
        weighted = [(a, b, 1) for a, _, _, b in self.edges] + [(a, b, 0) for a, b in self.empty]
        changed = True
        while changed:
            changed = False
            for source, target, weight in reversed(weighted):
                if target in distance:
                    found = distance[target] + weight
                    if found < distance.get(source, found + 1):
                        distance[source] = found
                        changed = True
        return distance


def _first(sources: list[int], states: int) -> np.ndarray:
    return np.searchsorted(np.array(sources, np.int64), np.arange(states + 1)).astype(np.int32)


def automaton_of(tree: Tree) -> Nfa:
    written = Edges()
    written.write(tree, 0, 1)
    nfa = written.nfa()
    assert nfa is not None
    return nfa


def byte(low: str | int, high: str | int | None = None) -> Tree:
    number = [ord(b) if isinstance(b, str) else b for b in (low, low if high is None else high)]
    return ("byte", *number)


def text(word: str) -> Tree:
    return ("then", *(("byte", b, b) for b in word.encode()))


def vocabulary(tokens: Iterable[bytes], size: int | None = None) -> Vocabulary:
    tokens = list(tokens)
    return Vocabulary(
        tokens, len(tokens) if size is None else size, lambda _: [], lambda _text, _next: ()
    )


# ---- what they mean ----------------------------------------------------------------------------


class Meaning:
    """By sets of states, straight from the Nfa; which states are alive is found again."""

    def __init__(self, nfa: Nfa) -> None:
        self.nfa = nfa
        count = range(len(nfa.distance))
        rows = list(zip(nfa.low.tolist(), nfa.high.tolist(), nfa.target.tolist(), strict=True))
        self._edges = [rows[nfa.first[s] : nfa.first[s + 1]] for s in count]
        empty = nfa.eps_target.tolist()
        self._empty = [empty[nfa.eps_first[s] : nfa.eps_first[s + 1]] for s in count]
        self._alive = self._find_alive()

    def _find_alive(self) -> dict[int, int]:
        """State -> fewest bytes to the end: backwards, all states of a distance before the next."""
        by_byte: dict[int, list[int]] = {}
        by_nothing: dict[int, list[int]] = {}
        for s in range(len(self.nfa.distance)):
            for _, _, target in self._edges[s]:
                by_byte.setdefault(target, []).append(s)
            for target in self._empty[s]:
                by_nothing.setdefault(target, []).append(s)
        found: dict[int, int] = {}
        steps, front = 0, [self.nfa.final]
        while front:
            before = []
            while front:
                state = front.pop()
                if state not in found:
                    found[state] = steps
                    front += by_nothing.get(state, [])
                    before += by_byte.get(state, [])
            steps, front = steps + 1, before
        return found

    def states(self, data: bytes) -> frozenset[int]:
        found = self._closed({self.nfa.start})
        for b in data:
            found = self._closed(
                {t for s in found for low, high, t in self._edges[s] if low <= b <= high}
            )
        return frozenset(found)

    def _closed(self, states: set[int]) -> set[int]:
        todo = list(states)
        while todo:
            for target in self._empty[todo.pop()]:
                if target not in states:
                    states.add(target)
                    todo.append(target)
        return states

    def alive(self, data: bytes) -> bool:
        """Some text that begins with `data` is accepted."""
        return any(s in self._alive for s in self.states(data))

    def accepts(self, data: bytes) -> bool:
        return self.nfa.final in self.states(data)

    def distance(self, data: bytes) -> int:
        return min(self._alive[s] for s in self.states(data) if s in self._alive)


# ---- hypothesis ----------------------------------------------------------------------------------

ALPHABET = [0x00, 0x61, 0x62, 0x63, 0x7F, 0x80, 0xC3, 0xFF]
letters = st.sampled_from(ALPHABET)
ranges = st.tuples(letters, letters).map(lambda two: ("byte", min(two), max(two)))
texts = st.lists(letters, max_size=6).map(bytes)


def larger(trees: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    several = st.lists(trees, min_size=1, max_size=3)
    times = st.tuples(trees, st.integers(0, 2), st.integers(0, 2) | st.none())
    return st.one_of(
        several.map(lambda parts: ("then", *parts)),
        several.map(lambda parts: ("or", *parts)),
        times.map(lambda t: ("times", t[0], t[1], None if t[2] is None else t[1] + t[2])),
    )


trees = st.recursive(ranges, larger, max_leaves=8)


@st.composite
def tangles(draw: st.DrawFn) -> Nfa | None:
    """Any edges between a few states, cycles of empty ones too."""
    states = draw(st.integers(2, 6))
    state = st.integers(0, states - 1)
    edges = draw(st.lists(st.tuples(state, ranges, state), max_size=12))
    empty = draw(st.lists(st.tuples(state, state), max_size=6))
    return Edges(states, [(a, r[1], r[2], b) for a, r, b in edges], empty).nfa()


nfas = trees.map(automaton_of) | tangles().filter(lambda nfa: nfa is not None)
vocabularies = st.lists(texts, max_size=40).map(vocabulary)

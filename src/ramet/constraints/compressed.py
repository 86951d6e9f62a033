"""The compressed finite-state machine: runs of states that leave no choice become one edge.

Knows states, bytes and where a choice is; refuses to know tokens. After "Efficiently Programming Large
Language Models using SGLang" (Zheng et al., arXiv 2312.07104, section 4): where the text is the same
whatever the model says, the model need not be asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ramet.constraints.automaton import Automaton

__all__ = ["Edge", "Graph", "compress", "forced_bytes", "graph"]


def forced_bytes(
    automaton: Automaton, state: int, most: int, max_work: int | None = None
) -> tuple[bytes, int] | None:
    """The bytes that every legal text goes on with, at most `most`, and the state behind them. A state
    where the text may end forces nothing. None: finding them takes more than about `max_work`
    microseconds.

    A run always ends: a live state leads to an accepting one, and where there is only one way, this is it.
    """
    found = automaton.forced(state, most, max_work)
    if found is None:
        return None
    data, states = found
    return data, states[-1] if states else state


# ---- as a picture ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Edge:
    """`ranges`: inclusive ranges of bytes, one of which comes; or `text`: a run of several bytes."""

    source: int
    target: int
    ranges: tuple[tuple[int, int], ...]
    text: bytes = b""


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole automaton as plain data."""

    start: int
    states: tuple[int, ...]
    accepting: frozenset[int]
    edges: tuple[Edge, ...]


def graph(automaton: Automaton, most_states: int) -> Graph | None:
    """Every state and every byte. None: there are more than `most_states` states."""
    if not automaton.complete(most_states):
        return None
    table = automaton.core.export()
    states, edges = [], []
    waiting, seen = [automaton.start], {automaton.start}
    while waiting:
        state = waiting.pop(0)
        states.append(state)
        bytes_to: dict[int, list[int]] = {}
        for byte, target in enumerate(table.to[state][table.class_of.astype(int)].tolist()):
            if target >= 0:
                bytes_to.setdefault(target, []).append(byte)
        for target, some in bytes_to.items():
            edges.append(Edge(state, target, _ranges(some)))
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    accepting = frozenset(s for s in states if table.accepting[s])
    return Graph(automaton.start, tuple(states), accepting, tuple(edges))


def _ranges(rising: Iterable[int]) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for byte in rising:
        if found and found[-1][1] == byte - 1:
            found[-1] = found[-1][0], byte
        else:
            found.append((byte, byte))
    return tuple(found)


def compress(whole: Graph) -> Graph:
    """The same language with runs as single edges. A state inside a run is left out: it has one byte, does
    not accept, and is reached only by the run."""
    forced = _forced_edges(whole)
    arriving: dict[int, list[Edge]] = {}
    for edge in whole.edges:
        arriving.setdefault(edge.target, []).append(edge)
    inside = {
        state
        for state in forced
        if state != whole.start
        and all(edge.source in forced for edge in arriving[state])
        and len(arriving[state]) == 1
    }
    edges = []
    for edge in whole.edges:
        if edge.source in inside:
            continue
        text = _text(edge) if edge.source in forced else b""
        target = edge.target
        while text and target in inside:
            text += _text(forced[target])
            target = forced[target].target
        run = len(text) > 1
        edges.append(Edge(edge.source, target, () if run else edge.ranges, text if run else b""))
    states = tuple(s for s in whole.states if s not in inside)
    return Graph(whole.start, states, whole.accepting, tuple(edges))


def _forced_edges(whole: Graph) -> dict[int, Edge]:
    """Of states that have one byte and do not accept."""
    leaving: dict[int, list[Edge]] = {}
    for edge in whole.edges:
        leaving.setdefault(edge.source, []).append(edge)
    return {
        state: edges[0]
        for state, edges in leaving.items()
        if state not in whole.accepting and len(edges) == 1 and _text(edges[0])
    }


def _text(edge: Edge) -> bytes:
    """What must come for this edge; b"" where it leaves a choice."""
    if edge.text:
        return edge.text
    (low, high), *more = edge.ranges
    return bytes([low]) if low == high and not more else b""

"""The smallest automaton of a finite set of byte sequences.

Knows sequences of byte ranges: the UTF-8 of a class of characters, or the words of an alternation.
Refuses to know which. Built in one pass over the sorted sequences, finished states being merged with
equal ones at once: Daciuk, Mihov, Watson and Watson, "Incremental Construction of Minimal Acyclic
Finite-State Automata", Computational Linguistics 26(1), 2000.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Acyclic", "build"]

_Row = tuple[int, int, int]  # low, high, target


@dataclass(frozen=True, slots=True, eq=False)
class Acyclic:
    """State 0 begins, state 1 accepts and has no way out, the others are numbered from 2. `rows`: of a
    state that are (low, high, target), `ends`: states that may also go to state 1 without a byte.
    `distance`: fewest bytes from each state to acceptance."""

    source: tuple[int, ...]
    low: bytes
    high: bytes
    target: tuple[int, ...]
    ends: tuple[int, ...]
    distance: tuple[int, ...]

    @property
    def num_inner(self) -> int:
        return len(self.distance) - 2

    @property
    def shortest(self) -> int:
        return self.distance[0]


class _Open:
    """A state on the way of the last sequence. `label`: of the edge to the next one, not in `rows` yet."""

    __slots__ = ("ends", "label", "rows")

    def __init__(self) -> None:
        self.rows: list[_Row] = []
        self.ends = False
        self.label: tuple[int, int] | None = None

    def close_edge(self, target: int) -> None:
        if self.label is None:
            return
        low, high = self.label
        if self.rows and self.rows[-1][1] + 1 == low and self.rows[-1][2] == target:
            self.rows[-1] = (self.rows[-1][0], high, target)
        else:
            self.rows.append((low, high, target))
        self.label = None


def build(sequences: Iterable[Sequence[tuple[int, int]]]) -> Acyclic:
    """`sequences`: rising, different, none empty; two labels that follow the same labels are equal or
    have no byte in common."""
    known: dict[tuple[bool, tuple[_Row, ...]], int] = {(True, ()): 1}
    path = [_Open()]
    last: Sequence[tuple[int, int]] = ()
    for sequence in sequences:
        shared = 0
        for a, b in zip(last, sequence):
            if a != b:
                break
            shared += 1
        _close(path, shared, known)
        for label in sequence[shared:]:
            path[-1].label = label
            path.append(_Open())
        path[-1].ends = True
        last = sequence
    _close(path, 0, known)
    return _finished(path[0].rows, known)


def _close(path: list[_Open], keep: int, known: dict[tuple[bool, tuple[_Row, ...]], int]) -> None:
    """The states behind the first `keep` edges will not change any more."""
    while len(path) > keep + 1:
        state = path.pop()
        key = (state.ends, tuple(state.rows))
        number = known.setdefault(key, len(known) + 1)
        path[-1].close_edge(number)


def _finished(root: list[_Row], known: dict[tuple[bool, tuple[_Row, ...]], int]) -> Acyclic:
    source: list[int] = []
    rows: list[_Row] = []
    ends: list[int] = []
    distance = [0, 0] + [0] * (len(known) - 1)
    for (may_end, edges), number in known.items():  # targets come before sources
        if number == 1:
            continue
        rows += edges
        source += [number] * len(edges)
        if may_end:
            ends.append(number)
        else:
            distance[number] = 1 + min(distance[target] for _, _, target in edges)
    rows += root
    source += [0] * len(root)
    distance[0] = 1 + min((distance[target] for _, _, target in root), default=0)
    low, high, target = zip(*rows, strict=True)
    return Acyclic(tuple(source), bytes(low), bytes(high), target, tuple(ends), tuple(distance))

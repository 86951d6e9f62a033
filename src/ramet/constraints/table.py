"""A complete deterministic automaton as arrays.

Knows how such arrays must look and what can be computed from them alone; refuses to know where they came
from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["DEAD", "NEVER", "UNKNOWN", "Table", "distances", "merge_classes"]

DEAD, UNKNOWN = -1, -2
NEVER = 2**31 - 1  # the distance of DEAD

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """`to` int32 [states, classes]: the state behind each class of bytes, DEAD where there is none, and
    state 0 is the start; `class_of` uint8 [256]; `accepting` uint8 [states], 0 or 1; `distance` int32
    [states]: fewest bytes to an accepting state."""

    to: Ints
    class_of: npt.NDArray[np.uint8]
    accepting: npt.NDArray[np.uint8]
    distance: Ints

    @property
    def states(self) -> int:
        return len(self.to)

    @property
    def classes(self) -> int:
        return int(self.to.shape[1])

    @classmethod
    def of(
        cls, to: Ints, class_of: npt.NDArray[np.uint8], accepting: npt.NDArray[np.uint8]
    ) -> Table:
        """In the one form that depends on the graph alone: states in the order of a breadth-first search
        from state 0, bytes in one class wherever they do the same, classes in the order of their
        bytes. What cannot be reached is left out."""
        to, class_of = merge_classes(to, class_of)
        order = _breadth_first(to)
        number = np.full(len(to) + 1, DEAD, np.int32)  # the last one: of DEAD
        number[order] = np.arange(len(order), dtype=np.int32)
        # Now that states which nobody reaches are gone, more bytes may do the same.
        table, class_of = merge_classes(number[to[order]], class_of)
        ends = np.ascontiguousarray(accepting[order], np.uint8)
        return cls(table, class_of, ends, distances(table, ends))


def merge_classes(to: Ints, class_of: npt.NDArray[np.uint8]) -> tuple[Ints, npt.NDArray[np.uint8]]:
    """`to` and `class_of` with one class for all bytes that do the same, in the order of the bytes."""
    columns = [column.tobytes() for column in np.ascontiguousarray(to.T)]
    kept: dict[bytes, int] = {}  # column -> its new number
    used: list[int] = []
    merged = np.empty(256, np.uint8)
    for byte, old in enumerate(class_of.tolist()):
        if columns[old] not in kept:
            kept[columns[old]] = len(used)
            used.append(old)
        merged[byte] = kept[columns[old]]
    return np.ascontiguousarray(to[:, used]), merged


def _breadth_first(to: Ints) -> list[int]:
    rows = to.tolist()
    seen = {0, DEAD}
    order = [0]
    for state in order:  # which grows meanwhile
        for target in dict.fromkeys(rows[state]):
            if target not in seen:
                seen.add(target)
                order.append(target)
    return order


def distances(to: Ints, accepting: npt.NDArray[np.uint8]) -> Ints:
    """[states]: fewest bytes to an accepting state, NEVER where there is no way. Breadth first from the
    end."""
    states = len(to)
    source = np.repeat(np.arange(states), to.shape[1])
    target = to.reshape(-1)
    source, target = source[target >= 0], target[target >= 0]
    by_target = np.argsort(target, kind="stable")
    source = source[by_target]
    first = np.searchsorted(target[by_target], np.arange(states + 1))
    distance = np.full(states, NEVER, np.int32)
    front = np.flatnonzero(accepting)
    steps = 0
    while len(front):
        distance[front] = steps
        before = [source[first[s] : first[s + 1]] for s in front.tolist()]
        front = np.unique(np.concatenate(before))
        front = front[distance[front] == NEVER]
        steps += 1
    return distance

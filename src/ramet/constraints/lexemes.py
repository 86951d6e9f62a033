"""Which pieces of a recursive grammar may be matched in one go.

llguidance's lexer is greedy: once a piece is complete and another, longer one could still go on, it never
looks back. A piece is therefore safe only if no complete piece is the beginning of a longer one that goes
on, whatever stands where. Knows regular trees and bytes; refuses to know grammars.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ramet.constraints.automaton import Automaton
from ramet.constraints.limits import ConstraintLimits
from ramet.constraints.nfa import build
from ramet.constraints.nodes import Node
from ramet.errors import InvalidRequest

__all__ = ["Piece", "unsafe"]

_MOST_PAIRS = 4000  # of states, for two pieces


class Piece:
    """A tree with its automaton; none if that would be large."""

    def __init__(self, node: Node, limits: ConstraintLimits) -> None:
        self.node = node
        self.automaton: Automaton | None = None
        self.first: frozenset[int] = frozenset(range(256))
        try:
            self.automaton = Automaton(build(node, limits), limits)
            self.first = self.automaton.next_bytes(self.automaton.start)
        except InvalidRequest:
            pass


def unsafe(pieces: Sequence[Piece], others: Sequence[Piece], deadline: float) -> int | None:
    """One of `pieces` that goes on where it, or another one of both kinds, is complete; None if there is
    no such piece. `others` are single characters, so they never go on between characters."""
    for i, longer in enumerate(pieces):
        for shorter in (*pieces, *others):
            if shorter.first & longer.first and _goes_on(shorter, longer, deadline):
                return i
    return None


def _goes_on(shorter: Piece, longer: Piece, deadline: float) -> bool:
    """Whether some text of `shorter`, not the empty one, is a beginning of a longer one of `longer`."""
    one, two = shorter.automaton, longer.automaton
    if one is None or two is None:
        return True
    seen = {(one.start, two.start)}
    waiting = [(one.start, two.start)]
    while waiting:
        if len(seen) > _MOST_PAIRS or time.monotonic() > deadline:
            return True
        ours, theirs = waiting.pop()
        for byte in one.next_bytes(ours) & two.next_bytes(theirs):
            data = bytes((byte,))
            pair = one.step(ours, data), two.step(theirs, data)
            if one.accepting(pair[0]) and two.next_bytes(pair[1]):
                return True
            if pair not in seen:
                seen.add(pair)
                waiting.append(pair)
    return False

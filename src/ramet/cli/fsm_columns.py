"""Columns for the states of an automaton, and heights in them.

As in "Methods for Visual Understanding of Hierarchical System Structures" (Sugiyama, Tagawa and Toda, IEEE
Transactions on Systems, Man, and Cybernetics 11(2), 1981): edges that lead back are turned around, long ones
are cut by places in the columns between, and every column is ordered by where its neighbours lie. Knows places
and distances; refuses to know what is drawn there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ramet.cli.fsm_characters import Machine, Way

__all__ = ["ROW", "Place", "layers", "order", "settle"]

ROW = 58.0  # from state to state in a column
_SWEEPS = 12


@dataclass(slots=True)
class Place:
    """A state, or where a long edge crosses a column (`state` None)."""

    state: int | None
    layer: int
    above: float = ROW / 2  # what it needs of its column, and below
    y: float = 0.0
    near: list[Place] = field(default_factory=list)  # neighbours in the columns beside


def layers(machine: Machine) -> tuple[list[int], set[Way]]:
    """The column of each state, one more than the last of those before it, and the edges that lead back."""
    leaving: list[list[Way]] = [[] for _ in range(machine.num_states)]
    for way in machine.ways:
        if way.source != way.target:
            leaving[way.source].append(way)
    turned, forward = _turned(leaving)
    layer = [0] * machine.num_states
    for at in forward:
        for way in leaving[at]:
            if way not in turned:
                layer[way.target] = max(layer[way.target], layer[at] + 1)
    return layer, turned


def _turned(leaving: list[list[Way]]) -> tuple[set[Way], list[int]]:
    """Edges back to a state on the way to them, depth first, and the states such that all other edges lead
    forward."""
    turned: set[Way] = set()
    done: list[int] = []
    on_the_way, seen = {0}, {0}
    stack = [(0, iter(leaving[0]))]
    while stack:
        at, ways = stack[-1]
        for way in ways:
            if way.target in on_the_way:
                turned.add(way)
            elif way.target not in seen:
                seen.add(way.target)
                on_the_way.add(way.target)
                stack.append((way.target, iter(leaving[way.target])))
                break
        else:
            on_the_way.discard(at)
            done.append(at)
            stack.pop()
    return turned, done[::-1]


def order(columns: list[list[Place]]) -> None:
    """Sets each place's y to its rank: sweeps to and fro, by the mean of the neighbours."""
    for column in columns:
        for rank, place in enumerate(column):
            place.y = rank
    for sweep in range(_SWEEPS):
        for column in columns if sweep % 2 == 0 else columns[::-1]:
            step = -1 if sweep % 2 == 0 else 1
            column.sort(key=lambda place: _mean(place, place.layer + step))
            for rank, place in enumerate(column):
                place.y = rank


def _mean(place: Place, layer: int) -> float:
    beside = [other.y for other in place.near if other.layer == layer]
    return sum(beside) / len(beside) if beside else place.y


def settle(columns: list[list[Place]]) -> None:
    """From ranks to heights: each place as near to its neighbours' mean as its column lets it."""
    for column in columns:
        for rank, place in enumerate(column):
            place.y = (rank - (len(column) - 1) / 2) * ROW
    for sweep in range(_SWEEPS):
        for column in columns if sweep % 2 == 0 else columns[::-1]:
            for place in column:
                if place.near:
                    place.y = sum(other.y for other in place.near) / len(place.near)
            _spread(column)


def _spread(column: list[Place]) -> None:
    """Keep the order and everybody's room, moving nobody farther than needed: groups that touch share
    what they are moved by."""
    groups: list[tuple[float, float, int]] = []  # (middle, height, members)
    for place in column:
        height, members = place.above + ROW / 2, 1
        middle = place.y + (ROW / 2 - place.above) / 2
        while groups and groups[-1][0] + groups[-1][1] / 2 > middle - height / 2:
            other, other_height, count = groups.pop()
            middle = (other * count + middle * members) / (count + members)
            height, members = height + other_height, members + count
        groups.append((middle, height, members))
    at = 0
    for middle, height, members in groups:
        top = middle - height / 2
        for place in column[at : at + members]:
            place.y = top + place.above
            top = place.y + ROW / 2
        at += members

"""From a tree to a nondeterministic automaton over the bytes of UTF-8.

Knows trees and bytes; refuses to know syntax and tokens. Thompson's construction (CACM 11(6), 1968) with
two differences: parts share the states where they meet (a part adds ways out of its first state and into
its last one, never the other way round), and finite sets of texts and characters come as their smallest
automata (`acyclic`). What a tree costs is known before anything is written out (`plan`).

A counted repeat x{2,4} is a chain of copies, and from each place where enough of them have been an empty
way leads to the end: 0 -x-> 1 -x-> 2 -x-> 3 -x-> end with 2 --> end and 3 --> end. So an optional copy
costs one empty transition, and the closure of a place has two states however many copies follow.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramet.constraints.acyclic import Acyclic
from ramet.constraints.limits import DEFAULT, ConstraintLimits
from ramet.constraints.nodes import Node
from ramet.constraints.plan import Alternatives, Chain, Loop, Part, Times, Word, plan
from ramet.errors import InvalidRequest

__all__ = ["Nfa", "accepts", "build"]

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Nfa:
    """State `start` begins, `final` is the only accepting one and has no way out. From state s the rows
    first[s] .. first[s + 1] lead with a byte from `low` to `high` (inclusive) to `target`, ordered by
    `low`; they may overlap. Without a byte, rows eps_first[s] .. eps_first[s + 1] lead to `eps_target`;
    there may be cycles of these. `distance`: fewest bytes from each state to acceptance. Every state can
    be reached and reaches `final`.
    """

    start: int
    final: int
    first: Ints  # [num_states + 1]
    low: Bytes  # [rows]
    high: Bytes
    target: Ints
    eps_first: Ints  # [num_states + 1]
    eps_target: Ints  # [empty rows]
    distance: Ints  # [num_states]

    @property
    def num_states(self) -> int:
        return len(self.distance)


def build(
    node: Node,
    limits: ConstraintLimits = DEFAULT,
    field: str = "regex",
    value: object = None,
) -> Nfa:
    """The automaton of all encodings of the tree's texts. Raises `InvalidRequest` with `field` and
    `value` if there is none, or if it takes more than `limits.nfa_states` states."""
    planned = plan(node, limits.nfa_states)
    if planned.root is None:
        raise InvalidRequest(field, value, "matches no text")
    num_states = 2 + planned.root.num_inner
    if num_states > limits.nfa_states:
        raise InvalidRequest(
            field,
            value,
            f"needs an automaton of {num_states} states, more than {limits.nfa_states}"
            if num_states < 10**18
            else f"needs an automaton of more than 10^18 states, more than {limits.nfa_states}",
            f"its largest repeat is {{{planned.largest_repeat}}}"
            if planned.largest_repeat > 1
            else "shorten it",
        )
    return _Writer(num_states).write(planned.root)


def accepts(nfa: Nfa, data: bytes) -> bool:
    """By sets of states: slow, and what every faster way has to agree with."""
    first, low, high = nfa.first.tolist(), nfa.low.tolist(), nfa.high.tolist()
    target = nfa.target.tolist()
    states = _closure(nfa, {nfa.start})
    for byte in data:
        states = _closure(
            nfa,
            {
                target[row]
                for state in states
                for row in range(first[state], first[state + 1])
                if low[row] <= byte <= high[row]
            },
        )
    return nfa.final in states


def _closure(nfa: Nfa, states: set[int]) -> set[int]:
    found = set(states)
    left = list(states)
    while left:
        state = left.pop()
        for target in nfa.eps_target[nfa.eps_first[state] : nfa.eps_first[state + 1]].tolist():
            if target not in found:
                found.add(target)
                left.append(target)
    return found


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a part goes: from state `entry` to state `exit`, its inner states numbered from `base`.
    `after`: fewest bytes from `exit` to acceptance."""

    entry: int
    exit: int
    base: int
    after: int


@dataclass(frozen=True, slots=True)
class _Copies:
    """To do once the first copy of a repeat's body is written: `rows` and `empty` are the numbers of
    transitions before it."""

    part: Times
    place: _Place
    rows: int
    empty: int


# Below so many states in all copies a repeat is written out part by part: arrays would cost more.
_FEW = 64


class _Writer:
    """Rows in the order of writing, sorted by state at the end."""

    def __init__(self, num_states: int) -> None:
        self._source, self._target = array("i"), array("i")
        self._low, self._high = bytearray(), bytearray()
        self._eps_source, self._eps_target = array("i"), array("i")
        self._distance = np.zeros(num_states, np.int32)
        self._left: list[tuple[Part, _Place] | _Copies] = []  # what is to be written, next one last

    def write(self, root: Part) -> Nfa:
        self._distance[0] = root.shortest
        self._left.append((root, _Place(0, 1, 2, 0)))
        while self._left:
            item = self._left.pop()
            if isinstance(item, _Copies):
                self._copy(item)
            else:
                self._part(*item)
        return self._finished()

    def _part(self, part: Part, at: _Place) -> None:
        if isinstance(part, Word):
            self._word(part.data, at)
        elif isinstance(part, Acyclic):
            self._acyclic(part, at)
        elif isinstance(part, Chain):
            self._chain(part, at)
        elif isinstance(part, Alternatives):
            self._alternatives(part, at)
        elif isinstance(part, Loop):
            self._loop(part, at)
        else:
            self._times(part, at)

    def _empty(self, source: int, target: int) -> None:
        if source != target:
            self._eps_source.append(source)
            self._eps_target.append(target)

    def _word(self, data: bytes, at: _Place) -> None:
        if not data:
            return self._empty(at.entry, at.exit)
        inner = range(at.base, at.base + len(data) - 1)
        self._source.append(at.entry)
        self._source.extend(inner)
        self._target.extend(inner)
        self._target.append(at.exit)
        self._low += data
        self._high += data
        if len(data) > 1:
            distance = np.arange(at.after + len(data) - 1, at.after, -1, dtype=np.int32)
            self._distance[at.base : at.base + len(inner)] = distance
        return None

    def _acyclic(self, part: Acyclic, at: _Place) -> None:
        shift = at.base - 2
        number = (at.entry, at.exit)
        self._source.extend([s + shift if s > 1 else number[s] for s in part.source])
        self._target.extend([t + shift if t > 1 else number[t] for t in part.target])
        self._low += part.low
        self._high += part.high
        for state in part.ends:
            self._empty(state + shift, at.exit)
        if part.num_inner:
            self._distance[at.base : at.base + part.num_inner] = part.distance[2:]
            self._distance[at.base : at.base + part.num_inner] += at.after

    def _chain(self, part: Chain, at: _Place) -> None:
        base, entry, after = at.base, at.entry, at.after + part.shortest
        places: list[tuple[Part, _Place]] = []
        for piece in part.parts[:-1]:
            after -= piece.shortest
            joint = base + piece.num_inner
            self._distance[joint] = after
            places.append((piece, _Place(entry, joint, base, after)))
            entry, base = joint, joint + 1
        places.append((part.parts[-1], _Place(entry, at.exit, base, at.after)))
        self._left += reversed(places)

    def _alternatives(self, part: Alternatives, at: _Place) -> None:
        base = at.base
        for option in part.options:
            self._left.append((option, _Place(at.entry, at.exit, base, at.after)))
            base += option.num_inner

    def _loop(self, part: Loop, at: _Place) -> None:
        """x*: entry --> round, round -x-> round, round --> exit. x{n,}: entry -x{n}-> done, done --> last
        place but one of the chain, done --> exit; with n = 1 that place is a new one behind entry."""
        base, body, least = at.base, part.body, part.least
        if least <= 1:
            done = base + least
            self._distance[done] = at.after
            self._distance[base] = at.after + least * body.shortest
            self._empty(at.entry, base)
            self._left.append((body, _Place(base, done, done + 1, at.after)))
        else:
            done = base
            base += 1
            self._distance[done] = at.after
            times = part.chain
            self._left.append((times, _Place(at.entry, done, base, at.after)))
            base += (least - 1) * (body.num_inner + 1) - 1  # the chain's last place
        self._empty(done, base)
        self._empty(done, at.exit)

    def _times(self, part: Times, at: _Place) -> None:
        body, most = part.body, part.most
        stride = body.num_inner + 1
        joints = [at.entry, *range(at.base + stride - 1, at.base + (most - 1) * stride, stride)]
        joints.append(at.exit)
        for count in range(part.least, most):
            self._empty(joints[count], at.exit)
        afters = [at.after + max(0, part.least - k) * body.shortest for k in range(most + 1)]
        self._distance[joints[1:-1]] = afters[1:-1]
        copies = [
            (body, _Place(joints[k], joints[k + 1], at.base + k * stride, afters[k + 1]))
            for k in range(most if most * stride <= _FEW else 1)
        ]
        if len(copies) < most:
            self._left.append(_Copies(part, at, len(self._source), len(self._eps_source)))
        self._left += copies

    def _copy(self, item: _Copies) -> None:
        """All copies of the body but the first one, whose rows are the last ones written."""
        body, at, most = item.part.body, item.place, item.part.most
        stride = body.num_inner + 1
        shift = np.arange(1, most, dtype=np.int32)[:, None] * np.int32(stride)
        joint = at.base + stride - 1

        def moved(column: array[int], start: int) -> bytes:
            old = np.array(column[start:], np.int32)
            new = old + shift
            new[:, old == at.entry] = shift + np.int32(joint - stride)
            new[-1, old == joint] = at.exit
            return new.tobytes()

        source, target = moved(self._source, item.rows), moved(self._target, item.rows)
        self._source.frombytes(source)
        self._target.frombytes(target)
        self._low += self._low[item.rows :] * (most - 1)
        self._high += self._high[item.rows :] * (most - 1)
        source, target = moved(self._eps_source, item.empty), moved(self._eps_target, item.empty)
        self._eps_source.frombytes(source)
        self._eps_target.frombytes(target)
        count = body.num_inner
        if count:
            lacking = np.maximum(0, item.part.least - 1 - np.arange(most, dtype=np.int32))
            fewer = (lacking[0] - lacking[1:, None]) * np.int32(body.shortest)
            places = at.base + np.arange(count, dtype=np.int32) + shift
            self._distance[places] = self._distance[at.base : at.base + count] - fewer

    def _finished(self) -> Nfa:
        source = np.frombuffer(self._source, np.int32)
        low = np.frombuffer(self._low, np.uint8)
        order = np.argsort(source.astype(np.int64) << 8 | low, kind="stable")
        eps_source = np.frombuffer(self._eps_source, np.int32)
        eps_order = np.argsort(eps_source, kind="stable")
        return Nfa(
            start=0,
            final=1,
            first=self._starts(source),
            low=low[order],
            high=np.frombuffer(self._high, np.uint8)[order],
            target=np.frombuffer(self._target, np.int32)[order],
            eps_first=self._starts(eps_source),
            eps_target=np.frombuffer(self._eps_target, np.int32)[eps_order],
            distance=self._distance,
        )

    def _starts(self, source: Ints) -> Ints:
        count = np.bincount(source, minlength=len(self._distance))
        return np.concatenate(([0], np.cumsum(count))).astype(np.int32)

"""What an automaton for a tree will be made of, and how many states it takes.

Knows trees and the smallest automata of finite sets; refuses to write transitions. A part leads from one
state to another, which are its neighbours' too; `num_inner` states are its own. Numbers are exact however
large they get, so that too much is refused before it is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ramet.constraints import acyclic
from ramet.constraints.acyclic import Acyclic
from ramet.constraints.charset import Ranges
from ramet.constraints.nodes import NOTHING, Chars, Choice, Node, Sequence, Text
from ramet.constraints.simplify import post_order, simplify
from ramet.constraints.utf8 import byte_sequences

__all__ = ["Alternatives", "Chain", "Loop", "Part", "Plan", "Times", "Word", "plan"]


@dataclass(frozen=True, slots=True, eq=False)
class Word:
    data: bytes

    @property
    def num_inner(self) -> int:
        return max(0, len(self.data) - 1)

    @property
    def shortest(self) -> int:
        """Bytes of the shortest text."""
        return len(self.data)


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """One behind the other, a state between each two. At least two."""

    parts: tuple[Part, ...]
    num_inner: int
    shortest: int


@dataclass(frozen=True, slots=True, eq=False)
class Alternatives:
    """All between the same two states."""

    options: tuple[Part, ...]
    num_inner: int
    shortest: int


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """`most` copies one behind the other, `least` of them needed."""

    body: Part
    least: int
    most: int
    num_inner: int
    shortest: int


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """`least` or more. `chain`: the copies, for two or more."""

    body: Part
    least: int
    chain: Times
    num_inner: int
    shortest: int


Part = Word | Acyclic | Chain | Alternatives | Times | Loop


@dataclass(frozen=True, slots=True)
class Plan:
    """`root` is None if no text matches."""

    root: Part | None
    largest_repeat: int


def plan(root: Node, most_text: int) -> Plan:
    """`most_text`: characters up to which repeated texts are written out while planning."""
    simplified = simplify(root, most_text)
    if simplified.root is NOTHING:
        return Plan(None, simplified.largest_repeat)
    parts: dict[int, Part] = {}
    for node in post_order(simplified.root):
        parts[id(node)] = _part(node, parts)
    return Plan(parts[id(simplified.root)], simplified.largest_repeat)


def _part(node: Node, parts: dict[int, Part]) -> Part:
    if isinstance(node, Text):
        return Word(node.text.encode())
    if isinstance(node, Chars):
        return _characters(node.ranges)
    if isinstance(node, Sequence):
        chain = tuple(parts[id(part)] for part in node.parts)
        inner = sum(part.num_inner for part in chain) + len(chain) - 1
        return Chain(chain, inner, sum(part.shortest for part in chain))
    if isinstance(node, Choice):
        return _alternatives(node, parts)
    return _repeat(parts[id(node.body)], node.least, node.most)


@lru_cache(maxsize=256)  # the usual classes come again with each constraint
def _characters(ranges: Ranges) -> Acyclic:
    return acyclic.build(byte_sequences(ranges))


def _alternatives(node: Choice, parts: dict[int, Part]) -> Part:
    texts = [option for option in node.options if isinstance(option, Text)]
    options = [parts[id(option)] for option in node.options if not isinstance(option, Text)]
    if len(texts) == 1:
        options.append(parts[id(texts[0])])
    elif texts:
        words = sorted(text.text.encode() for text in texts)
        options.append(acyclic.build([tuple(zip(word, word)) for word in words]))
    if len(options) == 1:
        return options[0]
    inner = sum(option.num_inner for option in options)
    return Alternatives(tuple(options), inner, min(option.shortest for option in options))


def _repeat(body: Part, least: int, most: int | None) -> Part:
    needed = least * body.shortest
    if most is not None:
        return Times(body, least, most, most * (body.num_inner + 1) - 1, needed)
    chain = Times(body, least, least, least * (body.num_inner + 1) - 1, needed)
    inner = 1 + chain.num_inner if least > 1 else 1 + least + body.num_inner
    return Loop(body, least, chain, inner, needed)

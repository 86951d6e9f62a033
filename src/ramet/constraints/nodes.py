"""A regular language as a tree: what regular expressions and small JSON Schemas become.

Knows code points and five shapes; refuses to know any syntax. A tree says what a text *is*, so there is
no order of preference, no greediness and no capture in it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ANY", "EMPTY", "NOTHING", "Chars", "Choice", "Node", "Repeat", "Sequence", "Text"]

_LAST = 0x10FFFF


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a set: inclusive ranges of code points, rising, apart from each other, without
    surrogates (they have no UTF-8). No ranges: matches nothing, not even the empty text."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Text:
    """Exactly this text. "" is the empty text."""

    text: str


@dataclass(frozen=True, slots=True)
class Sequence:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`most` is None without a limit."""

    body: Node
    least: int
    most: int | None


Node = Chars | Text | Sequence | Choice | Repeat

ANY = Chars(((0, 0xD7FF), (0xE000, _LAST)))
EMPTY = Text("")
NOTHING = Chars(())

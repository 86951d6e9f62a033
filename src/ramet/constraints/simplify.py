"""An equal tree that is smaller and has each of its parts only once.

Knows what trees mean; refuses to know automata. Afterwards equal parts are the same object; nothing that
matches no text is left (but for the whole); a `Choice` has options of different kinds only, at least two
of them and none of them empty ("or nothing" is a repeat {0,1}); a repeated part never matches "".

Trees may share parts (a JSON Schema's do), so all work is per object, not per path to it, and nothing
here calls itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from ramet.constraints.charset import merged
from ramet.constraints.nodes import EMPTY, NOTHING, Chars, Choice, Node, Repeat, Sequence, Text

__all__ = ["Simplified", "children", "post_order", "simplify"]


@dataclass(frozen=True, slots=True)
class Simplified:
    """`root` is `NOTHING` if no text matches. `largest_repeat`: largest number in the tree's repeats."""

    root: Node
    largest_repeat: int


def simplify(root: Node, most_text: int) -> Simplified:
    """`most_text`: characters up to which texts are joined and written out. Raises ValueError for a
    repeat that ends before it begins."""
    simplifier = _Simplifier(most_text)
    largest = 0
    for node in post_order(root):
        simplifier.add(node)
        if isinstance(node, Repeat):
            largest = max(largest, node.least, node.most or 0)
    return Simplified(simplifier.known[id(root)], largest)


def children(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Sequence):
        return node.parts
    if isinstance(node, Choice):
        return node.options
    return (node.body,) if isinstance(node, Repeat) else ()


def post_order(root: Node) -> list[Node]:
    """Every object of the tree once, behind all that it is made of."""
    found: list[Node] = []
    seen: set[int] = set()
    left: list[tuple[Node, bool]] = [(root, False)]
    while left:
        node, complete = left.pop()
        if complete:
            found.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            left.append((node, True))
            left += [(child, False) for child in children(node)]
    return found


class _Simplifier:
    def __init__(self, most_text: int) -> None:
        self.known: dict[int, Node] = {}  # id of a given node -> the simplified one
        self._most_text = most_text
        self._parts: dict[object, Node] = {}  # all that were made, by what they are
        self._nullable: set[int] = set()  # ids of those that match ""

    def add(self, node: Node) -> None:
        if isinstance(node, Chars):
            found = self._chars(node)
        elif isinstance(node, Text):
            found = self._text(node.text)
        elif isinstance(node, Sequence):
            found = self._sequence([self.known[id(part)] for part in node.parts])
        elif isinstance(node, Choice):
            found = self._choice([self.known[id(option)] for option in node.options])
        else:
            if node.least < 0 or (node.most is not None and node.most < node.least):
                raise ValueError(f"a repeat from {node.least} to {node.most}")
            found = self._repeat(self.known[id(node.body)], node.least, node.most)
        self.known[id(node)] = found

    def _made(self, key: object, node: Node, nullable: bool) -> Node:
        node = self._parts.setdefault(key, node)
        if nullable:
            self._nullable.add(id(node))
        return node

    def _text(self, text: str) -> Node:
        return self._made(text, Text(text) if text else EMPTY, not text)

    def _chars(self, node: Chars) -> Node:
        if not node.ranges:
            return NOTHING
        low, high = node.ranges[0]
        if low == high and len(node.ranges) == 1:
            return self._text(chr(low))
        return self._made(("chars", node.ranges), node, False)

    def _sequence(self, parts: list[Node]) -> Node:
        joined: list[Node] = []
        texts: list[str] = []
        length = 0
        for part in [*parts, None]:
            if isinstance(part, Text) and length + len(part.text) <= self._most_text:
                texts.append(part.text)
                length += len(part.text)
                continue
            if length:
                joined.append(self._text("".join(texts)))
            texts, length = [], 0
            if isinstance(part, Chars) and not part.ranges:
                return NOTHING
            if isinstance(part, Text):
                texts, length = [part.text], len(part.text)
            elif part is not None:
                joined.append(part)
        if not joined:
            return self._text("")
        if len(joined) == 1:
            return joined[0]
        nullable = all(id(part) in self._nullable for part in joined)
        key = ("sequence", *map(id, joined))
        return self._made(key, Sequence(tuple(joined)), nullable)

    def _choice(self, options: list[Node]) -> Node:
        """Choices in choices become one, all sets of characters one set."""
        optional = False
        found: dict[int, Node] = {}
        for option in options:
            if isinstance(option, Repeat) and (option.least, option.most) == (0, 1):
                optional, option = True, option.body
            if isinstance(option, Text) and not option.text:
                optional = True
            else:
                inner = option.options if isinstance(option, Choice) else (option,)
                found |= {id(one): one for one in inner if one is not NOTHING}
        flat = self._united(list(found.values()))
        if not flat:
            return self._text("") if optional else NOTHING
        nullable = any(id(option) in self._nullable for option in flat)
        choice = flat[0]
        if len(flat) > 1:
            choice = self._made(("choice", *sorted(map(id, flat))), Choice(tuple(flat)), nullable)
        return self._repeat(choice, 0, 1) if optional and not nullable else choice

    def _united(self, options: list[Node]) -> list[Node]:
        sets = [option for option in options if isinstance(option, Chars)]
        if not sets:
            return options
        single = [o for o in options if isinstance(o, Text) and len(o.text) == 1]
        if len(sets) == 1 and not single:
            return options
        ranges = [pair for one in sets for pair in one.ranges]
        ranges += [(ord(o.text), ord(o.text)) for o in single]
        gone = {id(option) for option in (*sets, *single)}
        rest = [option for option in options if id(option) not in gone]
        return [self._chars(Chars(merged(ranges))), *rest]

    def _repeat(self, body: Node, least: int, most: int | None) -> Node:
        if body is NOTHING:
            return self._text("") if least == 0 else NOTHING
        if most == 0 or (isinstance(body, Text) and not body.text):
            return self._text("")
        if id(body) in self._nullable:
            least = 0
        if isinstance(body, Repeat) and _is_one_repeat(body, least, most):
            least *= body.least
            most = None if most is None or body.most is None else most * body.most
            body = body.body
        if (least, most) == (1, 1):
            return body
        if isinstance(body, Text) and least == most and len(body.text) * least <= self._most_text:
            return self._text(body.text * least)
        nullable = least == 0 or id(body) in self._nullable
        return self._made(("repeat", id(body), least, most), Repeat(body, least, most), nullable)


def _is_one_repeat(inner: Repeat, least: int, most: int | None) -> bool:
    """x{a,b}{n,m} is x{na,mb} if the numbers of x that k rounds can give, ka to kb, leave no gap. The
    widest gap is the first one, between n and n + 1 rounds."""
    if least == most:
        return True
    if inner.most is None:
        return least > 0 or inner.least <= 1
    return (least + 1) * inner.least <= least * inner.most + 1

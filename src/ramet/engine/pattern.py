"""What a regular expression can be said to do without running it.

Reads the common core of the Oniguruma and RE2 syntaxes and answers two questions: which character can
follow which inside a match (so that a text may be cut where no match can reach across), and how long a
match can be (so that a stream knows what may still become one). Every answer errs on the safe side;
what is not understood raises `NotUnderstood`. Refuses to match anything: that is the engines' work.

Characters are symbols: each ASCII character is one, all others that are no white space are one per
Unicode general category. A class of characters is two sets of symbols: what it *may* contain and what
it *must* contain whole.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["ASCII", "OTHER", "Adjacency", "NotUnderstood", "adjacency", "max_width", "parse"]

ASCII = frozenset(map(chr, range(128)))
_CATEGORIES = (
    "LuLlLtLmLoMnMcMeNdNlNoPcPdPsPePiPfPoSmScSkSoCfCoCn"  # all but separators and controls
)
OTHER = frozenset(_CATEGORIES[i : i + 2] for i in range(0, len(_CATEGORIES), 2))
_ALL = ASCII | OTHER
_SPACES = frozenset(" \t\n\r\f\v")
_MAYBE_SPACES = _SPACES | frozenset("\x1c\x1d\x1e\x1f")
_MAX_REPEAT = 1000
_MAX_DEPTH = 100


class NotUnderstood(ValueError):
    """The expression uses something that this file does not read."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a class."""

    may: frozenset[str]
    must: frozenset[str]

    def negated(self) -> Chars:
        return Chars(_ALL - self.must, _ALL - self.may)


@dataclass(frozen=True, slots=True)
class Sequence:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`most` is None without a limit. An `atomic` one gives nothing back once it has matched."""

    body: Node
    least: int
    most: int | None
    atomic: bool = False


@dataclass(frozen=True, slots=True)
class Ahead:
    """A lookahead, positive or negative: examines what follows, consumes nothing."""

    body: Node


@dataclass(frozen=True, slots=True)
class Anchor:
    """An assertion that looks at what is behind, or at the ends of the text."""


Node = Chars | Sequence | Choice | Repeat | Ahead | Anchor


# -- reading -------------------------------------------------------------------------------------------


def parse(pattern: str) -> Node:
    """Raises `NotUnderstood`."""
    reader = _Reader(pattern)
    node = reader.choice(fold=False, depth=0)
    if reader.at < len(pattern):
        raise NotUnderstood(f"unbalanced ) at {reader.at}")
    return node


@dataclass(slots=True)
class _Reader:
    pattern: str
    at: int = 0

    def peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def take(self, text: str) -> bool:
        if not self.peek(text):
            return False
        self.at += len(text)
        return True

    def next(self) -> str:
        if self.at >= len(self.pattern):
            raise NotUnderstood("the expression ends too early")
        self.at += 1
        return self.pattern[self.at - 1]

    def until(self, end: str) -> str:
        stop = self.pattern.find(end, self.at)
        if stop < 0:
            raise NotUnderstood(f"missing {end}")
        found = self.pattern[self.at : stop]
        self.at = stop + len(end)
        return found

    def choice(self, fold: bool, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise NotUnderstood("nested too deeply")
        options: list[Node] = []
        parts: list[Node] = []
        while self.at < len(self.pattern) and not self.peek(")"):
            if self.take("|"):
                options.append(Sequence(tuple(parts)))
                parts = []
            elif self.peek("(?") and (flags := self._bare_flags()) is not None:
                fold = flags or fold
            else:
                parts.append(self._repeats(self._atom(fold, depth)))
        options.append(Sequence(tuple(parts)))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _bare_flags(self) -> bool | None:
        """`(?i)`: flags for the rest of the group. None if this is some other group."""
        stop = self.pattern.find(")", self.at)
        flags = self.pattern[self.at + 2 : stop]
        if stop < 0 or not flags or not set(flags) <= set("imsu-"):
            return None
        self.at = stop + 1
        return "i" in flags  # a flag that is switched off again only makes the answer wider

    def _repeats(self, node: Node) -> Node:
        while self.at < len(self.pattern):
            bounds = self._bounds()
            if bounds is None:
                return node
            least, most, braces = bounds
            if self.take("?"):
                node = Repeat(node, least, most)
            elif self.take("+"):
                # after braces some engines read "+" as one more repetition
                node = Repeat(node, least, None if braces else most, atomic=True)
            else:
                node = Repeat(node, least, most)
        return node

    def _bounds(self) -> tuple[int, int | None, bool] | None:
        for sign, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self.take(sign):
                return least, most, False
        if not self.peek("{"):
            return None
        stop = self.pattern.find("}", self.at)
        low, comma, high = self.pattern[self.at + 1 : max(stop, self.at + 1)].partition(",")
        if stop < 0 or not low.isdecimal() or (high and not high.isdecimal()):
            raise NotUnderstood("a brace that is no repetition")
        self.at = stop + 1
        least = int(low)
        most = (int(high) if high else None) if comma else least
        if max(least, most or 0) > _MAX_REPEAT or (most is not None and most < least):
            raise NotUnderstood("an odd repetition")
        return least, most, True

    def _atom(self, fold: bool, depth: int) -> Node:
        char = self.next()
        if char == "(":
            return self._group(fold, depth)
        if char == "[":
            return self._class(fold)
        if char == ".":
            return Chars(_ALL, _ALL - {"\n", "\r"})
        if char in "^$":
            return Anchor()
        if char == "\\":
            return self._escape(fold)
        if char in "*+?{":
            raise NotUnderstood(f"{char} repeats nothing")
        return _literal(char, fold)

    def _group(self, fold: bool, depth: int) -> Node:
        wrap: type[Ahead] | None = None
        behind = atomic = False
        if self.take("?"):
            if self.take("=") or self.take("!"):
                wrap = Ahead
            elif self.take("<=") or self.take("<!"):
                behind = True
            elif self.take(">"):
                atomic = True
            elif self.take("P<") or self.take("<"):
                self.until(">")
            else:
                flags = self.until(":")
                if not set(flags) <= set("imsu-"):
                    raise NotUnderstood(f"group (?{flags}:")
                fold = fold or "i" in flags
        body = self.choice(fold, depth + 1)
        if not self.take(")"):
            raise NotUnderstood("missing )")
        if behind:
            return Anchor()
        if atomic:
            return Repeat(body, 1, 1, atomic=True)
        return wrap(body) if wrap else body

    def _escape(self, fold: bool) -> Node:
        char = self.next()
        if char in "bBAzZG":
            return Anchor()
        found = self._escaped_class(char)
        return found if found is not None else _literal(self._escaped_char(char), fold)

    def _escaped_class(self, char: str) -> Chars | None:
        known = _CLASSES.get(char.lower()) if char in "sSdDwW" else None
        if known is not None:
            return known.negated() if char.isupper() else known
        if char not in "pP":
            return None
        name = self.until("}") if self.take("{") else self.next()
        negate = (char == "P") != name.startswith("^")
        found = _property(name.removeprefix("^"))
        return found.negated() if negate else found

    def _escaped_char(self, char: str) -> str:
        if char in "nrtfvae0":
            return dict(zip("nrtfvae0", "\n\r\t\f\v\a\x1b\0"))[char]
        if char in "xu":
            digits = self.until("}") if self.take("{") else ""
            if not digits:
                digits = "".join(self.next() for _ in range(2 if char == "x" else 4))
            try:
                return chr(int(digits, 16))
            except ValueError:
                raise NotUnderstood(f"escape \\{char}{digits}") from None
        if char.isalnum():
            raise NotUnderstood(f"escape \\{char}")
        return char

    def _class(self, fold: bool) -> Chars:
        negate = self.take("^")
        may: set[str] = set()
        must: set[str] = set()
        first = True
        while first or not self.peek("]"):
            item = self._class_item(fold, first)
            may |= item.may
            must |= item.must
            first = False
        self.next()
        found = Chars(frozenset(may), frozenset(must))
        return found.negated() if negate else found

    def _class_item(self, fold: bool, first: bool) -> Chars:
        if self.peek("[") or self.peek("&&") or (first and self.peek("]")):
            raise NotUnderstood("a class within a class")
        low = self.next()
        if low == "\\":
            char = self.next()
            if char == "b":
                raise NotUnderstood("\\b in a class")
            found = self._escaped_class(char)
            if found is not None:
                return found
            low = self._escaped_char(char)
        if not self.peek("-") or self.pattern[self.at + 1 : self.at + 2] == "]":
            return _literal(low, fold)
        self.next()
        high = self.next()
        if high == "[":
            raise NotUnderstood("a class within a class")
        if high == "\\":
            char = self.next()
            if char in "pPsSdDwWb":
                raise NotUnderstood("a range up to a class")
            high = self._escaped_char(char)
        return _range(low, high, fold)


def _literal(char: str, fold: bool) -> Chars:
    return _range(char, char, fold)


def _range(low: str, high: str, fold: bool) -> Chars:
    if high < low:
        raise NotUnderstood("a range that runs backwards")
    must = frozenset(map(chr, range(ord(low), min(ord(high), 127) + 1)))
    may = must if high <= "\x7f" else must | OTHER
    if fold:  # case folding also reaches characters outside ASCII (the long s, the Kelvin sign)
        may = may | {c.swapcase() for c in must} | OTHER
    return Chars(may, must)


def _property(name: str) -> Chars:
    """Exact for general categories; any other property may hold for anything."""
    if not name or not any(category.startswith(name) for category in OTHER | {"Zs", "Cc"}):
        return Chars(_ALL, frozenset())
    ascii_part = {c for c in ASCII if unicodedata.category(c).startswith(name)}
    found = frozenset(ascii_part | {c for c in OTHER if c.startswith(name)})
    return Chars(found, found)


def _word() -> Chars:
    surely = frozenset(c for c in ASCII if c.isalnum() or c == "_")
    return Chars(surely | OTHER, surely)


_DIGITS = frozenset("0123456789")
_CLASSES = {
    "s": Chars(_MAYBE_SPACES, _SPACES),
    "d": Chars(_DIGITS | {"Nd"}, _DIGITS),
    "w": _word(),
}


# -- which character can follow which ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Adjacency:
    """`next[a]`: the symbols that may be examined right after `a` was consumed, in any match or attempt
    at one. `alone`: symbols that are a match on their own whatever surrounds them."""

    next: dict[str, frozenset[str]]
    alone: frozenset[str]


def adjacency(node: Node) -> Adjacency:
    """The follow sets of the expression (Glushkov's construction) over symbols. Raises `NotUnderstood`
    for anchors and lookbehinds (they see across every cut) and for expressions that match nothing."""
    graph = _Graph()
    found = graph.add(node)
    if found.nullable:
        raise NotUnderstood("matches the empty text")
    after: dict[str, set[str]] = {symbol: set() for symbol in _ALL}
    for position, followers in enumerate(graph.follow):
        reached: set[str] = set()
        for follower in followers:
            reached |= graph.may[follower]
        for symbol in graph.may[position]:
            after[symbol] |= reached
    return Adjacency({symbol: frozenset(s) for symbol, s in after.items()}, _alone(node))


@dataclass(frozen=True, slots=True)
class _Ends:
    nullable: bool
    first: frozenset[int]
    last: frozenset[int]


_NOTHING = _Ends(True, frozenset(), frozenset())


@dataclass(slots=True)
class _Graph:
    may: list[frozenset[str]] = field(default_factory=list)
    follow: list[set[int]] = field(default_factory=list)

    def add(self, node: Node) -> _Ends:
        match node:
            case Chars(may, _):
                self.may.append(may)
                self.follow.append(set())
                here = frozenset({len(self.may) - 1})
                return _Ends(False, here, here)
            case Sequence(parts):
                ends = _NOTHING
                for part in parts:
                    ends = self._join(ends, self.add(part))
                return ends
            case Choice(options):
                all_ends = [self.add(option) for option in options]
                return _Ends(
                    any(e.nullable for e in all_ends),
                    frozenset().union(*(e.first for e in all_ends)),
                    frozenset().union(*(e.last for e in all_ends)),
                )
            case Repeat(body, least, most):
                ends = self.add(body)
                if most is None or most > 1:
                    self._link(ends.last, ends.first)
                return _Ends(ends.nullable or least == 0, ends.first, ends.last)
            case Ahead(body):
                # examined after whatever came before, and nothing comes after it
                return _Ends(True, self.add(body).first, frozenset())
            case Anchor():
                raise NotUnderstood("an anchor")

    def _join(self, left: _Ends, right: _Ends) -> _Ends:
        self._link(left.last, right.first)
        return _Ends(
            left.nullable and right.nullable,
            left.first | right.first if left.nullable else left.first,
            left.last | right.last if right.nullable else right.last,
        )

    def _link(self, last: Iterable[int], first: frozenset[int]) -> None:
        for position in last:
            self.follow[position] |= first


def _alone(node: Node) -> frozenset[str]:
    match node:
        case Chars(_, must):
            return must
        case Choice(options):
            return frozenset().union(*map(_alone, options))
        case Sequence(parts):
            found: frozenset[str] = frozenset()
            for i, part in enumerate(parts):
                if all(_skippable(other) for j, other in enumerate(parts) if j != i):
                    found |= _alone(part)
            return found
        case Repeat(body, least, most, atomic):
            fits = least <= 1 and (most is None or most >= 1) and not atomic
            return _alone(body) if fits else frozenset()
    return frozenset()


def _skippable(node: Node) -> bool:
    """Can surely match the empty text."""
    match node:
        case Sequence(parts):
            return all(map(_skippable, parts))
        case Choice(options):
            return any(map(_skippable, options))
        case Repeat(body, least, _, atomic):
            return not atomic and (least == 0 or _skippable(body))
    return False


# -- how long a match can be ---------------------------------------------------------------------------


def max_width(node: Node) -> int | None:
    """The most characters that a match can have; None if there is no limit."""
    match node:
        case Chars():
            return 1
        case Sequence(parts):
            widths = [max_width(part) for part in parts]
            return None if None in widths else sum(w for w in widths if w is not None)
        case Choice(options):
            widths = [max_width(option) for option in options]
            return None if None in widths else max(w for w in widths if w is not None)
        case Repeat(body, _, most):
            width = max_width(body)
            if width == 0 or most == 0:
                return 0
            return None if width is None or most is None else width * most
    return 0
